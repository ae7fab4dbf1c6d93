"""README and the pages in docs/: messages, versions, figures and outputs in them are those of the code."""

from __future__ import annotations

import ast
import re
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from documentation import GROUP, PAGES, ROOT, VARIABLES, blocks

from panoptic_cli import config, models
from panoptic_cli.categories import read_categories
from panoptic_cli.weights.published import published_checkpoints

README = PAGES["README.md"]
CONSTRAINTS = ("constraints.txt", "constraints-gpu.txt", "constraints-tpu.txt")


def _section(page: str, title: str) -> str:
    return PAGES[page].split(f"## {title}\n")[1].split("\n## ")[0]


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
    cells = re.findall(r"^\| (`.*?) \|", _section("docs/troubleshooting.md", "Messages"), re.MULTILINE)
    messages = [message for cell in cells for message in re.findall(r"`([^`]+)`", cell) if message != "Killed"]
    assert len(messages) > 8
    texts = list(_texts())
    assert [message for message in messages if not any(_quotes(message, parts) for parts in texts)] == []


def test_the_readme_installs_what_the_page_installs() -> None:
    titles = ["CPU", "NVIDIA GPUs", "TPU VM", "macOS"]
    short = re.split(r"^\*\*(?=\w)", _section("README.md", "Install"), flags=re.MULTILINE)[1:]
    assert [block.split("**")[0] for block in short] == titles
    for block, title in zip(short, titles, strict=True):
        (ours,), (theirs,) = blocks(block), blocks(_section("docs/install.md", title))
        assert ours == theirs


def test_the_install_blocks_are_those_of_the_package() -> None:
    from panoptic_cli import gpus, startup

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    titles = ("CPU", "NVIDIA GPUs", "TPU VM", "macOS")
    sections = {title: " ".join(_section("docs/install.md", title).split()) for title in titles}
    chosen = [re.findall(r"pip install 'panoptic-cli\[(\w+)\]'", section) for section in sections.values()]
    assert chosen == [["cpu"], ["gpu"], ["tpu"], ["cpu"]]
    for (extra,) in chosen:
        assert any(line.startswith("tensorflow") for line in extras[extra])
    assert project["requires-python"] == ">=3.11"
    for page in ("README.md", "docs/install.md"):
        assert "Python 3.11 or newer" in PAGES[page]
    pinned = dict(re.findall(r"^([\w.-]+)==([\w.]+)$", _constraints(), re.MULTILINE))
    # CPU and GPU: the tested TensorFlow and the oldest one.
    for extra in ("cpu", "gpu"):
        (requirement,) = [line for line in extras[extra] if line.startswith("tensorflow")]
        assert requirement.partition(">")[2] == "=2.20,<2.22"
        assert requirement.startswith("tensorflow[and-cuda]") == (extra == "gpu")
    assert f"TensorFlow {pinned['tensorflow'].rpartition('.')[0]} (or 2.20)" in sections["CPU"]
    assert f"driver of version {gpus._OLDEST_DRIVERS['12']}" in sections["NVIDIA GPUs"]
    assert f"cuDNN {pinned['nvidia-cudnn-cu12'].partition('.')[0]} as packages" in sections["NVIDIA GPUs"]
    # TPU: no libtpu that aborts.
    first, last = startup.LIBTPU_VERSIONS
    assert f"libtpu>={first},<={last}" in extras["tpu"]
    assert pinned["libtpu"] == last
    assert f"tensorflow-tpu {pinned['tensorflow-tpu']}" in sections["TPU VM"]
    assert f"libtpu {last}" in sections["TPU VM"]
    # Everything else of the project is installed without TensorFlow.
    assert not [line for line in project["dependencies"] if line.startswith(("tensorflow", "keras"))]


def _constraints() -> str:
    return "".join((ROOT / name).read_text() for name in CONSTRAINTS)


