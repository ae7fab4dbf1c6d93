"""From preset, files and overrides to one validated experiment, and back to text."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from panoptic_cli.config.overrides import apply_overrides, merge, set_key
from panoptic_cli.config.schema import Experiment
from panoptic_cli.errors import ConfigError, summarize

DEFAULT_EXPERIMENT = "panoptic_fpn_coco"


def preset_names() -> list[str]:
    """Returns the names of the experiments that ship with the package."""
    folder = resources.files("panoptic_cli.config") / "presets"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def load_experiment(
    experiment: str = DEFAULT_EXPERIMENT,
    *,
    schedule: str | None = None,
    config_file: Path | None = None,
    params_override: Iterable[str] = (),
    settings: Iterable[str] = (),
    options: Iterable[tuple[str, Any]] = (),
) -> Experiment:
    """Builds the effective configuration. Later sources win, in the order of the arguments.

    Args:
        experiment: name of a preset.
        schedule: name of one of the preset's schedules, e.g. "1x".
        config_file: YAML file with any part of the tree.
        params_override: assignments `a.b=c` of --params-override.
        settings: assignments `a.b=c` of --set.
        options: (dotted key, value) set by command-line options; None values are left out by the caller.

    Raises:
        ConfigError: names every unknown key and invalid value at once.
    """
    preset = _read_preset(experiment)
    tree: dict[str, Any] = preset["config"]
    sources = [f"experiment {experiment}"]
    schedules = preset.get("schedules", {})
    if schedule is not None:
        if schedule not in schedules:
            known = ", ".join(schedules) or "none"
            raise ConfigError(f"Experiment {experiment} has no schedule '{schedule}'.", f"Its schedules: {known}.")
        merge(tree, schedules[schedule])
    if config_file is not None:
        merge(tree, _read_yaml(config_file))
        sources.append(str(config_file))
    apply_overrides(tree, params_override)
    apply_overrides(tree, settings)
    for key, value in options:
        set_key(tree, key, value)
    tree["experiment"] = experiment
    return validate(tree, " + ".join(sources))


def validate(tree: dict[str, Any], source: str) -> Experiment:
    """Validates a nested dictionary.

    Raises:
        ConfigError: lists every problem with its dotted key.
    """
    try:
        return Experiment.model_validate(tree)
    except ValidationError as error:
        problems = [_describe(item) for item in error.errors()]
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ConfigError(f"The configuration ({source}) has {count}: {summarize(problems, 30)}") from None


def dump(experiment: Experiment) -> str:
    """Returns the whole configuration as YAML; reading it and `validate` give an equal one."""
    return yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, width=100)


def differences(ours: Experiment, theirs: Experiment) -> list[str]:
    """Returns `key: ours != theirs` for every leaf in which two configurations differ."""
    left, right = _flatten(ours.model_dump(mode="json")), _flatten(theirs.model_dump(mode="json"))
    return [
        f"{key}: {left.get(key)!r} here, {right.get(key)!r} there"
        for key in sorted(left.keys() | right.keys())
        if left.get(key) != right.get(key)
    ]


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def _read_preset(name: str) -> dict[str, Any]:
    names = preset_names()
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"Did you mean {close[0]}?" if close else f"There are: {', '.join(names)}."
        raise ConfigError(f"There is no experiment '{name}'.", hint)
    text = (resources.files("panoptic_cli.config") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    preset: dict[str, Any] = yaml.safe_load(text)
    return preset


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"The config file {path} does not exist.", "Check the path.") from None
    except OSError as error:
        raise ConfigError(f"The config file {path} cannot be read: {error.strerror}.", "Give a YAML file.") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, or what looks like a date and is none
        raise ConfigError(f"The config file {path} is not valid YAML: {_yaml_problem(error)}.") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"The config file {path} must hold a mapping with task, trainer or runtime.")
    return value


def _yaml_problem(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}: {error.problem}"
    return " ".join(str(error).split())


def _describe(item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        known = _fields_at(item["loc"][:-1])
        close = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
        return f"{key}: unknown key" + (f" (did you mean {close[0]}?)" if close else f" (known: {', '.join(known)})")
    message = item["msg"].removeprefix("Value error, ").partition(", unable to parse")[0]
    if item["type"] == "value_error":
        return f"{key}: {message}"
    return f"{key}: {message[0].lower()}{message[1:]}, not {item['input']!r}"


def _fields_at(location: tuple[Any, ...]) -> list[str]:
    model: type[BaseModel] = Experiment
    for part in location:
        annotation = model.model_fields[str(part)].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)
