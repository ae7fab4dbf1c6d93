"""Recognising what a JSON file is: panoptic annotations, instances, captions, results."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

from panoptic_cli.coco import json_entries
from panoptic_cli.coco.json_index import JsonIndex, index_lists
from panoptic_cli.errors import DataError
from panoptic_cli.files import read_json

PANOPTIC: Final = "a panoptic JSON"
INSTANCES: Final = "an instances JSON"
Wanted = Literal["a panoptic JSON", "an instances JSON"]

_HINTS = {
    PANOPTIC: "Give a panoptic JSON, whose annotations have segments_info: COCO's is panoptic_*.json.",
    INSTANCES: "Give an instances JSON, whose annotations have segmentation and bbox: COCO's is instances_*.json.",
}


class OtherKindError(DataError):
    """A file is of another kind."""


def index_kind(path: Path, what: str, keys: tuple[str, ...], wanted: Wanted) -> JsonIndex:
    """Indexes a file's lists, like `index_lists`, and checks that it is of the right kind.

    Args:
        path: the file.
        what: what the file is to the user.
        keys: keys of the required lists.
        wanted: the kind of file.

    Raises:
        DataError: see `index_lists`.
        OtherKindError: it is of another kind; the message says which.
    """
    try:
        index = index_lists(path, what, keys)
    except DataError as error:
        kind = _kind_of_file(path)
        if kind in (None, wanted):
            raise error from None
        raise _other_kind(path, kind, wanted) from None
    kind = _kind_of_annotations(_first_entry(index))
    if kind not in (None, wanted):
        raise _other_kind(path, kind, wanted)
    return index


def _other_kind(path: Path, kind: str | None, wanted: str) -> OtherKindError:
    return OtherKindError(f"{path} is {kind}, not {wanted}.", _HINTS[wanted])


def _first_entry(index: JsonIndex) -> Any:
    entries = index.entries.get("annotations")
    if entries is None or not len(entries):
        return None
    begin, end = entries[0].tolist()
    try:
        return json_entries.decode_entry(index.file.read(begin, end - begin))
    except (ValueError, RecursionError):
        return None  # reported where the list is read


def _kind_of_file(path: Path) -> str | None:
    """Returns what a file without the expected lists is; None if that is not clear."""
    try:
        value = read_json(path, "annotation")
    except DataError:
        return None
    if isinstance(value, list):
        return _kind_of_list(value[0] if value else None)
    annotations = value.get("annotations") if isinstance(value, dict) else None
    if isinstance(annotations, list) and annotations:
        kind = _kind_of_annotations(annotations[0])
        return "a panoptic result file" if kind == PANOPTIC and "images" not in value else kind
    if isinstance(value, dict) and isinstance(value.get("shapes"), list):
        return "a labelme file"
    return None


def _kind_of_annotations(entry: Any) -> str | None:
    if not isinstance(entry, dict):
        return None
    if "segments_info" in entry:
        return PANOPTIC
    if "segmentation" in entry or "bbox" in entry:
        return INSTANCES
    return "a captions JSON" if "caption" in entry else None


def _kind_of_list(entry: Any) -> str | None:
    if not isinstance(entry, dict):
        return None
    if "caption" in entry:
        return "a file of captions"
    if "score" in entry:
        return "a file of detections"
    if "isthing" in entry:
        return "a category table"
    return None
