from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from predictions import detections_of, prediction_of
from pycocotools import mask as mask_utils

from panoptic_cli.categories import CategoryTable
from panoptic_cli.errors import DataError, RunError
from panoptic_cli.evaluation.file_scoring import score_files
from panoptic_cli.evaluation.panoptic_quality import PanopticQuality
from panoptic_cli.evaluation.result_files import ResultFiles
from panoptic_cli.images import panoptic_png
from panoptic_cli.results.coco_files import PredictionWriter
from panoptic_cli.results.prediction import Prediction

TABLE = CategoryTable.from_list(
    [{"id": 5, "name": "cat", "isthing": 1}, {"id": 190, "name": "sky", "isthing": 0}], "test"
)


def random_maps(rng: np.random.Generator, height: int = 20, width: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """Category and instance maps with void, stuff and a few overlapping things."""
    category = rng.choice(np.array([0, 190], np.int32), (height, 1)) * np.ones((1, width), np.int32)
    instance = np.zeros((height, width), np.int32)
    for number in range(1, rng.integers(1, 6)):
        y, x = rng.integers(0, height), rng.integers(0, width)
        place = np.s_[y : y + rng.integers(1, 12), x : x + rng.integers(1, 15)]
        category[place], instance[place] = 5, number
    return category, instance


def random_prediction(rng: np.random.Generator) -> Prediction:
    return prediction_of(*random_maps(rng), TABLE)


def test_all_void_has_no_segments(tmp_path: Path) -> None:
    void = np.zeros((4, 5), np.int32)
    with PredictionWriter(tmp_path / "out", TABLE) as writer:
        written = writer.add(1, "a.jpg", prediction_of(void, void, TABLE))
    assert written.segments_info == written.detections == []
    assert json.loads((tmp_path / "out" / "detections.json").read_text()) == []


def test_the_json_describes_the_png(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    with PredictionWriter(tmp_path / "out", TABLE) as writer:
        for image_id in range(5):
            writer.add(image_id, f"{image_id:03}.jpg", random_prediction(rng))
    content = json.loads((tmp_path / "out" / "pred.json").read_text())
    assert CategoryTable.from_list(content["categories"], "pred.json") == TABLE
    assert [a["file_name"] for a in content["annotations"]] == [f"{i:03}.png" for i in range(5)]
    assert sorted(p.name for p in (tmp_path / "out" / "pred").iterdir()) == [f"{i:03}.png" for i in range(5)]
    for annotation in content["annotations"]:
        ids = panoptic_png.read_segment_ids(tmp_path / "out" / "pred" / annotation["file_name"])
        assert {s["id"] for s in annotation["segments_info"]} == set(np.unique(ids[ids > 0]).tolist())
        for segment in annotation["segments_info"]:
            rows, columns = np.nonzero(ids == segment["id"])
            x, y, width, height = segment["bbox"]
            assert (x, y, x + width, y + height) == (
                columns.min(),
                rows.min(),
                columns.max() + 1,
                rows.max() + 1,
            )
            assert segment["area"] == len(rows)
            assert segment["iscrowd"] == 0


def test_files_score_as_the_maps_do(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    direct = PanopticQuality(TABLE)
    with (
        PredictionWriter(tmp_path / "gt", TABLE) as gt_writer,
        PredictionWriter(tmp_path / "prediction", TABLE) as writer,
    ):
        for image_id in range(30):
            gt = random_prediction(rng)
            pred = gt if image_id % 3 == 0 else random_prediction(rng)
            gt_writer.add(image_id, f"{image_id}.jpg", gt)
            writer.add(image_id, f"{image_id}.jpg", pred)
            direct.add(gt.segment_map, gt.segments, pred.segment_map, pred.segments)
    expected = direct.result()
    assert 0.2 < expected["All"]["pq"] < 1
    for workers in (1, 2):
        scores = score_files(ResultFiles(tmp_path / "prediction" / "pred.json", tmp_path / "gt" / "pred.json"), workers)
        assert scores.panoptic == expected  # to the last bit
        assert scores.images == 30
        assert scores.warnings == []


def test_detections_are_in_cocos_form(tmp_path: Path) -> None:
    void = np.zeros((10, 12), np.int32)
    masks = np.zeros((2, 10, 12), np.uint8)
    masks[0, 1:5, 2:8] = masks[1, 0, 0] = 1
    boxes = np.array([[1.0, 2.0, 5.0, 8.0], [0, 0, 1, 1]])
    detections = detections_of(boxes, [0.5, 0.25], [5, 5], list(masks))
    with PredictionWriter(tmp_path / "out", TABLE) as writer:
        both = writer.add(3, "3.jpg", prediction_of(void, void, TABLE, detections)).detections
        writer.add(4, "4.jpg", prediction_of(void, void, TABLE))
        assert len(writer.add(5, "5.jpg", prediction_of(void, void, TABLE, detections), min_score=0.25).detections) == 1
    entries = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [entry["image_id"] for entry in entries] == [3, 3, 5]
    assert entries[:2] == both
    for entry, mask, box, score in zip(entries, masks, ([2, 1, 6, 4], [0, 0, 1, 1]), (0.5, 0.25), strict=False):
        segmentation = entry.pop("segmentation")
        assert entry == {"image_id": 3, "category_id": 5, "bbox": box, "score": score}
        np.testing.assert_array_equal(mask_utils.decode(segmentation), mask)
        # What pycocotools itself writes for this mask, so that files can be compared byte by byte.
        own = mask_utils.encode(np.asfortranarray(mask))
        assert segmentation == {"size": [10, 12], "counts": own["counts"].decode()}


def test_an_abort_leaves_what_was_there(tmp_path: Path) -> None:
    out = tmp_path / "out"
    prediction = random_prediction(np.random.default_rng(3))

    def write_and_fail() -> None:
        with PredictionWriter(out, TABLE) as writer:
            writer.add(1, "b.jpg", prediction)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_fail()
    assert list(tmp_path.iterdir()) == []

    with PredictionWriter(out, TABLE) as writer:
        writer.add(1, "a.jpg", prediction)
    (out / "metrics.json").write_text("{}")
    with pytest.raises(KeyboardInterrupt):
        write_and_fail()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert [p.name for p in (out / "pred").iterdir()] == ["a.png"]
    with PredictionWriter(out, TABLE) as writer:  # replaces the predictions, keeps the rest
        writer.add(1, "c.jpg", prediction)
    assert [p.name for p in (out / "pred").iterdir()] == ["c.png"]
    assert sorted(p.name for p in out.iterdir()) == ["detections.json", "metrics.json", "pred", "pred.json"]


def test_a_full_disk_is_reported_with_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    writer = PredictionWriter(tmp_path / "out", TABLE)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}/out'"):
        writer.add(1, "a.jpg", random_prediction(np.random.default_rng(4)))
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}/out'"):
        writer.close()


def test_pictures_of_one_name_keep_their_own_png(tmp_path: Path) -> None:
    prediction = random_prediction(np.random.default_rng(4))
    with PredictionWriter(tmp_path / "out", TABLE) as writer:
        writer.add(1, "north/a.jpg", prediction)
        writer.add(2, "south/a.jpg", prediction)
        with pytest.raises(DataError, match="Image 2 was predicted twice"):
            writer.add(2, "south/a.jpg", prediction)
    assert sorted(p.name for p in (tmp_path / "out" / "pred").iterdir()) == ["a-2.png", "a.png"]


def test_a_file_in_the_way_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(DataError, match="is a file"):
        PredictionWriter(tmp_path / "out", TABLE)


def test_an_interrupted_exchange_leaves_the_earlier_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out"
    rng = np.random.default_rng(0)
    rename = Path.rename

    def stopped(self: Path, target: Path) -> Path:
        if target == output / "detections.json" and self.parent.name != "earlier":
            raise KeyboardInterrupt
        return rename(self, target)

    writers = []
    for number in (1, 2):
        writer = PredictionWriter(output, TABLE)
        writer.add(number, f"{number}.jpg", random_prediction(rng))
        writers.append(writer)
        if number == 1:
            writer.close()
    monkeypatch.setattr(Path, "rename", stopped)
    with pytest.raises(KeyboardInterrupt):
        writers[1].close()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["1.png", "detections.json", "out", "pred", "pred.json"]
    assert json.loads((output / "pred.json").read_text())["annotations"][0]["image_id"] == 1


def test_two_processes_do_not_write_one_folder(tmp_path: Path) -> None:
    with (
        PredictionWriter(tmp_path / "out", TABLE),
        pytest.raises(RunError, match=rf"Another prediction is writing {tmp_path}/out\. .*another --output"),
    ):
        PredictionWriter(tmp_path / "out", TABLE)
    PredictionWriter(tmp_path / "out", TABLE).abort()


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / ".out.partial"
    (left / "pred").mkdir(parents=True)
    (left / "pred" / "1.png").write_bytes(b"half")
    with PredictionWriter(tmp_path / "out", TABLE) as writer:
        writer.add(2, "b.jpg", random_prediction(np.random.default_rng(4)))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out" / "pred").iterdir()] == ["b.png"]


@pytest.mark.parametrize("moved", range(1, 7))
def test_a_kill_while_files_are_replaced_loses_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: int
) -> None:
    def write(file_name: str) -> None:
        with PredictionWriter(tmp_path / "out", TABLE) as writer:
            writer.add(1, file_name, random_prediction(np.random.default_rng(4)))

    def rename(path: Path, target: Path) -> Path:
        count[0] += 1
        move(path, target)
        if count[0] == moved:
            shutil.copytree(tmp_path, tmp_path.parent / f"{tmp_path.name}-killed")
        return target

    write("earlier.jpg")
    move, count = Path.rename, [0]
    monkeypatch.setattr(Path, "rename", rename)
    write("later.jpg")
    monkeypatch.undo()
    out = tmp_path.parent / f"{tmp_path.name}-killed" / "out"
    PredictionWriter(out, TABLE).abort()
    name = "later" if moved == 6 else "earlier"
    assert [path.name for path in (out / "pred").iterdir()] == [f"{name}.png"]
    assert json.loads((out / "pred.json").read_text())["annotations"][0]["file_name"] == f"{name}.png"
    assert [path.name for path in out.parent.iterdir()] == ["out"]
