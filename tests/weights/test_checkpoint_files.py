"""Finding checkpoints by TensorFlow's state file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from panoptic_cli.errors import RunError
from panoptic_cli.weights import checkpoint_files


def write_checkpoint(prefix: Path) -> None:
    prefix.parent.mkdir(parents=True, exist_ok=True)
    prefix.with_name(f"{prefix.name}.index").write_bytes(b"")


@pytest.mark.parametrize("name", ["plain/ckpt-3", "Gr\u00f6\u00dfe/ckpt-3", 'a "name"/ckpt-3'])
def test_a_checkpoint_in_another_folder_is_found_as_tensorflow_finds_it(tmp_path: Path, name: str) -> None:
    import tensorflow as tf

    prefix = tmp_path / name
    write_checkpoint(prefix)
    (tmp_path / "state").mkdir()
    tf.compat.v1.train.update_checkpoint_state(str(tmp_path / "state"), str(prefix))
    found = checkpoint_files.latest(str(tmp_path / "state"))
    assert found == str(prefix) == tf.train.latest_checkpoint(str(tmp_path / "state"))


def test_numbered_checkpoints_are_sorted_by_step_and_complete(tmp_path: Path) -> None:
    names = ("ckpt-10", "ckpt-9", "ckpt-8", "final")  # ckpt-8 was removed, the state file not written yet
    for name in names:
        if name != "ckpt-8":
            write_checkpoint(tmp_path / name)
    lines = [f'all_model_checkpoint_paths: "{name}"\n' for name in names]
    (tmp_path / "checkpoint").write_text("".join(lines))
    assert checkpoint_files.numbered(str(tmp_path)) == [(9, f"{tmp_path}/ckpt-9"), (10, f"{tmp_path}/ckpt-10")]


def test_a_state_file_that_names_a_missing_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "ckpt-3"\n')
    assert checkpoint_files.latest(str(tmp_path)) is None
    with pytest.raises(RunError, match=f"There is no checkpoint at {tmp_path}"):
        checkpoint_files.find_checkpoint(tmp_path)


def test_a_damaged_state_file_names_no_checkpoint(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "ckpt-3")
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "ckpt-\\"\n')
    assert checkpoint_files.latest(str(tmp_path)) is None


def test_local_checkpoints_are_found_without_tensorflow(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoints" / "ckpt-3")
    (tmp_path / "checkpoints" / "checkpoint").write_text('model_checkpoint_path: "ckpt-3"\n')
    code = (
        "import sys; from panoptic_cli.weights.checkpoint_files import find_checkpoint;"
        f"assert find_checkpoint({str(tmp_path)!r}) == {str(tmp_path / 'checkpoints' / 'ckpt-3')!r};"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
