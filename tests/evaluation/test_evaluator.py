"""Evaluation of records, mostly with a predictor that knows the right answers in place of the network."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decided_pixels import decided_pixels
from predictions import detections_of, no_detections, prediction_of
from pycocotools import mask as mask_utils

from panoptic_cli.categories import VOID_ID
from panoptic_cli.errors import DataError
from panoptic_cli.evaluation.file_scoring import score_files
from panoptic_cli.evaluation.groundtruth import GroundTruth
from panoptic_cli.evaluation.result_files import ResultFiles
from panoptic_cli.inference.predictor import LoadedModel, Predictor
from panoptic_cli.pipeline.preprocessing import Geometry
from panoptic_cli.records.tfrecord import TFRecordWriter, read_records
from panoptic_cli.results.prediction import Prediction

Change = Callable[[Prediction], Prediction]


def truths(folder: Path, split: str, model: LoadedModel) -> list[GroundTruth]:
    shards = sorted(folder.glob(f"{split}-*.tfrecord"))
    return [GroundTruth.from_record(record, model.table) for shard in shards for record in read_records(shard)]


def answer(truth: GroundTruth, model: LoadedModel) -> Prediction:
    """Builds the prediction of a perfect network; it has no segment for a crowd."""
    category, instance = np.zeros_like(truth.id_map), np.zeros_like(truth.id_map)
    for segment in truth.segments:
        if not segment.iscrowd:
            place = truth.id_map == segment.id
            category[place] = segment.category_id
            instance[place] = segment.id if model.table.by_id[segment.category_id].isthing else 0
    objects = [o for o in truth.objects if not o["iscrowd"]]
    detections = detections_of(
        np.array([(y, x, y + h, x + w) for x, y, w, h in (o["bbox"] for o in objects)]),
        np.linspace(0.9, 0.6, len(objects)).tolist(),
        [o["category_id"] for o in objects],
        [mask_utils.decode(o["segmentation"]) for o in objects],
    )
    return prediction_of(category, instance, model.table, detections, truth.semantic_map(model.table))


@pytest.fixture
def evaluate(
    tiny_model: LoadedModel, shapes_records: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Any]]:
    """Evaluates the right answers of a split, each changed by `change`."""
    from panoptic_cli.evaluation import evaluator

    def run(
        split: str = "val",
        change: Change = lambda p: p,
        pattern: str | None = None,
        annotation_file: Path | None = None,
        output_dir: Path | None = None,
        leave_out: int | None = None,
        **options: Any,
    ) -> Any:
        answers = [change(answer(truth, tiny_model)) for truth in truths(shapes_records, split, tiny_model)]
        if leave_out is not None:
            del answers[leave_out]
        given = iter(answers * 2)

        class Oracle:
            replicas = 1

            def __init__(self, model: LoadedModel) -> None: ...

            def run(self, images: Any, geometry: Geometry, share: int) -> list[Any]:
                assert all(part.shape == (*images.shape[:1], 2) for part in geometry)
                return [next(given) for _ in range(images.shape[0])]

            def finish(self, outputs: Any, geometry: Geometry) -> Prediction:
                assert all(isinstance(part, np.ndarray) and part.shape == (2,) for part in geometry)
                prediction: Prediction = outputs
                return prediction

        monkeypatch.setattr(evaluator, "Predictor", Oracle)
        task = tiny_model.experiment.task
        task = task.model_copy(update={"annotation_file": None if annotation_file is None else str(annotation_file)})
        model = dataclasses.replace(tiny_model, experiment=tiny_model.experiment.model_copy(update={"task": task}))
        pattern = pattern or f"{shapes_records}/{split}-*"
        return evaluator.Evaluator(model, pattern, **options).evaluate(output_dir=output_dir).to_dict()

    return run


@pytest.mark.parametrize("split", ["train", "val"])  # the crowds are in train
def test_perfect_predictions_score_one(
    evaluate: Callable[..., dict[str, Any]], shapes_dir: Path, tmp_path: Path, split: str
) -> None:
    result = evaluate(split, output_dir=tmp_path / "out", batch_size=3)
    for group in ("All", "Things", "Stuff"):
        assert {result["panoptic"][group][key] for key in ("pq", "sq", "rq")} == {1.0}, group
    assert result["panoptic"]["All"]["n"] == 6
    assert result["box"]["AP"] == 1.0
    assert result["mask"]["AP"] == 1.0
    assert result["semantic"]["mIoU"] == 1.0
    assert result["per_class"].keys() == result["panoptic"]["per_class"].keys()
    for entry in result["per_class"].values():
        assert [entry[key] for key in ("pq", "sq", "rq")] == [1.0] * 3
        assert {entry["box_AP"], entry["mask_AP"]} == ({1.0} if entry["isthing"] else {None})
    assert result["images"] == {"train": 12, "val": 4}[split]
    assert result["images_per_second"] > 0

    annotations, masks = shapes_dir / f"annotations/panoptic_{split}2017.json", shapes_dir / f"panoptic_{split}2017"
    written = score_files(ResultFiles(tmp_path / "out/pred.json", annotations, masks_dir=masks), workers=1).panoptic
    assert written == result["panoptic"]


def test_mistakes_cost(evaluate: Callable[..., dict[str, Any]], tiny_model: LoadedModel) -> None:
    table = tiny_model.table

    def without_things(prediction: Prediction) -> Prediction:
        stuff = prediction.instance_map == 0
        nothing = np.zeros_like(prediction.segment_map)
        semantic = prediction.semantic_map
        assert semantic is not None
        category = np.where(stuff, prediction.category_map, 0)
        return prediction_of(category, nothing, table, no_detections(), np.maximum(semantic, VOID_ID))

    result = evaluate(change=without_things)
    assert result["panoptic"]["Things"]["pq"] == 0.0
    assert result["panoptic"]["Stuff"]["pq"] == 1.0
    assert result["panoptic"]["All"]["pq"] == pytest.approx(0.5)
    assert result["box"]["AP"] == result["mask"]["AP"] == 0.0
    assert result["semantic"]["mIoU"] < 1.0


def test_a_network_without_a_semantic_head_has_no_semantic_figures(evaluate: Callable[..., dict[str, Any]]) -> None:
    result = evaluate(change=lambda prediction: dataclasses.replace(prediction, semantic_map=None))
    assert "semantic" not in result
    assert result["panoptic"]["All"]["pq"] == 1.0


def test_objects_of_the_records_equal_the_annotation_file(
    evaluate: Callable[..., dict[str, Any]], shapes_dir: Path
) -> None:
    rng = np.random.default_rng(1)

    def shaken(prediction: Prediction) -> Prediction:
        found = prediction.detections
        boxes = found.boxes + rng.uniform(-3, 3, found.boxes.shape).astype(np.float32)
        return dataclasses.replace(prediction, detections=dataclasses.replace(found, boxes=boxes))

    ours = evaluate("train", shaken)
    rng = np.random.default_rng(1)
    theirs = evaluate("train", shaken, annotation_file=shapes_dir / "annotations/instances_train2017.json")
    assert 0.2 < ours["box"]["AP"] < 1.0
    assert ours["panoptic"] == theirs["panoptic"]
    for kind in ("box", "mask"):
        # Records hold boxes as float32 fractions: an IoU beside a threshold may fall to its other side.
        assert ours[kind] == pytest.approx(theirs[kind], abs=0.02), kind


def test_ground_truth_is_that_of_the_annotations(
    tiny_model: LoadedModel, shapes_records: Path, shapes_dir: Path
) -> None:
    panoptic = json.loads((shapes_dir / "annotations/panoptic_train2017.json").read_text())
    instances = json.loads((shapes_dir / "annotations/instances_train2017.json").read_text())
    expected = {a["image_id"]: a["segments_info"] for a in panoptic["annotations"]}
    found = {truth.image_id: truth for truth in truths(shapes_records, "train", tiny_model)}
    assert found.keys() == expected.keys()
    assert all(truth.has_crowds for truth in found.values())
    assert sum(s.iscrowd for truth in found.values() for s in truth.segments) > 0
    for image_id, truth in found.items():
        areas = np.bincount(truth.id_map.reshape(-1))
        ours = sorted((s.category_id, int(s.iscrowd), int(areas[s.id])) for s in truth.segments)
        assert ours == sorted((s["category_id"], s["iscrowd"], s["area"]) for s in expected[image_id])
        assert truth.id_map.shape == (truth.height, truth.width)
        mine = sorted((o["category_id"], o["iscrowd"], round(o["bbox"][0], 2)) for o in truth.objects)
        theirs = [a for a in instances["annotations"] if a["image_id"] == image_id]
        assert mine == sorted((a["category_id"], a["iscrowd"], round(a["bbox"][0], 2)) for a in theirs)


def test_limit_takes_the_first_pictures(evaluate: Callable[..., dict[str, Any]]) -> None:
    assert evaluate(limit=3, batch_size=2)["images"] == 3
    assert evaluate(limit=99)["images"] == 4


def test_a_picture_that_comes_twice_is_named(evaluate: Callable[..., dict[str, Any]], shapes_records: Path) -> None:
    (shapes_records / "again").mkdir()
    for shard in shapes_records.glob("val-*.tfrecord"):
        (shapes_records / "again" / shard.name).write_bytes(shard.read_bytes())
    with pytest.raises(
        DataError, match=r"contain 4 images twice: 200000, 200003, 200006 and 1 more \(200000 is in .*again"
    ):
        evaluate(pattern=f"{shapes_records}/val-*,{shapes_records}/again/val-*")


def test_damaged_records_cost_their_pictures_alone(
    evaluate: Callable[..., dict[str, Any]], shapes_records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = next(shapes_records.glob("val-*.tfrecord"))
    cut, flipped, spoilt, wrong = (tmp_path / f"{name}.tfrecord" for name in ("cut", "flipped", "spoilt", "wrong"))
    cut.write_bytes(shard.read_bytes()[:-200])
    content = bytearray(shard.read_bytes())
    content[200] ^= 255  # inside the first record
    flipped.write_bytes(content)
    with TFRecordWriter(spoilt) as writer:
        for place, record in enumerate(read_records(shard)):
            # The JPEG's quantisation tables, which no decoder can do without.
            writer.write(record.replace(b"\xff\xdb\x00\x43", b"\xff\xff\x00\x00") if place == 2 else record)
    with TFRecordWriter(wrong) as writer:
        for place, record in enumerate(read_records(shard)):
            writer.write(record.replace(b"image/height", b"image/heighX") if place == 1 else record)
    for file, lost, message in (
        (cut, 3, "record 3 at byte .* ends inside a record"),
        (flipped, 0, "record 0 at byte 0: the checksum"),
        (spoilt, 2, "Record 2 of .* cannot be decoded"),
        (wrong, 1, "image 200003 has no usable panoptic ground truth"),
    ):
        capsys.readouterr()
        result = evaluate(pattern=str(file), output_dir=tmp_path / "out", leave_out=lost if file != wrong else None)
        assert (result["images"], result["left_out"]) == (3, 1)
        assert result["panoptic"]["All"]["pq"] == result["mask"]["AP"] == 1.0
        assert len(json.loads((tmp_path / "out" / "pred.json").read_text())["images"]) == 3
        printed = capsys.readouterr().err
        assert re.search(rf"1 of 4 records cannot be used and do not count: .*{message}", printed), printed
        assert "function_node" not in printed


def test_records_of_which_none_can_be_used(evaluate: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "empty.tfrecord").write_bytes(b"")
    (tmp_path / "text.tfrecord").write_bytes(b"no record at all")
    for name, message in (
        ("empty", "contain no pictures"),
        ("text", "No record of .* can be used: .*record 0 at byte 0"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            evaluate(pattern=str(tmp_path / f"{name}.tfrecord"), output_dir=tmp_path / "out")
        assert f"{name}.tfrecord" in caught.value.message
        assert not list(tmp_path.glob("*out*"))
        assert not list(tmp_path.glob(".*out*"))


def test_annotation_files_that_do_not_fit(
    evaluate: Callable[..., dict[str, Any]], shapes_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"instances_train2017\.json lacks 4 of the 4 pictures of the records: 200000 "):
        evaluate(annotation_file=shapes_dir / "annotations/instances_train2017.json")
    with pytest.raises(DataError, match=r"nowhere\.json do not exist"):
        evaluate(annotation_file=tmp_path / "nowhere.json")


def test_a_picture_alone_is_the_picture_in_a_batch(
    tiny_model: LoadedModel, tiny_predictor: Predictor, shapes_records: Path
) -> None:
    from panoptic_cli.pipeline.batches import evaluation_dataset

    fusion = tiny_model.experiment.task.model.panoptic_segmentation_generator
    thresholds = tiny_predictor.score_threshold, fusion.mask_binarize_threshold
    found, decided = [], []
    for batch_size in (1, 3):
        dataset = evaluation_dataset(
            f"{shapes_records}/val-*", tiny_model.preprocessing, batch_size=batch_size, limit=3
        )
        found.append([p for images, geometry, _ in dataset for p in tiny_predictor.predict_prepared(images, geometry)])
        for images, geometry, _ in dataset:
            for place, outputs in enumerate(tiny_predictor.run(images, geometry)):
                decided.append(decided_pixels(outputs, Geometry(*(x[place] for x in geometry)), *thresholds))
    assert sum(p.instance_map.max() > 0 for p in found[0]) == 3  # the comparison has things to compare
    assert np.mean([part.mean() for part in decided]) > 0.999
    for alone, together, sure in zip(*found, decided[:3], strict=True):
        assert [s.category_id for s in alone.segments] == [s.category_id for s in together.segments]
        moved = sum(abs(a.area - b.area) for a, b in zip(alone.segments, together.segments, strict=True))
        assert moved <= 2 * np.count_nonzero(~sure)  # each such pixel leaves one segment and joins another
        np.testing.assert_array_equal(alone.detection_of_segment, together.detection_of_segment)
        for name in ("segment_map", "semantic_map"):
            np.testing.assert_array_equal(getattr(alone, name)[sure], getattr(together, name)[sure], err_msg=name)
        np.testing.assert_array_equal(alone.detections.category_ids, together.detections.category_ids)
        for name in ("boxes", "scores"):  # sums in other vector widths differ in the last bits
            np.testing.assert_allclose(
                getattr(alone.detections, name), getattr(together.detections, name), rtol=1e-4, atol=1e-4
            )


@pytest.mark.shared
@pytest.mark.slow
def test_records_of_the_reference(
    shared: Path, coco100: Path, tiny_network: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    from panoptic_cli import config, models
    from panoptic_cli.categories import read_categories
    from panoptic_cli.evaluation.evaluator import Evaluator

    experiment = config.load_experiment(
        settings=[
            *tiny_network,
            "task.model.max_level=5",
            "task.model.backbone.resnet.model_id=18",
            "task.model.detection_head.num_convs=0",
            "task.model.mask_head.num_convs=0",
        ]
    )
    table = read_categories(coco100 / "annotations/panoptic_val2017.json")
    model = LoadedModel(experiment, table, models.create_network(experiment, table), "none", None)
    result = Evaluator(model, f"{shared}/conformance/tfrecords/reference-val-*").evaluate().to_dict()
    assert "14 records do not mark crowds" in capsys.readouterr().err
    assert result["images"] == 14
    figures = result["panoptic"]["All"]
    assert 0.0 <= figures["pq"] <= 1.0
    assert figures["n"] > 20  # ground truth of many categories was found
    per_class = result["panoptic"]["per_class"]
    assert sum(c["tp"] + c["fn"] for c in per_class.values()) > 100
    assert result["box"]["AP"] is not None
