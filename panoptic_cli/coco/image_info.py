"""Which image id each picture file has: by the list of pictures in a COCO JSON, or by the names of the files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from panoptic_cli import console
from panoptic_cli.categories import whole_number
from panoptic_cli.coco.category_names import category_names
from panoptic_cli.coco.file_names import find_file
from panoptic_cli.coco.image_ids import ImageId, image_key
from panoptic_cli.coco.image_names import NameIndex
from panoptic_cli.errors import DataError, counted, listed
from panoptic_cli.files import read_json

_SHOWN = 3
_PREFIXES = ("image_info_", "panoptic_", "instances_", "stuff_")  # of COCO's files, before the name of the set
_IN_FOLDERS = "file names with folders that do not exist: the last part is used"


@dataclass(frozen=True)
class ListedPicture:
    """A picture as a JSON lists it.

    Attributes:
        image_id: its id.
        file_name: its file name there.
        size: (height, width) in pixels; None if the JSON does not say.
    """

    image_id: ImageId
    file_name: str
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class ImageInfo:
    """What a COCO JSON says of its pictures.

    Attributes:
        path: the JSON.
        pictures: in its order; ids are unique.
        unusable: places in `images` of entries without an id or a file name.
        categories: {id: name} of the categories that it lists.
    """

    path: Path
    pictures: list[ListedPicture]
    unusable: list[int]
    categories: Mapping[int, str]

    @property
    def set_name(self) -> str:
        """The name of the set in the file's name: test-dev2017 of image_info_test-dev2017.json."""
        stem = self.path.stem
        return next((stem.removeprefix(prefix) for prefix in _PREFIXES if stem.startswith(prefix)), stem)


def read_image_info(path: Path) -> ImageInfo:
    """Reads the `images` of a COCO JSON.

    Raises:
        DataError: the file cannot be read, has no list of images, or lists an id twice.
    """
    content = read_json(path, "image info")
    entries = content.get("images") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise DataError(f"{path} has no list of images.", "Give a COCO JSON with images.")
    pictures, unusable = [], []
    for place, entry in enumerate(entries):
        fields = entry if isinstance(entry, dict) else {}
        key, name = image_key(fields.get("id")), fields.get("file_name")
        if key is None or not isinstance(name, str) or not name:
            unusable.append(place)
            continue
        sides = [whole_number(fields.get(side)) for side in ("height", "width")]
        size = (sides[0], sides[1]) if sides[0] and sides[1] else None
        pictures.append(ListedPicture(key, name, size))
    if twice := [key for key, count in Counter(p.image_id for p in pictures).items() if count > 1]:
        raise DataError(f"{path} lists image ids twice: {listed(twice, _SHOWN)}.", "Each picture needs its own id.")
    return ImageInfo(path, pictures, unusable, category_names(content.get("categories")))


def find_listed(info: ImageInfo, image_dir: Path) -> dict[Path, ListedPicture]:
    """Finds the files of all pictures that a JSON lists.

    Args:
        info: the list.
        image_dir: the folder that its file names are relative to.

    Returns:
        {file: picture} in the order of the list.

    Raises:
        DataError: an entry has no id or no file name, a file is missing, or a file is listed twice; names them.
    """
    if info.unusable or not info.pictures:
        places = listed([f"images[{place}]" for place in info.unusable], _SHOWN)
        problem = f"has entries without an id or a file_name: {places}" if places else "lists no pictures"
        raise DataError(f"{info.path} {problem}.", "Each picture needs both.")
    found: dict[Path, ListedPicture] = {}
    missing, twice = [], []
    notes: Counter[str] = Counter()
    for picture in info.pictures:
        path, note = _find(image_dir, picture.file_name)
        if not path.is_file():
            missing.append(picture.file_name)
            continue
        notes.update([note] if note else [])
        if path in found:
            twice.append(picture.file_name)
        found[path] = picture
    if missing:
        everything = len(missing) == len(info.pictures)
        raise DataError(
            f"{image_dir} lacks {len(missing):,} of the {counted(len(info.pictures), 'pictures')} of {info.path}: "
            f"{listed(missing, _SHOWN)}.",
            "Give --image-dir the folder of its pictures."
            if everything
            else f"A submission needs every picture. To predict only those that exist, give {image_dir} as PICTURE "
            "instead of --image-dir.",
        )
    if twice:
        raise DataError(f"{info.path} lists files twice: {listed(twice, _SHOWN)}.", "Each file can have one id.")
    for note, count in notes.items():
        console.info(f"{info.path}: {counted(count, note)}.")
    return found


def _find(folder: Path, name: str) -> tuple[Path, str | None]:
    """Finds a file under its name or, if that is a path that does not exist, under the last part of it."""
    plain = PurePosixPath(name.replace("\\", "/"))
    if not plain.is_absolute():
        path, note = find_file(folder, name)
        if path.is_file() or len(plain.parts) < 2:
            return path, note
    path, _ = find_file(folder, plain.name)
    return path, _IN_FOLDERS


def choose_image_ids(pictures: Sequence[Path], image_info: Path | None = None) -> dict[Path, ImageId]:
    """Chooses the image ids of picture files.

    Ids in the order of the files would be those of other pictures in another file, and be scored as such.

    Args:
        pictures: files.
        image_info: a COCO JSON whose `images` have the ids, found by file name; None: ids are the numbers that the
            names are, as in COCO, or else the names themselves.

    Raises:
        DataError: `image_info` cannot be read or lacks a picture.
    """
    if image_info is not None:
        return _listed_ids(pictures, image_info)
    numbers = [int(p.stem) for p in pictures if p.stem.isascii() and p.stem.isdecimal() and len(p.stem) < 19]
    if len(numbers) == len(pictures) == len(set(numbers)):
        return dict(zip(pictures, numbers, strict=True))
    names = [path.name for path in pictures]
    return dict(zip(pictures, names if len(set(names)) == len(names) else map(str, pictures), strict=True))


def _listed_ids(pictures: Sequence[Path], image_info: Path) -> dict[Path, ImageId]:
    names = {picture.image_id: picture.file_name for picture in read_image_info(image_info).pictures}
    index = NameIndex(names)
    found = {path: index.find(str(path)) for path in pictures}
    missing = [path for path, identifier in found.items() if identifier is None]
    ids = {path: identifier for path, identifier in found.items() if identifier is not None}
    if missing:
        raise DataError(
            f"{image_info} does not list {len(missing):,} of {counted(len(pictures), 'pictures')}: "
            f"{listed(missing, 3)}.",
            "Predict only pictures that it lists, or omit --image-info.",
        )
    if len(set(ids.values())) < len(ids):
        raise DataError(f"{image_info} has one entry for several of the pictures.", "Predict one folder at a time.")
    return ids
