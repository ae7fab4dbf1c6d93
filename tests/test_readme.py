"""The README is right: every command line in it is run or dry-run, and every name in it exists."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from cloud_emulator import emulator
from panoptic_cli.commands.doctor import environment_variables
from panoptic_cli.commands.main import app, run
from pydantic import BaseModel

from panoptic_cli import config, models
from panoptic_cli.categories import read_categories
from panoptic_cli.coco.official_categories import coco_panoptic_categories
from panoptic_cli.weights.published import published_checkpoints

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GROUP: Any = typer.main.get_command(app)
VARIABLES = frozenset(environment_variables(GROUP))

# Programs that are not ours. Any other program in a bash block, except panoptic and make, fails the test.
NOT_RUN = {
    "source .venv/bin/activate": "changes the current shell; the tests already run in such an environment",
    "gcloud auth application-default login": "Google's program; opens a browser to sign in",
    "brew install aria2": "macOS",
    **{
        f"pip install 'panoptic-cli[{extra}]'": "installs what the tests run with; see test_the_install_blocks"
        for extra in ("cpu", "gpu", "tpu")
    },
    "pip install tensorboard": "installs a package that the project does not depend on",
    "tensorboard --logdir runs/panoptic_fpn_coco/logs": "a server of that package",
}
CONSTRAINTS = ("constraints.txt", "constraints-gpu.txt", "constraints-tpu.txt")
# Added to commands that have no --dry-run, to keep them fast. They are not changed otherwise.
ADDED = {"doctor": ["--no-devices"], "inspect": ["--workers", "1"]}


def _blocks(text: str) -> list[tuple[str, str]]:
    """Returns (language, content) of the fenced blocks."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def _commands(text: str) -> list[str]:
    """Returns the commands of the bash blocks, with quotes, without comments, continued lines joined."""
    found: list[str] = []
    for content in (content for language, content in _blocks(text) if language == "bash"):
        pending = ""
        for line in content.splitlines():
            pending += line
            if pending.endswith("\\"):
                pending = pending[:-1]
                continue
            try:
                words = shlex.split(pending, comments=True)
            except ValueError:  # an open quote: the next line belongs to it
                pending += "\n"
                continue
            if words:
                found.append(pending.strip())
            pending = ""
        if pending.strip():
            raise ValueError(f"a command does not end: {pending}")
    return found


def _words(command: str) -> tuple[dict[str, str], list[str]]:
    """Splits a command into the variables set before it and its words."""
    words = shlex.split(command, comments=True)
    variables = {}
    while re.match(r"[A-Z_]+=", words[0]):
        name, _, variables[name] = words.pop(0).partition("=")
    return variables, words


def _problem(command: str) -> str | None:
    """Returns what is wrong with the words of a command; does not run it."""
    variables, words = _words(command)
    known = {*VARIABLES, "TF_CONFIG"}
    unknown = [name for name in variables if name not in known]
    if unknown:
        return f"nothing reads {unknown[0]}"
    if any(word in ("&&", "||", "|", ";", ">", "<") for word in words):
        return "write one command on a line"
    if words[0] == "panoptic":
        return _parse_problem(words[1:])
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text()
        targets = re.findall(r"^([a-z][a-z0-9-]*):", makefile, re.MULTILINE)
        settable = re.findall(r"^(\w+) \?=", makefile, re.MULTILINE)
        missing = [word for word in words[1:] if word not in targets and word.partition("=")[0] not in settable]
        return f"the Makefile has no target or variable {missing[0]}" if missing else None
    return None if command in NOT_RUN else "this program is neither run nor listed in NOT_RUN with a reason"


def _parse_problem(words: list[str]) -> str | None:
    if words and words[0].startswith("-"):
        options = {option for parameter in GROUP.params for option in parameter.opts}
        return next((f"no option {word}" for word in words if word not in {*options, "--help", "-h"}), None)
    command = GROUP.commands.get(words[0]) if words else None
    if command is None:
        return f"there is no command {words[:1]}"
    try:
        command.make_context(words[0], words[1:])
    except typer.TyperException as error:
        return str(error.format_message())
    return None


