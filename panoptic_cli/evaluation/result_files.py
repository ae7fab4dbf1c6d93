"""Reading COCO panoptic JSONs of ground truth and predictions, picture by picture in pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panoptic_cli.categories import CategoryTable, whole_number
from panoptic_cli.coco.category_names import category_names, map_categories
from panoptic_cli.coco.image_ids import ImageId, image_key
from panoptic_cli.coco.image_names import pair_images
from panoptic_cli.coco.tables import added_to_ids, raised
from panoptic_cli.errors import DataError, listed
from panoptic_cli.files import read_json
from panoptic_cli.results.coco_files import TURNED

Pair = tuple[dict[str, Any], dict[str, Any]]  # annotations of one picture: ground truth, prediction


@dataclass(frozen=True)
class ResultFiles:
    """A result file and its ground truth.

    Attributes:
        predictions: the result JSON, in COCO's panoptic results format.
        annotations: the ground truth's panoptic JSON.
        predictions_dir: folder of the predicted PNGs; None for the JSON's path without .json.
        masks_dir: folder of the ground truth's PNGs; None for the JSON's path without .json.
        image_dir: folder of the pictures themselves, for the report; None shows the maps alone.
    """

    predictions: Path
    annotations: Path
    predictions_dir: Path | None = None
    masks_dir: Path | None = None
    image_dir: Path | None = None


@dataclass(frozen=True)
class PairedResults:
    """What the JSONs of `ResultFiles` contain.

    Attributes:
        table: the ground truth's categories.
        masks_dir: folder of the ground truth's PNGs.
        predictions_dir: folder of the predicted PNGs.
        pairs: the annotations of each picture of the ground truth, in its order.
        categories: {category id in the ground truth: id in the table}, None if they are the same; likewise of the
            predictions.
        file_names: {image id: file name} of the pictures that the ground truth lists.
        warnings: oddities that do not change the figures.
    """

    table: CategoryTable
    masks_dir: Path
    predictions_dir: Path
    pairs: list[Pair]
    categories: tuple[dict[int, int] | None, dict[int, int] | None]
    file_names: dict[Any, Any]
    warnings: list[str]


def read_results(files: ResultFiles) -> PairedResults:
    """Reads the JSONs and pairs their pictures.

    Raises:
        DataError: a file or folder is missing or damaged, or a picture of the ground truth has no prediction.
    """
    truth = _read_panoptic_json(files.annotations, "panoptic annotations")
    predicted = _read_panoptic_json(files.predictions, "predictions")
    if not isinstance(truth.get("categories"), list):
        raise DataError(f"{files.annotations} has no list of categories.", "Give a COCO panoptic JSON.")
    added = added_to_ids(truth["categories"])
    table = CategoryTable.from_list(raised(truth["categories"], added), str(files.annotations))
    own = {category.id - added: category.id for category in table.categories} if added else None
    pairs, warnings = _pair_up(truth, predicted, files)
    if added:
        warnings.append(f"Category ids of {files.annotations} begin at 0, which means unlabelled: 1 is added to each.")
    categories, note = _categories(predicted, table, own, files)
    turned = [entry["file_name"] for entry in predicted["annotations"] if entry.get(TURNED)]
    if turned:
        warnings.append(
            f"{len(turned):,} predicted pictures were turned as their EXIF orientation says: {listed(turned, 3)}. If "
            "the ground truth fits the stored pixels, predict with --exif ignore."
        )
    for content, path in ((truth, files.annotations), (predicted, files.predictions)):
        if count := _read_numbers(content["annotations"]):
            warnings.append(f"{path}: {count:,} ids of segments are written as text; they are read as numbers.")
    warnings += _stuff_in_several(pairs, table, (own, categories), files)
    return PairedResults(
        table=table,
        masks_dir=_folder(files.masks_dir, files.annotations, "--panoptic-masks"),
        predictions_dir=_folder(files.predictions_dir, files.predictions, "--predictions-dir"),
        pairs=pairs,
        categories=(own, categories),
        file_names={i.get("id"): i.get("file_name") for i in truth.get("images") or [] if isinstance(i, dict)},
        warnings=[*warnings, *([note] if note else [])],
    )


def _read_panoptic_json(path: Path, what: str) -> dict[str, Any]:
    content = read_json(path, what)
    entries = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise DataError(f"The {what} file {path} has no list of annotations.", "Give a COCO panoptic JSON.")
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise DataError(f"annotations[{place}] of {path} is not an object.")
        missing = [key for key in ("image_id", "file_name", "segments_info") if key not in entry]
        if "segments_info" in missing and ("bbox" in entry or "segmentation" in entry):
            raise DataError(
                f"The {what} file {path} is an instances JSON (its annotations have a bbox).",
                "Give a COCO panoptic JSON (panoptic_*.json).",
            )
        if missing:
            raise DataError(f"annotations[{place}] of {path} has no {listed(missing)}.")
        for key, valid in (("image_id", image_key), ("file_name", _text)):
            if valid(entry[key]) is None:
                raise DataError(f"annotations[{place}] of {path} has an invalid {key}: {entry[key]!r}.")
    return dict(content)


def _read_numbers(annotations: list[dict[str, Any]]) -> int:
    """Turns ids that are written as text into numbers; returns how many there are."""
    count = 0
    for annotation in annotations:
        infos = annotation["segments_info"]
        for segment in infos if isinstance(infos, list) else []:
            for key in ("id", "category_id") if isinstance(segment, dict) else ():
                if isinstance(segment.get(key), str) and (number := whole_number(segment[key])) is not None:
                    segment[key] = number
                    count += 1
    return count


def _folder(given: Path | None, json_path: Path, option: str) -> Path:
    folder = given if given is not None else json_path.with_suffix("")
    if not folder.is_dir():
        raise DataError(f"The folder {folder} with the PNGs of {json_path} does not exist.", f"Give it with {option}.")
    return folder


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _pair_up(truth: dict[str, Any], predicted: dict[str, Any], files: ResultFiles) -> tuple[list[Pair], list[str]]:
    """Pairs the pictures of the ground truth with their predictions; also returns warnings."""
    truth_by_id = _by_id(truth["annotations"], files.annotations)
    predicted_by_id = _by_id(predicted["annotations"], files.predictions)
    pairing = pair_images(
        _file_names(truth, truth_by_id),
        _file_names(predicted, predicted_by_id),
        str(files.annotations),
        str(files.predictions),
    )
    if pairing.missing:
        raise DataError(
            f"{files.predictions} has no prediction for {len(pairing.missing)} of the {len(truth_by_id)} images of "
            f"{files.annotations}: {listed(pairing.missing)}.",
            "Every picture of the ground truth needs a prediction; it may be void everywhere.",
        )
    warnings = [pairing.note] if pairing.note else []
    used = set(pairing.pairs.values())
    if surplus := [i for i in predicted_by_id if i not in used]:
        warnings.append(
            f"{len(surplus)} predicted images are not in {files.annotations} and do not count: {listed(surplus)}."
        )
    return [(entry, predicted_by_id[pairing.pairs[i]]) for i, entry in truth_by_id.items()], warnings


def _by_id(entries: list[dict[str, Any]], path: Path) -> dict[ImageId, dict[str, Any]]:
    """Returns the annotations by image id."""
    keys = [key for entry in entries if (key := image_key(entry["image_id"])) is not None]
    found = dict(zip(keys, entries, strict=True))
    if len(found) != len(entries):
        repeated = [image_id for image_id, count in Counter(keys).items() if count > 1]
        raise DataError(f"{path} lists images twice: {listed(repeated)}.")
    return found


def _file_names(content: dict[str, Any], annotated: Collection[ImageId]) -> dict[ImageId, str]:
    """Returns the file name of each annotated picture; "" if the file does not list it."""
    images = content.get("images")
    found = dict.fromkeys(annotated, "")
    for image in images if isinstance(images, list) else []:
        if isinstance(image, dict) and isinstance(name := image.get("file_name"), str):
            key = image_key(image.get("id"))
            if key is not None and key in found:
                found[key] = name
    return found


def _stuff_in_several(
    pairs: list[Pair],
    table: CategoryTable,
    categories: tuple[dict[int, int] | None, dict[int, int] | None],
    files: ResultFiles,
) -> list[str]:
    """Returns a warning for each file with several segments of one stuff category in a picture."""
    stuff, warnings = {category.id for category in table.stuff}, []
    for side, path in enumerate((files.annotations, files.predictions)):
        mapping = categories[side] or {}
        count = 0
        for pair in pairs:
            infos = pair[side]["segments_info"]
            ids = [s.get("category_id") for s in infos if isinstance(s, dict)] if isinstance(infos, list) else []
            kept = [found for i in ids if type(i) is int and (found := mapping.get(i, i)) in stuff]
            count += len(set(kept)) < len(kept)
        if count:
            warnings.append(
                f"{count:,} pictures of {path} have several segments of one stuff category, each of which counts: PQ "
                "expects one."
            )
    return warnings


def _categories(
    predicted: dict[str, Any], table: CategoryTable, own: dict[int, int] | None, files: ResultFiles
) -> tuple[dict[int, int] | None, str | None]:
    """Compares the categories that the predictions list with those of the ground truth; see `map_categories`."""
    names = category_names(predicted.get("categories"))
    if not names:
        return own, None  # they need not be listed
    if all(i in table.by_id and table.by_id[i].name == name for i, name in names.items()):
        return None, None  # as nearly always
    used = {
        segment["category_id"]
        for annotation in predicted["annotations"]
        if isinstance(annotation["segments_info"], list)
        for segment in annotation["segments_info"]
        if isinstance(segment, dict) and type(segment.get("category_id")) is int
    }
    return map_categories(names, used & set(names), table, str(files.predictions), "the ground truth")
