"""Names in evaluate, predict, export and train, with networks of the published architecture, but an eighth as wide."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from cloud_emulator import emulator
from garden import BUCKET
from panoptic_cli.commands.main import run
from test_model_garden import NARROW, objects, stored_values

from panoptic_cli.coco.official_categories import coco_panoptic_categories
from panoptic_cli.weights.published import published_checkpoints

NAME = "panoptic_fpn_r50_3x"
WIDTHS = NARROW | {"input_size": "[128,128,3]"}
SMALL = [word for key, value in WIDTHS.items() for word in ("--set", f"task.model.{key}={value}")]


def panoptic(*words: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run([str(word) for word in words])
    return code, out.getvalue(), " ".join(err.getvalue().split())


def result(*words: object) -> dict[str, Any]:
    code, out, err = panoptic(*words, "--json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATA_DIR", "MODEL_DIR", "EVAL_DATA", "ANNOTATION_FILE", "CATEGORIES", "OUTPUT", "INIT_CHECKPOINT"):
        monkeypatch.delenv(f"PANOPTIC_{name}", raising=False)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint of the narrow network in the Model Garden's layout."""
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("garden")
    tf.train.Checkpoint(model=tf.train.Checkpoint(**objects(stored_values()))).save(str(folder / "ckpt"))
    return folder


