"""Prediction files in COCO's formats: panoptic PNGs with their JSON, and detections.

The panoptic format is defined at https://cocodataset.org/#format-results: one PNG per picture, whose pixels hold the
segment id as r + 256 g + 65536 b, and one JSON that lists the segments.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from panoptic_cli.categories import CategoryTable
from panoptic_cli.errors import DataError
from panoptic_cli.files import named_in_errors, read_json, remove, write_json
from panoptic_cli.images import panoptic_png
from panoptic_cli.locks import folder_lock
from panoptic_cli.results.detection_entries import detection_entries
from panoptic_cli.results.prediction import Prediction
from panoptic_cli.results.segment_entries import segment_entries

TURNED = "exif_applied"  # of an annotation of pred.json: its picture was turned as its EXIF orientation says
_END = "\n]\n"  # of detections.json
_UNFINISHED = "unfinished"  # folder of an interrupted prediction, where a finished one is in its place
_TASK = "unfinished.json"  # beside an interrupted prediction: what it predicts


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
        folders: more folders of files that belong to the predictions, like pred; see `folder`.
        task: describes what is predicted, as JSON. What `keep` left of the same task is continued.

    Attributes:
        done: file names of the pictures that are written, also by the process that is continued.
    """

    def __init__(
        self, output_dir: Path, table: CategoryTable, *, folders: Sequence[str] = (), task: Any = None
    ) -> None:
        if output_dir.exists() and not output_dir.is_dir():
            raise DataError(f"{output_dir} is a file, not a folder.", "Give another --output.")
        self.output_dir = output_dir
        self._table = table
        self._task = task
        self._names = ("pred", *folders, "detections.json", "pred.json")  # the JSON last: it names the others
        self._separator = "\n"
        # Image, annotation, and the length of detections.json after them: Ctrl-C leaves no half of a picture.
        self._pictures: list[tuple[dict[str, Any], dict[str, Any], int]] = []
        self._file_names: set[str] = set()
        self._image_ids: set[int | str] = set()
        self._continued: Path | None = None  # the folder with what is continued
        self._partial = output_dir.with_name(f".{output_dir.name}.partial")
        self._lock = contextlib.ExitStack()
        try:
            self._partial.mkdir(parents=True, exist_ok=True)
            lock = folder_lock(self._partial, "prediction", "give another --output", output_dir)
            self._lock.enter_context(lock)
            self._clear()
            self._take_back()
            for name in self._names[:-2]:
                (self._partial / name).mkdir(exist_ok=True)
            # Written at once: with a hundred masks per picture, they would take too much memory.
            self._detections = (self._partial / "detections.json").open("a", encoding="utf-8")
        except OSError as error:
            self._lock.close()
            raise DataError(
                f"Predictions cannot be written to {output_dir}: {error.strerror}.", "Give another --output."
            ) from error
        if not self._detections.tell():
            self._detections.write("[")
        self._open = True

    def __enter__(self) -> PredictionWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            self.abort()

    @property
    def is_open(self) -> bool:
        """Whether it was neither closed nor aborted."""
        return self._open

    @property
    def done(self) -> list[str]:
        """File names of the pictures that are written, also by the process that is continued."""
        return [image["file_name"] for image, _, _ in self._pictures]

    @property
    def png_names(self) -> list[str]:
        """File names of the PNGs that are written, likewise."""
        return [annotation["file_name"] for _, annotation, _ in self._pictures]

    def folder(self, name: str) -> Path:
        """Returns where files of one of `folders` are to be written."""
        return self._partial / name

    def png_name(self, file_name: str) -> str:
        """Returns the name that the PNG of the next picture gets: a picture's stem, numbered if there are several."""
        stem = Path(file_name).stem
        names = itertools.chain([f"{stem}.png"], (f"{stem}-{number}.png" for number in itertools.count(2)))
        return next(name for name in names if name not in self._file_names)

    def add(
        self,
        image_id: int | str,
        file_name: str,
        prediction: Prediction,
        min_score: float | None = None,
        *,
        is_turned: bool = False,
    ) -> WrittenPrediction:
        """Writes the prediction of one picture.

        Args:
            image_id: the data set's id of the picture.
            file_name: the picture's file name; the PNG gets the same stem.
            prediction: the prediction.
            min_score: write only detections with a greater score; None for all.
            is_turned: whether the picture was turned as its EXIF orientation says; pred.json says so.

        Returns:
            What was written.

        Raises:
            DataError: this picture was added before.
        """
        if image_id in self._image_ids:
            raise DataError(f"Image {image_id} was predicted twice.", "Each picture can have only one prediction.")
        name = self.png_name(file_name)
        height, width = prediction.segment_map.shape
        info = segment_entries(prediction.segment_map, prediction.segments)
        detections = detection_entries(image_id, prediction.detections, (height, width), min_score)
        with named_in_errors(self.output_dir):
            (self._partial / "pred" / name).write_bytes(panoptic_png.encode_ids(prediction.segment_map))
            for entry in detections:
                self._detections.write(self._separator + json.dumps(entry))
                self._separator = ",\n"
        annotation = {"image_id": image_id, "file_name": name, "segments_info": info}
        if is_turned:
            annotation[TURNED] = True
        image = {"id": image_id, "file_name": file_name, "height": height, "width": width}
        self._pictures.append((image, annotation, self._detections.tell()))
        self._image_ids.add(image_id)
        self._file_names.add(name)
        return WrittenPrediction(name, info, detections)

    def close(self, before: Callable[[Path], object] = lambda folder: None) -> None:
        """Finishes the files and moves them into place.

        Args:
            before: called with the folder of the finished files before they are moved. If it raises, the writer stays
                open, so that nothing is lost: see `keep`.
        """
        if not self._open:
            return
        self._finish()
        before(self._partial)
        try:
            self._move_into(self.output_dir)
            (self.output_dir / _TASK).unlink(missing_ok=True)
            if self._continued == self.output_dir / _UNFINISHED:
                remove(self._continued)
        finally:
            self.abort()

    def keep(self) -> Path:
        """Keeps what is written so far, so that a writer with the same task continues it.

        Returns:
            The folder: `output_dir`, or the folder "unfinished" in it, if there are other predictions.
        """
        folder = self._continued or self.output_dir
        if self._continued is None and (folder / "pred.json").exists():
            folder = folder / _UNFINISHED
        for name in self._names[:-2]:  # a picture that is not finished may have filled the disk
            for path in (self._partial / name).iterdir():
                if path.name not in self._file_names:
                    remove(path)
        self._finish()
        self._move_into(folder)
        write_json(folder / _TASK, self._task)
        self.abort()
        return folder

    def _take_back(self) -> None:
        """Takes over what `keep` left of the same task, and leaves it in place: this process may be killed."""
        for folder in (self.output_dir, self.output_dir / _UNFINISHED):
            if self._task is None or not (folder / _TASK).is_file() or not (folder / "pred.json").is_file():
                continue
            if read_json(folder / _TASK, "task") != self._task:
                continue
            content = read_json(folder / "pred.json", "predictions")
            for name in self._names[:-2]:
                shutil.copytree(folder / name, self._partial / name, copy_function=_link)
            shutil.copyfile(folder / "detections.json", self._partial / "detections.json")
            self._continued = folder
            with (self._partial / "detections.json").open("r+b") as stream:
                end = stream.seek(-len(_END), os.SEEK_END)
                stream.truncate()
            self._separator = ",\n" if end > 1 else "\n"
            images, annotations = content["images"], content["annotations"]
            self._pictures = [(image, entry, end) for image, entry in zip(images, annotations, strict=True)]
            self._image_ids = {image["id"] for image in images}
            self._file_names = {entry["file_name"] for entry in annotations}
            return

    def _finish(self) -> None:
        """Writes the ends of the JSON files."""
        if self._detections.closed:
            return
        content = {
            "images": [image for image, _, _ in self._pictures],
            "annotations": [annotation for _, annotation, _ in self._pictures],
            "categories": self._table.to_list(),
        }
        with named_in_errors(self.output_dir):
            if self._pictures:
                self._detections.truncate(self._pictures[-1][-1])
            self._detections.write(_END)
            self._detections.flush()
            (self._partial / "pred.json").write_text(json.dumps(content) + "\n", encoding="utf-8")
            self._detections.close()

    def _move_into(self, folder: Path) -> None:
        """Replaces earlier files with the new ones; an interruption restores the earlier ones."""
        folder.mkdir(parents=True, exist_ok=True)
        earlier = self._earlier(folder)
        earlier.mkdir(exist_ok=True)  # an attempt before may have failed
        try:
            for name in reversed(self._names):
                if os.path.lexists(folder / name):
                    (folder / name).rename(earlier / name)
            for name in self._names:
                (self._partial / name).rename(folder / name)
        except BaseException:
            self._restore(folder)
            raise

    def _earlier(self, folder: Path) -> Path:
        """Returns where the earlier files of a folder are while the new ones move into it."""
        return self._partial / ("earlier" if folder == self.output_dir else f"earlier-{_UNFINISHED}")

    def _restore(self, folder: Path) -> None:
        for aside in self._earlier(folder).iterdir():
            remove(folder / aside.name)
            aside.rename(folder / aside.name)

    def _clear(self) -> None:
        """Removes what a killed process left, after it restored the earlier files that the process was replacing."""
        if (self._partial / "pred.json").exists():  # the last of the new files, so not all were in place
            for folder in (self.output_dir, self.output_dir / _UNFINISHED):
                if self._earlier(folder).is_dir():
                    self._restore(folder)
        for path in self._partial.iterdir():
            remove(path)

    def abort(self) -> None:
        """Discards everything that is not in place; does nothing after `close`."""
        if not self._open:
            return
        self._open = False
        self._detections.close()
        remove(self._partial)
        self._lock.close()


def _link(source: str, target: str) -> None:
    """Makes a file appear at another place, too, without a copy where the disk can do so."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
