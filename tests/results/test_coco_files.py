from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from panoptic_cli.categories import CategoryTable
from panoptic_cli.errors import DataError
from panoptic_cli.evaluation.panoptic_quality import PanopticQuality
from panoptic_cli.evaluation.result_files import score_files
from panoptic_cli.images import panoptic_png
from panoptic_cli.results.coco_files import PredictionWriter, segments_from_maps

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


def test_segments_are_the_pairs_of_category_and_instance() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        category, instance = random_maps(rng)
        id_map, segments = segments_from_maps(category, instance)
        assert [s.id for s in segments] == list(range(1, len(segments) + 1))
        np.testing.assert_array_equal(id_map == 0, category == 0)
        pairs = set()
        for segment in segments:
            mask = id_map == segment.id
            assert mask.sum() == segment.area > 0
            assert set(category[mask].tolist()) == {segment.category_id}
            assert len(set(instance[mask].tolist())) == 1
            pairs.add((segment.category_id, int(instance[mask][0])))
        assert len(pairs) == len(segments)
        assert pairs == set(zip(category[category > 0].tolist(), instance[category > 0].tolist(), strict=True))


def test_categories_that_do_not_exist_become_void(tmp_path: Path) -> None:
    category = np.array([[5, 93, 93, 190], [5, 0, 77, 190]])
    instance = np.array([[1, 0, 0, 0], [1, 0, 4, 0]])
    id_map, segments = segments_from_maps(category, instance, TABLE)
    assert [(s.id, s.category_id, s.area) for s in segments] == [(1, 5, 2), (2, 190, 2)]
    np.testing.assert_array_equal(id_map, [[1, 0, 0, 2], [1, 0, 0, 2]])
    assert len(segments_from_maps(category, instance)[1]) == 4
    with PredictionWriter(tmp_path / "out", TABLE) as writer:
        info = writer.add(1, "a.jpg", category, instance)
    assert [(s["id"], s["category_id"], s["area"]) for s in info] == [(1, 5, 2), (2, 190, 2)]


def test_all_void_has_no_segments(tmp_path: Path) -> None:
    void = np.zeros((4, 5), np.int32)
    id_map, segments = segments_from_maps(void, void)
    assert segments == []
    assert not id_map.any()
    with PredictionWriter(tmp_path / "out") as writer:
        assert writer.add(1, "a.jpg", void, void) == []


def test_the_json_describes_the_png(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    with PredictionWriter(tmp_path / "out", TABLE) as writer:
        for image_id in range(5):
            writer.add(image_id, f"{image_id:03}.jpg", *random_maps(rng))
    content = json.loads((tmp_path / "out" / "pred.json").read_text())
    assert CategoryTable.from_list(content["categories"], "pred.json") == TABLE
    assert [a["file_name"] for a in content["annotations"]] == [f"{i:03}.png" for i in range(5)]
    assert sorted(p.name for p in (tmp_path / "out" / "pred").iterdir()) == [f"{i:03}.png" for i in range(5)]
    for annotation in content["annotations"]:
        ids = panoptic_png.rgb_to_ids(panoptic_png.read_rgb(tmp_path / "out" / "pred" / annotation["file_name"]))
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
        PredictionWriter(tmp_path / "prediction") as writer,
    ):
        for image_id in range(30):
            gt = random_maps(rng)
            pred = gt if image_id % 3 == 0 else random_maps(rng)
            gt_writer.add(image_id, f"{image_id}.jpg", *gt)
            writer.add(image_id, f"{image_id}.jpg", *pred)
            direct.add(*segments_from_maps(*gt), *segments_from_maps(*pred))
    expected = direct.result()
    assert 0.2 < expected["All"]["pq"] < 1
    for workers in (1, 2):
        result = score_files(tmp_path / "prediction" / "pred.json", None, tmp_path / "gt" / "pred.json", None, workers)
        assert {key: result[key] for key in expected} == expected  # to the last bit
        assert result["images"] == 30
        assert result["warnings"] == []


def test_detections_are_in_cocos_form(tmp_path: Path) -> None:
    mask = {"size": [10, 12], "counts": "abc"}
    with PredictionWriter(tmp_path / "out") as writer:
        writer.add_detections(3, np.array([[1.0, 2.0, 5.0, 8.0]], np.float32), np.array([0.5]), np.array([5]), [mask])
        writer.add_detections(4, np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), [])
        writer.add_detections(5, np.array([[0, 0, 1, 1]]), np.array([0.25]), np.array([5]), None)
    assert json.loads((tmp_path / "out" / "detections.json").read_text()) == [
        {"image_id": 3, "category_id": 5, "bbox": [2, 1, 6, 4], "score": 0.5, "segmentation": mask},
        {"image_id": 5, "category_id": 5, "bbox": [0, 0, 1, 1], "score": 0.25},
    ]


def test_an_abort_leaves_what_was_there(tmp_path: Path) -> None:
    out = tmp_path / "out"
    maps = random_maps(np.random.default_rng(3))

    def write_and_fail() -> None:
        with PredictionWriter(out) as writer:
            writer.add(1, "b.jpg", *maps)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_fail()
    assert list(tmp_path.iterdir()) == []

    with PredictionWriter(out) as writer:
        writer.add(1, "a.jpg", *maps)
    (out / "metrics.json").write_text("{}")
    with pytest.raises(KeyboardInterrupt):
        write_and_fail()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert [p.name for p in (out / "pred").iterdir()] == ["a.png"]
    with PredictionWriter(out) as writer:  # replaces the predictions, keeps the rest
        writer.add(1, "c.jpg", *maps)
    assert [p.name for p in (out / "pred").iterdir()] == ["c.png"]
    assert sorted(p.name for p in out.iterdir()) == ["detections.json", "metrics.json", "pred", "pred.json"]


def test_pictures_of_one_name_keep_their_own_png(tmp_path: Path) -> None:
    maps = random_maps(np.random.default_rng(4))
    with PredictionWriter(tmp_path / "out") as writer:
        writer.add(1, "north/a.jpg", *maps)
        writer.add(2, "south/a.jpg", *maps)
        with pytest.raises(DataError, match="Image 2 is there twice"):
            writer.add(2, "south/a.jpg", *maps)
    assert sorted(p.name for p in (tmp_path / "out" / "pred").iterdir()) == ["a-2.png", "a.png"]


def test_a_file_in_the_way_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(DataError, match="is a file"):
        PredictionWriter(tmp_path / "out")


def test_an_interrupted_exchange_leaves_the_earlier_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out"
    rng = np.random.default_rng(0)
    rename = Path.rename

    def stopped(self: Path, target: Path) -> Path:
        if target == output / "detections.json" and "earlier" not in self.name:
            raise KeyboardInterrupt
        return rename(self, target)

    writers = []
    for number in (1, 2):
        writer = PredictionWriter(output, TABLE)
        writer.add(number, f"{number}.jpg", *random_maps(rng))
        writers.append(writer)
        if number == 1:
            writer.close()
    monkeypatch.setattr(Path, "rename", stopped)
    with pytest.raises(KeyboardInterrupt):
        writers[1].close()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["1.png", "detections.json", "out", "pred", "pred.json"]
    assert json.loads((output / "pred.json").read_text())["annotations"][0]["image_id"] == 1
