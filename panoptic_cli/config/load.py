"""Build one validated experiment from a preset, a file and overrides; write it as text; compare two of them."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from panoptic_cli import console
from panoptic_cli.config.overrides import apply_overrides, merge, parse_override, set_key
from panoptic_cli.config.schema import Experiment
from panoptic_cli.errors import ConfigError, listed, one_line, plain_check, summarize

DEFAULT_EXPERIMENT = "panoptic_fpn_coco"


@dataclass(frozen=True)
class Difference:
    """A value in which two configurations differ.

    Attributes:
        key: dotted key.
        ours: the value in the first configuration, as JSON; None where it has no such key.
        theirs: the value in the second.
    """

    key: str
    ours: Any
    theirs: Any

    def __str__(self) -> str:
        return f"{self.key}: {self.ours!r} here, {self.theirs!r} there"


def preset_names() -> list[str]:
    """Returns the names of the presets that come with the package."""
    return sorted(item.name.removesuffix(".yaml") for item in _presets().iterdir() if item.name.endswith(".yaml"))


def _presets() -> Traversable:
    return resources.files("panoptic_cli.config") / "presets"


def load_experiment(
    experiment: str = DEFAULT_EXPERIMENT,
    *,
    schedule: str | None = None,
    described: Mapping[str, Any] | None = None,
    config_file: Path | None = None,
    params_override: Sequence[str] = (),
    settings: Sequence[str] = (),
    options: Iterable[tuple[str, Any]] = (),
) -> Experiment:
    """Builds the effective configuration. Later arguments override earlier ones.

    Args:
        experiment: name of a preset.
        schedule: name of one of the preset's schedules, e.g. "1x".
        described: what the description beside a checkpoint says of the configuration.
        config_file: YAML file with any part of the configuration, or a copy of a preset.
        params_override: assignments `a.b=c` of --params-override.
        settings: assignments `a.b=c` of --set.
        options: (dotted key, value) pairs from command-line options that were given.

    Raises:
        ConfigError: lists every unknown key and invalid value; or an assignment changes nothing, see `check_used`.
    """
    tree, schedules = _read_preset(experiment)
    sources = [f"experiment {experiment}"]
    if schedule is not None:
        if schedule not in schedules:
            known = listed(list(schedules)) or "none"
            raise ConfigError(f"Experiment {experiment} has no schedule '{schedule}'.", f"Its schedules: {known}.")
        merge(tree, schedules[schedule])
    if described is not None:
        merge(tree, described)
    if config_file is not None:
        merge(tree, _read_file(config_file))
        sources.append(str(config_file))
    apply_overrides(tree, params_override)
    apply_overrides(tree, settings)
    for key, value in options:
        set_key(tree, key, value)
    tree["experiment"] = experiment
    effective = validate(tree, " + ".join(sources))
    check_used(effective, [*params_override, *settings])
    return effective


def validate(tree: dict[str, Any], source: str) -> Experiment:
    """Validates a nested dictionary.

    Args:
        tree: the configuration.
        source: where it comes from, for the message.

    Raises:
        ConfigError: lists every problem with its dotted key.
    """
    try:
        return Experiment.model_validate(tree)
    except ValidationError as error:
        problems = [_describe(item) for item in error.errors()]
        found = "is not valid" if len(problems) == 1 else f"has {len(problems)} problems"
        raise ConfigError(f"The configuration ({source}) {found}: {summarize(problems, 30)}.") from None


def check_used(experiment: Experiment, assignments: Iterable[str]) -> None:
    """Checks that no assignment `a.b=c` is for another type of network, where it would change nothing.

    Raises:
        ConfigError: one is.
    """
    model = experiment.task.model
    used = model.model_dump()
    for assignment in assignments:
        key = parse_override(assignment)[0]
        if key[:2] == ["task", "model"] and key[2:] and key[2] not in used:
            raise ConfigError(
                f"{'.'.join(key)} changes nothing: the network has task.model.type {model.type}.",
                "Choose an --experiment of the other type, or omit it. panoptic train --print-config shows all keys.",
            )


def dump(experiment: Experiment) -> str:
    """Returns the whole configuration as YAML; `validate` of it gives an equal experiment."""
    return yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, width=100)


def differences(ours: Experiment, theirs: Experiment) -> list[Difference]:
    """Returns every value that counts and in which two configurations differ, sorted by key.

    Values in sections of a type that one of them did not choose do not count.
    """
    left, right = _flatten(ours.model_dump(mode="json")), _flatten(theirs.model_dump(mode="json"))
    unused = (*_unused_sections(ours), *_unused_sections(theirs))
    return [
        Difference(key, left.get(key), right.get(key))
        for key in sorted(left.keys() | right.keys())
        if left.get(key) != right.get(key) and not key.startswith(unused)
    ]


def _unused_sections(section: BaseModel, prefix: str = "") -> Iterator[str]:
    """Yields the dotted keys, with a dot at the end, of the sections whose type is not the chosen one."""
    fields = type(section).model_fields
    types = _literals(fields["type"].annotation) if "type" in fields else set()
    for name in fields:
        value = getattr(section, name)
        if not isinstance(value, BaseModel):
            continue
        if name in types and name != getattr(section, "type", None):
            yield f"{prefix}{name}."
        else:
            yield from _unused_sections(value, f"{prefix}{name}.")


def _literals(annotation: Any) -> set[Any]:
    """Returns the values of a Literal, also of one that may be None."""
    values = get_args(annotation)
    return set(values) if get_origin(annotation) is Literal else set().union(*map(_literals, values))


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def _read_preset(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns a preset's configuration and its schedules."""
    names = preset_names()
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"Did you mean {close[0]}?" if close else f"Choose one of: {listed(names)}."
        raise ConfigError(f"There is no experiment '{name}'.", hint)
    return _sections(_parse((_presets() / f"{name}.yaml").read_text(encoding="utf-8"), name), name)


