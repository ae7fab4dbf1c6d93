"""Each stage of detection on its own, with the same inputs as the reference.

`stages.npz` contains the outputs of the reference's own layers under TensorFlow 2.21 for inputs drawn from
`numpy.random.default_rng(7)` in the order of `Draws`, with image shapes 512x512 and 384x500. A single stage does not
amplify rounding (see test_forward), so rules, order and ties must be the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

LEVELS = range(2, 7)
SHAPES = np.array([[512, 512], [384, 500]], np.float32)
PIXELS = 3e-4  # the spacing of float32 at 512 is 6e-5; exp() of a wild offset is off by several of these


class Draws:
    """The inputs, in the order in which they were drawn; RPN scores with usual (0.5) and wild (10) offsets."""

    def __init__(self) -> None:
        self._generator = np.random.default_rng(7)
        self.rpn = {name: self._rpn(scale) for name, scale in (("usual", 0.5), ("wild", 10.0))}
        self.class_logits = self._draw(3, (2, 1000, 91))
        self.box_offsets = self._draw(1, (2, 1000, 364))
        self.box_crops = self._draw(1, (2, 20, 7, 7, 256))
        self.mask_crops = self._draw(1, (2, 10, 14, 14, 256))
        self.mask_classes = self._generator.integers(1, 91, (2, 10)).astype(np.int32)

    def _draw(self, scale: float, shape: tuple[int, ...]) -> np.ndarray:
        return (scale * self._generator.standard_normal(shape)).astype(np.float32)

    def _rpn(self, scale: float) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
        sides = {level: 512 >> level for level in LEVELS}
        scores = {level: self._draw(2, (2, side, side, 3)) for level, side in sides.items()}
        return scores, {level: self._draw(scale, (2, side, side, 12)) for level, side in sides.items()}


@pytest.fixture(scope="module")
def draws() -> Draws:
    return Draws()


@pytest.fixture(scope="module")
def stored(figures: Callable[[str], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return figures("stages")


@pytest.mark.parametrize("suppression", ["kernel", "padded"])
@pytest.mark.parametrize("phase", ["inference", "training"])
@pytest.mark.parametrize("offsets", ["usual", "wild"])
def test_proposals_match(
    offsets: str, phase: str, suppression: Any, draws: Draws, stored: dict[str, np.ndarray], coco_config: Any
) -> None:
    import tensorflow as tf

    from panoptic_cli.models.panoptic_fpn.anchors import anchor_boxes
    from panoptic_cli.models.panoptic_fpn.rpn import propose

    model = coco_config.task.model
    anchors = anchor_boxes(model.anchor, (512, 512), model.min_level, model.max_level)
    step = tf.function(
        lambda s, o: propose(s, o, anchors, tf.constant(SHAPES), model.roi_generator, phase == "training", suppression),
        autograph=False,
    )
    boxes, scores = step(*draws.rpn[offsets])
    np.testing.assert_allclose(scores, stored[f"proposals_{offsets}_{phase}_scores"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(boxes, stored[f"proposals_{offsets}_{phase}"], rtol=0, atol=PIXELS)


@pytest.mark.parametrize("suppression", ["kernel", "lists", "padded"])
def test_detections_match(suppression: Any, draws: Draws, stored: dict[str, np.ndarray], coco_config: Any) -> None:
    import tensorflow as tf

    from panoptic_cli.models.panoptic_fpn.detection import detect

    outputs = tf.function(detect, autograph=False)(
        tf.constant(draws.class_logits),
        tf.constant(draws.box_offsets.reshape(2, 1000, 91, 4)),
        tf.constant(stored["proposals_usual_inference"]),
        tf.constant(SHAPES),
        coco_config.task.model.detection_generator,
        suppression,
    )
    for name in ("num_detections", "detection_classes"):
        np.testing.assert_array_equal(outputs[name], stored[name])
    np.testing.assert_allclose(outputs["detection_scores"], stored["detection_scores"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(outputs["detection_boxes"], stored["detection_boxes"], rtol=0, atol=PIXELS)


@pytest.mark.slow
def test_outputs_of_the_heads_match(draws: Draws, stored: dict[str, np.ndarray], reference_network: Any) -> None:
    import tensorflow as tf

    network = reference_network
    logits, offsets = tf.function(lambda x: network.detection_head(x, training=False), autograph=False)(draws.box_crops)
    masks = tf.function(lambda x, c: network.mask_head(x, c, training=False), autograph=False)(
        draws.mask_crops, draws.mask_classes
    )
    # The sums have up to 12,544 terms, so float32 rounding is about 1e-6 of values up to 5.
    np.testing.assert_allclose(logits, stored["class_logits"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(np.reshape(offsets, (2, 20, 364)), stored["box_offsets"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(masks, stored["mask_logits"], rtol=0, atol=2e-5)
