"""Scoring a COCO-format panoptic result file against a ground truth file, without a model."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panoptic_cli import console
from panoptic_cli.categories import CategoryTable
from panoptic_cli.errors import DataError, PanopticError, summarize
from panoptic_cli.evaluation.label_runs import joint_runs_rgb
from panoptic_cli.evaluation.panoptic_png import read_panoptic_png
from panoptic_cli.evaluation.panoptic_quality import PanopticQuality, Segment
from panoptic_cli.files import read_json

_CHUNK = 25  # pictures a task: enough to hide the cost of a task, few enough to share work evenly


@dataclass(frozen=True)
class _Job:
    """What a worker needs to score any picture."""

    table: CategoryTable
    masks_dir: Path
    predictions_dir: Path


_Pair = tuple[dict[str, Any], dict[str, Any]]  # annotations of one picture: ground truth, prediction


def score_files(
    predictions: Path,
    predictions_dir: Path | None,
    annotations: Path,
    masks_dir: Path | None,
    workers: int = 2,
) -> dict[str, Any]:
    """Scores panoptic predictions with COCO's panoptic quality.

    Args:
        predictions: the result JSON, its `annotations` as in COCO's panoptic results format.
        predictions_dir: folder of its PNGs; None for the JSON's path without .json.
        annotations: the ground truth's panoptic JSON.
        masks_dir: folder of its PNGs; None for the JSON's path without .json.
        workers: processes that decode and count; 1 scores in this process. Memory is that of the two JSONs
            and one pair of pictures a worker. The figures do not depend on it.

    Returns:
        What `PanopticQuality.result` returns, and "images", "seconds", "images_per_second" and "warnings"
        (list of
        str: what is odd in the files but does not change the figures).

    Raises:
        DataError: a file or folder is missing or broken, the two do not hold the same pictures, or ids,
            categories or sizes disagree; every such picture is named.
    """
    begun = time.monotonic()
    gt = _read_panoptic_json(annotations, "panoptic annotations")
    pred = _read_panoptic_json(predictions, "predictions")
    if not isinstance(gt.get("categories"), list):
        raise DataError(f"{annotations} has no list of categories.", "Give a COCO panoptic JSON.")
    job = _Job(
        CategoryTable.from_list(gt["categories"], str(annotations)),
        _folder(masks_dir, annotations, "--panoptic-masks"),
        _folder(predictions_dir, predictions, "--predictions-dir"),
    )
    pairs = _pair_up(gt["annotations"], pred["annotations"], annotations, predictions)

    quality = PanopticQuality(job.table)
    problems: list[PanopticError] = []
    for part, errors in _parts(job, pairs, workers):
        quality.merge(part)
        problems += errors
    if problems:
        hint = next((problem.hint for problem in problems if problem.hint), None)
        raise DataError(summarize([problem.message for problem in problems]), hint)

    warnings = []
    if quality.area_differences:
        warnings.append(
            f"{quality.area_differences} areas in {annotations} are not the number of pixels, which is what "
            f"counts here ({quality.area_notes[0]}); panopticapi takes the JSON, so its figures may differ."
        )
    seconds = time.monotonic() - begun
    return {
        **quality.result(),
        "images": quality.images,
        "seconds": seconds,
        "images_per_second": quality.images / max(seconds, 1e-9),
        "warnings": warnings,
    }


def _parts(job: _Job, pairs: list[_Pair], workers: int) -> Iterator[tuple[PanopticQuality, list[PanopticError]]]:
    chunks = [pairs[start : start + _CHUNK] for start in range(0, len(pairs), _CHUNK)]
    workers = min(workers, len(chunks))
    if workers <= 1:
        with console.progress("Scoring", len(pairs)) as advance:
            for chunk in chunks:
                yield _score(job, chunk)
                advance(len(chunk))
        return
    # A fork starts in milliseconds, but must not happen under TensorFlow's threads.
    safe_to_fork = sys.platform == "linux" and "tensorflow" not in sys.modules
    context = multiprocessing.get_context("fork" if safe_to_fork else "spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_ignore_interrupts)
    try:
        # Submitted before the progress bar starts a thread of its own, for the same reason.
        futures: list[Future[Any]] = [pool.submit(_score, job, chunk) for chunk in chunks]
        with console.progress("Scoring", len(pairs)) as advance:
            for future, chunk in zip(futures, chunks, strict=True):
                yield future.result()
                advance(len(chunk))
    except BrokenProcessPool:
        raise PanopticError(
            "A scoring process ended unexpectedly.", "It may have run out of memory: try --workers 1."
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _score(job: _Job, pairs: list[_Pair]) -> tuple[PanopticQuality, list[PanopticError]]:
    """Scores some pictures; a picture that cannot be scored does not hide the problems of the next."""
    quality = PanopticQuality(job.table)
    problems: list[PanopticError] = []
    for gt, pred in pairs:
        image = gt["image_id"]
        try:
            gt_rgb = read_panoptic_png(job.masks_dir / gt["file_name"])
            pred_rgb = read_panoptic_png(job.predictions_dir / pred["file_name"])
            if gt_rgb.shape != pred_rgb.shape:
                sizes = [f"{rgb.shape[1]} x {rgb.shape[0]}" for rgb in (gt_rgb, pred_rgb)]
                raise DataError(
                    f"Image {image}: the ground truth is {sizes[0]} (width x height), the prediction {sizes[1]}.",
                    "Predictions have to be at the picture's own size.",
                )
            quality.add_runs(
                joint_runs_rgb(gt_rgb, pred_rgb),
                Segment.list_from_json(gt["segments_info"], image, "ground truth"),
                Segment.list_from_json(pred["segments_info"], image, "prediction"),
                image=image,
            )
        except PanopticError as error:
            problems.append(error)
    return quality, problems


def _ignore_interrupts() -> None:
    """Leaves Ctrl-C to the parent, which ends the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


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
    return content


def _folder(given: Path | None, json_path: Path, option: str) -> Path:
    folder = given if given is not None else json_path.with_suffix("")
    if not folder.is_dir():
        raise DataError(f"The folder {folder} with the PNGs of {json_path} does not exist.", f"Give it with {option}.")
    return folder


def _pair_up(gt: list[dict[str, Any]], pred: list[dict[str, Any]], gt_path: Path, pred_path: Path) -> list[_Pair]:
    by_id: list[dict[Any, dict[str, Any]]] = []
    for entries, path in ((gt, gt_path), (pred, pred_path)):
        found = {entry["image_id"]: entry for entry in entries}
        if len(found) != len(entries):
            counts = Counter(entry["image_id"] for entry in entries)
            twice = [str(image_id) for image_id, count in counts.items() if count > 1]
            raise DataError(f"{path} lists images twice: {_names(twice)}.")
        by_id.append(found)
    gt_by_id, pred_by_id = by_id
    problems = []
    if missing := [str(i) for i in gt_by_id if i not in pred_by_id]:
        problems.append(f"{pred_path} has no prediction for {len(missing)} images: {_names(missing)}")
    if surplus := [str(i) for i in pred_by_id if i not in gt_by_id]:
        problems.append(f"{gt_path} does not have {len(surplus)} of the predicted images: {_names(surplus)}")
    if problems:
        raise DataError(f"{'; '.join(problems)}.", "Both files have to hold the same pictures.")
    return [(entry, pred_by_id[image_id]) for image_id, entry in gt_by_id.items()]


def _names(names: list[str], limit: int = 10) -> str:
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")
