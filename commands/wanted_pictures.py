"""Which pictures `panoptic predict` is to predict, with which ids, and the archive of a submission."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from panoptic_cli import console
from panoptic_cli.errors import UsageError, listed

if TYPE_CHECKING:
    from panoptic_cli.categories import CategoryTable
    from panoptic_cli.coco.image_info import ImageInfo, ListedPicture


@dataclass(frozen=True)
class WantedPictures:
    """The pictures to predict.

    Attributes:
        files: {file: image id}.
        info: the JSON of which all pictures are predicted; None if others were named.
        listed: {file: its entry in that JSON}.
    """

    files: dict[Path, int | str]
    info: ImageInfo | None = None
    listed: dict[Path, ListedPicture] = field(default_factory=dict)


def find_wanted(
    pictures: list[str],
    list_file: Path | None,
    output: Path,
    image_info: Path | None,
    image_dir: Path | None,
    submission_name: str | None,
) -> WantedPictures:
    """Finds the pictures: those that are named, or all that a JSON lists.

    Raises:
        UsageError: the options contradict each other.
        DataError: a picture is missing or has no id.
    """
    named = bool(pictures or list_file)
    if submission_name is not None and (image_info is None or image_dir is None):
        raise UsageError("--submission-name needs --image-info and --image-dir.", "Give both, or omit it.")
    if image_dir is None:
        if image_info is not None and not named:
            raise UsageError(
                "--image-info without pictures needs their folder.", "Give --image-dir DIR, or pictures or folders."
            )
        return WantedPictures(_with_ids(_find_pictures(pictures, list_file, output), image_info))
    if image_info is None:
        raise UsageError(
            "--image-dir needs --image-info, which lists its pictures.",
            f"Give both, or only the folder: panoptic predict {image_dir}.",
        )
    if named:
        raise UsageError(
            "--image-info and --image-dir name all pictures.", "Omit the pictures and --list, or --image-dir."
        )
    from panoptic_cli.coco.image_info import find_listed, read_image_info

    info = read_image_info(image_info)
    entries = find_listed(info, image_dir)
    return WantedPictures({path: picture.image_id for path, picture in entries.items()}, info, entries)


def tell_of_names(wanted: WantedPictures) -> None:
    """Says that image ids are names of files: COCO's ids are numbers."""
    if any(isinstance(identifier, str) for identifier in wanted.files.values()):
        console.info("Image ids in the JSON files are the file names. --image-info FILE gives COCO's ids.")


def archive_path(wanted: WantedPictures, name: str | None, model: str, output: Path) -> Path | None:
    """Returns the zip for COCO's server; None if there is none to write."""
    if wanted.info is None:
        return None
    from panoptic_cli.results.submission import submission_stem

    return output / f"{submission_stem(wanted.info.set_name, name or _method_name(model))}.zip"


def _method_name(model: str) -> str:
    """Returns the last part of a model's name or path that says more than which checkpoint it is."""
    parts = model.partition("@")[0].split("/")
    telling = [part for part in parts if part not in ("", "best", "checkpoints") and not part.startswith("ckpt-")]
    return telling[-1].replace("_", "-") if telling else "model"


def compare_categories(info: ImageInfo, table: CategoryTable) -> None:
    """Warns if the model has other categories than the JSON under the same ids: every score would be wrong."""
    from panoptic_cli.coco.tables import name_key

    ours = {category.id: category.name for category in table.categories}
    other = [
        f"{identifier} is {name!r} there, {ours[identifier]!r} in the model"
        for identifier, name in info.categories.items()
        if identifier in ours and name_key(name) != name_key(ours[identifier])
    ]
    if other:
        console.warn(f"{info.path} has other categories than the model: {listed(other, 3)}.")


def _find_pictures(pictures: list[str], list_file: Path | None, output: Path) -> list[Path]:
    from panoptic_cli.images.pictures import find_pictures, read_list

    named = [item for item in pictures if item != "-"]
    lists = [*(["-"] if "-" in pictures else []), *([str(list_file)] if list_file else [])]
    if not named and not lists:
        raise UsageError("There are no pictures to predict.", "Give pictures, folders or patterns, or --list FILE.")
    from_list = [line for source in lists for line in read_list(source)]
    return find_pictures(named, from_list=from_list, skip=[output / "overlay", output / "pred"])


def _with_ids(files: list[Path], image_info: Path | None) -> dict[Path, int | str]:
    """Returns {file: image id}."""
    from panoptic_cli.coco.image_info import choose_image_ids

    return choose_image_ids(files, image_info)
