"""Region proposal network (arXiv 1506.01497): its head, and the proposals from its outputs."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from panoptic_cli.config.panoptic_fpn import NormActivation, ROIGenerator, RPNHead
from panoptic_cli.models.panoptic_fpn import boxes as box_ops
from panoptic_cli.models.panoptic_fpn.nms import Suppression, suppress_lists
from panoptic_cli.models.panoptic_fpn.normalization import batch_norm


class RegionProposalHead(keras.layers.Layer):
    """3x3 convolutions shared by all levels, with a batch norm per level, then objectness and boxes.

    Attributes:
        convs: the shared convolutions.
        norms: norms[level index][convolution].
        classifier: 1x1 convolution that computes one logit per anchor.
        box_regressor: 1x1 convolution that computes four offsets per anchor.
    """

    def __init__(
        self, config: RPNHead, anchors: int, levels: list[int], norm: NormActivation, name: str = "rpn_head"
    ) -> None:
        super().__init__(name=name)
        self.anchors = anchors
        self.levels = levels
        self.convs = [
            keras.layers.Conv2D(
                config.num_filters,
                3,
                padding="same",
                kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
                name=f"conv{i}",
            )
            for i in range(config.num_convs)
        ]
        self.norms = [[batch_norm(norm, f"norm{level}_{i}") for i in range(config.num_convs)] for level in levels]
        self.classifier = keras.layers.Conv2D(
            anchors, 1, kernel_initializer=keras.initializers.RandomNormal(stddev=1e-5), name="classifier"
        )
        self.box_regressor = keras.layers.Conv2D(
            4 * anchors, 1, kernel_initializer=keras.initializers.RandomNormal(stddev=1e-5), name="box_regressor"
        )

    def build(self, input_shape: dict[int, tuple[int | None, ...]]) -> None:
        """Creates the variables."""
        channels = next(iter(input_shape.values()))[-1]
        for conv in self.convs:
            conv.build((None, None, None, channels))
            channels = conv.filters
        for norms in self.norms:
            for norm in norms:
                norm.build((None, None, None, channels))
        self.classifier.build((None, None, None, channels))
        self.box_regressor.build((None, None, None, channels))
        self.built = True

    def call(
        self, features: dict[int, tf.Tensor], training: bool | None = None
    ) -> tuple[dict[int, tf.Tensor], dict[int, tf.Tensor]]:
        """Computes the score and the box offsets of every anchor.

        Args:
            features: {level: [batch, h, w, c]}.
            training: True updates the batch statistics.

        Returns:
            Logits {level: float32 [batch, h, w, anchors]} and offsets {level: float32 [batch, h, w, anchors * 4]}.
        """
        scores, offsets = {}, {}
        for norms, level in zip(self.norms, self.levels, strict=True):
            x = features[level]
            for conv, norm in zip(self.convs, norms, strict=True):
                x = tf.nn.relu(norm(conv(x), training=training))
            scores[level] = tf.cast(self.classifier(x), tf.float32)
            offsets[level] = tf.cast(self.box_regressor(x), tf.float32)
        return scores, offsets


def propose(
    scores: dict[int, tf.Tensor],
    offsets: dict[int, tf.Tensor],
    anchors: dict[int, np.ndarray],
    image_shape: tf.Tensor,
    config: ROIGenerator,
    training: bool,
    suppression: Suppression = "kernel",
) -> tuple[tf.Tensor, tf.Tensor]:
    """Turns RPN outputs into proposals: the best of each level, NMS within the level, then the best of all levels.

    Args:
        scores: {level: float32 [batch, h, w, anchors]} logits.
        offsets: {level: float32 [batch, h, w, anchors * 4]}.
        anchors: {level: float32 [h, w, anchors, 4]}.
        image_shape: float32 [batch, 2], (height, width) that boxes are clipped to.
        config: numbers and thresholds, separate for training and inference.
        training: whether to use those of training.
        suppression: see `nms.Suppression`.

    Returns:
        Boxes float32 [batch, num_proposals, 4] and probabilities [batch, num_proposals], by descending
        probability, zeros after the last.
    """
    prefix = "" if training else "test_"
    top_k = getattr(config, f"{prefix}pre_nms_top_k")
    threshold = getattr(config, f"{prefix}pre_nms_score_threshold")
    iou_threshold = getattr(config, f"{prefix}nms_iou_threshold")
    num_proposals = getattr(config, f"{prefix}num_proposals")

    all_boxes, all_scores = [], []
    for level in sorted(scores):
        count = int(np.prod(anchors[level].shape[:-1]))
        kept, places = tf.math.top_k(tf.reshape(tf.sigmoid(scores[level]), [-1, count]), min(count, top_k), sorted=True)
        # Decoding after the selection gives the same boxes as before it, but decodes only a hundredth of them.
        level_offsets = tf.gather(tf.reshape(offsets[level], [-1, count, 4]), places, batch_dims=1)
        level_anchors = tf.gather(tf.constant(anchors[level].reshape(-1, 4)), places)
        boxes = box_ops.clip(box_ops.decode(level_offsets, level_anchors), image_shape)
        all_boxes.append(boxes)
        all_scores.append(kept)
    kept_lists = suppress_lists(all_boxes, all_scores, num_proposals, iou_threshold, threshold, suppression)
    boxes, kept = (tf.concat(parts, axis=1) for parts in zip(*kept_lists, strict=True))
    kept, places = tf.math.top_k(kept, min(num_proposals, int(kept.shape[1])), sorted=True)
    return tf.gather(boxes, places, batch_dims=1), kept
