"""`panoptic train`: options, the effective configuration, and mistakes that are found before the training."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import yaml
from panoptic_cli.commands.main import run

from panoptic_cli.categories import CategoryTable
from panoptic_cli.config import load_experiment, validate
from panoptic_cli.runs.run_directory import RunDirectory
from panoptic_cli.training import inputs

Capture: TypeAlias = pytest.CaptureFixture[str]

CATEGORIES = [
    {"id": 1, "name": "person", "isthing": 1, "color": [220, 20, 60]},
    {"id": 92, "name": "banner", "isthing": 0, "color": [1, 2, 3]},
]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A records folder with empty shards, in ./data/coco of the current directory."""
    records = tmp_path / "data" / "coco" / "tfrecords"
    records.mkdir(parents=True)
    for split in ("train", "val"):
        (records / f"{split}-00000-of-00001.tfrecord").write_bytes(b"")
    (records / "categories.json").write_text(json.dumps(CATEGORIES))
    monkeypatch.chdir(tmp_path)
    for name in (
        "DATA_DIR",
        "MODEL_DIR",
        "TRAIN_DATA",
        "EVAL_DATA",
        "ANNOTATION_FILE",
        "CATEGORIES",
        "INIT_CHECKPOINT",
    ):
        monkeypatch.delenv(f"PANOPTIC_{name}", raising=False)
    monkeypatch.delenv("TF_CONFIG", raising=False)
    return records


def print_config(capsys: Capture, *arguments: str) -> tuple[dict[str, Any], str]:
    """Returns the effective configuration of a command line, as a tree, and what was printed on stderr."""
    assert run(["train", "--print-config", "--init-checkpoint", "none", *arguments]) == 0
    captured = capsys.readouterr()
    return yaml.safe_load(captured.out), captured.err


