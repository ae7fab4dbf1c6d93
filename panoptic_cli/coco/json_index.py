"""Indexing JSON files that are too large for memory: where the entries of their top-level lists are.

Annotation files are one object with a few long lists. They are read once in blocks. Vectorised bracket counting finds
where each entry begins and ends, and the entries are decoded later, a few at a time. So COCO's 860,000 object
annotations take 14 MB instead of gigabytes of Python objects.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from panoptic_cli.errors import DataError
from panoptic_cli.files import read_json

_BLOCK = 4 << 20
_QUOTE, _BACKSLASH, _OPEN, _CLOSE = 1, 2, 3, 4
_KINDS = np.zeros(256, np.uint8)
_KINDS[list(b'"\\[{]}')] = _QUOTE, _BACKSLASH, _OPEN, _OPEN, _CLOSE, _CLOSE
_IS_STRUCTURE = bytes((_KINDS > 0).astype(np.uint8))
_KEY_OF_LIST = re.compile(rb'"((?:[^"\\]|\\.)*)"\s*:\s*\[\Z', re.DOTALL)
_LONGEST_KEY = 256
_LONG = 128  # bytes; longer values are worth skipping: outlines and run lengths, not boxes
_BROKEN_HINT = "It may be cut short: fetch it again or write it again."


class JsonFile:
    """Reads parts of a file and notices if it has changed since it was indexed. Picklable.

    Args:
        path: the file.
        what: what the file is to the user: "panoptic annotations".
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what
        self._descriptor: int | None = None
        self._state: tuple[int, int] | None = None

    def read(self, start: int, length: int) -> bytes:
        """Returns `length` bytes from `start`, fewer at the end of the file.

        Raises:
            DataError: the file is missing, unreadable or has changed since it was first read.
        """
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
                stat = os.fstat(self._descriptor)
                state = stat.st_size, stat.st_mtime_ns
                if self._state not in (None, state):
                    raise self.changed()
                self._state = state
            return os.pread(self._descriptor, length, start)
        except FileNotFoundError:
            raise DataError(f"The {self.what} file {self.path} does not exist.", "Check the path.") from None
        except OSError as error:
            raise DataError(f"The {self.what} file {self.path} cannot be read: {error.strerror}.") from None

    def broken(self, place: int, reason: object) -> DataError:
        """Returns the error for a part that cannot be decoded: it is not JSON, or the file changed."""
        try:
            stat = os.stat(self.path)
        except OSError:
            return self.changed()
        same = self._state in (None, (stat.st_size, stat.st_mtime_ns))
        return self.invalid(f"{reason}, in the entry at byte {place}") if same else self.changed()

    def changed(self) -> DataError:
        """Returns the error for a file that has changed."""
        return DataError(f"The {self.what} file {self.path} changed while it was in use.", "Run the command again.")

    def invalid(self, reason: object) -> DataError:
        """Returns the error for a file that is not JSON."""
        return DataError(f"The {self.what} file {self.path} is not valid JSON: {reason}.", _BROKEN_HINT)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_descriptor": None}

    def __del__(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


@dataclass(frozen=True)
class JsonIndex:
    """Where the entries of a file's lists are.

    Attributes:
        file: the file.
        digest: size and CRC-32C of its bytes, which take a tenth of the time of a cryptographic hash.
        lists: begin and end of each list's content, by key.
        entries: int64 [n, 2], begin and end of each entry that is an object or a list, by key.
        long_values: int64 [n, 2], ascending: begin and end of the content of long objects and lists inside entries.
    """

    file: JsonFile
    digest: str
    lists: dict[str, tuple[int, int]]
    entries: dict[str, np.ndarray]
    long_values: np.ndarray

    def regions(self, key: str) -> Iterator[tuple[int, bytes, np.ndarray]]:
        """Yields the content of a list in regions of some megabytes: offset, bytes, entries [n, 2] relative to offset.

        The comma between two regions is omitted.

        Raises:
            DataError: the file changed, or a comma between two entries is missing.
        """
        place, end = self.lists[key]
        entries = self.entries[key]
        first = 0
        while first < len(entries):
            last = max(int(np.searchsorted(entries[:, 1], place + _BLOCK, "right")), first + 1)
            stop = end if last == len(entries) else int(entries[last - 1, 1])
            if first > 0:
                place = self._after_comma(place, key)
            yield place, self.file.read(place, stop - place), entries[first:last] - place
            place, first = stop, last
        if place < end:  # a list without any object
            yield place, self.file.read(place, end - place), np.empty((0, 2), np.int64)

    def _after_comma(self, place: int, key: str) -> int:
        while (byte := self.file.read(place, 1)) and byte in b" \t\r\n":
            place += 1
        if byte != b",":
            after = self.file.read(place, 20)
            raise self.file.invalid(f"a comma is missing between entries of {key}, before {after!r}")
        return place + 1

    def without_long_values(self, offset: int, text: bytes) -> Iterator[bytes]:
        """Yields the pieces of a region, with long objects and lists emptied."""
        first, last = np.searchsorted(self.long_values[:, 0], (offset, offset + len(text)))
        places = [0, *(self.long_values[first:last].ravel() - offset).tolist(), len(text)]
        return (text[begin:end] for begin, end in zip(places[::2], places[1::2], strict=True))


def index_lists(path: Path, what: str, keys: tuple[str, ...]) -> JsonIndex:
    """Finds the entries of a file's top-level lists.

    Args:
        path: a JSON file whose value is an object.
        what: what the file is to the user.
        keys: keys of the required lists.

    Raises:
        DataError: the file is missing or unreadable, its brackets do not match, it is not an object, or it lacks a
            list. Whether each entry is JSON is found out when it is decoded.
    """
    file = JsonFile(path, what)
    if not file.read(0, 4096).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
        read_json(path, what)
        raise DataError(f"The {what} file {path} is not a JSON object.", "Give a file in COCO's form.")
    scanner = _Scanner()
    offset = checksum = 0
    while block := file.read(offset, _BLOCK):
        while block.endswith(b"\\") and (more := file.read(offset + len(block), 1)):
            block += more  # an escaped character must be in the same block as its backslash
        checksum = google_crc32c.extend(checksum, block)
        scanner.feed(block, offset)
        offset += len(block)
    if scanner.depth != 0 or scanner.in_string:
        raise file.invalid(f"it ends inside {'a string' if scanner.in_string else 'an object or a list'}")
    lists, skeleton = _lists(file, scanner, offset)
    try:
        value = json.loads(skeleton)
    except (ValueError, RecursionError) as error:
        raise file.invalid(error) from None
    missing = [key for key in keys if key not in lists or not isinstance(value.get(key), list)]
    if missing:
        raise DataError(f"The {what} file {path} has no list of {', '.join(missing)}.", "Give a file in COCO's form.")
    starts, ends = scanner.entries()
    entries = {}
    for key, (begin, end) in lists.items():
        chosen = slice(*np.searchsorted(starts, (begin, end)))
        entries[key] = np.stack([starts[chosen], ends[chosen]], axis=1)
    return JsonIndex(file, f"{offset} {checksum:08x}", lists, entries, scanner.long_values())


def _lists(file: JsonFile, scanner: _Scanner, size: int) -> tuple[dict[str, tuple[int, int]], bytes]:
    """Returns begin and end of the top-level lists' contents, and the file's text without them."""
    lists: dict[str, tuple[int, int]] = {}
    skeleton, done = [], 0
    opened, closed = scanner.containers()
    for begin, end in zip((opened + 1).tolist(), closed.tolist(), strict=True):
        before = max(done, begin - _LONGEST_KEY)
        match = _KEY_OF_LIST.search(file.read(before, begin - before))
        if match:
            lists[match[1].decode(errors="replace")] = (begin, end)
            skeleton.append(file.read(done, begin - done))
            done = end
    skeleton.append(file.read(done, size - done))
    return lists, b"".join(skeleton)


class _Scanner:
    """Counts brackets outside of strings, block by block."""

    def __init__(self) -> None:
        self.depth = 0
        self.in_string = False
        self._opened: dict[int, list[np.ndarray]] = {2: [], 3: [], 4: []}  # by depth inside
        self._closed: dict[int, list[np.ndarray]] = {2: [], 3: [], 4: []}

    def feed(self, block: bytes, offset: int) -> None:
        places = np.flatnonzero(np.frombuffer(block.translate(_IS_STRUCTURE), np.bool_))  # one byte in a hundred
        kinds = _KINDS[np.frombuffer(block, np.uint8)[places]]
        if b"\\" in block:
            escaped = _escaped(places[kinds == _BACKSLASH])
            keep = (kinds != _BACKSLASH) & ~np.isin(places, escaped)
            places, kinds = places[keep], kinds[keep]
        quotes = kinds == _QUOTE
        inside = (np.cumsum(quotes) + self.in_string) % 2 == 1
        self.in_string = bool((np.count_nonzero(quotes) + self.in_string) % 2)
        bracket = ~quotes & ~inside
        places, opens = places[bracket] + offset, kinds[bracket] == _OPEN
        depths = self.depth + np.cumsum(np.where(opens, 1, -1))
        self.depth = int(depths[-1]) if len(depths) else self.depth
        for depth in self._opened:
            self._opened[depth].append(places[opens & (depths == depth)])
            self._closed[depth].append(places[~opens & (depths == depth - 1)])

    def containers(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns where the objects and lists in the top-level object open and close."""
        return self._spans(2)

    def entries(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns begin and end of the objects and lists inside `containers`."""
        starts, ends = self._spans(3)
        return starts, ends + 1

    def long_values(self) -> np.ndarray:
        """Returns begin and end of the contents of long objects and lists inside `entries`."""
        starts, ends = self._spans(4)
        long = ends - starts > _LONG
        return np.stack([starts[long] + 1, ends[long]], axis=1)

    def _spans(self, depth: int) -> tuple[np.ndarray, np.ndarray]:
        starts, ends = np.concatenate(self._opened[depth]), np.concatenate(self._closed[depth])
        count = min(len(starts), len(ends))  # they differ only if brackets are wrong, which the skeleton shows
        return starts[:count], ends[:count]


def _escaped(backslashes: np.ndarray) -> np.ndarray:
    """Returns the places after an odd number of backslashes."""
    if not len(backslashes):
        return backslashes
    last = np.flatnonzero(np.diff(backslashes, append=backslashes[-1] + 2) != 1)  # the end of each run of backslashes
    lengths = np.diff(last, prepend=-1)
    return backslashes[last][lengths % 2 == 1] + 1
