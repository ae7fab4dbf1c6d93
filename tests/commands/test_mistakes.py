"""Common mistakes. Each gives a one-line error with what, where and what next, and the right exit code; nothing is
written, and TensorFlow is not imported.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hub_server import hub_server
from huggingface_hub import constants
from panoptic_cli.commands.main import run

from panoptic_cli.categories import read_categories
from panoptic_cli.config import load_experiment
from panoptic_cli.runs.run_directory import RunDirectory

Prepare = Callable[[Path], None]


class Mistake(NamedTuple):
    """A mistake.

    Attributes:
        line: the command line; `{records}` and `{data}` are folders of the generated data set.
        code: the exit code.
        words: parts of the message: what is wrong, where, and what to do.
        prepare: creates the files that the mistake needs in the current folder.
    """

    line: str
    code: int
    words: tuple[str, ...]
    prepare: Prepare = lambda folder: None


def _text(name: str, text: str) -> Prepare:
    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)

    return write


def _changed(name: str, change: Callable[[Any], None]) -> Prepare:
    """Returns a function that changes a JSON file of the copied data set."""

    def write(folder: Path) -> None:
        path = folder / "mine" / "annotations" / name
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))

    return write


def _without(pattern: str) -> Prepare:
    def remove(folder: Path) -> None:
        next((folder / "mine").glob(pattern)).unlink()

    return remove


def _cut(pattern: str) -> Prepare:
    def cut(folder: Path) -> None:
        path = next((folder / "mine").glob(pattern))
        path.write_bytes(path.read_bytes()[:-100])

    return cut


_TRAIN = (
    "train --experiment panoptic_fpn_shapes --data-dir {data} --train-data {records}/train-*"
    " --eval-data {records}/val-* --model-dir run"
)
_CONVERT = "make-tfrecords --data-dir mine --split val --workers 1"
_COMPOSE = "make-panoptic --object-annotations mine/annotations/instances_val2017.json"
_EOMT = "train --experiment eomt_coco_small_640 --set task.model.eomt."
_SCORE = "evaluate --predictions pred.json --panoptic-annotations mine/annotations/panoptic_val2017.json"

MISTAKES = [
    # Commands and options.
    Mistake("trian", 2, ("No such command 'trian'. Did you mean 'train'? See", "panoptic --help")),
    Mistake("train --step 3", 2, ("--step", "--steps", "panoptic train --help")),
    Mistake("make-tfrecords -q", 2, ("-q must come before the command: panoptic -q make-tfrecords",)),
    Mistake("-q train --steps", 2, ("'--steps' requires an argument", "panoptic train --help")),
    Mistake("train --steps 2.5", 2, ("'--steps': must be an integer, not '2.5'. See", "panoptic train --help")),
    Mistake("make-tfrecords --workers 0", 2, ("'--workers'", "at least 1, not '0'", "panoptic make-tfrecords")),
    Mistake("download --split test", 2, ("'--split': 'test' is not one of 'train', 'val'. See",)),
    Mistake("make-tfrecords --split test", 2, ("--split", "train or val", "'test'")),
    Mistake("predict", 2, ("no pictures", "pictures, folders or patterns", "--list FILE")),
    Mistake("upload", 2, ("[SOURCE] gs://BUCKET/PREFIX", "panoptic upload --help")),
    Mistake("export --format pb", 2, ("'--format': 'pb' is not one of", "'onnx'")),
    Mistake("export --image-size big", 2, ("--image-size", "big")),
    Mistake("make-panoptic mine", 2, ("Unexpected argument: mine. See 'panoptic make-panoptic --help'",)),
    Mistake("predict mine/val2017 --exif rotate", 2, ("'--exif': 'rotate' is not one of 'apply', 'ignore'",)),
    Mistake("predict mine/val2017 --alpha=2", 2, ("'--alpha': must be at most 1, not '2'",)),
    Mistake("evaluate --report mine", 2, ("'--report': 'mine' is a folder, not a file",)),
    Mistake("evaluate --workers 3", 2, ("--workers is for scoring a result file", "give --predictions, or omit")),
    Mistake("evaluate --predictions pred.json --limit 3", 2, ("--predictions scores a file: omit --limit",)),
    Mistake("evaluate --watch --checkpoint here", 2, ("--watch follows a run directory: omit --checkpoint",)),
    Mistake("inspect mine --augmented", 2, ("--augmented needs --draw N and --output DIR",)),
    Mistake(
        "export --format tflite --input-type image_bytes", 2, ("--format tflite contains only the network", "Omit")
    ),
    Mistake(_CONVERT + " --val-share 2", 2, ("--val-share must be between 0 and 1, not 2", "--val-share 0.1")),
    Mistake(_CONVERT + " --seed 3", 2, ("--seed is for dividing a split", "--val-share X")),
    Mistake(_CONVERT + " --runner-option a=b", 2, ("--runner-option is for Apache Beam", "Give --runner NAME")),
    # Configuration.
    Mistake("train --experiment coco", 2, ("coco", "panoptic_fpn_coco", "panoptic_fpn_shapes")),
    Mistake("train --schedule 2x", 2, ("2x", "1x", "3x")),
    Mistake("train --set trainer.train_step=3", 2, ("trainer.train_step", "train_steps")),
    Mistake("train --set trainer.train_steps=many", 2, ("trainer.train_steps: must be an integer, not 'many'",)),
    Mistake("train --set trainer", 2, ("'trainer'", "key.subkey=value", "trainer.train_steps=1000")),
    Mistake("train --config mine.yaml", 2, ("mine.yaml", "does not exist")),
    Mistake("train --config mine", 2, ("mine cannot be read: Is a directory", "Give a YAML file")),
    Mistake(
        "train --config mine.yaml",
        2,
        ("mine.yaml is not valid YAML: line 2, column 12: expected ',' or ']'",),
        _text("mine.yaml", "\ntask: [1, 2"),
    ),
    Mistake(
        "train --config mine.yaml",
        2,
        ("mine.yaml", "task.modl: unknown key (did you mean model?)"),
        _text("mine.yaml", "task: {modl: {}}"),
    ),
    Mistake("train --set task.model.input_size=[100,100,3]", 2, ("input_size", "multiples of 64")),
    Mistake("train --steps 10 --epochs 2 --train-data {records}/train-*", 2, ("--epochs", "--steps", "Give only one")),
    Mistake(_TRAIN + " --accumulate 0", 2, ("'--accumulate': must be at least 1, not '0'",)),
    Mistake(_TRAIN + " --set trainer.validation_steps=0", 2, ("trainer.validation_steps: must be -1 for all batches",)),
    Mistake(
        _TRAIN + " --set trainer.early_stopping.patience=0",
        2,
        ("trainer.early_stopping.patience: must be greater than 0, not 0",),
    ),
    Mistake(_EOMT + "num_attention_heads=5", 2, ("eomt: hidden_size 384 must be a multiple of num_attention_heads 5",)),
    Mistake(_EOMT + "hidden_size=100", 2, ("eomt: hidden_size 100 must be a multiple of num_attention_heads 6",)),
    Mistake(_EOMT + "image_size=650", 2, ("eomt: image_size 650 must be a multiple of patch_size 16",)),
    Mistake(
        "train --set task.model.eomt.image_size=640",
        2,
        (
            "task.model.eomt.image_size changes nothing",
            "task.model.type panoptic_fpn",
            "--experiment",
            "--print-config",
        ),
    ),
    # Devices.
    Mistake(_TRAIN + " --tpu v3 --gpus 2", 2, ("--tpu", "--gpus", "Give only one")),
    Mistake(_TRAIN + " --tpu v3 --precision float16", 2, ("float16", "bfloat16")),
    Mistake(_TRAIN + " --tpu v3", 2, ("v3 cannot write to the local directory run", "gs://")),
    Mistake(_TRAIN + " --gpus 3 --batch-size 8", 2, ("8 is not divisible by", "use --batch-size 9")),
    Mistake(_TRAIN + " --tpu-zone here", 2, ("--tpu-zone", "--tpu NAME")),
    Mistake("evaluate --tpu local", 2, ("TPU", "shapes")),
    # Checkpoints by name.
    Mistake("models eomt_larg_640", 2, ("no published checkpoint 'eomt_larg_640'", "Did you mean eomt_large_640?")),
    Mistake("models mine", 2, ("no published checkpoint 'mine'", "panoptic models lists the names: eomt_small_640,")),
    Mistake("predict mine/val2017 --checkpoint eomt_larg_640", 2, ("neither a file", "Did you mean eomt_large_640?")),
    Mistake(
        "evaluate --checkpoint mine/no", 1, ("The checkpoint mine/no does not exist", "--model-dir", "models lists")
    ),
    Mistake(
        "export --checkpoint resnet50_imagenet", 2, ("backbone without heads", "--init-checkpoint resnet50_imagenet")
    ),
    Mistake(
        "evaluate --checkpoint hf://someone", 2, ("not a repository of Hugging Face", "hf://OWNER/REPO[@REVISION]")
    ),
    Mistake(
        "predict mine/val2017 --checkpoint eomt_large_640",
        1,
        ("eomt_large_640 is not in the cache", "HF_HUB_OFFLINE is set. Unset HF_HUB_OFFLINE", "give a folder with"),
    ),
    Mistake(
        "predict mine/val2017 --checkpoint panoptic_fpn_r50_3x",
        1,
        ("panoptic_fpn_r50_3x is not in the cache", "Check the network", "put a copy of its files (*.index, *.data-*)"),
    ),
    Mistake(
        _TRAIN + " --init-checkpoint eomt_large_640",
        1,
        ("initial weights eomt_large_640 are those of eomt", "trains panoptic_fpn", "--experiment eomt_coco_large_640"),
    ),
    Mistake(
        _TRAIN + " --experiment eomt_shapes --init-checkpoint panoptic_fpn_r50_3x",
        1,
        ("panoptic_fpn_r50_3x are those of panoptic_fpn", "experiment eomt_shapes trains eomt", "none"),
    ),
    Mistake(
        _TRAIN + " --experiment eomt_shapes --init-checkpoint resnet50_imagenet",
        1,
        ("resnet50_imagenet are those of panoptic_fpn", "trains eomt", "Use other initial weights, or"),
    ),
    # Missing and wrong files.
    Mistake("make-tfrecords --data-dir nowhere", 1, ("nowhere", "panoptic download")),
    Mistake("inspect nowhere", 1, ("nowhere",)),
    Mistake("train --train-data nowhere/train-*", 1, ("nowhere/train-*", "match", "make-tfrecords")),
    Mistake(
        "evaluate --model-dir nowhere", 1, ("The run directory nowhere does not exist", "--model-dir", "panoptic train")
    ),
    Mistake("evaluate --model-dir mine", 1, ("mine is not a run directory: it has no config.yaml", "--model-dir")),
    Mistake("predict a.jpg --model-dir nowhere", 1, ("No file or folder matches a.jpg", "Check the path")),
    Mistake("predict mine/annotations", 1, ("no pictures (", ".jpg", "in mine/annotations.", "Check the path")),
    Mistake("predict mine --model-dir nowhere", 1, ("The run directory nowhere does not exist", "--model-dir")),
    Mistake("predict mine --contact-sheet all.gif", 2, ("all.gif", ".png, .jpg or .webp")),
    Mistake("predict mine --saved-model nowhere", 1, ("nowhere does not exist", "panoptic export")),
    Mistake(
        "predict --image-dir mine/val2017",
        2,
        ("--image-dir needs --image-info", "or only the folder: panoptic predict mine/val2017"),
    ),
    Mistake("predict --image-info a.json", 2, ("--image-info without pictures", "Give --image-dir DIR")),
    Mistake(
        "predict --image-info mine/annotations/instances_val2017.json --image-dir mine/annotations",
        1,
        ("mine/annotations lacks 4 of the 4 pictures of mine/annotations/instances_val2017.json", "Give --image-dir"),
    ),
    Mistake("predict mine --submission-name x", 2, ("--submission-name needs --image-info", "Give both, or omit it")),
    Mistake("inspect mine --draw 3", 2, ("--draw", "--output")),
    Mistake(_TRAIN + " --init-checkpoint here/ckpt-7", 1, ("here/ckpt-7", "--init-checkpoint none")),
    Mistake(_TRAIN + " --init-checkpoint none", 1, ("run is not empty", "other.txt"), _text("run/other.txt", "x")),
    Mistake(_TRAIN + " --categories c.json", 1, ("c.json", "not valid JSON"), _text("c.json", "[{")),
    Mistake(
        "upload gs://bucket/x --data-dir nowhere", 1, ("nowhere/tfrecords does not exist", "panoptic make-tfrecords")
    ),
    Mistake("upload s3://bucket/x", 2, ("s3://bucket/x", "gs://BUCKET/PREFIX")),
    Mistake("make-panoptic --data-dir nowhere", 1, ("The data folder nowhere does not exist", "--object-annotations")),
    Mistake("make-panoptic --output a.json", 2, ("--output and --image-dir need --object-annotations",)),
    Mistake(_COMPOSE + " --stuff-categories a.json", 2, ("the values of --semantic-masks", "Give both")),
    Mistake(_COMPOSE + " --semantic-masks a --stuff-annotations b", 2, ("exclude each other", "Give one of them")),
    Mistake(_COMPOSE, 1, ("panoptic_val2017.json exists", "it is not replaced", "Move it away", "--output")),
    Mistake(
        "make-panoptic --object-annotations mine/annotations/panoptic_val2017.json",
        1,
        ("is a panoptic JSON, not an instances JSON", "COCO's is instances_*.json"),
    ),
    # Inconsistent data.
    Mistake(_CONVERT, 1, ("panoptic_val2017.json", "not valid JSON"), _cut("annotations/panoptic_val2017.json")),
    Mistake(_CONVERT, 1, ("picture", "does not exist", "--on-bad-data skip"), _without("val2017/*.jpg")),
    Mistake(_CONVERT, 1, ("cut short", ".png", "--on-bad-data skip"), _cut("panoptic_val2017/*.png")),
    Mistake(
        _CONVERT,
        1,
        ("panoptic_val2017.json", "category 999 is not in categories. ", "panoptic inspect"),
        _changed("panoptic_val2017.json", lambda v: v["annotations"][0]["segments_info"][0].update(category_id=999)),
    ),
    Mistake(
        _CONVERT,
        1,
        ("panoptic_val2017.json", "isthing"),
        _changed("panoptic_val2017.json", lambda v: v["categories"][0].pop("isthing")),
    ),
    Mistake(_SCORE, 1, ("pred.json", "does not exist")),
    Mistake(_SCORE, 1, ("pred.json", "annotations"), _text("pred.json", "{}")),
    Mistake(
        _SCORE + " --predictions-dir .",
        1,
        ("pred.json", "no prediction for 4 of the 4 images", "void"),
        _text("pred.json", '{"annotations": []}'),
    ),
]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shapes_dir: Path) -> Path:
    """A current folder with only a copy of the validation split, no environment variables of ours, and no network."""
    folder = tmp_path / "here"
    for name in ("annotations", "val2017", "panoptic_val2017"):
        shutil.copytree(shapes_dir / name, folder / "mine" / name)
    monkeypatch.chdir(folder)
    for name in [name for name in os.environ if name.startswith("PANOPTIC_") or name == "TF_CONFIG"]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("PANOPTIC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")  # nothing answers
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # importing it fails
    return folder


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.line)
def test_a_mistake_is_one_line_that_helps(
    mistake: Mistake, here: Path, shapes_dir: Path, shapes_records: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mistake.prepare(here)
    before = sorted(str(path) for path in here.rglob("*"))
    line = mistake.line.format(data=shapes_dir, records=shapes_records)
    code = run(line.split())
    captured = capsys.readouterr()
    print(captured.err)
    assert code == mistake.code
    assert captured.out == ""
    (error,) = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert captured.err.endswith(error + "\n")
    missing = [part for part in mistake.words if part not in error]
    assert not missing, f"{missing} not in {error!r}"
    assert "Traceback" not in captured.err
    left = {Path(path).name for path in map(str, here.rglob("*")) if path not in before}
    assert left <= {"tfrecords", "categories.json", "val.manifest.json"}  # of a conversion that can be resumed


def test_a_repository_that_does_not_exist(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with hub_server("someone/else", {}) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        assert run(["predict", "mine/val2017", "--checkpoint", "hf://someone/nothing"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: hf://someone/nothing does not exist, or it is private")
    assert "Check the name. Log in with 'hf auth login', or set HF_TOKEN." in line


def test_a_run_of_the_other_family(
    here: Path, shapes_dir: Path, shapes_records: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    RunDirectory(here / "theirs").start(
        load_experiment("eomt_shapes"), read_categories(shapes_records / "categories.json")
    )
    line = f"{_TRAIN} --init-checkpoint theirs".format(data=shapes_dir, records=shapes_records)
    assert run(line.split()) == 1
    told = capsys.readouterr().err
    assert (
        "theirs are those of eomt, but experiment panoptic_fpn_shapes trains panoptic_fpn. Use --experiment eomt_shapes"
        in told
    )


def test_the_hint_is_below_a_list_of_problems(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "empty").mkdir()
    assert run(["make-tfrecords", "--data-dir", "empty"]) == 1
    first, *problems, last = capsys.readouterr().err.splitlines()
    assert first.startswith("error: The data set in empty is ")
    assert len(problems) == 8
    assert not [line for line in (first, *problems) if line.endswith((" ", "."))]
    assert all(problem.startswith("  - ") and "empty/" in problem for problem in problems)
    assert last.startswith("Get COCO with 'panoptic download --data-dir empty', or")