def _read_file(path: Path) -> dict[str, Any]:
    """Returns the configuration in a YAML file, which may also be a copy of a preset."""
    try:
        value = _parse(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise ConfigError(f"The config file {path} does not exist.", "Check the path.") from None
    except OSError as error:
        raise ConfigError(f"The config file {path} cannot be read: {error.strerror}.", "Give a YAML file.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"The config file {path} is not valid YAML: {one_line(error)}.") from None
    tree, schedules = _sections(value, str(path))
    if tree is not value:
        _note_preset_file(str(path), bool(schedules))
    return tree


@functools.cache  # a command may load the same file several times
def _note_preset_file(path: str, has_schedules: bool) -> None:
    ignored = ", not its schedules" if has_schedules else ""
    console.info(f"{path} has the form of a preset: using its config section{ignored}.")


def _parse(text: str, source: str) -> dict[str, Any]:
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: something that looks like a date and is none
        raise ConfigError(f"The config file {source} is not valid YAML: {_yaml_problem(error)}.") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"The config file {source} must be a mapping with task, trainer or runtime.")
    return value


def _sections(value: dict[str, Any], source: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits the content of a file into configuration and schedules.

    A preset has both, under `config` and `schedules`. A mapping without `config` is the configuration itself.
    """
    if "config" not in value:
        return value, {}
    unknown = [key for key in value if key not in ("config", "schedules")]
    if unknown:
        raise ConfigError(
            f"The config file {source} has {listed(unknown)} at the same level as config.",
            "Move these keys into config, or remove config.",
        )
    tree, schedules = (value.get(key) or {} for key in ("config", "schedules"))
    for key, section in (("config", tree), ("schedules", schedules)):
        if not isinstance(section, dict):
            raise ConfigError(f"In the config file {source}, {key} must be a mapping.")
    return tree, schedules


def _yaml_problem(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}: {error.problem}"
    return one_line(error)


def _describe(item: Any) -> str:
    """Returns one of pydantic's errors as "key: problem"."""
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        known = _fields_at(item["loc"][:-1])
        close = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known: {listed(known, 30)}"
        return f"{key}: unknown key ({hint})"
    message = plain_check(item["msg"])
    if item["type"] == "value_error":
        return f"{key}: {message}"
    return f"{key}: {message[0].lower()}{message[1:]}, not {item['input']!r}"


def _fields_at(location: tuple[Any, ...]) -> list[str]:
    """Returns the names of the fields of a section."""
    model: type[BaseModel] = Experiment
    for part in location:
        annotation = model.model_fields[str(part)].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)
