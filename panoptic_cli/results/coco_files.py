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
from typing import Any, NamedTuple

from panoptic_cli.categories import CategoryTable
from panoptic_cli.errors import DataError
from panoptic_cli.files import named_in_errors, read_json, remove, write_json
from panoptic_cli.images import panoptic_png
from panoptic_cli.locks import folder_lock
from panoptic_cli.results.detection_entries import detection_entries
from panoptic_cli.results.journal import Journal, read_journal
from panoptic_cli.results.prediction import Prediction
from panoptic_cli.results.segment_entries import segment_entries

TURNED = "exif_applied"  # of an annotation of pred.json: its picture was turned as its EXIF orientation says
_END = "\n]\n"  # of detections.json
_UNFINISHED = "unfinished"  # folder of an interrupted prediction, where a finished one is in its place
_TASK = "unfinished.json"  # beside an interrupted prediction: what it predicts
_JOURNAL = "journal.jsonl"  # beside a prediction that is written: its task and its pictures


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


class _Written(NamedTuple):
    """A picture that is written, as a line of the journal.

    Attributes:
        image: its entry in pred.json.
        annotation: its annotation there.
        end: length of detections.json after it, in bytes. Ctrl-C leaves no half of a picture.
        png_bytes: size of its panoptic PNG.
    """

    image: dict[str, Any]
    annotation: dict[str, Any]
    end: int
    png_bytes: int


class PredictionWriter:
    """Writes `pred.json` with `pred/*.png`, and `detections.json`, into one folder.

    Everything goes to a temporary folder beside it, which `close` moves into place. `abort`, or an exception inside a
    `with` block, leaves the folder as it was. Other files in the folder are kept.

    Args:
        output_dir: the folder; it is created if missing, and older predictions in it are replaced.
        table: the categories, which pred.json lists too.
        folders: more folders of files that belong to the predictions, like pred; see `folder`.
        task: describes what is predicted, as JSON. What `keep`, or a killed process, left of the same task is
            continued.

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
        self._pictures: list[_Written] = []
        self._file_names: set[str] = set()
        self._image_ids: set[int | str] = set()
        self._partial = output_dir.with_name(f".{output_dir.name}.partial")
        self._lock = contextlib.ExitStack()
        try:
            self._partial.mkdir(parents=True, exist_ok=True)
            lock = folder_lock(self._partial, "prediction", "give another --output", output_dir)
            self._lock.enter_context(lock)
            self._continued = self._kept_folder()
            self._pictures = self._take_over() or self._take_back()
            self._image_ids = {picture.image["id"] for picture in self._pictures}
            self._file_names = {picture.annotation["file_name"] for picture in self._pictures}
            for name in self._names[:-2]:
                (self._partial / name).mkdir(exist_ok=True)
            self._journal = None if task is None else Journal(self._partial / _JOURNAL, task, self._pictures)
            # Written at once: with a hundred masks per picture, they would take too much memory.
            self._detections = (self._partial / "detections.json").open("a", encoding="utf-8")
        except OSError as error:
            self._lock.close()
            raise DataError(
                f"Predictions cannot be written to {output_dir}: {error.strerror}.", "Give another --output."
            ) from error
        if not self._detections.tell():
            self._detections.write("[")
        self._separator = ",\n" if self._detections.tell() > 1 else "\n"
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
        return [picture.image["file_name"] for picture in self._pictures]

    @property
    def png_names(self) -> list[str]:
        """File names of the PNGs that are written, likewise."""
        return [picture.annotation["file_name"] for picture in self._pictures]

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
            png_bytes = (self._partial / "pred" / name).write_bytes(panoptic_png.encode_ids(prediction.segment_map))
            for entry in detections:
                self._detections.write(self._separator + json.dumps(entry))
                self._separator = ",\n"
        annotation = {"image_id": image_id, "file_name": name, "segments_info": info}
        if is_turned:
            annotation[TURNED] = True
        image = {"id": image_id, "file_name": file_name, "height": height, "width": width}
        with named_in_errors(self.output_dir):
            picture = _Written(image, annotation, self._detections.tell(), png_bytes)  # tell writes what is buffered
            if self._journal is not None:
                self._journal.append(picture)
        self._pictures.append(picture)
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

    def _kept_folder(self) -> Path | None:
        """Returns the folder in which `keep` left files of the same task, None if there is none."""
        for folder in (self.output_dir, self.output_dir / _UNFINISHED):
            if self._task is None or not (folder / _TASK).is_file() or not (folder / "pred.json").is_file():
                continue
            if read_json(folder / _TASK, "task") == self._task:
                return folder
        return None

    def _take_over(self) -> list[_Written]:
        """Returns the pictures that a killed process left here, of the same task; removes everything else."""
        if (self._partial / "pred.json").exists():  # the last of the new files, so not all were in place
            for folder in (self.output_dir, self.output_dir / _UNFINISHED):
                if self._earlier(folder).is_dir():
                    self._restore(folder)
        detections = self._partial / "detections.json"
        size = detections.stat().st_size if detections.is_file() else 0
        found: list[_Written] = []
        for picture in itertools.starmap(_Written, read_journal(self._partial / _JOURNAL, self._task)):
            png = self._partial / "pred" / picture.annotation["file_name"]
            # A file may be shorter than it was, if the whole machine ended.
            if picture.end > size or not png.is_file() or png.stat().st_size != picture.png_bytes:
                break
            found.append(picture)
        names = {picture.annotation["file_name"] for picture in found}
        for path in self._partial.iterdir():
            # The journal stays until the new one replaces it: this process may fail before.
            if not found or path.name not in (*self._names[:-1], _JOURNAL):
                remove(path)
            elif path.is_dir():
                for file in path.iterdir():
                    if file.name not in names:
                        remove(file)
        if found:
            os.truncate(detections, found[-1].end)
        return found

    def _take_back(self) -> list[_Written]:
        """Returns the pictures that `keep` left, with copies of their files: this process may be killed."""
        folder = self._continued
        if folder is None:
            return []
        content = read_json(folder / "pred.json", "predictions")
        for name in self._names[:-2]:
            shutil.copytree(folder / name, self._partial / name, copy_function=_link)
        shutil.copyfile(folder / "detections.json", self._partial / "detections.json")
        with (self._partial / "detections.json").open("r+b") as stream:
            end = stream.seek(-len(_END), os.SEEK_END)
            stream.truncate()
        return [
            _Written(image, entry, end, (folder / "pred" / entry["file_name"]).stat().st_size)
            for image, entry in zip(content["images"], content["annotations"], strict=True)
        ]

    def _finish(self) -> None:
        """Writes the ends of the JSON files."""
        if self._detections.closed:
            return
        content = {
            "images": [picture.image for picture in self._pictures],
            "annotations": [picture.annotation for picture in self._pictures],
            "categories": self._table.to_list(),
        }
        with named_in_errors(self.output_dir):
            if self._pictures:
                self._detections.truncate(self._pictures[-1].end)
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

    def abort(self) -> None:
        """Discards everything that is not in place; does nothing after `close`."""
        if not self._open:
            return
        self._open = False
        self._detections.close()
        if self._journal is not None:
            self._journal.close()
        remove(self._partial)
        self._lock.close()


def _link(source: str, target: str) -> None:
    """Makes a file appear at another place, too, without a copy where the disk can do so."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
