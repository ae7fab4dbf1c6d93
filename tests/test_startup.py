"""TensorFlow's log lines are dropped from the error stream; everything else passes, even when the process aborts."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from panoptic_cli import models, startup
from panoptic_cli.config import load_experiment

# A stand-in for TensorFlow. Importing it writes these lines to descriptor 2, like its C++ code.
_TENSORFLOW = r"""
import os
os.write(2, b"I0000 00:00:1 2 port.cc:1] a note\nW0000 00:00:1 2 x.cc:1] a warning\n\t [[{{node Some}}]]\n")
os.write(2, b"E0000 00:00:1 2 cuda_platform.cc:52] failed call to cuInit: no GPU\n")
os.write(2, b"E0000 00:00:1 2 util.cc:1] oneDNN supports DT_BFLOAT16 only on platforms with AVX-512. Falling back\n")
os.write(2, b"E0000 00:00:1 2 x.cc:1] a real error\n")
os.write(2, b"2026-11-27 19:28:59.355795: I tensorflow/x.cc:1] a note\n2026-11-27 19:28:59.4: W x.cc:1] a warning\n")
os.write(2, b"2026-11-27 19:28:59.3: E x.cc:1] failed call to cuInit: no GPU\n")
os.write(2, b"2026-11-27 19:28:59.3: E x.cc:1] another\n")
"""
_PROGRAM = """
import os, resource, sys
from panoptic_cli import gpus, startup
gpus.driver_is_loaded = lambda: "gpu" in sys.argv
if "own" in sys.argv:
    startup.own_process()
startup.import_tensorflow()
startup.import_tensorflow()
print("from python", file=sys.stderr)
text = "x" * (50 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for letter in "abcd":
    del text
    text = letter * (50 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)  # pages that the system had to give again
os.write(2, b"F0000 00:00:1 2 x.cc:1] Check failed\\n")
os.abort() if "abort" in sys.argv else None
"""


# An environment in which TensorFlow cannot be found; nothing else is missing.
_WITHOUT = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "tensorflow" else find(name, *rest)
from panoptic_cli.commands.main import run
sys.exit(run(sys.argv[1:]))
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment in which `import tensorflow` finds the stand-in."""
    (tmp_path / "tensorflow.py").write_text(_TENSORFLOW)
    return {**os.environ, "PYTHONPATH": str(tmp_path), "PANOPTIC_DEBUG": ""}


def _run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _PROGRAM, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)


def _messages(process: subprocess.CompletedProcess[str]) -> list[str]:
    return sorted(line.split("] ")[-1] for line in process.stderr.splitlines())


def test_a_program_drops_log_lines_and_keeps_the_rest(environment: dict[str, str]) -> None:
    process = _run(environment, "own")
    assert process.returncode == 0
    assert _messages(process) == ["Check failed", "a real error", "another", "from python"]


def test_the_last_message_before_an_abort_passes(environment: dict[str, str]) -> None:
    process = _run(environment, "own", "abort")
    assert process.returncode != 0
    assert "Check failed" in _messages(process)


def test_a_program_keeps_freed_memory_on_a_cpu(environment: dict[str, str]) -> None:
    environment = {
        k: v for k, v in environment.items() if not k.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD"))
    }
    pages = 4 * (50 << 20) // os.sysconf("SC_PAGE_SIZE")
    assert int(_run(environment, "own").stdout) < pages / 20
    for chosen, arguments in ((environment, ["own", "gpu"]), (environment, []), ({"MALLOC_ARENA_MAX": "2"}, ["own"])):
        assert int(_run(environment | chosen, *arguments).stdout) > pages / 20


def test_a_library_user_gets_every_line(environment: dict[str, str]) -> None:
    assert "a note" in _messages(_run(environment))


def test_debugging_keeps_every_line(environment: dict[str, str]) -> None:
    assert "a note" in _messages(_run(environment | {"PANOPTIC_DEBUG": "1"}, "own"))


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="only x86 processors have the choice")
@pytest.mark.parametrize(
    ("own", "onednn", "chosen", "used"),
    [(True, True, None, "1"), (True, True, "0", "0"), (True, False, None, "unset"), (False, True, None, "unset")],
)
def test_a_program_uses_onednn_unless_the_user_chose(
    environment: dict[str, str], own: bool, onednn: bool, chosen: str | None, used: str
) -> None:
    environment.pop("TF_ENABLE_ONEDNN_OPTS", None)
    environment |= {} if chosen is None else {"TF_ENABLE_ONEDNN_OPTS": chosen}
    program = f"""
import os
from panoptic_cli import startup
{own} and startup.own_process()
startup.import_tensorflow({onednn})
print(os.environ.get("TF_ENABLE_ONEDNN_OPTS", "unset"))
"""
    command = [sys.executable, "-c", program]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment)
    assert process.stdout == f"{used}\n"


@pytest.mark.parametrize(
    ("preset", "precision", "inference", "training"),
    [
        ("eomt_coco_small_640", "float32", True, True),
        ("eomt_coco_small_640", "bfloat16", False, False),
        ("panoptic_fpn_coco", "float32", False, True),
        ("panoptic_fpn_coco", "bfloat16", False, False),
    ],
)
def test_onednn_is_for_eomt_and_training_in_float32(
    preset: str, precision: str, inference: bool, training: bool
) -> None:
    experiment = load_experiment(preset, settings=[f"runtime.mixed_precision_dtype={precision}"])
    assert models.prefers_onednn(experiment) == inference
    assert models.prefers_onednn(experiment, training=True) == training


def _installed(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    def version(name: str) -> str:
        try:
            return versions[name.replace("-", "_")]
        except KeyError:
            raise metadata.PackageNotFoundError(name) from None

    monkeypatch.setattr(metadata, "version", version)


@pytest.mark.parametrize(
    ("versions", "message"),
    [
        ({"tensorflow": "2.21.0"}, None),
        ({"tensorflow_tpu": "2.20.0", "libtpu": "0.0.14"}, None),
        ({"tensorflow_tpu": "2.20.0", "libtpu": "0.0.30"}, None),
        ({"tensorflow_tpu": "2.20.0"}, None),  # libtpu may be part of the machine
        ({"tensorflow_tpu": "2.20.0", "libtpu": "0.0.52"}, "libtpu 0.0.52 does not fit tensorflow-tpu 2.20.0"),
        ({"tensorflow": "2.21.0", "libtpu": "0.0.52"}, None),  # another library's
        ({"tensorflow": "2.21.0", "tensorflow_tpu": "2.20.0"}, "tensorflow and tensorflow-tpu are both installed"),
    ],
)
def test_broken_installations_are_told(
    monkeypatch: pytest.MonkeyPatch, versions: dict[str, str], message: str | None
) -> None:
    _installed(monkeypatch, **versions)
    problem = startup.installation_problem()
    if message is None:
        assert problem is None
    else:
        assert problem is not None
        assert message in problem[0]
        assert "pip" in problem[1]


@pytest.mark.parametrize("driver", [False, True])
def test_without_tensorflow_the_extra_for_this_machine_is_named_before_anything_is_done(
    tmp_path: Path, driver: bool
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\n" + ("echo NVIDIA L4, 550.54.15, 23034\n" if driver else "exit 9\n"))
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [sys.executable, "-c", _WITHOUT, "demo", "--output", str(tmp_path / "demo")]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    first = "gpu" if driver else "cpu"
    assert line.startswith(f"error: TensorFlow is not installed. Run: pip install 'panoptic-cli[{first}]' (")
    assert "[tpu]" in line
    assert not (tmp_path / "demo").exists()
