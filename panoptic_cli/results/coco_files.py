"""Predictions in COCO's formats: panoptic PNGs with their JSON, and detections.

The panoptic format is the one of https://cocodataset.org/#format-results: a PNG a picture whose pixels hold
the segment id as r + 256 g + 65536 b, and a JSON that lists the segments.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from panoptic_cli.categories import CategoryTable
from panoptic_cli.errors import DataError
from panoptic_cli.evaluation.label_runs import run_starts
from panoptic_cli.evaluation.panoptic_quality import Segment
from panoptic_cli.files import remove
from panoptic_cli.images import panoptic_png


def segments_from_maps(
    category_map: np.ndarray, instance_map: np.ndarray, table: CategoryTable | None = None
) -> tuple[np.ndarray, list[Segment]]:
    """Gives every segment of a fused prediction an id of its own.

    Args:
        category_map: integer [H, W], category ids, 0 where void.
        instance_map: integer [H, W], instance numbers of the things, 0 for stuff.
        table: the categories that exist; pixels of any other become void. A network whose label space has
            gaps (COCO's has) may predict such. None to keep all.

    Returns:
        int32 [H, W], segment ids from 1 in the order of (category, instance), 0 where void; and the segments,
        one per thing instance and one per stuff category, with their areas.

    Raises:
        ValueError: the maps differ in shape or hold negative numbers.
    """
    if category_map.shape != instance_map.shape or category_map.ndim != 2:
        raise ValueError(f"maps of one shape [H, W] wanted, not {category_map.shape} and {instance_map.shape}")
    categories, instances = category_map.reshape(-1), instance_map.reshape(-1)
    starts = run_starts(categories, instances)
    category, instance = categories[starts].astype(np.int64), instances[starts].astype(np.int64)
    if (category < 0).any() or (instance < 0).any():
        raise ValueError("category and instance maps must not be negative")
    if table is not None:
        category = np.where(np.isin(category, list(table.by_id)), category, 0)
    lengths = np.diff(starts, append=categories.size)
    span = int(instance.max(initial=0)) + 1
    keys, places = np.unique(np.where(category == 0, 0, category * span + instance), return_inverse=True)
    first = 0 if keys.size and keys[0] == 0 else 1  # the id of the first key: void, where there is any
    areas = np.bincount(places, lengths, keys.size).astype(np.int64)
    id_map = np.repeat((places + first).astype(np.int32), lengths).reshape(category_map.shape)
    segments = [
        Segment(id=place + first, category_id=int(key // span), area=int(area))
        for place, (key, area) in enumerate(zip(keys.tolist(), areas.tolist(), strict=True))
        if key
    ]
    return id_map, segments


def segments_info(id_map: np.ndarray, segments: Sequence[Segment]) -> list[dict[str, Any]]:
    """Describes segments as COCO's panoptic JSON does.

    Args:
        id_map: integer [H, W] with ids 0 .. len(segments), as `segments_from_maps` gives it.
        segments: its segments, each with at least one pixel.

    Returns:
        One {"id", "category_id", "area" (pixels), "bbox" (x, y, width, height in pixels), "iscrowd"} a
        segment.
    """
    height, width = id_map.shape
    boundaries = np.ones((height, width), bool)  # every row starts a run, so that each run lies in one row
    np.not_equal(id_map[:, 1:], id_map[:, :-1], out=boundaries[:, 1:])
    starts = np.flatnonzero(boundaries)
    ids, lengths = id_map.reshape(-1)[starts], np.diff(starts, append=id_map.size)
    row, left = np.divmod(starts, width)
    count = int(ids.max(initial=0)) + 1
    area = np.bincount(ids, lengths, count).astype(np.int64)
    low = np.full((2, count), np.iinfo(np.int64).max)
    high = np.zeros((2, count), np.int64)
    for axis, (begin, end) in enumerate(((left, left + lengths), (row, row + 1))):
        np.minimum.at(low[axis], ids, begin)
        np.maximum.at(high[axis], ids, end)
    return [
        {
            "id": s.id,
            "category_id": s.category_id,
            "area": int(area[s.id]),
            "bbox": [*low[:, s.id].tolist(), *(high - low)[:, s.id].tolist()],
            "iscrowd": int(s.iscrowd),
        }
        for s in segments
    ]


class PredictionWriter:
    """Writes `pred.json` with `pred/*.png`, and `detections.json`, into one folder.

    Everything goes to a temporary folder beside it and takes its place at `close`; `abort`, or an exception
    inside a `with` block, leaves the folder as it was. Other files in the folder are kept.

    Args:
        output_dir: the folder; made when missing, older predictions in it are replaced.
        table: the categories that exist: pixels of any other become void, and pred.json lists them, so that
            it describes itself. None to keep all pixels.
    """

    def __init__(self, output_dir: Path, table: CategoryTable | None = None) -> None:
        if output_dir.exists() and not output_dir.is_dir():
            raise DataError(f"{output_dir} is a file, not a folder.", "Give another --output.")
        self.output_dir = output_dir
        self._table = table
        self._annotations: list[dict[str, Any]] = []
        self._images: list[dict[str, Any]] = []
        self._file_names: set[str] = set()
        self._image_ids: set[int | str] = set()
        self._partial = output_dir.with_name(f".{output_dir.name}.{os.getpid()}.partial")
        try:
            remove(self._partial)
            (self._partial / "pred").mkdir(parents=True)
            # Streamed: with a hundred masks a picture they are too many to keep.
            self._detections = (self._partial / "detections.json").open("w", encoding="utf-8")
        except OSError as error:
            raise DataError(
                f"Predictions cannot be written to {output_dir}: {error.strerror}.", "Give another --output."
            ) from error
        self._detections.write("[")
        self._separator = "\n"
        self._open = True

    def __enter__(self) -> PredictionWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def add(
        self, image_id: int | str, file_name: str, category_map: np.ndarray, instance_map: np.ndarray
    ) -> list[dict[str, Any]]:
        """Writes the panoptic prediction of one picture.

        Args:
            image_id: the data set's id of the picture.
            file_name: the picture's file name; the PNG takes its stem.
            category_map: int32 [H, W], category ids, 0 where void.
            instance_map: int32 [H, W], instance numbers, 0 for stuff and void.

        Returns:
            The picture's `segments_info`.

        Raises:
            DataError: the picture was added before.
        """
        if image_id in self._image_ids:
            raise DataError(f"Image {image_id} is there twice.", "Each picture can have one prediction only.")
        name = f"{Path(file_name).stem}.png"
        while name in self._file_names:  # pictures of one name in two folders
            name = f"{name.removesuffix('.png')}-{image_id}.png"
        id_map, segments = segments_from_maps(category_map, instance_map, self._table)
        info = segments_info(id_map, segments)
        (self._partial / "pred" / name).write_bytes(panoptic_png.encode(id_map))
        self._image_ids.add(image_id)
        self._file_names.add(name)
        self._annotations.append({"image_id": image_id, "file_name": name, "segments_info": info})
        height, width = id_map.shape
        self._images.append({"id": image_id, "file_name": file_name, "height": height, "width": width})
        return info

    def png_name(self) -> str:
        """Returns the file name of the PNG that was written last."""
        return str(self._annotations[-1]["file_name"])

    def add_detections(
        self,
        image_id: int | str,
        boxes: np.ndarray,
        scores: np.ndarray,
        category_ids: np.ndarray,
        masks: Sequence[Mapping[str, Any]] | None,
    ) -> list[dict[str, Any]]:
        """Writes the detections of one picture in COCO's results format.

        Args:
            image_id: the data set's id of the picture.
            boxes: float [N, 4], y1, x1, y2, x2 in pixels of the picture.
            scores: float [N], 0..1.
            category_ids: integer [N].
            masks: N RLEs as `coco_ap.paste_masks_rle` gives them, or None.

        Returns:
            The entries written: image_id, category_id, bbox (x, y, width, height), score and segmentation.
        """
        entries = detection_entries(image_id, boxes, scores, category_ids, masks)
        for entry in entries:
            self._detections.write(self._separator + json.dumps(entry))
            self._separator = ",\n"
        return entries

    def close(self) -> None:
        """Finishes the files and puts them in place."""
        if not self._open:
            return
        try:
            self._detections.write("\n]\n")
            self._detections.close()
            content: dict[str, Any] = {"images": self._images, "annotations": self._annotations}
            if self._table is not None:
                content["categories"] = self._table.to_list()
            (self._partial / "pred.json").write_text(json.dumps(content) + "\n", encoding="utf-8")
            self.output_dir.mkdir(parents=True, exist_ok=True)
            self._put_in_place()
        finally:
            self.abort()

    def _put_in_place(self) -> None:
        """Exchanges earlier files for the new ones; when that is interrupted, the earlier ones come back."""
        names = ("pred", "detections.json", "pred.json")  # the JSON last: where it is, its PNGs are
        earlier = {self.output_dir / name: self._partial / f"earlier-{name}" for name in names}
        try:
            for path, aside in reversed(earlier.items()):
                if os.path.lexists(path):
                    path.rename(aside)
            for name in names:
                (self._partial / name).rename(self.output_dir / name)
        except BaseException:
            for path, aside in earlier.items():
                if os.path.lexists(aside):
                    remove(path)
                    aside.rename(path)
            raise

    def abort(self) -> None:
        """Drops everything that was not put in place; harmless after `close`."""
        self._open = False
        self._detections.close()
        remove(self._partial)


def detection_entries(
    image_id: int | str,
    boxes: np.ndarray,
    scores: np.ndarray,
    category_ids: np.ndarray,
    masks: Sequence[Mapping[str, Any]] | None,
) -> list[dict[str, Any]]:
    """Builds COCO results entries; arguments and result as `PredictionWriter.add_detections`."""
    y1, x1, y2, x2 = np.asarray(boxes, np.float64).reshape(-1, 4).T
    xywh = np.stack((x1, y1, x2 - x1, y2 - y1), axis=1).round(3).tolist()
    entries: list[dict[str, Any]] = [
        {"image_id": image_id, "category_id": int(category), "bbox": box, "score": float(score)}
        for box, score, category in zip(xywh, scores, category_ids, strict=True)
    ]
    if masks is not None:
        for entry, mask in zip(entries, masks, strict=True):
            entry["segmentation"] = dict(mask)
    return entries