def fails(capsys: Capture, *arguments: str, code: int = 1) -> str:
    """Runs a command line that fails; returns what was printed on stderr."""
    assert run(["train", "--init-checkpoint", "none", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err


def test_defaults(data: Path, capsys: Capture) -> None:
    tree, told = print_config(capsys)
    assert tree == load_experiment(
        options=[
            ("task.init_checkpoint", None),
            ("task.train_data.input_path", "data/coco/tfrecords/train-*"),
            ("task.validation_data.input_path", "data/coco/tfrecords/val-*"),
        ]
    ).model_dump(mode="json")
    assert "runs/panoptic_fpn_coco" in told
    assert not Path("runs").exists()


def test_every_option_sets_its_field(data: Path, capsys: Capture) -> None:
    tree, _ = print_config(
        capsys,
        *(
            "--experiment",
            "panoptic_fpn_shapes",
            "--train-data",
            f"{data}/train-*",
            "--eval-data",
            f"{data}/val-*",
        ),
        *("--annotation-file", "instances.json", "--categories", f"{data}/categories.json", "--steps", "7"),
        *("--precision", "bfloat16", "--gpus", "0", "--batch-size", "8", "--accumulate", "3"),
        *("--init-categories", "old.json", "--strict-init"),
        *("--set", "trainer.seed=3", "--set", "task.losses.mask_weight=2"),
        *(
            "--params-override",
            "task.model.input_size=[64,64,3], runtime.enable_xla=true,\n trainer.max_to_keep=1",
        ),
    )
    task, trainer, runtime = tree["task"], tree["trainer"], tree["runtime"]
    assert tree["experiment"] == "panoptic_fpn_shapes"
    assert task["train_data"]["input_path"] == f"{data}/train-*"
    assert task["validation_data"]["input_path"] == f"{data}/val-*"
    assert task["annotation_file"] == "instances.json"
    assert task["categories_file"] == f"{data}/categories.json"
    assert task["train_data"]["global_batch_size"] == 8
    assert task["model"]["input_size"] == [64, 64, 3]
    assert task["losses"]["mask_weight"] == 2
    assert (trainer["train_steps"], trainer["seed"], trainer["max_to_keep"]) == (7, 3, 1)
    assert trainer["gradient_accumulation_steps"] == 3
    assert (task["init_categories"], task["strict_init"]) == ("old.json", True)
    assert (runtime["mixed_precision_dtype"], runtime["num_gpus"], runtime["enable_xla"]) == (
        "bfloat16",
        0,
        True,
    )


def test_tpu_options(data: Path, capsys: Capture) -> None:
    import tensorflow as tf

    for path in data.iterdir():
        tf.io.gfile.makedirs("ram://bucket/records")
        tf.io.gfile.copy(str(path), f"ram://bucket/records/{path.name}", overwrite=True)
    tree, _ = print_config(
        capsys,
        *("--tpu", "n1", "--tpu-zone", "z", "--tpu-project", "p", "--model-dir", "ram://bucket/run-x"),
        *("--train-data", "ram://bucket/records/train-*"),
    )
    assert [tree["runtime"][k] for k in ("tpu", "tpu_zone", "tpu_project")] == ["n1", "z", "p"]


def test_data_dir_and_paths_of_the_configuration(data: Path, capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"task: {{train_data: {{input_path: '{data}/train-*'}}}}")
    tree, _ = print_config(capsys, "--config", str(tmp_path / "c.yaml"), "--data-dir", "elsewhere")
    assert tree["task"]["train_data"]["input_path"] == f"{data}/train-*"
    assert tree["task"]["validation_data"]["input_path"] == "elsewhere/tfrecords/val-*"


def test_print_config_json_is_one_object(data: Path, capsys: Capture) -> None:
    assert run(["train", "--print-config", "--init-checkpoint", "none", "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["trainer"]["train_steps"] == 22500


def test_the_schedule_follows_the_batch_size(data: Path, capsys: Capture) -> None:
    tree, told = print_config(capsys, "--schedule", "3x", "--batch-size", "16")
    config = tree["trainer"]["optimizer_config"]
    assert tree["trainer"]["train_steps"] == 4 * 67500
    assert config["learning_rate"]["stepwise"] == {
        "boundaries": [180000, 240000],
        "values": pytest.approx([0.03, 0.003, 0.0003]),
    }
    assert config["warmup"]["linear"] == {"warmup_steps": 2000, "warmup_learning_rate": pytest.approx(0.0067 / 4)}
    assert "batch size 16 instead of 64" in told
    assert "values 0.12/0.012/0.0012 -> 0.03/0.003/0.0003" in told


def test_the_schedule_follows_what_a_step_sees(data: Path, capsys: Capture) -> None:
    tree, told = print_config(capsys, "--schedule", "1x", "--batch-size", "4", "--accumulate", "4")
    assert tree["trainer"]["train_steps"] == 4 * 22500
    assert tree["trainer"]["optimizer_config"]["learning_rate"]["stepwise"]["values"][0] == pytest.approx(0.03)
    assert tree["task"]["train_data"]["global_batch_size"] == 4
    assert "batch size 16 (4 x 4) instead of 64" in told
    same, told = print_config(capsys, "--batch-size", "4", "--accumulate", "16")
    assert same["trainer"]["optimizer_config"] == load_experiment().trainer.optimizer_config.model_dump(mode="json")
    assert "Schedule scaled" not in told


def test_what_the_user_set_is_not_scaled(data: Path, capsys: Capture) -> None:
    key = "trainer.optimizer_config.learning_rate.stepwise.values"
    tree, told = print_config(capsys, "--batch-size", "32", "--steps", "1000", "--set", f"{key}=[0.5,0.4,0.3]")
    config = tree["trainer"]["optimizer_config"]
    assert tree["trainer"]["train_steps"] == 1000
    assert config["learning_rate"]["stepwise"] == {"boundaries": [30000, 40000], "values": [0.5, 0.4, 0.3]}
    assert config["warmup"]["linear"]["warmup_learning_rate"] == pytest.approx(0.0067 / 2)
    assert "values" not in told
    same, told = print_config(capsys, "--batch-size", "64")
    assert same["trainer"]["optimizer_config"] == load_experiment().trainer.optimizer_config.model_dump(mode="json")
    assert "Schedule scaled" not in told


def test_print_config_and_usage_errors_do_not_import_tensorflow(data: Path) -> None:
    code = (
        "import sys; from panoptic_cli.commands.main import run;"
        "assert run(['train', '--print-config', '--init-checkpoint', 'none']) == 0;"
        "assert run(['train', '--tpu', 'local', '--gpus', '2', '--init-checkpoint', 'none']) == 2;"
        "assert run(['train', '--set', 'trainer.stepz=1']) == 2;"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True)


def test_missing_records(data: Path, capsys: Capture) -> None:
    assert "No training records match none/tfrecords/train-*" in fails(capsys, "--data-dir", "none")
    told = fails(capsys, "--train-data", f"{data}/train-*,{data}/extra-*")
    assert "extra-*" in told
    assert "make-tfrecords" in told


def test_missing_categories(data: Path, capsys: Capture) -> None:
    (data / "categories.json").unlink()
    told = fails(capsys)
    assert "tfrecords/categories.json does not exist" in told
    assert "--categories" in told
    assert "x.json does not exist" in fails(capsys, "--categories", "x.json")


def test_categories_that_do_not_fit_the_heads(data: Path, capsys: Capture) -> None:
    (data / "categories.json").write_text(json.dumps([{"id": 300, "name": "ufo", "isthing": 1}]))
    assert "300 (ufo)" in fails(capsys, code=2)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--tpu", "local", "--gpus", "2"], "cannot be combined"),
        (["--tpu", "local", "--precision", "float16"], "float16"),
        (["--tpu", "node"], "local directory"),
        (["--gpus", "3", "--batch-size", "64"], "is not divisible"),
        (["--experiment", "nope"], "no experiment"),
        (["--schedule", "9x"], "9x"),
        (["--set", "trainer.train_stepz=1"], "train_steps"),
        (["--precision", "int8"], "int8"),
        (["--batch-size", "0"], "batch-size"),
    ],
)
def test_usage_errors(data: Path, capsys: Capture, arguments: list[str], word: str) -> None:
    assert word in fails(capsys, *arguments, code=2)
    assert not Path("runs").exists()


def test_run_of_another_configuration(data: Path, capsys: Capture) -> None:
    tree, _ = print_config(capsys)
    RunDirectory("runs/panoptic_fpn_coco").start(validate(tree, "test"), CategoryTable.from_list(CATEGORIES, "test"))
    print_config(capsys)
    told = fails(capsys, "--set", "task.losses.mask_weight=3")
    assert "task.losses.mask_weight: 3.0 here, 1.0 there" in told
    assert "--model-dir" in told


def test_initial_weights_that_cannot_be_reached(data: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(inputs.urllib.request, "urlopen", refuse)
    assert run(["train", "--print-config"]) == 1
    told = capsys.readouterr().err
    assert "gs://cloud-tpu-checkpoints" in told
    assert "no network" in told
    assert "--init-checkpoint none" in told


@pytest.mark.slow
def test_dry_run_does_one_real_step_and_writes_nothing(
    tmp_path: Path,
    shapes_records: Path,
    tiny_network: tuple[str, ...],
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = [word for setting in tiny_network for word in ("--set", setting)]
    arguments = ["--experiment", "panoptic_fpn_shapes", "--train-data", f"{shapes_records}/train-*", "--gpus", "0"]
    assert run(["train", "--dry-run", "--json", "--batch-size", "2", "--accumulate", "2", *arguments, *settings]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["batch"]["images"] == "float32 [2, 64, 64, 3]"
    assert found["batch"]["gt_masks"].startswith("uint8 [2, 16, ")
    assert (found["pictures_per_step"], found["initial_weights"]) == (4, None)
    assert found["parameters"]["total"] > found["parameters"]["trainable"] > 100_000
    assert found["losses"]["total_loss"] > 0
    assert found["memory"]["peak_rss"] > 200e6
    assert found["seconds"]["first_step"] > found["seconds"]["step"] > 0
    assert list(tmp_path.iterdir()) == []


def test_validation_records_are_checked_if_the_training_evaluates(data: Path, capsys: Capture) -> None:
    for path in data.glob("val-*"):
        path.unlink()
    print_config(capsys)
    told = fails(capsys, "--set", "trainer.validation_interval=100")
    assert "No validation records match" in told
