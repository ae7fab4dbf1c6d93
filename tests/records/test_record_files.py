"""Finding record files by patterns, folders and paths, and counting what they hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from panoptic_cli.errors import DataError
from panoptic_cli.records.files import count_records, find_record_files, list_record_files
from panoptic_cli.records.tfrecord import TFRecordWriter, read_records

COUNTS = (7, 0, 11)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three shards in a folder whose name looks like a pattern, beside files that are not records."""
    folder = tmp_path / "a[1], b"
    folder.mkdir()
    for number, count in enumerate(COUNTS):
        with TFRecordWriter(folder / f"part-{number}.tfrecord") as writer:
            for index in range(count):
                writer.write(f"{number}/{index}".encode())
    for name in ("part.manifest.json", "categories.json", ".part-3.tfrecord.7.partial", "part-3.tfrecord.partial"):
        (folder / name).write_text("{}")
    (folder / "part-4.tfrecord").mkdir()
    return folder


def _shards(folder: Path) -> list[str]:
    return [f"{folder}/part-{number}.tfrecord" for number in range(len(COUNTS))]


PATTERNS: dict[str, Callable[[Path], str | list[str]]] = {
    "pattern": lambda folder: f"{folder}/part-*",
    "everything": lambda folder: f"{folder}/*",
    "folder": str,
    "folder with a slash": lambda folder: f"{folder}/",
    "two patterns": lambda folder: f"{folder}/part-[12]*, {folder}/part-0*",
    "overlapping patterns": lambda folder: f"{folder}/part-*,{folder}/part-0*",
    "paths with commas between": lambda folder: ",".join(_shards(folder)),
    "list of paths": lambda folder: _shards(folder)[::-1],
    "list with a manifest": lambda folder: [*_shards(folder), f"{folder}/part.manifest.json"],
}


@pytest.mark.parametrize("name", PATTERNS)
def test_every_way_to_name_records_finds_the_shards_in_order(folder: Path, name: str) -> None:
    assert find_record_files(PATTERNS[name](folder)) == _shards(folder)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("none-*", "No training records match none-* in {folder}."),
        ("", "No training records are given."),
        (" , ", "No training records are given."),
        ("part-0.tfrecord,none-*", "No training records match none-* in {folder}."),
        ("part.manifest.json", "No training records match part.manifest.json in {folder}."),
        (["part.manifest.json"], "No training records match part.manifest.json in {folder}."),
        (["part-0.tfrecord", "none.tfrecord"], "No training records match none.tfrecord in {folder}."),
    ],
)
def test_the_part_that_matches_nothing_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, part: str | list[str], message: str
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(DataError) as caught:
        find_record_files(part, what="training records", hint="Do this.")
    assert (caught.value.message, caught.value.hint) == (message.format(folder=folder), "Do this.")


def test_brackets_are_a_pattern_where_no_such_folder_exists(tmp_path: Path) -> None:
    for name in ("a1", "a2", "a3"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.tfrecord").write_bytes(b"")
    found = find_record_files(f"{tmp_path}/a[12]/*")
    assert [Path(path).parent.name for path in found] == ["a1", "a2"]


def test_a_listing_has_names_and_sizes_without_folders(folder: Path) -> None:
    sizes = [Path(path).stat().st_size for path in _shards(folder)]
    expected = [[f"part-{number}.tfrecord", size] for number, size in enumerate(sizes)]
    assert list_record_files(f"{folder}/part-*,{folder}/none-*") == expected
    assert list_record_files("none-*") == []


def test_records_are_counted_by_their_lengths(folder: Path) -> None:
    files = _shards(folder)
    assert count_records(files) == list(COUNTS)
    assert count_records(files) == [len(list(read_records(Path(path)))) for path in files]
    whole = Path(files[2]).read_bytes()
    Path(files[2]).write_bytes(whole[:-3])
    with pytest.raises(DataError, match=r"part-2\.tfrecord, record 10 at byte \d+: the file ends inside"):
        count_records(files)
    Path(files[2]).write_bytes(whole[:19] + b"\xff" + whole[20:])  # the length of the second record
    with pytest.raises(DataError, match=r"part-2\.tfrecord, record 1 at byte 19: the checksum of the record's length"):
        count_records(files)
    with pytest.raises(DataError, match=r"nowhere cannot be read"):
        count_records([str(folder / "nowhere")])


@pytest.mark.slow
def test_remote_files_are_found_and_counted_through_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    with tf.io.TFRecordWriter("ram://records/val-0.tfrecord") as writer:
        for index in range(3):
            writer.write(str(index))
    found = find_record_files("ram://records/val-*")
    assert found == ["ram://records/val-0.tfrecord"]
    assert count_records(found) == [3]
    with pytest.raises(DataError, match=r"No records match ram://records/train-\*"):
        find_record_files("ram://records/train-*")
