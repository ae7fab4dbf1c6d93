"""Benchmark of make-tfrecords: on COCO's pictures if they exist, otherwise on generated ones.

`python -m benchmarks.conversion [COUNT ...]` takes other numbers of pictures, for example 10000.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from benchmarks.common import Row
from panoptic_cli.categories import CategoryTable
from panoptic_cli.coco.layout import SplitFiles, coco_files
from panoptic_cli.demo.shapes import CATEGORIES
from panoptic_cli.images import panoptic_png
from panoptic_cli.images.masks import rasterize
from panoptic_cli.records.schema import encode_example, semantic_lookup

_COCO = Path(__file__).resolve().parents[2] / "shared" / "data" / "coco100"
_COUNTS = (1000, 3000)
_WORKERS = 2
_GENERATED = 40
_PLAIN_PICTURES = 30
_INTERVAL = 0.05  # seconds between measurements of the memory


def conversion(folder: Path, counts: tuple[int, ...] = _COUNTS) -> Iterator[Row]:
    """Pictures to records: lists of several lengths that repeat the same files."""
    source, kind = source_pictures(folder)
    beside = f"plain Pillow and json, one process: {_plain_rate(coco_files(source, 'train')):.3g} images/s"
    for count in counts:
        data = folder / f"list{count}"
        megabytes = _repeat(source, data, count) / 1e6
        begun = time.perf_counter()
        start, memory = _run(data)
        seconds = time.perf_counter() - begun
        what = f"{kind}, {count:,} pictures, {_WORKERS} workers"
        yield f"{what}: until the first shard is begun", start, "s", "the whole program, Python's start included"
        yield f"{what}: from then on", count / (seconds - start), "images/s", beside
        yield f"{what}: read", megabytes / (seconds - start), "MB/s", "pictures and panoptic PNGs"
        yield f"{what}: peak memory of all processes", memory, "MB", "sum of proportional set sizes"


def source_pictures(folder: Path) -> tuple[Path, str]:
    """Returns the data folder, COCO's or one generated in `folder`, and what it contains."""
    if _COCO.is_dir():
        return _COCO, "coco100"
    target = folder / "pictures"
    if not target.is_dir():
        _generate(target)
    return target, "generated 640x480"


