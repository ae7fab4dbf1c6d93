"""evaluate, predict and export as a user runs them, on the run directory of a very small network."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from panoptic_cli.commands.main import run
from PIL import Image

from panoptic_cli.images import panoptic_png


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


def panoptic(*words: object) -> Outcome:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run([str(word) for word in words])
    return Outcome(code, out.getvalue(), err.getvalue())


def fails(code: int, *words: object) -> str:
    """The error of a command line, which must be all that it prints."""
    outcome = panoptic(*words)
    assert outcome.code == code, outcome
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    assert "bug in panoptic" not in outcome.err
    return outcome.err


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATA_DIR", "MODEL_DIR", "EVAL_DATA", "ANNOTATION_FILE", "CATEGORIES", "OUTPUT"):
        monkeypatch.delenv(f"PANOPTIC_{name}", raising=False)


def check_panoptic_result(folder: Path) -> dict[int | str, dict[str, Any]]:
    """pred.json says exactly what its PNGs show; returns its annotations by image id."""
    content = json.loads((folder / "pred.json").read_text())
    known = {category["id"] for category in content["categories"]}
    names = [annotation["file_name"] for annotation in content["annotations"]]
    assert sorted(names) == sorted(path.name for path in (folder / "pred").iterdir())
    for annotation in content["annotations"]:
        ids = panoptic_png.rgb_to_ids(np.asarray(Image.open(folder / "pred" / annotation["file_name"])))
        listed = {segment["id"]: segment for segment in annotation["segments_info"]}
        assert set(np.unique(ids)) - {0} == listed.keys()
        for identifier, segment in listed.items():
            rows, columns = np.nonzero(ids == identifier)
            assert segment["area"] == len(rows)
            x, y = columns.min(), rows.min()
            assert segment["bbox"] == [x, y, columns.max() + 1 - x, rows.max() + 1 - y]
            assert segment["category_id"] in known
    return {annotation["image_id"]: annotation for annotation in content["annotations"]}


class Evaluated(NamedTuple):
    outcome: Outcome
    folder: Path


@pytest.fixture(scope="module")
def evaluated(tiny_run: Path, shapes_records: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    """`panoptic evaluate` with nothing but the run directory and the records."""
    folder = tmp_path_factory.mktemp("evaluated") / "out"
    words = ("evaluate", "--model-dir", tiny_run, "--eval-data", f"{shapes_records}/val-*", "--output", folder)
    return Evaluated(panoptic(*words, "--json"), folder)


def test_evaluate_prints_one_object_of_the_contracts_shape(evaluated: Evaluated) -> None:
    assert evaluated.outcome.code == 0, evaluated.outcome.err
    assert evaluated.outcome.out.count("\n") == 1
    result = json.loads(evaluated.outcome.out)
    for group in ("All", "Things", "Stuff"):
        figures = result["panoptic"][group]
        assert figures.keys() == {"pq", "sq", "rq", "n"}
        assert all(0.0 <= figures[key] <= 1.0 for key in ("pq", "sq", "rq"))
    assert [result["panoptic"][group]["n"] for group in ("All", "Things", "Stuff")] == [6, 3, 3]
    for kind in ("box", "mask"):
        assert {"AP", "AP50", "AP75", "APs", "APm", "APl"} <= result[kind].keys()
        assert all(value is None or 0.0 <= value <= 1.0 for value in result[kind].values())
    assert result["images"] == 4
    assert result["images_per_second"] > 0.0
    assert result["step"] == 3
    assert result["per_class"].keys() == result["panoptic"]["per_class"].keys()
    for kind in ("box", "mask"):  # AP is the mean of that of its categories
        found = [entry[f"{kind}_AP"] for entry in result["per_class"].values()]
        measured = [ap for ap in found if ap is not None]
        assert len(measured) == 3
        assert result[kind]["AP"] == pytest.approx(np.mean(measured), abs=1e-12)
    assert json.loads((evaluated.folder / "metrics.json").read_text()) == result


def test_evaluate_writes_predictions_in_cocos_format(evaluated: Evaluated, shapes_dir: Path) -> None:
    assert sorted(p.name for p in evaluated.folder.iterdir()) == [
        "detections.json",
        "metrics.json",
        "pred",
        "pred.json",
    ]
    found = check_panoptic_result(evaluated.folder)
    images = json.loads((shapes_dir / "annotations/panoptic_val2017.json").read_text())["images"]
    sizes = {image["id"]: [image["height"], image["width"]] for image in images}
    assert found.keys() == sizes.keys()
    assert any(len(annotation["segments_info"]) > 2 for annotation in found.values())
    detections = json.loads((evaluated.folder / "detections.json").read_text())
    assert detections
    for detection in detections:
        assert detection["segmentation"]["size"] == sizes[detection["image_id"]]
        assert 0.0 < detection["score"] <= 1.0


def test_scoring_the_written_file_gives_the_same_figures(evaluated: Evaluated, shapes_dir: Path) -> None:
    truth = ("--panoptic-annotations", shapes_dir / "annotations/panoptic_val2017.json")
    masks = ("--panoptic-masks", shapes_dir / "panoptic_val2017")
    scored = panoptic("evaluate", "--predictions", evaluated.folder / "pred.json", *truth, *masks, "--json")
    assert scored.code == 0, scored.err
    assert scored.out.count("\n") == 1
    from_file, from_model = json.loads(scored.out), json.loads(evaluated.outcome.out)
    assert from_file["panoptic"] == from_model["panoptic"]
    assert from_file["panoptic"]["All"]["pq"] > 0.0
    assert from_file["images"] == 4


@pytest.fixture(scope="module")
def odd_pictures(shapes_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Path, tuple[int, int]]:
    """{file: (width, height) as people see it} of pictures of every kind; (0, 0) for broken ones."""
    folder = tmp_path_factory.mktemp("pictures")
    color = Image.open(sorted((shapes_dir / "val2017").glob("*.jpg"))[0])
    (folder / "one").mkdir()
    (folder / "two").mkdir()
    grey, transparent, turned, printed = color.convert("L"), color.convert("RGBA"), Image.Exif(), color.convert("CMYK")
    transparent.putalpha(100)
    turned[0x0112] = 6
    grey.save(folder / "grey.jpg")
    transparent.save(folder / "transparent.png")
    color.save(folder / "turned.jpg", exif=turned)
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 256).save(folder / "deep.png")
    printed.save(folder / "printed.jpg")
    color.resize((300, 200)).save(folder / "large.png")
    color.resize((200, 1)).save(folder / "line.png")
    color.save(folder / "one" / "same.jpg")
    color.resize((50, 70)).save(folder / "two" / "same.png")
    color.save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:1000])
    (folder / "text.jpg").write_text("no picture")
    sizes = dict.fromkeys(("grey.jpg", "transparent.png", "deep.png", "printed.jpg", "one/same.jpg"), color.size)
    sizes |= {"turned.jpg": color.size[::-1], "large.png": (300, 200), "line.png": (200, 1), "two/same.png": (50, 70)}
    sizes |= {"cut.jpg": (0, 0), "text.jpg": (0, 0)}
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*.*g")) == sorted(sizes)
    return {folder / name: size for name, size in sizes.items()}


def test_predict(
    tiny_run: Path,
    evaluated: Evaluated,
    odd_pictures: dict[Path, tuple[int, int]],
    shapes_dir: Path,
    tmp_path: Path,
) -> None:
    known = sorted((shapes_dir / "val2017").glob("*.jpg"))
    output = tmp_path / "out"
    outcome = panoptic(
        *("predict", *odd_pictures, shapes_dir / "val2017", "--model-dir", tiny_run, "--output", output, "--json")
    )
    assert outcome.code == 1, outcome  # two are broken
    assert "error" not in json.loads(outcome.out), outcome
    assert outcome.out.count("\n") == 1
    result = json.loads(outcome.out)
    broken = {path for path, size in odd_pictures.items() if size == (0, 0)}
    assert result["failed"].keys() == {str(path) for path in broken}
    for path in broken:
        assert str(path) in outcome.err

    good = [path for path in [*odd_pictures, *known] if path not in broken]
    assert len(result["overlays"]) == len(set(result["overlays"])) == len(good) == 13
    predictions = list(check_panoptic_result(output).values())
    for path, overlay, prediction in zip(good, result["overlays"], predictions, strict=True):
        size = odd_pictures.get(path) or Image.open(path).size
        assert Image.open(overlay).size == size, path
        assert Image.open(output / "pred" / prediction["file_name"]).size == size, path
        assert Path(overlay).name == prediction["file_name"]
        assert Path(overlay).stem.startswith(path.stem)

    # The same pictures through evaluate: the same prediction, pixel by pixel.
    of_evaluate = check_panoptic_result(evaluated.folder)
    for path in known:
        name = f"{path.stem}.png"
        assert (output / "pred" / name).read_bytes() == (evaluated.folder / "pred" / name).read_bytes()
        mine = next(p["segments_info"] for p in predictions if p["file_name"] == name)
        assert mine == of_evaluate[int(path.stem)]["segments_info"]

    # Only what fusion takes is listed: detections above the run's own threshold.
    scores = [detection["score"] for detection in json.loads((output / "detections.json").read_text())]
    assert scores
    assert min(scores) > 0.1


def test_predict_does_not_take_its_own_output_for_input(
    tiny_run: Path, shapes_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(next((shapes_dir / "val2017").glob("*.jpg")), "photo.jpg")
    for folder in ("overlay", "pred"):
        (tmp_path / "predictions" / folder).mkdir(parents=True)
        shutil.copy("photo.jpg", tmp_path / "predictions" / folder / "photo.png")
    outcome = panoptic("predict", ".", "--model-dir", tiny_run, "--dry-run", "--json")
    assert json.loads(outcome.out)["pictures"] == ["photo.jpg"]


def test_a_submission_scores_like_evaluate(
    tiny_run: Path, evaluated: Evaluated, shapes_dir: Path, tmp_path: Path
) -> None:
    truth = shapes_dir / "annotations/panoptic_val2017.json"
    content = json.loads(truth.read_text())
    # As COCO lists its test pictures: in another order than the files, without annotations, with other categories.
    listed = {"images": content["images"][::-1], "categories": [{"id": content["categories"][0]["id"], "name": "axe"}]}
    (tmp_path / "image_info_test-dev2017.json").write_text(json.dumps(listed))
    words: tuple[object, ...] = ("predict", "--image-info", tmp_path / "image_info_test-dev2017.json")
    words += ("--image-dir", shapes_dir / "val2017", "--model-dir", tiny_run, "--output", tmp_path / "out", "--json")
    stem = "panoptic_test-dev2017_run_results"
    assert json.loads(panoptic(*words, "--dry-run").out)["submission"] == str(tmp_path / "out" / f"{stem}.zip")
    assert not (tmp_path / "out").exists()
    outcome = panoptic(*words)
    assert outcome.code == 0, outcome.err
    assert "has other categories than the model" in outcome.err
    assert "is 'axe' there" in outcome.err
    result = json.loads(outcome.out)
    assert result["submission"] == str(tmp_path / "out" / f"{stem}.zip")
    assert result["overlays"] == []
    written = ["detections.json", f"{stem}.zip", "pred", "pred.json"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == written
    with zipfile.ZipFile(result["submission"]) as packed:
        packed.extractall(tmp_path / "server")
    assert sorted(path.name for path in (tmp_path / "server").iterdir()) == [stem, f"{stem}.json"]
    masks = ("--panoptic-masks", shapes_dir / "panoptic_val2017")
    scored = panoptic(
        *("evaluate", "--predictions", tmp_path / "server" / f"{stem}.json", "--panoptic-annotations", truth),
        *(*masks, "--json"),
    )
    assert scored.code == 0, scored.err
    assert json.loads(scored.out)["panoptic"] == json.loads(evaluated.outcome.out)["panoptic"]


def test_submission_usage(tiny_run: Path, shapes_dir: Path, tmp_path: Path) -> None:
    info = ("--image-info", shapes_dir / "annotations/panoptic_val2017.json")
    folder = ("--image-dir", shapes_dir / "val2017")
    words = ("predict", "--model-dir", tiny_run, "--output", tmp_path / "out")
    assert "--image-dir needs --image-info" in fails(2, *words, *folder)
    assert "needs their folder" in fails(2, *words, *info)
    assert "name all pictures" in fails(2, *words, *info, *folder, shapes_dir / "val2017")
    assert "--submission-name needs" in fails(2, *words, shapes_dir / "val2017", "--submission-name", "x")
    error = fails(1, *words, *info, "--image-dir", shapes_dir / "train2017")
    assert "lacks 4 of the 4 pictures" in error
    named = panoptic(*words, *info, *folder, "--submission-name", "Our net", "--dry-run", "--json")
    assert json.loads(named.out)["submission"] == str(tmp_path / "out" / "panoptic_val2017_Our-net_results.zip")
    assert list(tmp_path.iterdir()) == []


def test_export(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("")
    error = fails(1, "export", "--model-dir", tiny_run, "--output", tmp_path / "thesis")
    assert "--output" in error
    assert [p.name for p in tmp_path.rglob("*")] == ["thesis", "chapter.txt"]

    dry = panoptic("export", "--model-dir", tiny_run, "--dry-run", "--json")
    assert json.loads(dry.out)["saved_model"] == f"{tiny_run}/saved_model"
    assert not (tiny_run / "saved_model").exists()

    words = ("export", "--model-dir", tiny_run, "--input-type", "image_bytes", "--image-size", "32,96")
    outcome = panoptic(*words, "--batch-size", 1, "--output", tmp_path / "model", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("\n") == 1
    assert json.loads(outcome.out)["input_size"] == [32, 96]
    described = json.loads((tmp_path / "model/assets/panoptic.json").read_text())
    assert (described["input_type"], described["batch_size"], described["step"]) == ("image_bytes", 1, 3)
    assert (tmp_path / "model/saved_model.pb").is_file()


def test_a_run_without_a_checkpoint(tiny_run: Path, shapes_dir: Path, tmp_path: Path) -> None:
    young = tmp_path / "young"
    young.mkdir()
    for name in ("config.yaml", "categories.json"):
        shutil.copy(tiny_run / name, young)
    before = sorted(tmp_path.rglob("*"))
    for words in (["evaluate"], ["predict", shapes_dir / "val2017"], ["export"]):
        error = fails(1, *words, "--model-dir", young)
        assert "has no checkpoint yet" in error
        assert "panoptic train" in error
    assert sorted(tmp_path.rglob("*")) == before


def test_checkpoint_of_another_configuration(tiny_run: Path, shapes_records: Path, tmp_path: Path) -> None:
    # By overriding the run's own configuration, and by naming a preset that it does not come from.
    key = "task.model.segmentation_model.head.num_filters=24"
    error = fails(1, "export", "--model-dir", tiny_run, "--set", key, "--output", tmp_path / "model")
    assert "does not match the configuration" in error
    assert error.count("in the checkpoint and") >= 2  # each variable with both shapes
    assert "24" in error
    words = ("--checkpoint", tiny_run / "checkpoints/ckpt-3", "--experiment", "panoptic_fpn_shapes")
    error = fails(1, "evaluate", *words, "--eval-data", f"{shapes_records}/val-*", "--output", tmp_path / "out")
    assert "does not match the configuration" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["", "checkpoints", "checkpoints/ckpt-3"])
def test_a_checkpoint_within_a_run_brings_its_configuration(tiny_run: Path, tmp_path: Path, place: str) -> None:
    words = ("export", "--checkpoint", tiny_run / place, "--output", tmp_path / "model", "--dry-run", "--json")
    outcome = panoptic(*words)
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["checkpoint"] == str(tiny_run / place)


def test_a_checkpoint_needs_categories(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("--checkpoint", tiny_run / "checkpoints/ckpt-3", "--experiment", "panoptic_fpn_shapes")
    assert "--categories" in fails(1, "export", *words, "--output", "model")
    assert "needs --output" in fails(2, "export", *words, "--categories", tiny_run / "categories.json")
    missing = ("--checkpoint", "nowhere/ckpt-1", "--experiment", "panoptic_fpn_shapes")
    error = fails(1, "export", *missing, "--categories", tiny_run / "categories.json", "--output", "model")
    assert "The checkpoint nowhere/ckpt-1 does not exist" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_unavailable_devices(tiny_run: Path, shapes_dir: Path, tmp_path: Path, command: str) -> None:
    pictures = [shapes_dir / "val2017"] if command == "predict" else []
    error = fails(2, command, *pictures, "--model-dir", tiny_run, "--gpus", 3, "--output", tmp_path / "out")
    assert error.startswith("error: --gpus 3: TensorFlow has no GPU: ")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_run_takes_no_other_configuration(tiny_run: Path, tmp_path: Path) -> None:
    run_dir = ("export", "--model-dir", tiny_run, "--output", tmp_path / "model", "--dry-run")
    (tmp_path / "c.yaml").write_text("task: {}")
    assert "--config goes with --checkpoint" in fails(2, *run_dir, "--config", tmp_path / "c.yaml")
    assert "not of panoptic_fpn_coco" in fails(2, *run_dir, "--experiment", "panoptic_fpn_coco")
    assert panoptic(*run_dir, "--experiment", "panoptic_fpn_shapes").code == 0
    categories = json.loads((tiny_run / "categories.json").read_text())
    renamed = [{**entry, "name": f"my {entry['name']}"} for entry in reversed(categories)]
    (tmp_path / "renamed.json").write_text(json.dumps(renamed))
    assert panoptic(*run_dir, "--categories", tmp_path / "renamed.json").code == 0
    (tmp_path / "fewer.json").write_text(json.dumps(categories[1:]))
    assert "not those that the run" in fails(2, *run_dir, "--categories", tmp_path / "fewer.json")
    told = fails(2, *run_dir, "--set", "task.model.eomt.image_size=64")
    assert "task.model.eomt.image_size changes nothing: the network has task.model.type panoptic_fpn." in told


def test_evaluate_usage(tiny_run: Path, shapes_records: Path, tmp_path: Path) -> None:
    scoring = ("evaluate", "--predictions", tmp_path / "pred.json", "--panoptic-annotations", tmp_path / "gt.json")
    assert "omit --model-dir" in fails(2, *scoring, "--model-dir", tiny_run)
    assert "omit --checkpoint" in fails(2, *scoring, "--checkpoint", tiny_run)
    assert "omit --set" in fails(2, *scoring, "--set", "task.freeze_backbone=true")
    assert "omit --config" in fails(2, *scoring, "--config", tmp_path / "some.yaml")
    assert "omit --watch" in fails(2, *scoring, "--watch")
    assert "gt.json does not exist" in fails(1, *scoring)
    model = ("evaluate", "--model-dir", tiny_run)
    for option in ("--predictions-dir", "--panoptic-annotations", "--panoptic-masks"):
        assert f"{option} is for scoring a result file" in fails(2, *model, option, tmp_path)
    (tmp_path / "file").write_text("")
    assert "is a file" in fails(2, *model, "--output", tmp_path / "file")
    assert "missing/val-*" in fails(1, *model, "--eval-data", tmp_path / "missing/val-*")


def test_evaluate_takes_the_runs_records_unless_others_are_named(
    tiny_run: Path, shapes_records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def records(*words: object) -> str:
        outcome = panoptic("evaluate", "--model-dir", tiny_run, "--dry-run", "--json", *words)
        assert outcome.code == 0, outcome.err
        return str(json.loads(outcome.out)["records"])

    own = f"{shapes_records}/val-*"
    assert records() == own
    (tmp_path / "tfrecords").mkdir()
    (tmp_path / "tfrecords" / "val-00000-of-00001.tfrecord").write_bytes(b"")
    assert records("--data-dir", tmp_path) == f"{tmp_path}/tfrecords/val-*"
    assert records("--data-dir", tmp_path, "--eval-data", own) == own
    monkeypatch.setenv("PANOPTIC_DATA_DIR", str(tmp_path))  # says where data usually is
    assert records() == own
