from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pq_oracle
import pytest
from PIL import Image

from panoptic_cli.errors import DataError
from panoptic_cli.evaluation.file_scoring import FileScores, score_files
from panoptic_cli.evaluation.result_files import ResultFiles
from panoptic_cli.images import panoptic_png

CATEGORIES = [{"id": 5, "name": "cat", "isthing": 1}, {"id": 190, "name": "sky", "isthing": 0}]


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Writes three pictures twice, as ground truth and prediction; `change` may spoil the JSONs first."""

    def write(
        change: Callable[[dict[str, Any], dict[str, Any]], None] = lambda gt, pred: None,
    ) -> tuple[Path, Path]:
        contents = []
        for name in ("gt", "pred"):
            (tmp_path / name).mkdir()
            annotations = []
            for image_id in (1, 2, 3):
                ids = np.full((6, 8), 70_000 + image_id)
                ids[:3] = 12
                (tmp_path / name / f"{image_id}.png").write_bytes(panoptic_png.encode_ids(ids))
                segments = [
                    {"id": 12, "category_id": 190, "area": 24, "iscrowd": 0},
                    {"id": 70_000 + image_id, "category_id": 5, "area": 24, "iscrowd": 0},
                ]
                annotations.append({"image_id": image_id, "file_name": f"{image_id}.png", "segments_info": segments})
            contents.append({"annotations": annotations, "categories": CATEGORIES})
        change(*contents)
        for name, content in zip(("gt", "pred"), contents, strict=True):
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
        return tmp_path / "pred.json", tmp_path / "gt.json"

    return write


def score(paths: tuple[Path, Path]) -> FileScores:
    return score_files(ResultFiles(*paths), workers=1)


@pytest.mark.shared
@pytest.mark.parametrize("workers", [1, 2])
def test_equals_panopticapi_on_real_pictures(shared: Path, coco100: Path, workers: int) -> None:
    folder = shared / "conformance" / "panoptic_quality"
    annotations, masks = coco100 / "annotations" / "panoptic_val2017.json", coco100 / "panoptic_val2017"
    scores = score_files(ResultFiles(folder / "pred.json", annotations, masks_dir=masks), workers)
    result = scores.panoptic
    expected = json.loads((folder / "expected_pq.json").read_text())
    for group in ("All", "Things", "Stuff"):
        assert result[group] == pytest.approx(expected[group], abs=1e-12)
    assert len(result["per_class"]) == len(expected["per_class"])
    for category, figures in expected["per_class"].items():
        ours = result["per_class"][int(category)]
        assert {key: ours[key] for key in figures} == pytest.approx(figures, abs=1e-12)
    assert scores.images == 50


@pytest.mark.shared
def test_real_ground_truth_as_its_own_prediction_is_exactly_1(coco100: Path) -> None:
    annotations = coco100 / "annotations" / "panoptic_val2017.json"
    masks = coco100 / "panoptic_val2017"
    scores = score_files(ResultFiles(annotations, annotations, masks, masks))
    for group in ("All", "Things", "Stuff"):
        assert {key: scores.panoptic[group][key] for key in ("pq", "sq", "rq")} == {"pq": 1.0, "sq": 1.0, "rq": 1.0}
    assert scores.warnings == []


def test_folders_default_to_the_jsons_without_suffix(files: Callable[..., tuple[Path, Path]]) -> None:
    predictions, annotations = files()
    assert score((predictions, annotations)).panoptic["All"] == {"pq": 1.0, "sq": 1.0, "rq": 1.0, "n": 2}
    moved = predictions.parent / "elsewhere"
    (predictions.parent / "pred").rename(moved)
    assert score_files(ResultFiles(predictions, annotations, moved)).panoptic["All"]["pq"] == 1.0
    with pytest.raises(DataError, match=r"pred with the PNGs of .*pred\.json does not exist.*--predictions-dir"):
        score((predictions, annotations))


def test_a_picture_without_prediction_is_an_error(files: Callable[..., tuple[Path, Path]]) -> None:
    def change(gt: dict[str, Any], pred: dict[str, Any]) -> None:
        del pred["annotations"][1]

    with pytest.raises(DataError, match=r"no prediction for 1 of the 3 images of .*gt\.json: 2\."):
        score(files(change))


def test_predictions_of_other_pictures_are_ignored_as_by_panopticapi(
    files: Callable[..., tuple[Path, Path]],
) -> None:
    def change(gt: dict[str, Any], pred: dict[str, Any]) -> None:
        pred["annotations"].append({**pred["annotations"][0], "image_id": 77, "file_name": "nowhere.png"})

    scores = score(files(change))
    assert scores.panoptic["All"] == {"pq": 1.0, "sq": 1.0, "rq": 1.0, "n": 2}
    assert scores.images == 3
    (warning,) = scores.warnings
    assert "1 predicted image is not in" in warning
    assert warning.endswith(": 77.")


def listing(gt: dict[str, Any], pred: dict[str, Any]) -> None:
    """Makes both files list their pictures; the predicted one as predict does, with paths."""
    gt["images"] = [{"id": a["image_id"], "file_name": f"{a['image_id']}.jpg"} for a in gt["annotations"]]
    pred["images"] = [{"id": a["image_id"], "file_name": f"my/{a['image_id']}.png"} for a in pred["annotations"]]


def test_pictures_are_paired_by_file_name_where_ids_disagree(files: Callable[..., tuple[Path, Path]]) -> None:
    def change(gt: dict[str, Any], pred: dict[str, Any]) -> None:
        listing(gt, pred)
        for key, name in (("images", "id"), ("annotations", "image_id")):
            for entry in pred[key]:
                entry[name] = {1: 2, 2: 3, 3: 1}[entry[name]]

    scores = score(files(change))
    assert scores.panoptic["All"]["pq"] == 1.0
    (warning,) = scores.warnings
    assert "paired by file name (1.jpg is 2 there, 1 here)" in warning


def test_pictures_that_cannot_be_paired_stop_it(files: Callable[..., tuple[Path, Path]]) -> None:
    def change(gt: dict[str, Any], pred: dict[str, Any]) -> None:
        listing(gt, pred)
        for image in pred["images"]:
            image["file_name"] = f"other{image['id']}.jpg"

    with pytest.raises(DataError, match=r"3 image ids mean different pictures.*1 is 1.jpg in .*gt.json, other1.jpg in"):
        score(files(change))


@pytest.mark.parametrize("form", [str, float, lambda i: f"{i:012}"])
def test_ids_may_be_written_otherwise(files: Callable[..., tuple[Path, Path]], form: Callable[[int], Any]) -> None:
    def change(gt: dict[str, Any], pred: dict[str, Any]) -> None:
        for annotation in pred["annotations"]:
            annotation["image_id"] = form(annotation["image_id"])

    assert score(files(change)).panoptic["All"]["pq"] == 1.0


def test_ids_of_segments_may_be_text_and_that_is_told(files: Callable[..., tuple[Path, Path]]) -> None:
    def change(gt: dict[str, Any], pred: dict[str, Any]) -> None:
        for annotation in pred["annotations"]:
            for segment in annotation["segments_info"]:
                segment["category_id"] = str(segment["category_id"])

    scores = score(files(change))
    assert scores.panoptic["All"]["pq"] == 1.0
    assert "segment ids are written as text and read as numbers" in scores.warnings[0]


def test_categories_are_paired_by_name(files: Callable[..., tuple[Path, Path]]) -> None:
    def change(gt: dict[str, Any], pred: dict[str, Any]) -> None:
        pred["categories"] = [{**c, "id": 195 - int(str(c["id"]))} for c in CATEGORIES]  # exchanged
        for annotation in pred["annotations"]:
            for segment in annotation["segments_info"]:
                segment["category_id"] = 195 - segment["category_id"]

    scores = score(files(change))
    assert scores.panoptic["All"]["pq"] == 1.0
    assert "paired by name ('cat' is 190 there, 5 here)" in scores.warnings[0]


def test_turned_pictures_are_told(files: Callable[..., tuple[Path, Path]]) -> None:
    def change(gt: dict[str, Any], pred: dict[str, Any]) -> None:
        pred["annotations"][1]["exif_applied"] = True

    (warning,) = score(files(change)).warnings
    assert "1 predicted picture was turned as the EXIF orientation says: 2.png. If the ground truth" in warning


def test_stuff_in_several_segments_is_told(files: Callable[..., tuple[Path, Path]]) -> None:
    def change(gt: dict[str, Any], pred: dict[str, Any]) -> None:
        for annotation in pred["annotations"][:2]:
            annotation["segments_info"][1]["category_id"] = 190

    (warning,) = score(files(change)).warnings
    assert "2 pictures have several segments of one stuff category" in warning
    assert "pred.json: 2" in warning


@pytest.mark.parametrize("listed", [True, False])
def test_category_ids_may_begin_at_0(files: Callable[..., tuple[Path, Path]], listed: bool) -> None:
    def change(gt: dict[str, Any], pred: dict[str, Any]) -> None:
        for content in (gt, pred):
            content["categories"] = [{**c, "id": {"cat": 0, "sky": 1}[str(c["name"])]} for c in CATEGORIES]
            for annotation in content["annotations"]:
                for segment in annotation["segments_info"]:
                    segment["category_id"] = {5: 0, 190: 1}[segment["category_id"]]
        if not listed:
            del pred["categories"]

    scores = score(files(change))
    assert scores.panoptic["All"] == {"pq": 1.0, "sq": 1.0, "rq": 1.0, "n": 2}
    assert "begin at 0" in scores.warnings[0]


def test_predictions_of_other_categories_are_an_error(files: Callable[..., tuple[Path, Path]]) -> None:
    def change(gt: dict[str, Any], pred: dict[str, Any]) -> None:
        pred["categories"] = [{**c, "name": "dog" if c["id"] == 5 else c["name"]} for c in CATEGORIES]

    with pytest.raises(DataError, match=r"pred.json has categories that the ground truth does not have: 5 'dog'"):
        score(files(change))


ODD = (2**40, 7, 1_000_003, 3, 250)  # ids in no order, huge, far apart


@pytest.mark.parametrize("things", [ODD[:3], ODD, ()], ids=["both kinds", "no stuff", "no things"])
@pytest.mark.parametrize("all_void", [False, True])
def test_odd_categories_and_void_predictions_equal_the_slow_oracle(
    tmp_path: Path, things: tuple[int, ...], all_void: bool
) -> None:
    rng = np.random.default_rng(len(things))
    categories = [{"id": i, "name": f"c{i}", "isthing": int(i in things)} for i in ODD]
    present = ODD[:-1]  # one category has no ground truth, and is predicted all the same
    contents: dict[str, list[Any]] = {"gt": [], "pred": []}
    totals: dict[int, list[Any]] = {}
    for image_id in range(40):
        truth = np.kron(rng.integers(0, 5, (4, 5)), np.ones((3, 3), int)) * 70_001
        guess = np.where(rng.random(truth.shape) < 0.15, 0, truth) * (not all_void)
        guess[:, :2] = 2**24 - 1 if rng.random() < 0.5 and not all_void else guess[:, :2]
        listed = {}
        for name, ids in (("gt", truth), ("pred", guess)):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / f"{image_id}.png").write_bytes(panoptic_png.encode_ids(ids))
            listed[name] = [
                {
                    "id": int(i),
                    "category_id": ODD[-1] if i == 2**24 - 1 else present[(int(i) // 70_001 + image_id) % 4],
                    "iscrowd": int(name == "gt" and rng.random() < 0.2),
                    "area": 1,  # wrong
                }
                for i in rng.permutation(np.unique(ids[ids > 0]))
            ]
            entry = {"image_id": image_id, "file_name": f"{image_id}.png", "segments_info": listed[name]}
            contents[name].append(entry)
        counts = pq_oracle.picture_counts(
            truth.tolist(),
            [(s["id"], s["category_id"], bool(s["iscrowd"])) for s in listed["gt"]],
            guess.tolist(),
            [(s["id"], s["category_id"]) for s in listed["pred"]],
        )
        for category, row in counts.items():
            totals[category] = [x + y for x, y in zip(totals.get(category, [0] * 4), row, strict=True)]
    for name, entries in contents.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"annotations": entries, "categories": categories}))
    scores = score((tmp_path / "pred.json", tmp_path / "gt.json"))
    result = scores.panoptic
    groups = {"All": list(ODD), "Things": list(things), "Stuff": [i for i in ODD if i not in things]}
    for group, categories_of_group in groups.items():
        expected = pq_oracle.figures(totals, categories_of_group)
        assert result[group] == pytest.approx(expected, abs=1e-12), group
    assert result["All"]["n"] == (4 if all_void else 5)
    assert (result["All"]["pq"] == 0) == all_void
    assert result["Stuff" if things == ODD else "Things"]["n"] == 0 or things == ODD[:3]
    assert "its JSON says 1" in scores.warnings[0]


def test_every_bad_picture_is_named(files: Callable[..., tuple[Path, Path]]) -> None:
    def change(gt: dict[str, Any], pred: dict[str, Any]) -> None:
        pred["annotations"][0]["segments_info"][1]["category_id"] = 6
        pred["annotations"][1]["segments_info"].pop()
        gt["annotations"][2]["segments_info"][0]["id"] = 13

    paths = files(change)
    for workers in (1, 2):
        with pytest.raises(DataError) as caught:
            score_files(ResultFiles(*paths), workers)
        text = str(caught.value)
        assert "Image 1: prediction segment 70001 has the unknown category 6" in text
        assert "Image 2: id 70002 is in the prediction map" in text
        assert "Image 3: id 12 is in the ground truth map" in text


def test_a_missing_png_and_one_of_another_size(files: Callable[..., tuple[Path, Path]]) -> None:
    predictions, annotations = files()
    (predictions.parent / "pred" / "2.png").unlink()
    Image.new("RGB", (8, 7)).save(predictions.parent / "pred" / "3.png")
    with pytest.raises(DataError, match=r"(?s)2\.png does not exist.*Image 3: .* 8 x 6 .* 8 x 7"):
        score((predictions, annotations))


@pytest.mark.parametrize("side", ["gt", "pred"])
def test_masks_with_red_and_blue_exchanged_are_scored_and_told(
    files: Callable[..., tuple[Path, Path]], side: str
) -> None:
    predictions, annotations = files()
    for path in (predictions.parent / side).iterdir():
        rgb = panoptic_png.read_rgb(path)
        Image.fromarray(np.ascontiguousarray(rgb[..., ::-1])).save(path)
    scores = score_files(ResultFiles(predictions, annotations), workers=1, for_report=True)
    assert scores.panoptic["All"]["pq"] == 1.0
    assert scores.warnings == ["3 masks with red and blue exchanged."]
    assert scores.report is not None
    assert len(scores.report.worst) + len(scores.report.best) == 3


def test_a_prediction_that_lies_on_its_side_names_exif(files: Callable[..., tuple[Path, Path]]) -> None:
    predictions, annotations = files()
    path = predictions.parent / "pred" / "3.png"
    Image.fromarray(np.ascontiguousarray(np.rot90(panoptic_png.read_rgb(path)))).save(path)
    with pytest.raises(DataError, match=r"(?s)8 x 6 \(width x height\), the prediction 6 x 8.*EXIF.*--exif ignore"):
        score((predictions, annotations))


def test_a_wrong_area_in_the_json_is_a_warning_and_changes_nothing(
    files: Callable[..., tuple[Path, Path]],
) -> None:
    def change(gt: dict[str, Any], pred: dict[str, Any]) -> None:
        gt["annotations"][0]["segments_info"][0]["area"] = 3

    scores = score(files(change))
    assert scores.panoptic["All"]["pq"] == 1.0
    (warning,) = scores.warnings
    assert "segment 12 has 24 pixels, its JSON says 3" in warning


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda gt, pred: pred.pop("annotations"), r"pred\.json has no list of annotations"),
        (
            lambda gt, pred: pred["annotations"][1].pop("file_name"),
            r"annotations\[1\] of .*pred\.json has no file_name",
        ),
        (
            lambda gt, pred: pred["annotations"].append(4),
            r"annotations\[3\] of .*pred\.json is not an object",
        ),
        (lambda gt, pred: gt.pop("categories"), r"gt\.json has no list of categories"),
        (
            lambda gt, pred: pred["annotations"].append(pred["annotations"][2]),
            r"pred\.json lists images twice: 3",
        ),
        (
            lambda gt, pred: pred["annotations"][0]["segments_info"][0].pop("category_id"),
            "Image 1: segments_info",
        ),
        (
            lambda gt, pred: pred["annotations"][0]["segments_info"][0].update(id=12.5),
            "Image 1: segments_info of the prediction .* whole numbers",
        ),
        (
            lambda gt, pred: pred["annotations"][0].update(image_id=[1]),
            r"annotations\[0\] of .*pred\.json has an invalid image_id: \[1\]",
        ),
    ],
)
def test_broken_files_are_described(files: Callable[..., tuple[Path, Path]], change: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        score(files(change))


def test_workers_do_not_import_the_main_module(files: Callable[..., tuple[Path, Path]], tmp_path: Path) -> None:
    """It is the command line, whose import takes as long as scoring a hundred pictures."""
    predictions, annotations = files()
    script = tmp_path / "main.py"
    script.write_text(
        f"""
import pathlib
with open({str(tmp_path / "imports")!r}, "a") as log:
    log.write(__name__ + "\\n")
if __name__ == "__main__":
    from panoptic_cli.evaluation import file_scoring, result_files
    file_scoring._CHUNK = 1
    files = result_files.ResultFiles(pathlib.Path({str(predictions)!r}), pathlib.Path({str(annotations)!r}))
    assert file_scoring.score_files(files, workers=2).images == 3
"""
    )
    subprocess.run([sys.executable, str(script)], check=True)
    assert (tmp_path / "imports").read_text() == "__main__\n"
