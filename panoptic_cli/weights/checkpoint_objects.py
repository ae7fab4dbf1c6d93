"""The objects of a published checkpoint in Cloud Storage."""

from __future__ import annotations

import re
from collections.abc import Collection

from panoptic_cli.errors import TransferError
from panoptic_cli.transfer.objects import RemoteObject, list_objects, read_object
from panoptic_cli.weights.checkpoint_files import STATE_FILE
from panoptic_cli.weights.published import Published

_DATA = re.compile(r"\.data-\d{5}-of-(\d{5})$")


def checkpoint_objects(published: Published) -> dict[str, RemoteObject]:
    """Returns the objects of the checkpoint by the names of their files.

    The address is a checkpoint's prefix or a folder; of a folder's checkpoints, the one that its state file names is
    meant, or else the last one.

    Raises:
        TransferError: the source cannot be read, or has no whole checkpoint.
    """
    bucket, _, path = published.source.removeprefix("gs://").partition("/")
    folder = path.rpartition("/")[0]
    known = [f"{folder}/{file.name}" for file in published.files]
    guessed = [f"{path}.index", f"{path}.data-00000-of-00001", f"{path}/{STATE_FILE}"]
    found = {item.name: item for item in list_objects(bucket, path, tuple(known or guessed))}
    prefix = path
    if f"{path}.index" not in found:
        state = found.get(f"{path}/{STATE_FILE}")
        named = re.search(rb'^model_checkpoint_path: "(?:.*/)?(.*)"', read_object(state)) if state is not None else None
        if named:
            prefix = f"{path}/{named[1].decode()}"
            if f"{prefix}.index" not in found:  # the bucket does not list its objects
                names = (f"{prefix}.index", f"{prefix}.data-00000-of-00001")
                found = {item.name: item for item in list_objects(bucket, prefix, names)}
        else:
            indices = [name for name in found if re.fullmatch(rf"{re.escape(path)}/[^/]+\.index", name)]
            numbered = sorted(indices, key=lambda name: int((re.findall(r"\d+", name) or ["0"])[-1]))
            prefix = numbered[-1].removesuffix(".index") if numbered else path
    chosen = {
        name.rpartition("/")[2]: item
        for name, item in found.items()
        if name == f"{prefix}.index" or (name.startswith(f"{prefix}.data-") and _DATA.search(name))
    }
    if not is_whole(prefix.rpartition("/")[2], chosen):
        raise TransferError(
            f"There is no whole checkpoint at {published.source}.", "Report it: the source has changed."
        )
    return chosen


def is_whole(name: str, present: Collection[str]) -> bool:
    """Whether a checkpoint's index and all of its data files are among the names of files."""
    data = [file for file in present if file.startswith(f"{name}.data-") and _DATA.search(file)]
    counts = {int(_DATA.search(file)[1]) for file in data}  # type: ignore[index]
    return f"{name}.index" in present and counts == {len(data)}
