from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from panoptic_cli.errors import DataError
from panoptic_cli.evaluation.coco_ap import METRICS, AveragePrecision, coco_average_precision


def instances(*annotations: dict[str, Any]) -> dict[str, Any]:
    return {
        "images": [{"id": i, "height": 200, "width": 200} for i in (1, 2)],
        "categories": [{"id": 4, "name": "cat"}, {"id": 9, "name": "dog"}],
        "annotations": list(annotations),
    }


def square(image_id: int, x: float, y: float, side: float, category_id: int = 4, **more: Any) -> dict[str, Any]:
    corners = [x, y, x + side, y, x + side, y + side, x, y + side]
    return {
        "id": 0,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [x, y, side, side],
        "area": side * side,
        "iscrowd": 0,
        "segmentation": [corners],
        **more,
    }


def detected(annotation: dict[str, Any], score: float = 0.9, **more: Any) -> dict[str, Any]:
    rles = mask_utils.frPyObjects(annotation["segmentation"], 200, 200)
    return {
        "image_id": annotation["image_id"],
        "category_id": annotation["category_id"],
        "bbox": annotation["bbox"],
        "score": score,
        "segmentation": mask_utils.merge(rles),
        **more,
    }


def figures(*arguments: Any, **options: Any) -> dict[str, float | None]:
    return coco_average_precision(*arguments, **options).figures


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_perfect_detections_score_1_in_their_size(iou_type: Any, capsys: pytest.CaptureFixture[str]) -> None:
    truth = [square(1, 10, 10, 20), square(2, 50, 50, 60, 9), square(1, 60, 60, 120)]
    groundtruth = instances(*truth)
    found = [detected(t) for t in truth]
    before = copy.deepcopy((groundtruth, found))
    result = figures(groundtruth, found, iou_type)
    assert set(result) == set(METRICS)
    for name in METRICS:
        # One detection an image finds the two cats of picture 1 only half.
        assert result[name] == pytest.approx(0.75 if name == "AR1" else 1.0), name
    assert (groundtruth, found) == before
    assert capsys.readouterr().out == ""


def test_a_figure_by_hand() -> None:
    truth = [square(1, 0, 0, 100), square(2, 0, 0, 100)]
    # IoU 0.7 in picture 1, nothing in picture 2: up to IoU 0.7 (5 of 10 thresholds) recall is one half, which
    # covers 51 of the 101 recall points.
    found = [detected(truth[0], bbox=[0, 0, 100, 70])]
    result = figures(instances(*truth), found, "bbox")
    assert result["AP50"] == pytest.approx(51 / 101)
    assert result["AP75"] == 0.0
    assert result["AP"] == pytest.approx(51 / 101 * 5 / 10)
    assert result["AR100"] == pytest.approx(0.25)
    assert result["APs"] is None


def test_crowds_are_no_misses_and_excuse_what_lies_in_them() -> None:
    truth = [square(1, 0, 0, 20), square(1, 100, 100, 90, iscrowd=1)]
    found = [detected(truth[0], 0.5), detected(square(1, 110, 110, 30), 0.9)]
    assert figures(instances(*truth), found, "bbox")["AP"] == pytest.approx(1.0)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_no_detections_is_zero_and_no_ground_truth_is_none(iou_type: Any) -> None:
    truth = square(1, 0, 0, 20)
    nothing_found = figures(instances(truth), [], iou_type)
    assert nothing_found["AP"] == nothing_found["APs"] == nothing_found["AR100"] == 0.0
    assert nothing_found["APl"] is None
    assert set(figures(instances(), [detected(truth)], iou_type).values()) == {None}
    assert set(figures(instances(), [], iou_type).values()) == {None}
    assert set(figures(instances(truth), [], iou_type, image_ids=[]).values()) == {None}


def test_only_the_pictures_asked_for_count() -> None:
    truth = [square(1, 0, 0, 20), square(2, 0, 0, 20)]
    found = [detected(truth[0])]
    assert figures(instances(*truth), found, "bbox", image_ids=[1])["AP"] == pytest.approx(1.0)
    assert figures(instances(*truth), found, "bbox", image_ids=[2])["AP"] == 0.0


@pytest.mark.parametrize("names", [{1: "a.jpg", 2: "b.jpg"}, {1: 7, 2: "b.jpg"}])
def test_pictures_may_have_names_for_ids(names: dict[int, Any]) -> None:
    truth = [square(1, 10, 10, 20), square(2, 50, 50, 60, 9), square(2, 60, 60, 120)]
    found = [detected(truth[0], 0.9), detected(truth[1], 0.8), detected(square(2, 5, 5, 30), 0.7)]
    groundtruth = instances(*truth)
    renamed = {
        **groundtruth,
        "images": [{**i, "id": names[i["id"]]} for i in groundtruth["images"]],
        "annotations": [{**a, "image_id": names[a["image_id"]]} for a in truth],
    }
    same = [{**d, "image_id": names[d["image_id"]]} for d in found]
    expected = figures(groundtruth, found, "bbox", [1, 2])
    assert figures(renamed, same, "bbox", list(names.values())) == expected
    assert figures(renamed, same, "bbox", [names[2]]) == figures(groundtruth, found, "bbox", [2])
    with pytest.raises(DataError, match=r"Image c\.jpg is not in"):
        figures(renamed, same, "bbox", ["c.jpg"])


