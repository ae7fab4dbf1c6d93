"""Prediction files in COCO's formats: panoptic PNGs with their JSON, and detections.

The panoptic format is defined at https://cocodataset.org/#format-results: one PNG per picture, whose pixels hold the
segment id as r + 256 g + 65536 b, and one JSON that lists the segments.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from panoptic_cli.categories import CategoryTable
from panoptic_cli.errors import DataError
from panoptic_cli.files import remove
from panoptic_cli.images import panoptic_png
from panoptic_cli.results.detection_entries import detection_entries
from panoptic_cli.results.prediction import Prediction
from panoptic_cli.results.segment_entries import segment_entries


@dataclass(frozen=True)
class WrittenPrediction:
    """What `PredictionWriter.add` wrote about one picture.

    Attributes:
        png_name: file name of the panoptic PNG.
        segments_info: its segments, see `segment_entries`.
        detections: its detections, see `detection_entries`.
    """

    png_name: str
    segments_info: list[dict[str, Any]]
    detections: list[dict[str, Any]]


class PredictionWriter:
    """Writes `pred.json` with `pred/*.png`, and `detections.json`, into one folder.

    Everything goes to a temporary folder beside it, which `close` moves into place. `abort`, or an exception inside a
    `with` block, leaves the folder as it was. Other files in the folder are kept.

    Args:
        output_dir: the folder; it is created if missing, and older predictions in it are replaced.
        table: the categories, which pred.json lists too.
    """

    def __init__(self, output_dir: Path, table: CategoryTable) -> None:
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
            # Written at once: with a hundred masks per picture, they would take too much memory.
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
        self, image_id: int | str, file_name: str, prediction: Prediction, min_score: float | None = None
    ) -> WrittenPrediction:
        """Writes the prediction of one picture.

        Args:
            image_id: the data set's id of the picture.
            file_name: the picture's file name; the PNG gets the same stem.
            prediction: the prediction.
            min_score: write only detections with a greater score; None for all.

        Returns:
            What was written.

        Raises:
            DataError: this picture was added before.
        """
        if image_id in self._image_ids:
            raise DataError(f"Image {image_id} was predicted twice.", "Each picture can have only one prediction.")
        name = f"{Path(file_name).stem}.png"
        while name in self._file_names:  # pictures of the same name in two folders
            name = f"{name.removesuffix('.png')}-{image_id}.png"
        height, width = prediction.segment_map.shape
        info = segment_entries(prediction.segment_map, prediction.segments)
        detections = detection_entries(image_id, prediction.detections, (height, width), min_score)
        (self._partial / "pred" / name).write_bytes(panoptic_png.encode_ids(prediction.segment_map))
        for entry in detections:
            self._detections.write(self._separator + json.dumps(entry))
            self._separator = ",\n"
        self._image_ids.add(image_id)
        self._file_names.add(name)
        self._annotations.append({"image_id": image_id, "file_name": name, "segments_info": info})
        self._images.append({"id": image_id, "file_name": file_name, "height": height, "width": width})
        return WrittenPrediction(name, info, detections)

    def close(self) -> None:
        """Finishes the files and moves them into place."""
        if not self._open:
            return
        try:
            self._detections.write("\n]\n")
            self._detections.close()
            content = {
                "images": self._images,
                "annotations": self._annotations,
                "categories": self._table.to_list(),
            }
            (self._partial / "pred.json").write_text(json.dumps(content) + "\n", encoding="utf-8")
            self.output_dir.mkdir(parents=True, exist_ok=True)
            self._move_into_place()
        finally:
            self.abort()

    def _move_into_place(self) -> None:
        """Replaces earlier files with the new ones; an interruption restores the earlier ones."""
        names = ("pred", "detections.json", "pred.json")  # the JSON last, so that its PNGs exist whenever it does
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
        """Discards everything that is not in place; does nothing after `close`."""
        self._open = False
        self._detections.close()
        remove(self._partial)
