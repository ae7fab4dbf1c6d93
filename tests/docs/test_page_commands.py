"""Every panoptic command of README and of the pages in docs/ is run or dry-run, each once."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from cloud_emulator import emulator
from documentation import GROUP, PAGES, PANOPTIC, VARIABLES, blocks, split
from panoptic_cli.commands.main import run

from panoptic_cli import config
from panoptic_cli.categories import read_categories
from panoptic_cli.coco.official_categories import coco_panoptic_categories
from panoptic_cli.weights.published import published_checkpoints

TRAIN = [command for command in PANOPTIC if split(command)[1][1] == "train"]
# Added to commands that have no --dry-run, to keep them fast. They are not changed otherwise.
ADDED = {"doctor": ["--no-devices"], "inspect": ["--workers", "1"]}
SLOW = "--augmented"  # imports TensorFlow and traces the targets of a whole network


@pytest.fixture(scope="module")
def data(shapes_dir: Path, shapes_records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has before typing the lines: COCO in data/coco, own data in mine/, pictures."""
    from panoptic_cli.coco.dataset import read_dataset
    from panoptic_cli.coco.layout import find_splits
    from panoptic_cli.records.conversion import convert
    from panoptic_cli.records.plans import ConversionPlan

    folder = tmp_path_factory.mktemp("pages")
    coco, mine = folder / "data" / "coco", folder / "mine"
    shutil.copytree(shapes_dir, coco)
    known, shapes = coco_panoptic_categories(), read_categories(coco / "annotations" / "panoptic_val2017.json")
    pairs = [*zip(shapes.things, known.things, strict=False), *zip(shapes.stuff, known.stuff, strict=False)]
    renamed = {ours.id: theirs for ours, theirs in pairs}
    for path in coco.glob(
        "annotations/*_*2017.json"
    ):  # the categories are COCO's, as the preset and published names expect
        value = json.loads(path.read_text())
        for category in value["categories"]:
            category["name"], category["id"] = renamed[category["id"]].name, renamed[category["id"]].id
        for annotation in value["annotations"]:
            for segment in annotation.get("segments_info", [annotation]):
                segment["category_id"] = renamed[segment["category_id"]].id
        path.write_text(json.dumps(value))
    for files in find_splits(coco):
        convert(ConversionPlan(files, coco / "tfrecords", 1), read_dataset(files), workers=1)
    shutil.copytree(shapes_dir / "train2017", mine / "pictures")
    shutil.copytree(shapes_records, mine / "tfrecords")
    instances = json.loads((shapes_dir / "annotations" / "instances_train2017.json").read_text())
    for category in instances["categories"]:  # the names in the map of the pages
        category["name"] = {"square": "truck", "triangle": "sky"}.get(category["name"], category["name"])
    (mine / "instances.json").write_text(json.dumps(instances))
    shutil.copytree(shapes_dir / "val2017", folder / "photos")
    shutil.copy(next((folder / "photos").glob("*.jpg")), folder / "photo.jpg")
    for name in published_checkpoints():  # as if they had been fetched
        (folder / "cache" / name).mkdir(parents=True)
        for suffix in ("index", "data-00000-of-00001"):
            (folder / "cache" / name / f"ckpt-1.{suffix}").touch()
    for text in PAGES.values():
        for content in (content for language, content in blocks(text) if language == "yaml"):
            (folder / content.split("\n")[0].removeprefix("# ")).write_text(content)
    own = ["--object-annotations", str(mine / "instances.json"), "--category-map", str(folder / "map.yaml")]
    assert run(["make-panoptic", *own, "--workers", "1"]) == 0  # the lines after it read what it makes
    return folder


@pytest.fixture(scope="module")
def runs(data: Path) -> Path:
    """The run directories that the train lines would leave, with the name of a checkpoint but no content."""
    from panoptic_cli.runs.run_directory import RunDirectory

    folder = data.parent / f"{data.name}_runs"
    shutil.copytree(data, folder)
    (folder / "exported").mkdir()  # what the export line would leave
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(data)
        for command in TRAIN:
            variables, words = split(command)
            if any("gs://" in word for word in words):
                continue
            code, printed = _run(monkeypatch, variables, [*_printing(words), "--json"])
            assert code == 0, f"{command}: {printed}"
            experiment = config.validate(json.loads(printed), command)
            place = words[words.index("--model-dir") + 1] if "--model-dir" in words else f"runs/{experiment.experiment}"
            directory = RunDirectory(folder / place)
            if directory.is_run:  # another line has the same run directory
                continue
            records = Path(experiment.task.train_data.input_path.split(",")[0]).parent
            directory.start(experiment, read_categories(records / "categories.json"))
            for checkpoints in (Path(directory.checkpoints), Path(directory.path) / "best"):
                checkpoints.mkdir()
                (checkpoints / "ckpt-1.index").touch()
                (checkpoints / "checkpoint").write_text('model_checkpoint_path: "ckpt-1"\n')
    return folder


@pytest.fixture
def bucket(data: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An emulated Cloud Storage that holds the bucket BUCKET."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with emulator("BUCKET") as url:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        yield


def _run(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], words: list[str]) -> tuple[int, str]:
    for name in [*VARIABLES, "TF_CONFIG"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PANOPTIC_INIT_CHECKPOINT", "none")  # the preset's weights are in a bucket: no network here
    monkeypatch.setenv("PANOPTIC_CACHE", "cache")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = run(words[1:])
    return code, printed.getvalue()


def _printing(words: list[str]) -> list[str]:
    """Makes a train line print its configuration: --dry-run would run a step of the COCO preset, which is too slow."""
    return [*[word for word in words if word not in ("--dry-run", "--print-config")], "--print-config"]


def _as_test(words: list[str]) -> list[str]:
    """Adds --dry-run if the command has it."""
    if words[1] == "train":
        return _printing(words)
    command = GROUP.commands.get(words[1]) if len(words) > 1 else None
    options = {option for parameter in getattr(command, "params", ()) for option in parameter.opts}
    if "--dry-run" in options:
        return [*words, *([] if "--dry-run" in words else ["--dry-run"])]
    return [*words, *ADDED.get(words[1], [])]


def _memory_bucket(words: list[str], data: Path) -> list[str]:
    """Replaces buckets by TensorFlow's file system in memory, and puts there what the pages upload."""
    if not any("gs://" in word for word in words):
        return words
    import tensorflow as tf

    for path in (data / "data" / "coco" / "tfrecords").iterdir():
        with tf.io.gfile.GFile(f"ram://BUCKET/coco/{path.name}", "wb") as stream:
            stream.write(path.read_bytes())
    return [word.replace("gs://", "ram://") for word in words]


@pytest.mark.parametrize(
    "command",
    [pytest.param(command, marks=[pytest.mark.slow] if SLOW in command else []) for command in PANOPTIC],
    ids=lambda command: " ".join(command.split())[:90],
)
def test_panoptic_commands_run(
    command: str,
    data: Path,
    runs: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    variables, words = split(command)
    # Training lines are alternatives for one run directory, so they are checked where there is no run yet.
    monkeypatch.chdir(data if words[1] == "train" else runs)
    if words[1] == "upload":
        request.getfixturevalue("bucket")
    if words[1] == "train":
        words = _memory_bucket(words, data)
    code, printed = _run(monkeypatch, variables, _as_test(words))
    assert code == 0, capsys.readouterr().err
    assert printed.strip()
