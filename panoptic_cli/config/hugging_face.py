"""Reading config.json of a folder in Hugging Face's layout: the description of a network beside its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from panoptic_cli import storage
from panoptic_cli.config.eomt import Eomt
from panoptic_cli.errors import RunError, listed, one_line, plain_check, summarize

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_KINDS = ("eomt", "eomt_dinov3")
_SUPPORTED = "Supported are folders whose config.json has model_type eomt or eomt_dinov3."
_TRANSFORMER = (
    *("model_type", "image_size", "patch_size", "hidden_size", "num_hidden_layers", "num_attention_heads"),
    *("num_register_tokens", "num_queries", "num_blocks", "num_upscale_blocks", "hidden_act", "layer_norm_eps"),
    *("initializer_range", "layerscale_value", "drop_path_rate"),
)
_LOSSES = (
    *("class_weight", "mask_weight", "dice_weight", "no_object_weight"),
    *("train_num_points", "oversample_ratio", "importance_sample_ratio"),
)
_BIASES = ("query_bias", "key_bias", "value_bias", "proj_bias", "mlp_bias")
_POSITIONS = ("pos_embed_shift", "pos_embed_jitter", "pos_embed_rescale")
# The fields that each kind has; others are of no meaning for it, or for us.
_FIELDS = {
    "eomt": (*_TRANSFORMER, *_LOSSES, "mlp_ratio", "use_swiglu_ffn"),
    "eomt_dinov3": (*_TRANSFORMER, *_LOSSES, *_BIASES, *_POSITIONS, "intermediate_size", "use_gated_mlp"),
}
# Fields that a config.json may omit, with the values that they then have in transformers, where those are not ours.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "eomt": {},
    "eomt_dinov3": {"key_bias": False, "intermediate_size": 4096},
}
_ACTIVATIONS = {"swish": "silu", "gelu_new": "gelu_pytorch_tanh"}  # other names of the same functions


class DescribedNetwork(NamedTuple):
    """The network that a config.json describes.

    Attributes:
        model: its section of the configuration.
        labels: the names of its classes in order; None if config.json does not have them.
        notes: what was assumed, a sentence each.
    """

    model: Eomt
    labels: tuple[str, ...] | None
    notes: tuple[str, ...] = ()


def find_folder(source: str) -> str | None:
    """Returns the folder in Hugging Face's layout that a path names, None if it names none.

    Args:
        source: the folder, local or gs://, or its config.json or one of its safetensors files.
    """
    path = storage.normalize(source)
    parent, _, name = path.rpartition("/")
    if name == CONFIG_FILE or name.endswith((".safetensors", ".safetensors.index.json")):
        return (parent or ("/" if path.startswith("/") else ".")) if storage.exists(path) else None
    if not storage.is_directory(path):
        return None
    if any(storage.exists(f"{path}/{file}") for file in (WEIGHTS_FILE, INDEX_FILE)):
        return path
    # Other programs' folders may have a config.json, too.
    return path if '"model_type"' in (storage.read_text(f"{path}/{CONFIG_FILE}") or "") else None


def read_config(folder: str) -> dict[str, Any] | None:
    """Returns the content of a folder's config.json, None if there is none.

    Args:
        folder: local or gs://.

    Raises:
        RunError: it is not JSON, or not an object.
    """
    path = f"{folder}/{CONFIG_FILE}"
    text = storage.read_text(path)
    if text is None:
        return None
    try:
        config = json.loads(text)
    except ValueError as error:
        raise RunError(f"{path} is not valid JSON: {one_line(error)}.", "Copy or download it again.") from None
    if not isinstance(config, dict):
        raise RunError(f"{path} is not the description of a network.", _SUPPORTED)
    return config


def described_network(config: Mapping[str, Any], source: str) -> DescribedNetwork:
    """Turns the content of a config.json into a section of our configuration.

    Args:
        config: the content of the file.
        source: its path, for messages.

    Raises:
        RunError: it describes a network that is not supported; lists all fields that are the reason.
    """
    kind = config.get("model_type")
    if kind not in _KINDS:
        raise RunError(f"{source} describes a network of model_type {kind!r}, which is not supported.", _SUPPORTED)
    values = _DEFAULTS[kind] | {field: config[field] for field in _FIELDS[kind] if field in config}
    for field in ("image_size", "patch_size"):  # also written as height and width
        side = values.get(field)
        if isinstance(side, list) and len(side) == 2 and side[0] == side[1]:
            values[field] = side[0]
    problems = _unsupported(config)
    theta = _rope_parameters(config).get("rope_theta", config.get("rope_theta"))
    if kind == "eomt_dinov3" and theta is not None:
        values["rope_theta"] = theta
    activation = values.get("hidden_act")
    if isinstance(activation, str):
        values["hidden_act"] = _ACTIVATIONS.get(activation, activation)
    try:
        model = Eomt.model_validate(values)
    except ValidationError as error:
        problems += [_describe(item) for item in error.errors()]
    if problems:
        raise RunError(f"{source} describes a network that is not supported: {summarize(problems, 30)}.")
    dropout = [field for field in ("hidden_dropout_prob", "attention_dropout") if config.get(field)]
    notes = (f"{source} has {listed(dropout)}: training goes without.",) if dropout else ()
    return DescribedNetwork(model, _labels(config, source), notes)


def _unsupported(config: Mapping[str, Any]) -> list[str]:
    """Returns what the configuration has no field for, because only one value is supported."""
    problems = []
    channels = config.get("num_channels", 3)
    if channels != 3:
        problems.append(f"num_channels: must be 3, not {channels!r}")
    rope = _rope_parameters(config).get("rope_type", "default")
    if rope != "default":
        problems.append(f"rope_parameters.rope_type: must be 'default', not {rope!r}")
    return problems


def _rope_parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    parameters = config.get("rope_parameters")
    return parameters if isinstance(parameters, dict) else {}


def _labels(config: Mapping[str, Any], source: str) -> tuple[str, ...] | None:
    """Returns the names of the classes; names that transformers made up (LABEL_0, ...) count as their number alone."""
    labels = config.get("id2label")
    if labels is None:
        number = config.get("num_labels")
        return tuple(f"LABEL_{index}" for index in range(number)) if isinstance(number, int) else None
    if not isinstance(labels, dict) or set(labels) != {str(index) for index in range(len(labels))}:
        raise RunError(
            f"{source} has an id2label whose keys are not the numbers from 0 on.",
            'It must name every class, as in {"0": "person", "1": "bicycle"}.',
        )
    return tuple(str(labels[str(index)]) for index in range(len(labels)))


def _describe(item: Any) -> str:
    """Returns one of pydantic's errors as "field: problem"."""
    message = plain_check(item["msg"])
    if item["type"] == "value_error":
        return str(message)
    field = ".".join(str(part) for part in item["loc"])
    return f"{field}: {message}, not {item['input']!r}"
