"""Losses, ROI align and box encoding, compared with the reference's figures for seeded inputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

LEVELS = range(2, 7)


@pytest.fixture(scope="module")
def seeded() -> dict[str, Any]:
    """The inputs, drawn in the order of the figures' README."""
    g = np.random.default_rng(0)

    def draw(*shape: int, scale: float = 1.0) -> np.ndarray:
        return (scale * g.standard_normal(shape)).astype(np.float32)

    inputs: dict[str, Any] = {
        "scores": {level: draw(2, 512 >> level, 512 >> level, 3, scale=2.0) for level in LEVELS},
        "boxes": {level: draw(2, 512 >> level, 512 >> level, 12, scale=0.5) for level in LEVELS},
        "class_logits": draw(2, 64, 91, scale=2.0),
    }
    classes = g.integers(0, 91, (2, 64))
    classes[:, 40:] = 0
    inputs["classes"] = classes.astype(np.int32)
    inputs["offsets"] = draw(2, 64, 364).reshape(2, 64, 91, 4)
    inputs["box_targets"] = draw(2, 64, 4)
    inputs["mask_logits"] = draw(2, 16, 28, 28, scale=2.0)
    inputs["mask_targets"] = (g.random((2, 16, 28, 28)) > 0.5).astype(np.float32)
    inputs["mask_classes"] = g.integers(0, 5, (2, 16)).astype(np.int32)
    inputs["semantic_logits"] = draw(2, 128, 128, 111, scale=2.0)
    inputs["features"] = {level: draw(2, 512 >> level, 512 >> level, 4) for level in LEVELS}
    return inputs


@pytest.fixture(scope="module")
def losses() -> dict[str, float]:
    return json.loads((Path(__file__).parent / "reference" / "losses.json").read_text())


def test_losses_match(
    seeded: dict[str, Any], losses: dict[str, float], figures: Callable[[str], dict[str, np.ndarray]]
) -> None:
    from panoptic_cli.models.panoptic_fpn import losses as loss_ops

    targets = figures("training_targets")
    score_targets = {level: targets[f"rpn_score_targets_{level}"][:2].astype(np.int32) for level in LEVELS}
    box_targets = {level: targets[f"rpn_box_targets_{level}"][:2] for level in LEVELS}
    classes = seeded["classes"]
    ours = {
        "rpn_score_loss": loss_ops.rpn_score_loss(seeded["scores"], score_targets, 262_144),
        "rpn_box_loss": loss_ops.rpn_box_loss(seeded["boxes"], box_targets, 1 / 9),
        "frcnn_class_loss": loss_ops.box_class_loss(seeded["class_logits"], classes),
        "frcnn_box_loss": loss_ops.box_regression_loss(seeded["offsets"], classes, seeded["box_targets"], 1.0),
        "mask_loss": loss_ops.mask_loss(seeded["mask_logits"], seeded["mask_targets"], seeded["mask_classes"]),
        "segmentation_loss": loss_ops.semantic_loss(
            seeded["semantic_logits"], targets["gt_segmentation_mask"][:2, ..., 0], 255
        ),
    }
    assert ours.keys() == losses.keys()
    for name, value in losses.items():
        assert float(ours[name]) == pytest.approx(value, rel=1e-5), name


def test_roi_align_matches(seeded: dict[str, Any], figures: Callable[[str], dict[str, np.ndarray]]) -> None:
    import tensorflow as tf

    from panoptic_cli.models.panoptic_fpn.roi_align import roi_align

    stored = figures("ops")
    features = {level: tf.constant(x) for level, x in seeded["features"].items()}
    for crop in (7, 14):
        ours = roi_align(features, tf.constant(stored["roi_boxes"]), crop)
        np.testing.assert_allclose(ours, stored[f"roi_align_{crop}"], rtol=0, atol=1e-5)


def test_box_encoding_and_decoding_match(figures: Callable[[str], dict[str, np.ndarray]]) -> None:
    from panoptic_cli.models.panoptic_fpn.boxes import BOX_HEAD_WEIGHTS, decode, encode

    stored = figures("ops")
    boxes, anchors = stored["roi_boxes"], stored["encode_anchors"]
    np.testing.assert_allclose(encode(boxes, anchors, BOX_HEAD_WEIGHTS), stored["encoded"], rtol=0, atol=1e-5)
    # For values up to 600, 1e-5 is below the spacing of float32 (6e-5), so two spacings are allowed.
    np.testing.assert_allclose(
        decode(stored["encoded"], anchors, BOX_HEAD_WEIGHTS), stored["decoded"], rtol=2.4e-7, atol=1e-5
    )