def _run(data: Path) -> tuple[float, float]:
    """Runs the command; returns the seconds until it writes the first shard and the peak memory in MB."""
    arguments = ["make-tfrecords", "--data-dir", str(data), "--split", "train", "--workers", str(_WORKERS), "--json"]
    begun = time.perf_counter()
    command = [sys.executable, "-m", "panoptic_cli", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    start, memory = float("nan"), 0.0
    while process.poll() is None:
        if start != start and any((data / "tfrecords").glob(".*.tfrecord.*.partial")):
            start = time.perf_counter() - begun
        memory = max(memory, _memory(process.pid))
        time.sleep(_INTERVAL)
    if process.returncode:
        raise RuntimeError(f"make-tfrecords ended with {process.returncode}")
    return start, memory


def _memory(pid: int) -> float:
    """Returns the proportional set sizes of a process and its descendants, in MB; shared pages count once."""
    total, waiting = 0.0, [pid]
    while waiting:
        folder = Path("/proc") / str(waiting.pop())
        try:
            lines = (folder / "smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
            for task in (folder / "task").iterdir():
                waiting += [int(child) for child in (task / "children").read_text().split()]
        except (OSError, ValueError):  # the process has ended
            continue
    return total


def _repeat(source: Path, target: Path, count: int) -> int:
    """Makes a data set of `count` pictures that reuses the files of `source`; returns their size in bytes."""
    read, write = coco_files(source, "train"), coco_files(target, "train")
    (target / "annotations").mkdir(parents=True)
    write.image_dir.symlink_to(read.image_dir)
    write.panoptic_masks.symlink_to(read.panoptic_masks)
    assert read.object_annotations is not None
    assert write.object_annotations is not None
    panoptic = json.loads(read.panoptic_annotations.read_text())
    instances = json.loads(read.object_annotations.read_text())
    images = panoptic["images"]
    annotations = {a["image_id"]: a for a in panoptic["annotations"]}
    objects: dict[int, list[str]] = {image["id"]: [] for image in images}
    for annotation in instances["annotations"]:
        rest = {key: value for key, value in annotation.items() if key not in ("id", "image_id")}
        objects[annotation["image_id"]].append(json.dumps(rest)[1:])
    chosen = [images[place % len(images)] for place in range(count)]
    panoptic["images"] = [{**image, "id": new} for new, image in enumerate(chosen)]
    panoptic["annotations"] = [{**annotations[image["id"]], "image_id": new} for new, image in enumerate(chosen)]
    write.panoptic_annotations.write_text(json.dumps(panoptic))
    number = 0
    with write.object_annotations.open("w") as stream:
        stream.write('{"annotations": [')
        for new, image in enumerate(chosen):
            for text in objects[image["id"]]:
                stream.write(f'{", " if number else ""}{{"id": {number}, "image_id": {new}, {text}')
                number += 1
        stream.write("]}")
    names = [read.image_dir / image["file_name"] for image in chosen]
    names += [read.panoptic_masks / annotations[image["id"]]["file_name"] for image in chosen]
    sizes = {path: path.stat().st_size for path in set(names)}
    return sum(sizes[path] for path in names)


def _generate(target: Path) -> None:
    """Makes pictures of 640x480 with seven blobs each on two kinds of stuff."""
    files = coco_files(target, "train")
    for folder in (files.image_dir, files.panoptic_masks, target / "annotations"):
        folder.mkdir(parents=True)
    things, stuff = ([c["id"] for c in CATEGORIES if c["isthing"] == kind] for kind in (1, 0))
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    y, x = np.mgrid[:480, :640]
    for index in range(_GENERATED):
        rng = np.random.default_rng(index)
        ids = np.where(y > 200 + 60 * np.sin(x / 90 + index), 1000, 2000).astype(np.uint32)
        segments = [{"id": 1000, "category_id": stuff[0]}, {"id": 2000, "category_id": stuff[1]}]
        for number in range(7):
            turns = np.linspace(0, 2 * np.pi, 40, endpoint=False)
            radius = rng.uniform(20, 110) * (1 + 0.15 * np.sin(5 * turns + rng.uniform(0, 6)))
            center = rng.uniform(0, 640), rng.uniform(0, 480)
            points = np.stack([center[0] + radius * np.cos(turns), center[1] + radius * np.sin(turns)], axis=-1)
            polygon = [round(float(v), 2) for v in points.ravel()]
            ids[rasterize([polygon], 480, 640) > 0] = 70000 + number
            category = int(rng.choice(things))
            segments.append({"id": 70000 + number, "category_id": category})
            objects.append({"id": len(objects), "image_id": index, "category_id": category, "segmentation": [polygon]})
        present = set(np.unique(ids).tolist())
        texture = np.kron(rng.integers(0, 255, (60, 80, 3)), np.ones((8, 8, 1))) + rng.normal(0, 12, (480, 640, 3))
        pixels = np.clip(texture + (ids % 251)[..., None] / 4, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(files.image_dir / f"{index}.jpg", quality=92)
        (files.panoptic_masks / f"{index}.png").write_bytes(panoptic_png.encode_ids(ids))
        images.append({"id": index, "file_name": f"{index}.jpg", "width": 640, "height": 480})
        shown = [segment for segment in segments if segment["id"] in present]
        annotations.append({"image_id": index, "file_name": f"{index}.png", "segments_info": shown})
    value = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    files.panoptic_annotations.write_text(json.dumps(value))
    assert files.object_annotations is not None
    files.object_annotations.write_text(json.dumps({"annotations": objects}))


def _plain_rate(files: SplitFiles) -> float:
    """Returns images per second for records made one by one with Pillow and pycocotools, without reading the JSON."""
    assert files.object_annotations is not None
    panoptic = json.loads(files.panoptic_annotations.read_text())
    annotations = {a["image_id"]: a for a in panoptic["annotations"]}
    objects: dict[int, list[Any]] = {}
    for annotation in json.loads(files.object_annotations.read_text())["annotations"]:
        objects.setdefault(annotation["image_id"], []).append(annotation)
    table = CategoryTable.from_list(panoptic["categories"], "benchmark")
    semantic = semantic_lookup(table)
    begun = time.perf_counter()
    images = panoptic["images"][:_PLAIN_PICTURES]
    for image in images:
        encoded = (files.image_dir / image["file_name"]).read_bytes()
        Image.open(io.BytesIO(encoded)).verify()
        annotation = annotations[image["id"]]
        colors = np.asarray(Image.open(files.panoptic_masks / annotation["file_name"])).astype(np.uint32)
        ids = colors[..., 0] + 256 * colors[..., 1] + 65536 * colors[..., 2]
        categories, instances = np.zeros(ids.shape, np.uint16), np.zeros(ids.shape, np.uint8)
        for place, segment in enumerate(annotation["segments_info"], start=1):
            categories[ids == segment["id"]] = segment["category_id"]
            if table.by_id[segment["category_id"]].isthing:
                instances[ids == segment["id"]] = place
        drawn = [_draw(o["segmentation"], image["height"], image["width"]) for o in objects.get(image["id"], [])]
        maps = [categories.astype(np.uint8), instances, semantic[categories].astype(np.uint8)]
        encode_example(
            {"image": encoded, "maps": [_pillow_png(m) for m in maps], "masks": [_pillow_png(m) for m in drawn]}
        )
    return len(images) / (time.perf_counter() - begun)


def _draw(segmentation: Any, height: int, width: int) -> np.ndarray:
    objects = coco_mask.frPyObjects(segmentation, height, width)
    return np.asarray(coco_mask.decode(coco_mask.merge(objects) if isinstance(objects, list) else objects))


def _pillow_png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as root:
        for row in conversion(Path(root), tuple(map(int, sys.argv[1:])) or _COUNTS):
            sys.stdout.write("{}: {:,.3g} {}  ({})\n".format(*row))