@pytest.fixture(scope="module")
def cached(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache into which `panoptic predict` fetched the checkpoint from an emulated bucket, which is gone by now.

    What it predicted is in the folder `out` beside the cache.
    """
    from google.cloud import storage

    folder = tmp_path_factory.mktemp("home")
    _draw(folder / "photo.jpg")
    with pytest.MonkeyPatch.context() as monkeypatch, emulator(BUCKET) as url:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setenv("PANOPTIC_CACHE", str(folder / "cache"))
        place = storage.Client.create_anonymous_client().bucket(BUCKET)
        _, _, path = published_checkpoints()[NAME].source.removeprefix("gs://").partition("/")
        for file in checkpoint.iterdir():
            place.blob(f"{path}/{file.name}").upload_from_filename(file)
        words = ("predict", folder / "photo.jpg", "--score-threshold", 0, "--output", folder / "out")
        code, _, err = panoptic(*words, "--checkpoint", NAME, *SMALL)
        assert code == 0, err
        assert f"Fetching {NAME}" in err
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("PANOPTIC_CACHE", str(folder / "cache"))
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
        yield folder / "cache"


def _draw(path: Path) -> None:
    import numpy as np
    from PIL import Image

    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)).resize((120, 90)).save(path)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    _draw(tmp_path / "photo.jpg")
    return tmp_path / "photo.jpg"


@pytest.mark.slow
def test_predict_needs_nothing_but_the_name(cached: Path) -> None:
    content = json.loads((cached.parent / "out" / "pred.json").read_text())
    assert [c["name"] for c in content["categories"]] == [c.name for c in coco_panoptic_categories().categories]
    assert [a["file_name"] for a in content["annotations"]] == ["photo.png"]


@pytest.mark.slow
def test_predict_gives_the_same_as_with_the_path(cached: Path, checkpoint: Path, tmp_path: Path) -> None:
    categories = tmp_path / "categories.json"
    categories.write_text(json.dumps(coco_panoptic_categories().to_list()))
    words = ("predict", cached.parent / "photo.jpg", "--score-threshold", 0, "--output", tmp_path / "out")
    result(*words, "--checkpoint", checkpoint, "--categories", categories, *SMALL)
    for name in ("pred/photo.png", "overlay/photo.png"):
        assert (cached.parent / "out" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.shared
def test_evaluate(cached: Path, coco100: Path, tmp_path: Path) -> None:
    data = tmp_path / "coco"
    for name in ("val2017", "panoptic_val2017", "annotations"):
        (data / name).mkdir(parents=True)
    ids = {int(path.stem) for path in sorted((coco100 / "val2017").iterdir())[:2]}
    for kind in ("panoptic", "instances"):
        value = json.loads((coco100 / f"annotations/{kind}_val2017.json").read_text())
        value["images"] = [image for image in value["images"] if image["id"] in ids]
        value["annotations"] = [entry for entry in value["annotations"] if entry["image_id"] in ids]
        (data / f"annotations/{kind}_val2017.json").write_text(json.dumps(value))
    for identifier in ids:
        shutil.copy(coco100 / f"val2017/{identifier:012d}.jpg", data / "val2017")
        shutil.copy(coco100 / f"panoptic_val2017/{identifier:012d}.png", data / "panoptic_val2017")
    assert panoptic("make-tfrecords", "--data-dir", data, "--split", "val", "--val-shards", 1, "--workers", 1)[0] == 0
    found = result("evaluate", "--checkpoint", NAME, *SMALL, "--data-dir", data)
    assert found["images"] == 2
    assert found["panoptic"]["All"]["n"] > 0


@pytest.mark.slow
def test_export(cached: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.tflite"
    found = result("export", "--checkpoint", NAME, *SMALL, "--format", "tflite", "--output", model)
    assert found["tflite"] == str(model)
    assert model.stat().st_size > 1_000_000


def test_a_dry_run_fetches_nothing(photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PANOPTIC_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # importing it fails
    assert result("predict", photo, "--checkpoint", NAME, "--dry-run")["model"] == NAME
    assert result("export", "--checkpoint", NAME, "--output", tmp_path / "x", "--dry-run")["checkpoint"] == NAME
    monkeypatch.setenv("PANOPTIC_MODEL_DIR", str(tmp_path / "some_run"))  # where runs usually are
    assert result("predict", photo, "--checkpoint", NAME, "--dry-run")["model"] == NAME
    assert not (tmp_path / "empty").exists()


def test_mistakes_do_not_import_tensorflow(photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from panoptic_cli.transfer import objects

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(objects, "_PATIENCE", 0.5)
    monkeypatch.setenv("PANOPTIC_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "panoptic_cli.inference.predictor", None)  # the first to import TensorFlow
    predict = ("predict", photo, "--output", tmp_path / "out", "--checkpoint")
    code, _, err = panoptic(*predict, "panoptic_fpn_r50_2x")
    assert (code, "Did you mean panoptic_fpn_r50_3x?" in err) == (2, True)
    code, _, err = panoptic(*predict, "resnet50_imagenet")
    assert (code, "which only initialises a training" in err) == (2, True)
    code, _, err = panoptic(*predict, NAME)
    assert code == 1
    assert f"{NAME} is not in the cache, and gs://tf_model_garden/" in err
    assert f"into {tmp_path}/empty/{NAME}." in err
    (tmp_path / "other.json").write_text(json.dumps([{"id": 1, "name": "person", "isthing": 1}]))
    code, _, err = panoptic(*predict, NAME, "--categories", tmp_path / "other.json")
    assert (code, "not those that the run was trained with" in err) == (2, True)
    assert not (tmp_path / "out").exists()


def test_models_lists_and_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("PANOPTIC_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    (tmp_path / NAME).mkdir()
    for suffix in ("index", "data-00000-of-00001"):
        (tmp_path / NAME / f"ckpt-1.{suffix}").write_bytes(bytes(500))
    code, out, _ = panoptic("models")
    assert code == 0
    assert max(map(len, out.splitlines()[:-1])) <= 80
    (row,) = [line for line in out.splitlines() if line.startswith(NAME)]
    assert row.split()[-6:] == ["Apache-2.0", "40.9", "48.8", "M", "1024", "cached"]
    found = {item["name"]: item for item in result("models")["models"]}
    assert list(found) == list(published_checkpoints())
    assert [name for name, item in found.items() if item["cached"]] == [NAME]
    assert (found[NAME]["bytes"], found["panoptic_fpn_r50_1x"]["bytes"]) == (1000, None)
    assert found[NAME]["place"] == str(tmp_path / NAME / "ckpt-1")

    code, out, _ = panoptic("models", NAME)
    assert code == 0
    for part in ("PQ 40.91", "TensorFlow Model Garden, not with panoptic", "48,809,824", "1024x1024", "Apache-2.0"):
        assert part in out
    code, out, _ = panoptic("models", "resnet50_imagenet")
    assert "panoptic train --init-checkpoint resnet50_imagenet" in out
    assert "PQ" not in out
    code, out, err = panoptic("models", "resnet50")
    assert (code, out, "Did you mean resnet50_imagenet?" in err) == (2, "", True)


@pytest.mark.parametrize("name", published_checkpoints())
def test_the_lines_that_use_a_checkpoint_are_right(name: str) -> None:
    import shlex

    import typer
    from panoptic_cli.commands.main import app

    group: Any = typer.main.get_command(app)
    for line in result("models", name)["commands"]:
        program, command, *words = shlex.split(line)
        assert program == "panoptic"
        group.commands[command].make_context(command, words)
