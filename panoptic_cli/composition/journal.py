"""The journal of a composition: which pictures were made, and from what; a line each, in the folder of the PNGs."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from pathlib import Path

from panoptic_cli.composition.pictures import MadePicture, file_state, state_of
from panoptic_cli.composition.preparation import Composition


def journal_line(composition: Composition, place: int, picture: MadePicture) -> str:
    """Returns the line of a picture, given with its place in the source."""
    return json.dumps({"digest": composition.digest, "place": place, **asdict(picture)}) + "\n"


def read_journal(path: Path) -> dict[int, tuple[str, MadePicture]]:
    """Returns the digest and the picture of each complete line, by place."""
    found = {}
    with contextlib.suppress(FileNotFoundError):
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError):  # cut short, or of another version
                value = json.loads(line)
                digest, place = value.pop("digest"), value.pop("place")
                found[place] = digest, MadePicture(**value)
    return found


def still_valid(composition: Composition, former: dict[int, tuple[str, MadePicture]]) -> dict[int, MadePicture]:
    """Returns the pictures of an earlier run whose inputs and PNG are unchanged, by place."""
    plan, digest = composition.plan, composition.digest
    return {
        place: picture
        for place, (made_with, picture) in sorted(former.items())
        if made_with == digest
        and picture.state == state_of(plan, composition.source.entry(place))
        and picture.png_state == file_state(plan.masks_dir / picture.png)
    }