def test_files_named_exist() -> None:
    text = "\n".join(PAGES.values())
    for name in ("LICENSE", "CHANGELOG.md", "DESIGN.md", "CONTRIBUTING.md", *CONSTRAINTS, "tests/conformance"):
        assert f"`{name}`" in text
        assert (ROOT / name).exists()


def test_every_variable_is_listed_with_its_option() -> None:
    rows = dict(
        re.findall(r"^\| `(PANOPTIC_\w+)` \| (?:`(--[\w-]+)`|none)", PAGES["docs/environment.md"], re.MULTILINE)
    )
    parameters = [p for command in GROUP.commands.values() for p in command.params if p.envvar]
    for parameter in parameters:
        if parameter.param_type_name == "option":
            assert rows[parameter.envvar] in parameter.opts
    assert set(rows) == VARIABLES


def test_every_preset_is_listed() -> None:
    section = _section("docs/configuration.md", "Presets")
    assert set(re.findall(r"`(\w+)`", section)) == set(config.preset_names())


def test_figures_of_panoptic_fpn_are_those_of_the_preset() -> None:
    preset = (ROOT / "panoptic_cli" / "config" / "presets" / "panoptic_fpn_coco.yaml").read_text()
    rows = re.findall(r"^\| ResNet-50 \| (\dx) \| (.*) \|$", README, re.MULTILINE)
    assert [schedule for schedule, _ in rows] == ["1x", "3x"]
    for schedule, cells in rows:
        (line,) = [line for line in preset.splitlines() if line.startswith(f"#   {schedule} (")]
        assert re.findall(r"\d+\.\d+", cells) == re.findall(r"\d+\.\d+", line)


def test_figures_of_eomt_are_those_that_its_authors_publish() -> None:
    published = published_checkpoints()
    rows = re.findall(r"^\| `(eomt_\w+)`, `(eomt_\w+)` \| ([\d.]+), ([\d.]+) \|", README, re.MULTILINE)
    listed = {name: float(pq) for row in rows for name, pq in zip(row[:2], row[2:], strict=True)}
    assert listed == {name: found.figures["PQ"] for name, found in published.items() if name.startswith("eomt_")}
    assert f"PQ {listed['eomt_large_640']} on COCO val2017, as measured by\n[EoMT's authors]" in README


@pytest.mark.slow
def test_the_serving_lines_run_on_an_exported_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shapes_dir: Path
) -> None:
    from panoptic_cli.export.saved_model import export_saved_model
    from panoptic_cli.export.served_model import OUTPUTS
    from panoptic_cli.inference.predictor import LoadedModel

    page = "docs/export-and-serving.md"
    experiment = config.load_experiment("panoptic_fpn_shapes")
    table = read_categories(shapes_dir / "annotations" / "panoptic_val2017.json")
    network = models.create_network(experiment, table)
    model = LoadedModel(experiment, table, network, "untrained", None)
    export_saved_model(model, tmp_path / "exported", input_type="image_bytes")
    shutil.copy(next((shapes_dir / "val2017").glob("*.jpg")), tmp_path / "picture.jpg")
    monkeypatch.chdir(tmp_path)
    (code,) = [content for language, content in blocks(PAGES[page]) if language == "python"]
    names: dict[str, Any] = {}
    exec(code, names)
    listed_signatures = re.findall(
        r"^\| `(\w+)` \|", _section("docs/export-and-serving.md", "Signatures and score threshold"), re.M
    )
    assert set(listed_signatures) == set(names["tf"].saved_model.load("exported").signatures)
    outputs = names["outputs"]
    listed = re.findall(
        r"^\| `(\w+)` \| (\w+) `\[(batch[^]]*)\]", _section("docs/export-and-serving.md", "Outputs"), re.M
    )
    assert {name: value.dtype.name for name, value in outputs.items()} == {name: dtype for name, dtype, _ in listed}
    assert {name: shape for name, _, shape in listed} == {
        name: ", ".join(str(size) for size in output.shape) for name, output in OUTPUTS.items()
    }
