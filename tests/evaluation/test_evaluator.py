"""The evaluation loop on records, mostly with a predictor that knows the answers in place of the network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from panoptic_cli.errors import DataError
from panoptic_cli.evaluation.groundtruth import GroundTruth
from panoptic_cli.evaluation.result_files import score_files
from panoptic_cli.inference.predictor import LoadedModel, PicturePrediction, Predictor
from panoptic_cli.records import schema
from panoptic_cli.records.tfrecord import TFRecordWriter, read_records

Change = Callable[[PicturePrediction], PicturePrediction]


def truths(folder: Path, split: str, model: LoadedModel) -> list[GroundTruth]:
    shards = sorted(folder.glob(f"{split}-*.tfrecord"))
    return [GroundTruth.from_record(record, model.table) for shard in shards for record in read_records(shard)]


def answer(truth: GroundTruth, model: LoadedModel) -> PicturePrediction:
    """What a network without fault predicts: a crowd is no instance, so its place stays void."""
    category, instance = np.zeros_like(truth.id_map), np.zeros_like(truth.id_map)
    semantic = np.zeros_like(truth.id_map)
    for segment in truth.segments:
        place = truth.id_map == segment.id
        semantic[place] = model.label_space.semantic_class_of_id[segment.category_id]
        if not segment.iscrowd:
            category[place] = segment.category_id
            instance[place] = segment.id if model.table.by_id[segment.category_id].isthing else 0
    objects = [o for o in truth.objects if not o["iscrowd"]]
    boxes = np.array([(y, x, y + h, x + w) for x, y, w, h in (o["bbox"] for o in objects)], np.float32).reshape(-1, 4)
    return PicturePrediction(
        category_map=category,
        instance_map=instance,
        semantic_map=semantic,
        boxes=boxes,
        scores=np.linspace(0.9, 0.6, len(objects), dtype=np.float32),
        category_ids=np.array([o["category_id"] for o in objects], np.int64),
        masks=np.array([mask_in_box(o) for o in objects]).reshape(-1, 112, 112),
    )


def mask_in_box(annotation: dict[str, Any], side: int = 112) -> np.ndarray:
    """The mask seen through its box, sampled at `side` x `side` points."""
    mask = mask_utils.decode(annotation["segmentation"])
    x, y, w, h = annotation["bbox"]
    steps = (np.arange(side) + 0.5) / side
    rows = np.clip(np.floor(y + steps * h), 0, mask.shape[0] - 1).astype(int)
    columns = np.clip(np.floor(x + steps * w), 0, mask.shape[1] - 1).astype(int)
    return mask[np.ix_(rows, columns)].astype(np.float32)


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
        fuse: Change = lambda p: p,
        **options: Any,
    ) -> Any:
        answers = [change(answer(truth, tiny_model)) for truth in truths(shapes_records, split, tiny_model)]
        given = iter(answers * 2)

        class Oracle:
            replicas = 1

            def __init__(self, model: LoadedModel) -> None: ...

            def run(self, images: Any, image_info: Any, share: int) -> list[Any]:
                assert image_info.shape == (*images.shape[:1], 4, 2)
                return [next(given) for _ in range(images.shape[0])]

            def fuse(self, outputs: Any, image_info: Any) -> PicturePrediction:
                return fuse(outputs)

        monkeypatch.setattr(evaluator, "Predictor", Oracle)
        return evaluator.evaluate(tiny_model, pattern or f"{shapes_records}/{split}-*", **options).to_dict()

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
    # Masks went through 112 x 112 samples of their boxes, so the edges of the larger ones may be a pixel off.
    assert result["mask"]["AP"] > 0.9
    assert result["semantic"]["mIoU"] == 1.0
    assert result["images"] == {"train": 12, "val": 4}[split]
    assert result["images_per_second"] > 0

    written = score_files(
        tmp_path / "out/pred.json",
        None,
        shapes_dir / f"annotations/panoptic_{split}2017.json",
        shapes_dir / f"panoptic_{split}2017",
        workers=1,
    )
    assert written["All"] == result["panoptic"]["All"]
    assert written["All"]["pq"] == 1.0


def test_mistakes_cost(evaluate: Callable[..., dict[str, Any]]) -> None:
    def without_things(prediction: PicturePrediction) -> PicturePrediction:
        thing = prediction.instance_map > 0
        return prediction._replace(
            category_map=np.where(thing, 0, prediction.category_map),
            instance_map=np.zeros_like(prediction.instance_map),
            scores=prediction.scores[:0],
            boxes=prediction.boxes[:0],
            category_ids=prediction.category_ids[:0],
            masks=prediction.masks[:0],
            semantic_map=np.where(prediction.semantic_map == 1, 0, prediction.semantic_map),
        )

    result = evaluate(change=without_things)
    assert result["panoptic"]["Things"]["pq"] == 0.0
    assert result["panoptic"]["Stuff"]["pq"] == 1.0
    assert result["panoptic"]["All"]["pq"] == pytest.approx(0.5)
    assert result["box"]["AP"] == result["mask"]["AP"] == 0.0
    assert result["semantic"]["mIoU"] < 1.0


def test_objects_of_the_records_equal_the_annotation_file(
    evaluate: Callable[..., dict[str, Any]], shapes_dir: Path
) -> None:
    rng = np.random.default_rng(1)

    def shaken(prediction: PicturePrediction) -> PicturePrediction:
        boxes = prediction.boxes + rng.uniform(-3, 3, prediction.boxes.shape).astype(np.float32)
        return prediction._replace(boxes=boxes)

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
    with pytest.raises(DataError, match=r"Image 200000 is in the validation records twice"):
        evaluate(pattern=f"{shapes_records}/val-*,{shapes_records}/again/val-*")


def test_damaged_records_are_told_and_nothing_is_written(
    evaluate: Callable[..., dict[str, Any]], shapes_records: Path, tmp_path: Path
) -> None:
    shard = next(shapes_records.glob("val-*.tfrecord"))
    cut, spoilt, empty = (tmp_path / f"{name}.tfrecord" for name in ("cut", "spoilt", "empty"))
    cut.write_bytes(shard.read_bytes()[:-200])
    with TFRecordWriter(spoilt) as writer:
        for place, record in enumerate(read_records(shard)):
            # The JPEG's quantisation tables, which no decoder can do without.
            writer.write(record.replace(b"\xff\xdb\x00\x43", b"\xff\xff\x00\x00") if place == 2 else record)
    empty.write_bytes(b"")
    output = tmp_path / "out"
    for file, message in ((cut, "3"), (spoilt, "Record 2 of"), (empty, "no pictures")):
        with pytest.raises(DataError, match=message) as caught:
            evaluate(pattern=str(file), output_dir=output)
        assert file.name in caught.value.message
        assert "function_node" not in caught.value.message
        assert not list(tmp_path.glob("*out*"))
        assert not list(tmp_path.glob(".*out*"))


def test_annotation_files_that_do_not_fit(
    evaluate: Callable[..., dict[str, Any]], shapes_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"Image 200000 of the records is not in the annotation file"):
        evaluate(annotation_file=shapes_dir / "annotations/instances_train2017.json")
    for content in ("[]", '{"images": []}', '{"images": [1], "annotations": [], "categories": []}'):
        (tmp_path / "instances.json").write_text(content)
        with pytest.raises(DataError, match=r"instances\.json is no COCO instances JSON"):
            evaluate(annotation_file=tmp_path / "instances.json")


def test_records_without_panoptic_masks(tiny_model: LoadedModel) -> None:
    record = schema.encode_example({schema.IMAGE_SOURCE_ID: [b"7"]})
    with pytest.raises(DataError, match="image 7 has no usable panoptic ground truth"):
        GroundTruth.from_record(record, tiny_model.table)


def test_a_picture_alone_is_the_picture_in_a_batch(
    tiny_model: LoadedModel, tiny_predictor: Predictor, shapes_records: Path
) -> None:
    from panoptic_cli.pipeline.batches import evaluation_dataset

    found = []
    for batch_size in (1, 3):
        dataset = evaluation_dataset(
            f"{shapes_records}/val-*", tiny_model.experiment.task.model, batch_size=batch_size, limit=3
        )
        found.append([p for images, info, _ in dataset for p in tiny_predictor(images, info)])
    assert sum(p.instance_map.max() > 0 for p in found[0]) == 3  # the comparison has things to compare
    for alone, together in zip(*found, strict=True):
        for name in ("category_map", "instance_map", "semantic_map", "category_ids"):
            np.testing.assert_array_equal(getattr(alone, name), getattr(together, name), err_msg=name)
        for name in ("boxes", "scores", "masks"):  # sums of other vector widths differ in the last bits
            np.testing.assert_allclose(getattr(alone, name), getattr(together, name), rtol=1e-4, atol=1e-4)


@pytest.mark.shared
@pytest.mark.slow
def test_records_of_the_reference(
    shared: Path, coco100: Path, tiny_network: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    from panoptic_cli import config
    from panoptic_cli.categories import read_categories
    from panoptic_cli.evaluation.evaluator import evaluate
    from panoptic_cli.inference.predictor import LoadedModel, label_space_of
    from panoptic_cli.models.panoptic_fpn.network import PanopticFPN

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
    model = LoadedModel(
        experiment, table, PanopticFPN(experiment.task.model, label_space_of(experiment, table)), "none", None
    )
    result = evaluate(model, f"{shared}/conformance/tfrecords/reference-val-*").to_dict()
    assert "14 records do not tell crowds from instances" in capsys.readouterr().err
    assert result["images"] == 14
    figures = result["panoptic"]["All"]
    assert 0.0 <= figures["pq"] <= 1.0
    assert figures["n"] > 20  # ground truth of many categories was found
    per_class = result["panoptic"]["per_class"]
    assert sum(c["tp"] + c["fn"] for c in per_class.values()) > 100
    assert result["box"]["AP"] is not None
