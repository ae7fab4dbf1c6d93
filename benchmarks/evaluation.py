"""Benchmark of a whole evaluation: network, fusion and scoring apart, and all three beside each other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.common import Row, coco_like, peak_memory_mb, seconds
from panoptic_cli import config
from panoptic_cli.images import panoptic_png

_PICTURES, _HEIGHT, _WIDTH, _CELL = 6, 480, 640, 80


def evaluation(folder: Path) -> Iterator[Row]:
    """panoptic_fpn_coco at 512 px, batch 1, float32, on 640x480 pictures; a hundred detections each."""
    from panoptic_cli.evaluation.evaluator import evaluate
    from panoptic_cli.evaluation.picture_scores import PictureScores
    from panoptic_cli.inference.predictor import LoadedModel, Predictor
    from panoptic_cli.models.panoptic_fpn.network import PanopticFPN
    from panoptic_cli.pipeline.batches import evaluation_dataset

    experiment = config.load_experiment(options=[("task.model.input_size", [512, 512, 3])])
    space = coco_like()
    network = PanopticFPN(experiment.task.model, space)
    make_confident(network)
    model = LoadedModel(experiment, space.table, network, "untrained", None)
    predictor = Predictor(model)
    pattern = _records(folder / "pictures")
    batch = next(iter(evaluation_dataset(pattern, experiment.task.model, batch_size=1)))
    images, info, record = batch[0], batch[1].numpy(), batch[2].numpy()[0]

    (outputs,) = predictor.run(images, info)
    prediction = predictor.fuse(outputs, info[0])
    parts = {
        "network": seconds(lambda: predictor.run(images, info), 3),
        "fusion": seconds(lambda: predictor.fuse(outputs, info[0]), 3),
        "scoring": seconds(lambda: PictureScores(space.table, space).add(prediction, record), 3),
    }
    yield "network, 512x512, batch 1", parts["network"], "s/picture", f"{len(prediction.scores)} detections"
    yield "fusion, 640x480", parts["fusion"], "s/picture", "benchmark fusion has one with many things"
    yield "scoring: PQ, mIoU, masks encoded", parts["scoring"], "s/picture", ""
    result = evaluate(model, pattern, predictor=predictor)
    whole = result.seconds / result.timed_images
    yield "all beside each other", whole, "s/picture", f"one after the other {sum(parts.values()):.3g} s"
    yield "peak memory after it", peak_memory_mb(), "MB", ""


def make_confident(network: object) -> None:
    """Lets an untrained network find class 1 wherever it looks, as sure as a trained one is (0.6)."""
    bias = network.detection_head.classifier.bias  # type: ignore[attr-defined]
    values = np.zeros(bias.shape, np.float32)
    values[1] = np.log(0.6 / (0.4 / (len(values) - 1)))
    bias.assign(values)


def _records(folder: Path) -> str:
    """Writes pictures with 48 segments each and their records; returns the records' pattern."""
    from panoptic_cli.coco.dataset import read_dataset
    from panoptic_cli.coco.layout import SplitFiles
    from panoptic_cli.records.conversion import convert
    from panoptic_cli.records.plans import ConversionPlan

    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    table = coco_like().table
    images, annotations = [], []
    ids = np.arange(1, _HEIGHT * _WIDTH // _CELL**2 + 1).reshape(_HEIGHT // _CELL, -1)
    for number in range(1, _PICTURES + 1):
        pixels = rng.integers(0, 255, (_HEIGHT // 8, _WIDTH // 8, 3), np.uint8)
        Image.fromarray(pixels).resize((_WIDTH, _HEIGHT)).save(folder / f"images/{number}.jpg")
        whole = np.kron(ids, np.ones((_CELL, _CELL), np.int32)).astype(np.int32)
        (folder / f"masks/{number}.png").write_bytes(panoptic_png.encode_ids(whole))
        info = []
        for segment in ids.reshape(-1).tolist():
            row, column = divmod(segment - 1, ids.shape[1])
            box = [column * _CELL, row * _CELL, _CELL, _CELL]
            category = int(rng.integers(1, 90))  # things: a picture may have many of one
            info.append({"id": segment, "category_id": category, "iscrowd": 0, "area": _CELL**2, "bbox": box})
        images.append({"id": number, "file_name": f"{number}.jpg", "height": _HEIGHT, "width": _WIDTH})
        annotations.append({"image_id": number, "file_name": f"{number}.png", "segments_info": info})
    truth = {"images": images, "annotations": annotations, "categories": table.to_list()}
    (folder / "panoptic.json").write_text(json.dumps(truth))
    files = SplitFiles("val", folder / "panoptic.json", folder / "masks", folder / "images", None)
    convert(ConversionPlan(files, folder / "records", 1), read_dataset(files), workers=1)
    return f"{folder}/records/val-*"
