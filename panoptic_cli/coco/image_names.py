"""Recognising the same picture in two files: by its id where the file names agree, otherwise by its file name."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from panoptic_cli.coco.image_ids import ImageId
from panoptic_cli.errors import DataError, listed

_SHOWN = 3


def same_name(one: str, other: str) -> bool:
    """Whether two paths can name the same picture: one ends with the other, see `name_parts`."""
    parts = name_parts(one), name_parts(other)
    shorter = min(map(len, parts))
    return parts[0][-shorter:] == parts[1][-shorter:]


def name_parts(name: str) -> list[str]:
    """Returns the folders and the stem of a file name: no suffix, and one separator, case and Unicode form."""
    if not name.isascii():
        name = unicodedata.normalize("NFC", name)
    *folders, last = name.replace("\\", "/").casefold().split("/")
    stem, dot, _ = last.rpartition(".")
    return [*(part for part in folders if part not in ("", ".")), stem if dot and stem else last]


class NameIndex:
    """Finds pictures by file name.

    Args:
        names: {image id: file name}; pictures without a name are left out.
    """

    def __init__(self, names: Mapping[ImageId, str]) -> None:
        self._by_stem: dict[str, list[tuple[ImageId, str]]] = {}
        for identifier, name in names.items():
            if name:
                self._by_stem.setdefault(name_parts(name)[-1], []).append((identifier, name))

    def find(self, name: str) -> ImageId | None:
        """Returns the id of the one picture that a name fits; None if there is none, or more than one."""
        found = [entry for entry in self._by_stem.get(name_parts(name)[-1], ()) if same_name(entry[1], name)]
        for fits in (
            lambda other: _suffix(other) == _suffix(name),
            lambda other: name_parts(other) == name_parts(name),
            lambda other: other == name,
        ):
            if len(found) > 1:
                found = [entry for entry in found if fits(entry[1])] or found
        return found[0][0] if len(found) == 1 else None


def _suffix(name: str) -> str:
    return name.rpartition(".")[2].lower()


@dataclass(frozen=True)
class Pairing:
    """Which pictures of two files are the same.

    Attributes:
        pairs: {our id: their id}.
        missing: our ids that they do not have.
        note: what was assumed, in one line; None for plain ids.
    """

    pairs: dict[ImageId, ImageId]
    missing: list[ImageId]
    note: str | None = None


def pair_images(ours: Mapping[Any, str], theirs: Mapping[Any, str], our_source: str, their_source: str) -> Pairing:
    """Pairs pictures by id, or by file name if the ids disagree.

    Args:
        ours: {image id: file name}; "" for an unknown name.
        theirs: likewise.
        our_source: where ours come from, for messages: "the records".
        their_source: likewise.

    Raises:
        DataError: ids name different pictures, and the file names do not pair them either.
    """
    missing = [i for i in ours if i not in theirs]
    odd = [i for i, name in ours.items() if (other := theirs.get(i)) and name and not same_name(name, other)]
    by_id = {i: i for i in ours if i in theirs}
    if not missing and not odd:
        return Pairing(by_id, [])
    index = NameIndex(theirs)
    by_name = {i: found for i, name in ours.items() if name and (found := index.find(name)) is not None}
    if len(by_name) > len(by_id) - len(odd) and len(set(by_name.values())) == len(by_name):
        example = next(i for i, found in by_name.items() if found != i)
        note = (
            f"{their_source} has other image ids than {our_source}: pictures are paired by file name "
            f"({ours[example]} is {by_name[example]} there, {example} here)."
        )
        return Pairing(by_name, [i for i in ours if i not in by_name], note)
    if odd:
        examples = [f"{i} is {ours[i]} in {our_source}, {theirs[i]} in {their_source}" for i in odd[:_SHOWN]]
        raise DataError(
            f"{len(odd)} image ids mean different pictures, and the file names do not pair them: {listed(examples)}"
            + (f" and {len(odd) - _SHOWN} more." if len(odd) > _SHOWN else "."),
            "Give files of the same pictures.",
        )
    return Pairing(by_id, missing)