COMMANDS = _commands(README)
PANOPTIC = [command for command in COMMANDS if _words(command)[1][0] == "panoptic"]
TRAIN = [command for command in PANOPTIC if _words(command)[1][1] == "train"]
INLINE = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def data(shapes_dir: Path, shapes_records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has before typing the README's lines: COCO in data/coco, own data in mine/, pictures."""
    from panoptic_cli.coco.dataset import read_dataset
    from panoptic_cli.coco.layout import find_splits
    from panoptic_cli.records.conversion import convert
    from panoptic_cli.records.plans import ConversionPlan

    folder = tmp_path_factory.mktemp("readme")
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
    for category in instances["categories"]:  # the names in the README's map
        category["name"] = {"square": "truck", "triangle": "sky"}.get(category["name"], category["name"])
    (mine / "instances.json").write_text(json.dumps(instances))
    shutil.copytree(shapes_dir / "val2017", folder / "photos")
    shutil.copy(next((folder / "photos").glob("*.jpg")), folder / "photo.jpg")
    for name in published_checkpoints():  # as if they had been fetched
        (folder / "cache" / name).mkdir(parents=True)
        for suffix in ("index", "data-00000-of-00001"):
            (folder / "cache" / name / f"ckpt-1.{suffix}").touch()
    for content in (content for language, content in _blocks(README) if language == "yaml"):
        (folder / content.split("\n")[0].removeprefix("# ")).write_text(content)
    own = ["--object-annotations", str(mine / "instances.json"), "--category-map", str(folder / "map.yaml")]
    assert run(["make-panoptic", *own, "--workers", "1"]) == 0  # the lines after it read what it makes
    return folder


@pytest.fixture(scope="module")
def runs(data: Path) -> Path:
    """The run directories that the README's train lines would leave, with the name of a checkpoint but no content."""
    from panoptic_cli.runs.run_directory import RunDirectory

    folder = data.parent / f"{data.name}_runs"
    shutil.copytree(data, folder)
    (folder / "exported").mkdir()  # what the export line would leave
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(data)
        for command in TRAIN:
            variables, words = _words(command)
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
            checkpoints = Path(directory.checkpoints)
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
    """Replaces buckets by TensorFlow's file system in memory, and puts there what the README uploads."""
    if not any("gs://" in word for word in words):
        return words
    import tensorflow as tf

    for path in (data / "data" / "coco" / "tfrecords").iterdir():
        with tf.io.gfile.GFile(f"ram://BUCKET/coco/{path.name}", "wb") as stream:
            stream.write(path.read_bytes())
    return [word.replace("gs://", "ram://") for word in words]


@pytest.mark.parametrize("command", PANOPTIC, ids=lambda command: " ".join(command.split())[:90])
def test_panoptic_commands_run(
    command: str,
    data: Path,
    runs: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    variables, words = _words(command)
    # Training lines are alternatives for one run directory, so they are checked where there is no run yet.
    monkeypatch.chdir(data if words[1] == "train" else runs)
    assert _problem(command) is None
    if words[1] == "upload":
        request.getfixturevalue("bucket")
    if words[1] == "train":
        words = _memory_bucket(words, data)
    code, printed = _run(monkeypatch, variables, _as_test(words))
    assert code == 0, capsys.readouterr().err
    assert printed.strip()


def test_no_command_is_left_out() -> None:
    assert len(PANOPTIC) > 20
    others = [command for command in COMMANDS if command not in PANOPTIC]  # these are run by the test above
    assert {command: problem for command in others if (problem := _problem(command))} == {}
    assert set(NOT_RUN) <= set(COMMANDS)
    named = {_words(command)[1][1] for command in PANOPTIC}
    assert set(GROUP.commands) - named == {"demo"}  # make demo
    allowed = {"bash", "text", "python", "yaml"}  # only bash blocks have commands; yaml and python have their own tests
    assert {language for language, _ in _blocks(README)} <= allowed
    outputs = "".join(content for language, content in _blocks(README) if language == "text")
    assert not re.search(r"^\s*[$#]?\s*(\.venv/bin/)?(panoptic|make|pip|python)\s", outputs, re.MULTILINE)


@pytest.mark.parametrize(
    ("block", "word"),
    [
        ("panoptic train --stepz 3", "--stepz"),
        ("panoptic evaluate --schedule 1x", "--schedule"),
        ("panoptic train --precision float8", "float8"),
        ("panoptic tarin", "tarin"),
        ("panoptic --colour", "--colour"),
        ("panoptic upload", "gs://BUCKET"),
        ("PANOPTIC_MODELDIR=x panoptic train", "PANOPTIC_MODELDIR"),
        ("panoptic download && panoptic train", "one command"),
        ("make everything", "everything"),
        ("make setup DEVISE=tpu", "DEVISE"),
        ("aria2c http://localhost/", "NOT_RUN"),
        ("panoptic train \\\n  --steps 3 \\\n  --nonsense", "--nonsense"),
    ],
)
def test_mistakes_in_a_readme_are_found(block: str, word: str) -> None:
    (command,) = _commands(f"# Title\n\n```bash\n# a comment\n{block}\n```\n")
    assert word in (_problem(command) or "")


def test_names_in_the_text_exist() -> None:
    options = {o for command in [GROUP, *GROUP.commands.values()] for p in command.params for o in [*p.opts]}
    for code in INLINE:
        if code.startswith("panoptic ") and not code.startswith("panoptic --"):
            assert _parse_problem(shlex.split(code)[1:]) is None, code
        if code.startswith("make "):
            assert _problem(code) is None, code
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", code):
            assert option in options | {"--help", "--find-links"}, code  # the last is pip's
    assert set(re.findall(r"PANOPTIC_\w+", README)) <= VARIABLES


def test_configuration_keys_in_the_text_exist() -> None:
    keys = set(re.findall(r"\b(?:task|trainer|runtime)(?:\.[a-z_0-9]+)+\b", " ".join([*INLINE, *COMMANDS])))
    assert len(keys) > 8
    for key in keys:
        section: Any = config.Experiment
        for part in key.split("."):
            assert issubclass(section, BaseModel), key
            assert part in section.model_fields, key
            section = section.model_fields[part].annotation
            section = section if isinstance(section, type) else object


def _texts() -> Iterator[list[str]]:
    """Yields the strings in our code without docstrings: the literal parts between the values that are filled in."""
    for path in [*(ROOT / "commands").rglob("*.py"), *(ROOT / "panoptic_cli").rglob("*.py")]:
        tree = ast.parse(path.read_text())
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(v.value) if isinstance(v, ast.Constant) else "\0" for v in node.values).split("\0")
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                yield [node.value]


def _quotes(message: str, parts: list[str]) -> bool:
    """Whether a message is in one part of a text, or is its beginning with values filled in, up to a part's end."""
    if any(message in part for part in parts):
        return True
    counts = [count for count in range(2, len(parts) + 1) if parts[0].strip() and parts[count - 1].strip()]
    return any(re.fullmatch(".+".join(map(re.escape, parts[:n])) + " ?", message + " ") for n in counts)


def test_messages_in_the_table_are_those_of_the_code() -> None:
    table = README.split("## Troubleshooting")[1].split("Exit codes")[0]
    cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    messages = [message for cell in cells for message in re.findall(r"`([^`]+)`", cell) if message != "Killed"]
    assert len(messages) > 8
    texts = list(_texts())
    assert [message for message in messages if not any(_quotes(message, parts) for parts in texts)] == []


def test_the_install_blocks_are_those_of_the_package() -> None:
    from panoptic_cli import gpus, startup

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    section = README.split("## Install\n")[1].split("\n## ")[0]
    blocks = re.split(r"^\*\*(?=\w)", section, flags=re.MULTILINE)[1:]
    assert [block.split("**")[0] for block in blocks] == ["CPU", "NVIDIA GPUs", "TPU VM", "macOS"]
    chosen = [re.findall(r"pip install 'panoptic-cli\[(\w+)\]'", block) for block in blocks]
    assert chosen == [["cpu"], ["gpu"], ["tpu"], ["cpu"]]
    for (extra,), block in zip(chosen, blocks, strict=True):
        assert len(block.split("To work on the code")[0].splitlines()) <= 12
        assert any(line.startswith("tensorflow") for line in extras[extra])
    assert project["requires-python"] == ">=3.11"
    assert "Python 3.11 or newer" in section
    pinned = dict(re.findall(r"^([\w.-]+)==([\w.]+)$", _constraints(), re.MULTILINE))
    # CPU and GPU: the tested TensorFlow and the oldest one.
    for extra in ("cpu", "gpu"):
        (requirement,) = [line for line in extras[extra] if line.startswith("tensorflow")]
        assert requirement.partition(">")[2] == "=2.20,<2.22"
        assert requirement.startswith("tensorflow[and-cuda]") == (extra == "gpu")
    assert f"TensorFlow {pinned['tensorflow'].rpartition('.')[0]} (or 2.20)" in blocks[0]
    assert f"driver of version {gpus._OLDEST_DRIVERS['12']}" in blocks[1]
    assert f"cuDNN {pinned['nvidia-cudnn-cu12'].partition('.')[0]} as packages" in blocks[1]
    # TPU: no libtpu that aborts.
    first, last = startup.LIBTPU_VERSIONS
    assert f"libtpu>={first},<={last}" in extras["tpu"]
    assert pinned["libtpu"] == last
    assert f"tensorflow-tpu {pinned['tensorflow-tpu']}" in blocks[2]
    assert f"libtpu {last}" in blocks[2]
    # Everything else of the project is installed without TensorFlow.
    assert not [line for line in project["dependencies"] if line.startswith(("tensorflow", "keras"))]


def _constraints() -> str:
    return "".join((ROOT / name).read_text() for name in CONSTRAINTS)


def test_files_and_headings_named_exist() -> None:
    for target in re.findall(r"\]\(#([\w-]+)\)", README):
        assert target in [
            re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in re.findall(r"^#+ (.*)", README, re.M)
        ]
    for name in ("LICENSE", "CHANGELOG.md", *CONSTRAINTS, "tests/conformance"):
        assert f"`{name}`" in README
        assert (ROOT / name).exists()


def test_published_figures_are_those_of_the_preset() -> None:
    preset = (ROOT / "panoptic_cli" / "config" / "presets" / "panoptic_fpn_coco.yaml").read_text()
    rows = re.findall(r"^\| ResNet-50 \| (\dx) \| (.*) \|$", README, re.MULTILINE)
    assert [schedule for schedule, _ in rows] == ["1x", "3x"]
    for schedule, cells in rows:
        (line,) = [line for line in preset.splitlines() if line.startswith(f"#   {schedule} (")]
        assert re.findall(r"\d+\.\d+", cells) == re.findall(r"\d+\.\d+", line)


@pytest.mark.slow
def test_the_serving_lines_run_on_an_exported_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Path
) -> None:
    from panoptic_cli.export.saved_model import export_saved_model
    from panoptic_cli.export.served_model import OUTPUTS
    from panoptic_cli.inference.predictor import LoadedModel

    experiment = config.load_experiment("panoptic_fpn_shapes")
    table = read_categories(data / "mine" / "panoptic.json")
    network = models.create_network(experiment, table)
    model = LoadedModel(experiment, table, network, "untrained", None)
    export_saved_model(model, tmp_path / "exported", input_type="image_bytes")
    shutil.copy(next((data / "photos").glob("*.jpg")), tmp_path / "picture.jpg")
    monkeypatch.chdir(tmp_path)
    (code,) = [content for language, content in _blocks(README) if language == "python"]
    names: dict[str, Any] = {}
    exec(code, names)
    assert set(re.findall(r"signature `(\w+)`", README)) < set(names["tf"].saved_model.load("exported").signatures)
    outputs = names["outputs"]
    listed = re.findall(r"^\| `(\w+)` \| (\w+) `\[(batch[^]]*)\]", README, re.MULTILINE)
    assert {name: value.dtype.name for name, value in outputs.items()} == {name: dtype for name, dtype, _ in listed}
    assert {name: shape for name, _, shape in listed} == {
        name: ", ".join(str(size) for size in output.shape) for name, output in OUTPUTS.items()
    }
