"""Unusual pictures, and result files, which give the same figures as the model itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from predictions import prediction_of

from panoptic_cli.categories import CategoryTable
from panoptic_cli.coco.dataset import read_dataset
from panoptic_cli.coco.layout import SplitFiles
from panoptic_cli.demo.shapes import CATEGORIES, DISC, GRASS, SKY, TRIANGLE
from panoptic_cli.errors import DataError
from panoptic_cli.evaluation import evaluator, picture_scores
from panoptic_cli.evaluation.evaluator import Evaluator
from panoptic_cli.evaluation.file_scoring import score_files
from panoptic_cli.evaluation.groundtruth import GroundTruth
from panoptic_cli.evaluation.picture_scores import PictureScores
from panoptic_cli.evaluation.result_files import ResultFiles
from panoptic_cli.images import panoptic_png
from panoptic_cli.inference.predictor import LoadedModel, Predictor
from panoptic_cli.records.conversion import convert
from panoptic_cli.records.plans import ConversionPlan
from panoptic_cli.records.tfrecord import read_records

WIDE, EMPTY, CROWD, SMALL = 1, 2, 3, 4
SIZES = {WIDE: (40, 300), EMPTY: (700, 30), CROWD: (64, 80), SMALL: (5, 3)}


def odd_maps() -> dict[int, tuple[np.ndarray, list[tuple[int, int, int]]]]:
    """{picture: (segment ids [H, W], [(id, category, crowd)])}."""
    maps = {number: np.zeros(size, np.int32) for number, size in SIZES.items()}
    maps[WIDE][:, :] = 70000
    maps[WIDE][5:30, 100:140] = 9
    maps[CROWD][10:60, 20:70] = 3
    maps[SMALL][:, :] = 256
    return {
        WIDE: (maps[WIDE], [(70000, SKY, 0), (9, DISC, 0)]),
        EMPTY: (maps[EMPTY], []),
        CROWD: (maps[CROWD], [(3, DISC, 1)]),
        SMALL: (maps[SMALL], [(256, GRASS, 0)]),
    }


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Such pictures in COCO's format, and their records."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "images").mkdir()
    (folder / "panoptic").mkdir()
    images, annotations = [], []
    rng = np.random.default_rng(0)
    for number, (ids, segments) in odd_maps().items():
        height, width = ids.shape
        Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8)).save(folder / f"images/{number}.jpg")
        (folder / f"panoptic/{number}.png").write_bytes(panoptic_png.encode_ids(ids))
        images.append({"id": number, "file_name": f"{number}.jpg", "height": height, "width": width})
        info = []
        for segment, category, crowd in segments:
            y, x = np.nonzero(ids == segment)
            box = [int(x.min()), int(y.min()), int(np.ptp(x)) + 1, int(np.ptp(y)) + 1]
            info.append({"id": segment, "category_id": category, "iscrowd": crowd, "area": len(x), "bbox": box})
        annotations.append({"image_id": number, "file_name": f"{number}.png", "segments_info": info})
    truth = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (folder / "panoptic.json").write_text(json.dumps(truth))
    files = SplitFiles("val", folder / "panoptic.json", folder / "panoptic", folder / "images", None)
    convert(ConversionPlan(files, folder, 1), read_dataset(files), workers=1)
    return folder


def right(number: int) -> tuple[np.ndarray, np.ndarray]:
    """The category and instance maps of a right prediction."""
    ids, segments = odd_maps()[number]
    category, instance = np.zeros_like(ids), np.zeros_like(ids)
    for segment, of, crowd in segments:
        if not crowd:
            category[ids == segment] = of
            instance[ids == segment] = 1 if of == DISC else 0
    return category, instance


def scored(odd: Path, changed: dict[int, Any]) -> PictureScores:
    table = CategoryTable.from_list(CATEGORIES, "shapes")
    scores = PictureScores(table)
    for shard in sorted(odd.glob("val-*.tfrecord")):
        for record in read_records(shard):
            number = GroundTruth.from_record(record, table).image_id
            assert isinstance(number, int)
            category, instance = changed.get(number, right(number))
            scores.add(prediction_of(category, instance, table), record)
    return scores


def test_right_answers_score_one_and_only_what_is_there_counts(odd: Path) -> None:
    scores = scored(odd, {})
    assert [image["id"] for image in scores.images] == [WIDE, EMPTY, CROWD, SMALL]
    result = scores.quality.result()
    assert result["All"] == {"pq": 1.0, "sq": 1.0, "rq": 1.0, "n": 3}  # no triangle, square or water anywhere
    assert result["Things"]["n"] == 1
    # One circle is to be found and the crowd is none of them; without detections the AP is 0, not undefined.
    assert scores.average_precision()[0].figures["AP"] == 0.0


def test_what_is_predicted_on_a_crowd_or_on_nothing_is_excused(odd: Path) -> None:
    everywhere = {
        CROWD: (np.full(SIZES[CROWD], DISC), np.ones(SIZES[CROWD], int)),
        EMPTY: (np.full(SIZES[EMPTY], TRIANGLE), np.ones(SIZES[EMPTY], int)),
    }
    assert scored(odd, everywhere).quality.result()["All"] == {"pq": 1.0, "sq": 1.0, "rq": 1.0, "n": 3}


def test_a_category_without_ground_truth_counts_where_it_is_predicted(odd: Path) -> None:
    wrong = {SMALL: (np.full(SIZES[SMALL], TRIANGLE), np.ones(SIZES[SMALL], int))}
    result = scored(odd, wrong).quality.result()
    assert result["per_class"][TRIANGLE]["fp"] == 1
    assert result["per_class"][GRASS]["fn"] == 1
    assert result["All"]["n"] == 4
    assert result["All"]["pq"] == 0.5  # sky and circle of four


def test_void_everywhere_finds_nothing(odd: Path) -> None:
    void = {number: (np.zeros(size, int), np.zeros(size, int)) for number, size in SIZES.items()}
    result = scored(odd, void).quality.result()
    assert result["All"] == {"pq": 0.0, "sq": 0.0, "rq": 0.0, "n": 3}


def test_an_average_precision_that_cannot_be_computed_is_a_warning(
    odd: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = scored(odd, {})

    def fail(*arguments: Any) -> None:
        raise TypeError("Argument 'bb' has incorrect type")

    monkeypatch.setattr(picture_scores, "coco_average_precision", fail)
    box, mask = scores.average_precision()
    assert {*box.figures.values(), *mask.figures.values()} == {None}
    assert "The box AP cannot be computed: TypeError: Argument 'bb' has incorrect type." in capsys.readouterr().err
    assert scores.quality.result()["All"]["pq"] == 1.0


def test_a_picture_of_another_size_is_named(odd: Path) -> None:
    with pytest.raises((DataError, ValueError), match="3"):
        scored(odd, {CROWD: (np.zeros((4, 4), int), np.zeros((4, 4), int))})


def test_the_model_and_its_files_give_the_same_figures(
    odd: Path, tiny_model: LoadedModel, tiny_predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluator, "Predictor", lambda model: tiny_predictor)
    result = Evaluator(tiny_model, f"{odd}/val-*", batch_size=3).evaluate(output_dir=tmp_path / "out").to_dict()
    assert result["images"] == 4
    pred = json.loads((tmp_path / "out/pred.json").read_text())
    assert [(i["height"], i["width"]) for i in pred["images"]] == list(SIZES.values())
    files = score_files(ResultFiles(tmp_path / "out/pred.json", odd / "panoptic.json"), workers=1).panoptic
    for group in ("All", "Things", "Stuff"):
        assert files[group] == result["panoptic"][group]
    assert files["per_class"] == result["panoptic"]["per_class"]
    counts = [sum(c[key] for c in files["per_class"].values()) for key in ("tp", "fp", "fn")]
    assert counts[1] > 0  # there was something to compare
    assert counts[0] + counts[2] == 3
