"""Finding and counting record files, on the local disk and in buckets.

Local files need no TensorFlow; remote ones are listed and read through it.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from panoptic_cli import storage
from panoptic_cli.errors import DataError, one_line
from panoptic_cli.records.tfrecord import count_framed_records
from panoptic_cli.startup import import_tensorflow

SHARD_NAME = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.tfrecords?)?")
_IN_FOLDER = "*.tfrecord*"
_HINT = "Make them with 'panoptic make-tfrecords', or correct the pattern."


def find_record_files(pattern: str | Sequence[str], *, what: str = "records", hint: str | None = None) -> list[str]:
    """Finds record files. Manifests and the files of interrupted runs are omitted.

    `train-*` names the shards of the prefix "train", not those of "train-night", unless there are no others.

    Args:
        pattern: paths, folders and glob patterns, local or gs://: one text with commas between them, or a sequence. The
            names of existing files and folders may contain commas and brackets.
        what: what the records are to the user, for messages: "training records".
        hint: what to do when nothing matches.

    Returns:
        The paths, sorted, each once.

    Raises:
        DataError: a part of the pattern matches no record file; names that part.
    """
    hint = hint or _HINT
    parts = [part for text in _texts(pattern) for part in _resolve(text)]
    if not parts:
        raise DataError(f"No {what} are given.", hint)
    found = {path for _, paths in parts for path in paths}
    for part, paths in parts:
        # A shell expands tfrecords/* to a list that has the manifests too.
        if not paths and not (found and not isinstance(pattern, str) and _is_local_file(part)):
            where = "" if storage.is_remote(part) or os.path.isabs(part) else f" in {os.getcwd()}"
            raise DataError(f"No {what} match {part}{where}.", hint)
    return sorted(found)


def list_record_files(pattern: str | Sequence[str]) -> list[list[Any]]:
    """Returns [file name, bytes] of each record file in reading order; parts that match nothing are skipped.

    The folders are omitted, so that the same records are recognised wherever they are mounted.
    """
    found = {path for text in _texts(pattern) for _, paths in _resolve(text) for path in paths}
    return [[os.path.basename(path), storage.size(path)] for path in sorted(found)]


def absolute_pattern(pattern: str) -> str:
    """Returns the pattern with absolute local paths, which names the same files from any working directory."""
    parts = [part for part, _ in _resolve(pattern)]
    return ",".join(part if storage.is_remote(part) else os.path.abspath(part) for part in parts)


def other_sets(pattern: str) -> dict[str, list[str]]:
    """Returns the files that match a pattern but belong to another set: see `find_record_files`.

    Returns:
        The files by the part of the pattern that matches them.
    """
    found = {}
    for part, paths in _resolve(pattern):
        others = sorted(set(_all_matches(part)) - set(paths))
        if others:
            found[part] = others
    return found


def first_folder(pattern: str) -> str:
    """Returns the folder of the records that the first part of a pattern names, whether there are any or not."""
    for part, paths in _resolve(pattern):
        return os.path.dirname(paths[0] if paths else part) or "."
    return "."


def count_records(files: Sequence[str]) -> list[int]:
    """Counts the records of each file, in the order of `files`.

    Local files are counted by their framing alone, which takes milliseconds. Remote files are read.

    Raises:
        DataError: a file cannot be read, is damaged or is cut short; names the file.
    """
    return [_count_remote(path) if storage.is_remote(path) else count_framed_records(Path(path)) for path in files]


def _texts(pattern: str | Sequence[str]) -> list[str]:
    return [pattern] if isinstance(pattern, str) else list(pattern)


def _resolve(text: str) -> list[tuple[str, list[str]]]:
    """Splits at commas, except at those inside the names of files and folders.

    Returns:
        The parts, each with the record files that it names.
    """
    pieces = text.split(",")
    parts: list[tuple[str, list[str]]] = []
    while pieces:
        count, part, paths = 1, pieces[0].strip(), []
        for more in range(1, len(pieces) + 1):
            longer = ",".join(pieces[:more]).strip()
            if longer and ((paths := _matches(longer)) or _is_local_file(longer)):
                count, part = more, longer
                break
        if part:
            parts.append((part, paths))
        pieces = pieces[count:]
    return parts


def _matches(part: str) -> list[str]:
    """Returns the record files that a path, a folder or a glob pattern names."""
    paths = _all_matches(part)
    stem = re.split(r"[*?\[]", os.path.basename(part))[0].rstrip("-")
    prefixes = {path: match[1] for path in paths if (match := SHARD_NAME.fullmatch(os.path.basename(path)))}
    if stem in prefixes.values():
        return [path for path in paths if prefixes.get(path, stem) == stem]
    return paths


def _all_matches(part: str) -> list[str]:
    folder, name = os.path.split(part)
    if storage.is_remote(part):
        is_folder = not glob.has_magic(part) and storage.is_directory(part)
        pattern = f"{part.rstrip('/')}/{_IN_FOLDER}" if is_folder else part
    elif os.path.isdir(part):
        pattern = os.path.join(glob.escape(part), _IN_FOLDER)
    elif os.path.isfile(part):
        pattern = glob.escape(part)
    else:
        pattern = os.path.join(glob.escape(folder), name) if os.path.isdir(folder) else part
    return [path for path in storage.find(pattern) if _is_record_file(path)]


def _is_record_file(path: str) -> bool:
    """Whether a file is neither a manifest nor the file of an interrupted run."""
    name = path.rsplit("/", 1)[-1]
    return not (name.startswith(".") or name.endswith((".json", ".partial")))


def _is_local_file(part: str) -> bool:
    return not storage.is_remote(part) and os.path.isfile(part)


def _count_remote(path: str) -> int:
    import_tensorflow()
    import numpy as np
    import tensorflow as tf

    try:
        return int(tf.data.TFRecordDataset(path).reduce(np.int64(0), lambda total, _: total + 1))
    except tf.errors.OpError as error:
        raise DataError(f"The records {path} cannot be read: {one_line(error.message)}.", "Make them again.") from None