def test_what_is_missing_is_named() -> None:
    truth = square(1, 0, 0, 20)
    with pytest.raises(DataError, match="image 8"):
        figures(instances(truth), [detected(truth, image_id=8)], "bbox")
    with pytest.raises(DataError, match="Image 8"):
        figures(instances(truth), [], "bbox", image_ids=[8])
    with pytest.raises(DataError, match=r"Detection 1 has no score"):
        figures(instances(truth), [{"image_id": 1, "category_id": 4, "bbox": [0, 0, 1, 1]}], "bbox")
    del truth["segmentation"]
    with pytest.raises(DataError, match=r"annotation 0 of image 1 has no segmentation"):
        figures(instances(truth), [], "segm")
    with pytest.raises(DataError, match="no categories"):
        figures({"images": [], "annotations": []}, [], "bbox")


@pytest.mark.shared
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_real_ground_truth_detects_itself(coco100: Path, iou_type: Any) -> None:
    truth = json.loads((coco100 / "annotations" / "instances_val2017.json").read_text())
    size = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    found = []
    for annotation in truth["annotations"]:
        shape = annotation["segmentation"]
        rle = mask_utils.frPyObjects(shape, *size[annotation["image_id"]])
        rle = mask_utils.merge(rle) if isinstance(rle, list) else rle
        found.append({**annotation, "score": 0.9, "segmentation": rle})
    assert figures(truth, found, iou_type)["AP"] == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_each_category_against_pycocotools(iou_type: Any, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(5)
    categories = [{"id": i, "name": str(i)} for i in (3, 40, 8, 21, 5)]  # in no order; 21 has crowds only, 5 nothing

    def objects(category_id: int, count: int, **more: Any) -> list[dict[str, Any]]:
        places = [(int(rng.integers(1, 5)), *rng.integers(0, 100, 2).tolist()) for _ in range(count)]
        return [square(i, x, y, int(rng.integers(8, 99)), category_id, **more) for i, x, y in places]

    truth = [*objects(3, 30), *objects(40, 12), *objects(8, 4), *objects(21, 3, iscrowd=1)]
    truth = [{**annotation, "id": number} for number, annotation in enumerate(truth, start=1)]
    moved = [square(t["image_id"], t["bbox"][0] + 2, t["bbox"][1], t["bbox"][2], t["category_id"]) for t in truth]
    found = [detected(d, float(rng.uniform(0.1, 1))) for d in [*moved[:35], *objects(40, 9), *objects(5, 4)]]
    groundtruth = {**instances(*truth), "categories": categories}
    groundtruth["images"] = [{"id": i, "height": 200, "width": 200} for i in range(1, 5)]
    ours = coco_average_precision(copy.deepcopy(groundtruth), copy.deepcopy(found), iou_type)

    coco = COCO()
    coco.dataset = groundtruth
    coco.createIndex()
    theirs = COCOeval(coco, coco.loadRes([_result(entry, iou_type) for entry in found]), iou_type)
    theirs.evaluate()
    theirs.accumulate()
    capsys.readouterr()
    expected = {}
    for place, category_id in enumerate(theirs.params.catIds):
        precision = theirs.eval["precision"][:, :, place, 0, 2]
        expected[category_id] = None if (precision == -1).all() else precision[precision > -1].mean()
    assert ours.per_class == {i: None if ap is None else pytest.approx(ap, abs=1e-12) for i, ap in expected.items()}
    assert [ours.per_class[i] is None for i in (3, 40, 8, 21, 5)] == [False, False, False, True, True]
    assert ours.per_class[8] == 0.0  # nothing found, which is not "nothing to find"
    assert 0 < (ours.per_class[3] or 0) < 1
    present = [ap for ap in ours.per_class.values() if ap is not None]
    assert ours.figures["AP"] == pytest.approx(np.mean(present), abs=1e-12)


def _result(detection: dict[str, Any], iou_type: str) -> dict[str, Any]:
    """A detection as pycocotools expects it: with what is compared alone."""
    other = "segmentation" if iou_type == "bbox" else "bbox"
    return {key: copy.deepcopy(value) for key, value in detection.items() if key != other}


def test_what_cannot_be_measured_is_none_for_each_category() -> None:
    assert coco_average_precision(instances(), [], "bbox").per_class == {4: None, 9: None}
    nothing = coco_average_precision(instances(square(1, 0, 0, 20)), [], "bbox", image_ids=[])
    assert nothing == AveragePrecision.unknown([4, 9])
