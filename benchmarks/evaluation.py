"""Benchmark of an evaluation: network, fusion and scoring one by one, and all three at the same time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from benchmarks.common import Row, coco_like, coco_network, peak_memory_mb, seconds
from panoptic_cli import config
from panoptic_cli.images import panoptic_png

if TYPE_CHECKING:
    from panoptic_cli.models.panoptic_fpn.network import PanopticFPN

_PICTURES, _HEIGHT, _WIDTH, _CELL = 6, 480, 640, 80


def evaluation(folder: Path) -> Iterator[Row]:
    """panoptic_fpn_coco at 512 px, batch 1, float32, on 640x480 pictures with a hundred detections each."""
    from panoptic_cli.evaluation.evaluator import Evaluator
    from panoptic_cli.evaluation.picture_scores import PictureScores
    from panoptic_cli.inference.predictor import LoadedModel
    from panoptic_cli.pipeline.batches import evaluation_dataset
    from panoptic_cli.pipeline.preprocessing import Geometry

    experiment = config.load_experiment(options=[("task.model.input_size", [512, 512, 3])])
    table, network = coco_like(), coco_network(experiment)
    make_confident(network)
    pattern = _records(folder / "evaluation")
    evaluator = Evaluator(LoadedModel(experiment, table, network, "untrained", None), pattern, batch_size=1)
    predictor = evaluator.predictor
    images, geometry, records = next(iter(evaluation_dataset(pattern, predictor.preprocessing, batch_size=1)))
    picture, record = Geometry(*(part.numpy()[0] for part in geometry)), records.numpy()[0]

    (outputs,) = predictor.run(images, geometry)
    prediction = predictor.finish(outputs, picture)
    parts = {
        "network": seconds(lambda: predictor.run(images, geometry), 3),
        "finish": seconds(lambda: predictor.finish(outputs, picture), 3),
        "scoring": seconds(lambda: PictureScores(table).add(prediction, record), 3),
    }
    found = f"{len(prediction.detections.scores)} detections"
    yield "network, 512x512, batch 1", parts["network"], "s/picture", found
    yield "finish: fusion and masks, 640x480", parts["finish"], "s/picture", "the benchmark fusion has more things"
    yield "scoring: PQ, mIoU, masks compressed", parts["scoring"], "s/picture", ""
    result = evaluator.evaluate()
    whole = result.seconds / result.images
    yield "all at the same time", whole, "s/picture", f"one after the other {sum(parts.values()):.3g} s"
    yield "peak memory after it", peak_memory_mb(), "MB", ""


def make_confident(network: PanopticFPN) -> None:
    """Makes an untrained network find class 1 everywhere, with the score of a trained one (0.6)."""
    bias = network.detection_head.classifier.bias
    values = np.zeros(bias.shape, np.float32)
    values[1] = np.log(0.6 / (0.4 / (len(values) - 1)))
    bias.assign(values)


def _records(folder: Path) -> str:
    """Writes pictures with 48 segments each and their records; returns the records' pattern."""
    from panoptic_cli.coco.layout import SplitFiles
    from panoptic_cli.records.conversion import convert_all
    from panoptic_cli.records.plans import ConversionPlan

    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
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
            category = int(rng.integers(1, 90))  # things: a picture may have several of one category
            info.append({"id": segment, "category_id": category, "iscrowd": 0, "area": _CELL**2, "bbox": box})
        images.append({"id": number, "file_name": f"{number}.jpg", "height": _HEIGHT, "width": _WIDTH})
        annotations.append({"image_id": number, "file_name": f"{number}.png", "segments_info": info})
    truth = {"images": images, "annotations": annotations, "categories": coco_like().to_list()}
    (folder / "panoptic.json").write_text(json.dumps(truth))
    files = SplitFiles("val", folder / "panoptic.json", folder / "masks", folder / "images", None)
    convert_all([ConversionPlan(files, folder / "records", 1)], 1)
    return f"{folder}/records/val-*"
