"""Scoring a COCO-format panoptic result file against a ground truth file, without a model."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from panoptic_cli import console
from panoptic_cli.categories import CategoryTable
from panoptic_cli.errors import DataError, PanopticError, summarize
from panoptic_cli.evaluation.label_runs import overlaps_rgb
from panoptic_cli.evaluation.panoptic_quality import PanopticQuality, Segment
from panoptic_cli.evaluation.report_data import Confusion, ReportData, decode_picture
from panoptic_cli.files import read_json
from panoptic_cli.images import panoptic_png

_CHUNK = 25  # pictures a task: enough to hide the cost of a task, few enough to share work evenly


_Pair = tuple[dict[str, Any], dict[str, Any]]  # annotations of one picture: ground truth, prediction


@dataclass(frozen=True)
class _Job:
    """What a worker needs to score any picture."""

    table: CategoryTable
    masks_dir: str
    predictions_dir: str
    pairs: list[_Pair]
    for_report: bool


@dataclass
class _Part:
    """What some of the pictures gave."""

    quality: PanopticQuality
    confusion: Confusion | None
    problems: list[PanopticError] = field(default_factory=list)
    picture_quality: dict[int, float | None] = field(default_factory=dict)  # PQ by place in the job's pairs


def score_files(
    predictions: Path,
    predictions_dir: Path | None,
    annotations: Path,
    masks_dir: Path | None,
    workers: int = 2,
    for_report: bool = False,
    image_dir: Path | None = None,
) -> dict[str, Any]:
    """Scores panoptic predictions with COCO's panoptic quality.

    Args:
        predictions: the result JSON, its `annotations` as in COCO's panoptic results format.
        predictions_dir: folder of its PNGs; None for the JSON's path without .json.
        annotations: the ground truth's panoptic JSON.
        masks_dir: folder of its PNGs; None for the JSON's path without .json.
        workers: processes that decode and count; 1 scores in this process. Memory is that of the two JSONs
            and one pair of pictures a worker. The figures do not depend on it.
        for_report: whether to collect what a report shows besides the figures.
        image_dir: the pictures themselves, for the report only; None shows the maps alone.

    Returns:
        What `PanopticQuality.result` returns, and "table" (CategoryTable), "report" (ReportData or None), "images",
        "seconds", "images_per_second" and "warnings" (list of str: what is odd in the files but does not change the
        figures, as for example predictions of pictures that the ground truth does not have,
        which are left out as panopticapi does).

    Raises:
        DataError: a file or folder is missing or broken, the two do not hold the same pictures, or ids,
            categories or sizes disagree; every such picture is named.
    """
    begun = time.monotonic()
    gt = _read_panoptic_json(annotations, "panoptic annotations")
    pred = _read_panoptic_json(predictions, "predictions")
    if not isinstance(gt.get("categories"), list):
        raise DataError(f"{annotations} has no list of categories.", "Give a COCO panoptic JSON.")
    pairs, warnings = _pair_up(gt["annotations"], pred["annotations"], annotations, predictions)
    job = _Job(
        CategoryTable.from_list(gt["categories"], str(annotations)),
        str(_folder(masks_dir, annotations, "--panoptic-masks")),
        str(_folder(predictions_dir, predictions, "--predictions-dir")),
        pairs,
        for_report,
    )
    report = ReportData(job.table) if for_report else None
    quality = PanopticQuality(job.table)
    problems: list[PanopticError] = []
    picture_quality: dict[int, float | None] = {}
    for part in _parts(job, workers):
        quality.merge(part.quality)
        problems += part.problems
        picture_quality |= part.picture_quality
        if report is not None and part.confusion is not None:
            report.confusion.merge(part.confusion)
    if problems:
        hint = next((problem.hint for problem in problems if problem.hint), None)
        raise DataError(summarize([problem.message for problem in problems]), hint)
    if quality.area_differences:
        warnings.append(
            f"{quality.area_differences} areas in {annotations} are not the number of pixels, which is what "
            f"counts here ({quality.area_notes[0]}); panopticapi takes the JSON, so its figures may differ."
        )
    seconds = time.monotonic() - begun
    if report is not None:
        _show_pictures(job, picture_quality, report, gt.get("images"), image_dir)
    return {
        **quality.result(),
        "table": job.table,
        "report": report,
        "images": quality.images,
        "seconds": seconds,
        "images_per_second": quality.images / max(seconds, 1e-9),
        "warnings": warnings,
    }


def _parts(job: _Job, workers: int) -> Iterator[_Part]:
    count = len(job.pairs)
    chunks = [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
    workers = min(workers, len(chunks))
    if workers <= 1:
        _keep_freed_memory()
        with console.progress("Scoring", count) as advance:
            for chunk in chunks:
                yield _score(chunk, job)
                advance(len(chunk))
        return
    # A fork starts in milliseconds and has the job already, but must not happen under TensorFlow's threads.
    safe_to_fork = sys.platform == "linux" and "tensorflow" not in sys.modules
    context = multiprocessing.get_context("fork" if safe_to_fork else "spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(job,))
    try:
        # Submitted before the progress bar starts a thread of its own, for the same reason.
        futures: list[Future[_Part]] = [pool.submit(_score, chunk) for chunk in chunks]
        with console.progress("Scoring", count) as advance:
            for future, chunk in zip(futures, chunks, strict=True):
                yield future.result()
                advance(len(chunk))
    except BrokenProcessPool:
        raise PanopticError(
            "A scoring process ended unexpectedly.", "It may have run out of memory: try --workers 1."
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_worker_job: _Job | None = None  # of this process, where it is a worker


def _start_worker(job: _Job) -> None:
    global _worker_job
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is left to the parent, which ends the workers
    _worker_job = job
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Makes the C library keep freed picture buffers: it does so up to the size of a block that was given back.

    Otherwise every picture's pages come anew from the system, a fifth of the whole time. No page of this block is
    ever touched.
    """
    np.empty(30 << 20, np.uint8)


