"""The archive that COCO's panoptic evaluation server takes.

It holds a result JSON and the folder of its PNGs, both named panoptic_SET_METHOD_results, at its top
(https://cocodataset.org/#upload).
"""

from __future__ import annotations

import re
import shutil
import zipfile
from pathlib import Path

from panoptic_cli import console
from panoptic_cli.locks import locked_path

_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that the format has; the same predictions give the same bytes
_MODE = 0o644 << 16
_UNIX = 3  # the system that gives the mode its meaning


def submission_stem(set_name: str, method: str) -> str:
    """Returns the name of the archive and of what is in it, without suffix.

    Args:
        set_name: the pictures: "test-dev2017".
        method: the network: "panoptic-fpn". Characters other than letters, digits, "-" and "." become "-".
    """
    parts = [re.sub(r"[^A-Za-z0-9.-]+", "-", part).strip("-.") or "unnamed" for part in (set_name, method)]
    return f"panoptic_{parts[0]}_{parts[1]}_results"


def write_submission(folder: Path, archive: Path) -> None:
    """Packs predictions for COCO's panoptic server.

    Args:
        folder: has pred.json and pred/*.png, in COCO's format.
        archive: the zip to write; its name is that of the JSON and the folder in it, see `submission_stem`. It appears
            only when it is complete, and is the same for the same predictions.
    """
    stem = archive.stem
    pngs = sorted((folder / "pred").iterdir())
    with (
        locked_path(archive, "panoptic predict", "give another --output") as partial,
        zipfile.ZipFile(partial, "w") as packed,
        console.progress("Packing", len(pngs)) as advance,
    ):
        _add(packed, folder / "pred.json", f"{stem}.json", zipfile.ZIP_DEFLATED)
        for png in pngs:
            _add(packed, png, f"{stem}/{png.name}", zipfile.ZIP_STORED)  # they are compressed
            advance()


def _add(packed: zipfile.ZipFile, path: Path, name: str, method: int) -> None:
    entry = zipfile.ZipInfo(name, _TIME)
    entry.compress_type, entry.external_attr, entry.create_system = method, _MODE, _UNIX
    entry.file_size = path.stat().st_size  # tells whether sizes need 64 bits
    with path.open("rb") as source, packed.open(entry, "w") as target:
        shutil.copyfileobj(source, target)
