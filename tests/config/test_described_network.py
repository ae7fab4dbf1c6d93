"""The configuration that Hugging Face's config.json describes."""

from __future__ import annotations

from typing import Any

import pytest

from panoptic_cli.config.eomt import Eomt
from panoptic_cli.config.hugging_face import described_network
from panoptic_cli.errors import RunError


def read(**fields: Any) -> Eomt:
    return described_network(fields, "folder/config.json").model


def test_absent_fields_have_the_defaults_of_transformers() -> None:
    assert read(model_type="eomt") == Eomt()
    model = read(model_type="eomt_dinov3")
    assert (model.key_bias, model.value_bias, model.mlp_size, model.rope_theta) == (False, True, 4096, 100.0)


def test_fields_of_dinov3() -> None:
    model = read(
        model_type="eomt_dinov3",
        hidden_size=64,
        num_attention_heads=4,
        intermediate_size=160,
        use_gated_mlp=True,
        hidden_act="silu",
        rope_parameters={"rope_theta": 50.0, "rope_type": "default"},
        pos_embed_rescale=None,
        mlp_ratio=2,  # of no meaning for this kind
    )
    assert (model.mlp_size, model.gate_activation, model.rope_theta, model.pos_embed_rescale) == (
        160,
        "silu",
        50.0,
        None,
    )
    assert read(model_type="eomt_dinov3", rope_theta=20).rope_theta == 20.0  # as older files have it


@pytest.mark.parametrize(("width", "inner"), [(64, 176), (1536, 4096)])
def test_the_width_of_a_gated_mlp(width: int, inner: int) -> None:
    assert read(model_type="eomt", hidden_size=width, use_swiglu_ffn=True).mlp_size == inner


def test_sides_may_be_written_twice_and_activations_under_other_names() -> None:
    assert read(model_type="eomt", image_size=[320, 320]).image_size == 320
    assert read(model_type="eomt_dinov3", hidden_act="swish").hidden_act == "silu"


def test_labels_in_the_order_of_their_numbers() -> None:
    labels = {str(number): f"name {number}" for number in reversed(range(12))}
    assert described_network({"model_type": "eomt", "id2label": labels}, "x").labels == tuple(
        f"name {number}" for number in range(12)
    )
    assert described_network({"model_type": "eomt"}, "x").labels is None
    with pytest.raises(RunError, match="id2label"):
        described_network({"model_type": "eomt", "id2label": {"1": "a"}}, "x")


def test_dropout_is_noted() -> None:
    (note,) = described_network({"model_type": "eomt", "attention_dropout": 0.1}, "x").notes
    assert "attention_dropout" in note


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model_type": "mask2former"}, "model_type 'mask2former', which is not supported"),
        ({}, "model_type None"),
        ({"model_type": "eomt", "num_channels": 4}, "num_channels: must be 3, not 4"),
        ({"model_type": "eomt", "hidden_act": "mish"}, "hidden_act: must be 'gelu'"),
        ({"model_type": "eomt", "hidden_act": ["gelu"]}, "hidden_act"),
        ({"model_type": "eomt", "image_size": [320, 640]}, "image_size"),
        ({"model_type": "eomt", "image_size": 650}, "image_size 650 must be a multiple of patch_size 16"),
        ({"model_type": "eomt", "hidden_size": 100}, "hidden_size 100 must be a multiple of num_attention_heads 16"),
        ({"model_type": "eomt", "num_blocks": 25}, "num_blocks 25 must not be above num_hidden_layers 24"),
        ({"model_type": "eomt_dinov3", "rope_parameters": {"rope_type": "yarn"}}, "rope_type: must be 'default'"),
        ({"model_type": "eomt_dinov3", "hidden_size": 96}, "must be a multiple of 4"),
    ],
)
def test_what_is_not_supported_is_named(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(RunError) as caught:
        described_network(fields, "folder/config.json")
    assert words in caught.value.message
    assert caught.value.message.startswith("folder/config.json")


def test_several_problems_are_listed_together() -> None:
    with pytest.raises(RunError) as caught:
        described_network({"model_type": "eomt", "num_channels": 1, "hidden_act": "mish", "patch_size": 0}, "x")
    assert caught.value.message.count("\n  - ") == 3
