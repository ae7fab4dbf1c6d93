"""`panoptic download && panoptic make-tfrecords` gives records in which `panoptic inspect` finds no problems."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from mirror_server import serve

from panoptic_cli.transfer.aria2c import find_aria2c


def _pack(path: Path, base: Path, *names: str) -> Path:
    """Zips files and folders of `base`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            found = base / name
            for file in sorted(found.rglob("*")) if found.is_dir() else [found]:
                archive.write(file, file.relative_to(base))
    return path


def _mirror_of(data: Path, root: Path, scratch: Path) -> None:
    """Packs a data set in COCO's layout into COCO's four archives, and writes their manifest."""
    from panoptic_cli.transfer.manifest import official_manifest

    nested = scratch / "annotations"
    for split in ("train", "val"):
        _pack(root / f"zips/{split}2017.zip", data, f"{split}2017")
        _pack(nested / f"panoptic_{split}2017.zip", data, f"panoptic_{split}2017")
        (nested / f"panoptic_{split}2017.json").write_bytes(
            (data / f"annotations/panoptic_{split}2017.json").read_bytes()
        )
    instances = [f"annotations/instances_{split}2017.json" for split in ("train", "val")]
    _pack(root / "annotations/annotations_trainval2017.zip", data, *instances)
    _pack(root / "annotations/panoptic_annotations_trainval2017.zip", scratch, "annotations")
    manifest = official_manifest().model_dump(mode="json")
    for archive in manifest["archives"]:
        content = (root / archive["path"]).read_bytes()
        archive.update(size=len(content), sha256=hashlib.sha256(content).hexdigest())
        for output in archive["outputs"]:
            output["files"] = len(list((data / output["to"]).iterdir())) if output["files"] else None
    (root / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.slow
@pytest.mark.skipif(find_aria2c() is None, reason="the program aria2c is not installed")
def test_download_and_make_tfrecords_give_clean_records(shapes_dir: Path, tmp_path: Path) -> None:
    root, home = tmp_path / "mirror", tmp_path / "home"
    home.mkdir()
    _mirror_of(shapes_dir, root, tmp_path / "scratch")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PANOPTIC_")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    with serve(root) as mirror:
        commands = (
            f"panoptic download --base-url {mirror.url} --manifest {root}/manifest.json"
            " && panoptic make-tfrecords --train-shards 3 --val-shards 1"
            " && panoptic inspect --json > folder.json"
            " && panoptic inspect 'data/coco/tfrecords/*-of-*' --json > records.json"
        )
        process = subprocess.run(
            ["sh", "-c", commands], cwd=home, env=environment, capture_output=True, text=True, timeout=300
        )
    assert process.returncode == 0, process.stderr
    folder = json.loads((home / "folder.json").read_text())
    assert (folder["errors"], folder["warnings"]) == (0, 0), process.stderr
    assert {split: found["pictures"] for split, found in folder["splits"].items()} == {"train": 12, "val": 4}
    records = json.loads((home / "records.json").read_text())
    assert (records["errors"], records["warnings"]) == (0, 0), records["problems"]
    assert (records["files"], records["records"]) == (4, 16)
    # The extracted files equal the packed ones, byte by byte.
    data = home / "data/coco"
    for name in ("train2017", "val2017", "panoptic_train2017", "panoptic_val2017"):
        ours = {path.name: path.read_bytes() for path in (data / name).iterdir()}
        assert ours == {path.name: path.read_bytes() for path in (shapes_dir / name).iterdir()}
