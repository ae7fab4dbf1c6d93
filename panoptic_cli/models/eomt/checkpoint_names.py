"""The variables of EoMT in Hugging Face's folders: those of EoMT, and of its backbones alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from panoptic_cli.config.eomt import Eomt as EomtConfig
from panoptic_cli.config.hugging_face import described_network
from panoptic_cli.errors import RunError, summarize
from panoptic_cli.models.eomt.attention import Attention
from panoptic_cli.models.eomt.blocks import MLP, Block
from panoptic_cli.models.eomt.embeddings import Embeddings, Queries
from panoptic_cli.models.eomt.heads import Heads
from panoptic_cli.models.eomt.layers import LayerNorm, Linear
from panoptic_cli.models.eomt.resampling import resize_patch_kernel, resize_positions
from panoptic_cli.models.stored import StoredForm, StoredNetwork, StoredTensor, StoredVariable

# Buffers of masked attention and of the loss: inference is without masks whatever they say.
_BUFFERS = frozenset({"attn_mask_probs", "criterion.empty_weight"})


class Parts(Protocol):
    """The parts of an Eomt."""

    config: EomtConfig
    embeddings: Embeddings
    blocks: list[Block]
    norm: LayerNorm
    queries: Queries
    heads: Heads


class _Names(NamedTuple):
    """The names of a model type; those of the linear layers are without .weight and .bias.

    Attributes:
        block: of a block, with {} for its number.
        patches: of the kernel of patches.
        attention: of the linear layers of queries, keys, values and the result.
        up, down: of the MLP without a gate; with one it has gate_proj, up_proj and down_proj.
        norm: of the last layer normalisation.
        ignored: tensors that are not needed.
    """

    block: str
    patches: str
    attention: tuple[str, str, str, str]
    up: str
    down: str
    norm: str
    ignored: frozenset[str]


_PROJECTIONS = ("attention.q_proj", "attention.k_proj", "attention.v_proj")
_NAMES = {
    "eomt": _Names(
        "layers.{}",
        "embeddings.patch_embeddings.projection",
        (*_PROJECTIONS, "attention.out_proj"),
        "mlp.fc1",
        "mlp.fc2",
        "layernorm",
        _BUFFERS,
    ),
    "eomt_dinov3": _Names(
        "layers.{}",
        "embeddings.patch_embeddings",
        (*_PROJECTIONS, "attention.o_proj"),
        "mlp.up_proj",
        "mlp.down_proj",
        "layernorm",
        _BUFFERS,
    ),
    "dinov2_with_registers": _Names(
        "encoder.layer.{}",
        "embeddings.patch_embeddings.projection",
        ("attention.attention.query", "attention.attention.key", "attention.attention.value", "attention.output.dense"),
        "mlp.fc1",
        "mlp.fc2",
        "layernorm",
        frozenset({"embeddings.mask_token"}),
    ),
}
# The backbones that each kind of network starts from.
_BACKBONES = {"eomt": "dinov2_with_registers"}


def hugging_face_variables(network: Parts, config: Mapping[str, Any], source: str) -> StoredNetwork:
    """Returns the variables in a folder of Hugging Face's layout.

    Args:
        network: the built network.
        config: the content of the folder's config.json.
        source: its path, for messages.

    Raises:
        RunError: the folder is of another kind than the network, or computes something else with the same weights.
    """
    ours, kind = network.config, config.get("model_type")
    backbone_only = kind == _BACKBONES.get(ours.model_type)
    if kind != ours.model_type and not backbone_only:
        raise RunError(
            f"{source} has model_type {kind!r}, but that of the network is {ours.model_type!r}.",
            "Check task.model.",
        )
    problems = _differences(ours, config if backbone_only else described_network(config, source).model.model_dump())
    if problems:
        raise RunError(
            f"{source} does not fit the configured network: {summarize(problems, len(problems))}.",
            "Use the same values (--set task.model.eomt...).",
        )
    names = _NAMES[str(kind)]
    variables = list(_backbone(network, names, separate_positions=not backbone_only))
    if not backbone_only:
        variables += _heads(network)
    return StoredNetwork(variables, names.ignored, backbone_only)


def _differences(config: EomtConfig, other: Mapping[str, Any]) -> list[str]:
    """Returns how another network differs in what the shapes of its weights do not show, a phrase each."""
    fields = ["num_attention_heads", "layer_norm_eps", "hidden_act", *(["rope_theta"] if config.rotary else [])]
    return [
        f"{field} is {other[field]} there and {getattr(config, field)} here"
        for field in fields
        if other.get(field, getattr(config, field)) != getattr(config, field)
    ]


def _plain(variable: Any, name: str) -> StoredVariable:
    return _stored(variable, (name, tuple(variable.shape)), combine=lambda value: value)


def _stored(variable: Any, *tensors: tuple[str, tuple[int | None, ...]], combine: Any) -> StoredVariable:
    return StoredVariable(variable, (StoredForm(tuple(StoredTensor(*tensor) for tensor in tensors), combine),))


def _linear(layer: Linear, name: str) -> Iterator[StoredVariable]:
    inputs, outputs = layer.kernel.shape
    yield _stored(layer.kernel, (f"{name}.weight", (outputs, inputs)), combine=np.transpose)
    if layer.bias is not None:
        yield _plain(layer.bias, f"{name}.bias")


def _norm(layer: LayerNorm, name: str) -> Iterator[StoredVariable]:
    yield _plain(layer.gamma, f"{name}.weight")
    yield _plain(layer.beta, f"{name}.bias")


def _backbone(network: Parts, names: _Names, *, separate_positions: bool) -> Iterator[StoredVariable]:
    yield from _embeddings(network.embeddings, network.config, names, separate_positions=separate_positions)
    for number, block in enumerate(network.blocks):
        path = names.block.format(number)
        yield from _norm(block.norm1, f"{path}.norm1")
        yield from _attention(block.attention, path, names)
        yield _plain(block.scale1.scale, f"{path}.layer_scale1.lambda1")
        yield from _norm(block.norm2, f"{path}.norm2")
        yield from _mlp(block.mlp, path, names)
        yield _plain(block.scale2.scale, f"{path}.layer_scale2.lambda1")
    yield from _norm(network.norm, names.norm)


def _embeddings(
    layer: Embeddings, config: EomtConfig, names: _Names, *, separate_positions: bool
) -> Iterator[StoredVariable]:
    """Yields the variables of the embeddings.

    Args:
        layer: the embeddings.
        config: of the network.
        names: the names in the folder.
        separate_positions: whether only patches have a position; otherwise the first one is the CLS token's.
    """
    width, grid = config.hidden_size, config.grid_size
    yield _stored(
        layer.kernel,
        (f"{names.patches}.weight", (width, 3, None, None)),
        combine=lambda kernel: resize_patch_kernel(kernel, config.patch_size).transpose(2, 3, 1, 0),
    )
    yield _plain(layer.bias, f"{names.patches}.bias")
    yield _plain(layer.register_tokens, "embeddings.register_tokens")
    token = ("embeddings.cls_token", (1, 1, width))
    if separate_positions:
        yield _stored(layer.cls_token, token, combine=lambda value: value)
        if layer.positions is not None:
            stored = ("embeddings.position_embeddings.weight", (None, width))
            yield _stored(layer.positions, stored, combine=lambda table: resize_positions(table, grid))
        return
    table: tuple[str, tuple[int | None, ...]] = ("embeddings.position_embeddings", (1, None, width))
    yield _stored(layer.cls_token, token, table, combine=lambda value, table: value + table[:, :1])
    yield _stored(layer.positions, table, combine=lambda table: resize_positions(table[0, 1:], grid))


def _attention(layer: Attention, path: str, names: _Names) -> Iterator[StoredVariable]:
    *parts, result = (f"{path}.{name}" for name in names.attention)
    width = layer.kernel.shape[0]
    yield _stored(
        layer.kernel,
        *((f"{part}.weight", (width, width)) for part in parts),
        combine=lambda *kernels: np.concatenate([kernel.T for kernel in kernels], axis=1),
    )
    for part, name in zip(parts, ("query", "key", "value"), strict=True):
        if name in layer.biases:
            yield _plain(layer.biases[name], f"{part}.bias")
    yield from _linear(layer.projection, result)


def _mlp(layer: MLP, path: str, names: _Names) -> Iterator[StoredVariable]:
    if layer.gate is None:
        yield from _linear(layer.up, f"{path}.{names.up}")
        yield from _linear(layer.down, f"{path}.{names.down}")
        return
    for place, (part, name) in enumerate(((layer.gate, "gate_proj"), (layer.up, "up_proj"))):
        for stored in _linear(part, f"{path}.mlp.{name}"):
            yield _or_half(stored, f"{path}.mlp.weights_in", place)
    for stored in _linear(layer.down, f"{path}.mlp.down_proj"):
        (form,) = stored.forms
        other = StoredTensor(form.tensors[0].name.replace("down_proj", "weights_out"), form.tensors[0].shape)
        yield StoredVariable(stored.variable, (form, StoredForm((other,), form.combine)))


def _or_half(stored: StoredVariable, name: str, place: int) -> StoredVariable:
    """Adds the form in which gate (place 0) and the other layer (place 1) are one tensor."""
    (form,) = stored.forms
    rows, *rest = form.tensors[0].shape
    assert rows is not None
    kind = form.tensors[0].name.rpartition(".")[2]
    both = StoredTensor(f"{name}.{kind}", (2 * rows, *rest))

    def half(value: np.ndarray) -> np.ndarray:
        return form.combine(value[place * rows : (place + 1) * rows])

    return StoredVariable(stored.variable, (form, StoredForm((both,), half)))


def _heads(network: Parts) -> Iterator[StoredVariable]:
    heads = network.heads
    yield _plain(network.queries.queries, "query.weight")
    yield from _linear(heads.classes, "class_predictor")
    for number, layer in enumerate(heads.masks.linears, start=1):
        yield from _linear(layer, f"mask_head.fc{number}")
    for number, block in enumerate(heads.upscale):
        path, width = f"upscale_block.block.{number}", block.width
        yield _stored(block.kernel, (f"{path}.conv1.weight", (width, width, 2, 2)), combine=_pixel_kernels)
        yield _plain(block.bias, f"{path}.conv1.bias")
        yield _stored(block.depthwise, (f"{path}.conv2.weight", (width, 1, 3, 3)), combine=_depthwise_kernel)
        yield from _norm(block.norm, f"{path}.layernorm2d")


def _pixel_kernels(kernel: np.ndarray) -> np.ndarray:
    """Turns the kernel of a transposed convolution, [in, out, 2, 2], into [2, in, 2 * out]; see `UpscaleBlock`."""
    inputs, outputs = kernel.shape[:2]
    return kernel.transpose(2, 0, 3, 1).reshape(2, inputs, 2 * outputs)


def _depthwise_kernel(kernel: np.ndarray) -> np.ndarray:
    return kernel.transpose(2, 3, 0, 1)
