"""The stages of the library, and that each imports only what stands before it, also inside functions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# In this order. A folder is one stage; so is each module of the top level.
STAGES = (
    *("errors", "interrupts", "files", "console", "locks", "gpus", "startup", "storage", "processes"),
    "transfer",
    *("config", "categories", "devices"),
    *("images", "coco", "composition", "records", "pipeline", "inspection"),
    *("models", "weights", "results", "inference", "evaluation", "runs", "training", "export"),
    *("diagnostics", "demo", "commands", "__main__"),
)
LARGEST_SHARE = 0.2  # of the lines of panoptic_cli, in one folder
LONGEST_FILE = 400  # lines


def _modules() -> dict[str, Path]:
    """Maps each module's name below panoptic_cli to its file; the package itself is ""."""
    found = {}
    for folder, prefix in ((ROOT / "panoptic_cli", ()), (ROOT / "commands", ("commands",))):
        for path in sorted(folder.rglob("*.py")):
            parts = (*prefix, *path.relative_to(folder).with_suffix("").parts)
            found[".".join(part for part in parts if part != "__init__")] = path
    return found


MODULES = _modules()


def _imported(name: str, path: Path) -> Iterator[tuple[str, int]]:
    """Yields (module, line) of every import of ours, wherever in the file it is."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join(["panoptic_cli", *(p for p in parents if p), *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for full in names:
            if full == "panoptic_cli" or full.startswith("panoptic_cli."):
                yield _module_of(full.removeprefix("panoptic_cli").removeprefix(".")), node.lineno


def _module_of(name: str) -> str:
    """Returns the module that an imported name is, or belongs to."""
    while name not in MODULES:
        name = name.rpartition(".")[0]
    return name


IMPORTS = {name: list(_imported(name, path)) for name, path in MODULES.items()}


def _stage(name: str) -> str:
    return name.partition(".")[0]


def test_every_module_belongs_to_a_stage() -> None:
    assert {_stage(name) for name in MODULES if name} == set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_imports_only_what_stands_before_it(stage: str) -> None:
    may_use = {"", *STAGES[: STAGES.index(stage) + 1]}
    backward = [
        f"{MODULES[name].relative_to(ROOT)}:{line} imports {other}"
        for name, imports in IMPORTS.items()
        if name and _stage(name) == stage
        for other, line in imports
        if _stage(other) not in may_use
    ]
    assert backward == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for other in sorted({other for other, _ in IMPORTS[name]} - {name}):
                visit(other, (*path, name))
            done.add(name)

    for name in MODULES:
        visit(name, ())


def test_the_library_does_not_import_the_commands() -> None:
    assert not [
        name
        for name, imports in IMPORTS.items()
        if _stage(name) not in ("commands", "__main__")
        for other, _ in imports
        if _stage(other) == "commands"
    ]


def test_only_panoptic_fpn_knows_its_own_ways() -> None:
    """Anchors, regions of interest and semantic logits are matters of one model family."""
    words = ("anchor", "semantic_logits", "roi_", "rois", "rpn")
    found = [
        f"{path.relative_to(ROOT)}: {word}"
        for name, path in MODULES.items()
        if "panoptic_fpn" not in name
        for word in words
        if word in path.read_text().lower()
    ]
    assert found == []


def test_files_and_folders_are_of_a_readable_size() -> None:
    lines = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert {name: count for name, count in lines.items() if count > LONGEST_FILE} == {}
    library = {name: count for name, count in lines.items() if _stage(name) != "commands"}
    folders: dict[str, int] = {}
    for name, count in library.items():
        folders[_stage(name)] = folders.get(_stage(name), 0) + count
    total = sum(library.values())
    assert {name: count for name, count in folders.items() if count > LARGEST_SHARE * total} == {}


def test_the_order_is_the_one_that_the_design_shows() -> None:
    design = (ROOT / "DESIGN.md").read_text()
    shown = [stage for stage in STAGES if stage not in ("__main__",)]
    places = [design.find(f"`{stage}`") for stage in shown]
    assert -1 not in places, [stage for stage, place in zip(shown, places, strict=True) if place < 0]
    assert places == sorted(places)
