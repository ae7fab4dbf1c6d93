"""Extraction: safe against hostile archives, atomic and resumable."""

from __future__ import annotations

import io
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest

from panoptic_cli.errors import TransferError
from panoptic_cli.transfer import extract as extraction
from panoptic_cli.transfer.extract import Extracted, extract
from panoptic_cli.transfer.manifest import Output

FOLDER = Output(members="a/", to="out/a/")


def _zip(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return path


def _tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_folder_is_extracted_with_its_subfolders_only(tmp_path: Path) -> None:
    members = {"a/": b"", "a/1": b"one", "a/b/2": b"two", "other/3": b"x", "a/.DS_Store": b"x"}
    data = tmp_path / "data"
    result = extract(_zip(tmp_path / "z.zip", members), FOLDER, data, 2)
    assert result == Extracted(files=2, bytes=6)
    assert _tree(data) == {"out/a/1", "out/a/b/2"}
    assert (data / "out/a/b/2").read_bytes() == b"two"


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "a\\..\\evil", "C:/evil"])
def test_paths_outside_the_folder_are_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    archive = _zip(tmp_path / "z.zip", {"a/1": b"one", name: b"evil"})
    with pytest.raises(TransferError, match="not safe"):
        extract(archive, FOLDER, tmp_path / "data", 2)
    assert _tree(tmp_path) == {"z.zip"}


def test_links_are_refused(tmp_path: Path) -> None:
    archive = tmp_path / "z.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        link = zipfile.ZipInfo("a/link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        opened.writestr(link, "/etc/passwd")
    with pytest.raises(TransferError, match="is a link"):
        extract(archive, FOLDER, tmp_path / "data", 1)


def test_bombs_are_refused_by_their_declared_sizes(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "z.zip", {"a/zeros": bytes(extraction._SMALL_TOTAL + 1)})
    assert archive.stat().st_size < 100_000
    with pytest.raises(TransferError, match="would extract to"):
        extract(archive, FOLDER, tmp_path / "data", 1)


def test_a_member_cannot_exceed_its_declared_size(tmp_path: Path) -> None:
    content = bytes(100_000)
    raw = bytearray(_zip(tmp_path / "z.zip", {"a/liar": content}).read_bytes())
    honest, lie = len(content).to_bytes(4, "little"), (10).to_bytes(4, "little")
    assert raw.count(honest) == 2  # in the local header and in the central directory
    (tmp_path / "z.zip").write_bytes(raw.replace(honest, lie))
    with pytest.raises(TransferError, match="broken at 'a/liar'"):
        extract(tmp_path / "z.zip", FOLDER, tmp_path / "data", 1)
    assert not (tmp_path / "data/out/a").exists()
    assert all(path.stat().st_size <= 10 for path in (tmp_path / "data").rglob("*") if path.is_file())


def test_a_damaged_member_is_named_and_no_folder_appears(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(5000)
    raw = bytearray(_zip(tmp_path / "z.zip", {"a/1": content}, zipfile.ZIP_STORED).read_bytes())
    raw[raw.find(content) + 2500] ^= 1
    (tmp_path / "z.zip").write_bytes(raw)
    with pytest.raises(TransferError, match="a/1"):
        extract(tmp_path / "z.zip", FOLDER, tmp_path / "data", 1)
    assert not (tmp_path / "data/out/a").exists()


def test_a_partly_extracted_folder_is_completed(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "z.zip", {f"a/{n}": bytes([n]) * 100 for n in range(4)})
    target = tmp_path / "data/out/a"
    target.mkdir(parents=True)
    (target / "0").write_bytes(bytes(100))
    (target / "1").write_bytes(b"cut sho")
    before = (target / "0").stat().st_mtime_ns
    assert extract(archive, FOLDER, tmp_path / "data", 2) == Extracted(4, 400)
    assert [(target / str(n)).read_bytes() for n in range(4)] == [bytes([n]) * 100 for n in range(4)]
    assert (target / "0").stat().st_mtime_ns == before


def test_a_nested_archive_leaves_no_zip_behind(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as inner:
        inner.writestr("a/1", b"one")
    archive = _zip(tmp_path / "z.zip", {"x/in.zip": stream.getvalue()})
    output = Output(archive="x/in.zip", members="a/", to="a/")
    extract(archive, output, tmp_path / "data", 1)
    assert _tree(tmp_path / "data") == {"a/1"}


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"a/1": b"one", "../evil": b"x"}, "not safe"),
        ({"a/zeros": bytes(extraction._SMALL_TOTAL + 1)}, "would extract to"),
    ],
)
def test_a_nested_archive_is_checked_too(tmp_path: Path, members: dict[str, bytes], words: str) -> None:
    inner = _zip(tmp_path / "in.zip", members).read_bytes()
    archive = _zip(tmp_path / "z.zip", {"x/in.zip": inner})
    with pytest.raises(TransferError, match=words):
        extract(archive, Output(archive="x/in.zip", members="a/", to="a/"), tmp_path / "data", 1)
    assert not (tmp_path / "data/a").exists()
    assert _tree(tmp_path) <= {"in.zip", "z.zip", "data/.in.zip"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_during_extraction_is_an_error_and_the_next_run_resumes(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "z.zip", {f"a/{n}": bytes([n]) * 100 for n in range(4)})
    staging = tmp_path / "data/out/.a.partial"
    staging.mkdir(parents=True)
    (staging / ".2.partial").symlink_to("/dev/full")  # every write fails because the disk is full
    with pytest.raises(TransferError, match=r"The disk is full: .*/2 cannot be written") as caught:
        extract(archive, FOLDER, tmp_path / "data", 1)
    assert "same command again" in (caught.value.hint or "")
    assert not (tmp_path / "data/out/a").exists()
    assert {path.name for path in staging.iterdir()} == {"0", "1"}
    assert extract(archive, FOLDER, tmp_path / "data", 1) == Extracted(4, 400)
    assert _tree(tmp_path / "data") == {f"out/a/{n}" for n in range(4)}


def test_missing_members_are_named(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "z.zip", {"b/1": b"x"})
    with pytest.raises(TransferError, match="contains nothing below a/"):
        extract(archive, FOLDER, tmp_path / "data", 1)
    with pytest.raises(TransferError, match=r"does not contain a\.json"):
        extract(archive, Output(members="a.json", to="a.json"), tmp_path / "data", 1)


def test_a_file_that_is_not_a_zip_archive_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "z.zip").write_bytes(b"<html>not found</html>")
    with pytest.raises(TransferError, match="not a complete zip file"):
        extract(tmp_path / "z.zip", FOLDER, tmp_path / "data", 1)


def test_a_member_name_with_a_wrong_encoding_is_an_error(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "z.zip", {"a/\u00e9": b"x"})
    archive.write_bytes(archive.read_bytes().replace("\u00e9".encode(), b"\xff\xff"))
    with pytest.raises(TransferError, match="not a complete zip file"):
        extract(archive, FOLDER, tmp_path / "data", 1)