def _score(places: range, job: _Job | None = None) -> _Part:
    """Scores some pictures; a picture that cannot be scored does not hide the problems of the next."""
    job = job or _worker_job
    assert job is not None
    part = _Part(PanopticQuality(job.table), Confusion(job.table) if job.for_report else None)
    for place in places:
        gt, pred = job.pairs[place]
        image = gt["image_id"]
        try:
            gt_rgb = panoptic_png.read_rgb(os.path.join(job.masks_dir, gt["file_name"]))
            pred_rgb = panoptic_png.read_rgb(os.path.join(job.predictions_dir, pred["file_name"]))
            if gt_rgb.shape != pred_rgb.shape:
                sizes = [f"{rgb.shape[1]} x {rgb.shape[0]}" for rgb in (gt_rgb, pred_rgb)]
                raise DataError(
                    f"Image {image}: the ground truth is {sizes[0]} (width x height), the prediction {sizes[1]}.",
                    "Predictions have to be at the picture's own size.",
                )
            quality = part.quality.add_overlaps(
                overlaps_rgb(gt_rgb, pred_rgb),
                Segment.list_from_json(gt["segments_info"], image, "ground truth"),
                Segment.list_from_json(pred["segments_info"], image, "prediction"),
                image=image,
            )
            if part.confusion is not None:
                part.confusion.add(quality)
                part.picture_quality[place] = quality.pq
        except PanopticError as error:
            part.problems.append(error)
    return part


def _show_pictures(
    job: _Job, picture_quality: dict[int, float | None], report: ReportData, images: Any, image_dir: Path | None
) -> None:
    """Draws the worst and the best pictures, whose files are read once more, for the report."""
    names = {i.get("id"): i.get("file_name") for i in images or [] if isinstance(i, dict)}
    scored = [(pq, place) for place, pq in picture_quality.items() if pq is not None]
    report.unscored += len(picture_quality) - len(scored)
    for pq, place in report.worst_and_best(scored):
        gt, pred = job.pairs[place]
        image_id = gt["image_id"]
        maps = [
            (
                panoptic_png.rgb_to_ids(panoptic_png.read_rgb(os.path.join(folder, entry["file_name"]))),
                Segment.list_from_json(entry["segments_info"], image_id, kind),
            )
            for folder, entry, kind in (
                (job.masks_dir, gt, "ground truth"),
                (job.predictions_dir, pred, "prediction"),
            )
        ]
        report.add_picture(image_id, pq, _picture(image_dir, names.get(image_id)), *maps[0], *maps[1])


def _picture(image_dir: Path | None, name: Any) -> np.ndarray | None:
    """uint8 [H, W, 3], or None where there is no such picture to show."""
    if image_dir is None or not isinstance(name, str):
        return None
    path = image_dir / name
    picture = decode_picture(path.read_bytes()) if path.is_file() else None
    if picture is None:
        console.warn(f"The report shows no picture where {path} is missing or cannot be read.")
    return picture


def _read_panoptic_json(path: Path, what: str) -> dict[str, Any]:
    content = read_json(path, what)
    entries = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise DataError(f"The {what} file {path} has no list of annotations.", "Give a COCO panoptic JSON.")
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise DataError(f"annotations[{place}] of {path} is not an object.")
        missing = [key for key in ("image_id", "file_name", "segments_info") if key not in entry]
        if missing:
            raise DataError(f"annotations[{place}] of {path} has no {', '.join(missing)}.")
        for key, kinds in (("image_id", int | str), ("file_name", str)):
            if not isinstance(entry[key], kinds):
                raise DataError(f"annotations[{place}] of {path} has the {key} {entry[key]!r}.")
    return content


def _folder(given: Path | None, json_path: Path, option: str) -> Path:
    folder = given if given is not None else json_path.with_suffix("")
    if not folder.is_dir():
        raise DataError(f"The folder {folder} with the PNGs of {json_path} does not exist.", f"Give it with {option}.")
    return folder


def _pair_up(
    gt: list[dict[str, Any]], pred: list[dict[str, Any]], gt_path: Path, pred_path: Path
) -> tuple[list[_Pair], list[str]]:
    """Pairs the pictures of the ground truth with their predictions; also returns warnings."""
    by_id: list[dict[Any, dict[str, Any]]] = []
    for entries, path in ((gt, gt_path), (pred, pred_path)):
        found = {entry["image_id"]: entry for entry in entries}
        if len(found) != len(entries):
            counts = Counter(entry["image_id"] for entry in entries)
            twice = [str(image_id) for image_id, count in counts.items() if count > 1]
            raise DataError(f"{path} lists images twice: {_names(twice)}.")
        by_id.append(found)
    gt_by_id, pred_by_id = by_id
    if missing := [str(i) for i in gt_by_id if i not in pred_by_id]:
        raise DataError(
            f"{pred_path} has no prediction for {len(missing)} of the {len(gt)} images of {gt_path}: "
            f"{_names(missing)}.",
            "Every picture of the ground truth needs a prediction; one of void alone will do.",
        )
    warnings = []
    if surplus := [str(i) for i in pred_by_id if i not in gt_by_id]:
        warnings.append(f"{len(surplus)} predicted images are not in {gt_path} and are left out: {_names(surplus)}.")
    return [(entry, pred_by_id[image_id]) for image_id, entry in gt_by_id.items()], warnings


def _names(names: list[str], limit: int = 10) -> str:
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")
