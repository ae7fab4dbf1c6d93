"""Benchmark of the metrics."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.common import Row, coco_like, seconds

_PICTURES = 1000
_DIFFERENT = 50  # files; the others link to them


def scoring(folder: Path) -> Iterator[Row]:
    """PQ of one 640x480 picture, against comparing pairs of segments; and of 1,000 pictures from files."""
    from panoptic_cli.evaluation.file_scoring import score_files
    from panoptic_cli.evaluation.panoptic_quality import PanopticQuality
    from panoptic_cli.evaluation.result_files import ResultFiles
    from panoptic_cli.results.prediction import Segment

    truth, guess = _pair(np.random.default_rng(0))
    segments = [Segment(id=int(i), category_id=int(i % 9) + 1) for i in np.unique(truth) if i]
    quality = PanopticQuality(coco_like())

    def plain() -> None:
        for one in segments:
            for other in segments:
                np.count_nonzero((truth == one.id) & (guess == other.id))

    ours = seconds(lambda: quality.add(truth, segments, guess, segments))
    ratio = f"{seconds(plain, 1) / ours:.0f}x as fast as pair by pair"
    yield f"PQ of a 640x480 picture, {len(segments)} segments", ours * 1000, "ms", ratio
    _write_files(folder / "scoring")
    files = ResultFiles(predictions=folder / "scoring/pred.json", annotations=folder / "scoring/gt.json")
    for workers in (1, 2):
        best = min(score_files(files, workers).seconds for _ in range(3))
        yield f"PQ of {_PICTURES:,} pictures of 640x480 from files, {workers} workers", best, "s", "panopticapi: 5.0 s"


def _write_files(folder: Path) -> None:
    """Writes ground truth and predictions: polygon-like shapes with noisy borders."""
    rng = np.random.default_rng(1)
    entries: dict[str, list[dict[str, object]]] = {"gt": [], "pred": []}
    for number in range(_PICTURES):
        for name, ids in zip(entries, _pair(rng) if number < _DIFFERENT else (None, None), strict=True):
            (folder / name).mkdir(parents=True, exist_ok=True)
            file = folder / name / f"{number:06d}.png"
            if ids is None:
                source = entries[name][number % _DIFFERENT]
                file.unlink(missing_ok=True)
                file.symlink_to(str(source["file_name"]))
                info = source["segments_info"]
            else:
                rgb = np.stack((ids * 7 % 256, ids * 5 % 256, ids), axis=2).astype(np.uint8)
                Image.fromarray(rgb).save(file)
                info = [
                    {"id": i * 7 % 256 + i * 5 % 256 * 256 + i * 65536, "category_id": i % 9 + 1, "iscrowd": 0}
                    for i in np.unique(ids[ids > 0]).tolist()
                ]
            entries[name].append({"image_id": number, "file_name": file.name, "segments_info": info})
    categories = coco_like().to_list()
    for name, listed in entries.items():
        content = {"annotations": listed, "categories": categories}
        (folder / f"{name}.json").write_text(json.dumps(content))


def _pair(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns int32 [480, 640] twice, ids 0 .. 29: regions around random points, and the same shifted a little."""
    points, ids = rng.uniform(0, (480, 640), (40, 2)), rng.integers(0, 30, 40)
    rows, columns = np.mgrid[:480, :640]
    wave = 12 * np.sin(rows / 17) + 9 * np.cos(columns / 11)
    distance = (rows[..., None] + wave[..., None] - points[:, 0]) ** 2 + (columns[..., None] - points[:, 1]) ** 2
    truth = ids[distance.argmin(axis=2)].astype(np.int32)
    return truth, np.roll(truth, int(rng.integers(1, 9)), axis=1)
