"""Semantic segmentation head of Panoptic FPN (arXiv 1901.02446, section 3.1 and figure 3)."""

from __future__ import annotations

import keras
import tensorflow as tf

from panoptic_cli.models.panoptic_fpn.fpn import upsample_nearest

TARGET_LEVEL = 2  # the level with stride 4, to which all others are upsampled
_GROUPS = 32
_GROUP_NORM_EPSILON = 1e-3


class SemanticHead(keras.layers.Layer):
    """Upsamples every level to stride 4 in steps of 3x3, group norm, ReLU and 2x upsampling, then adds and classifies.

    Attributes:
        convs, norms: convs[level index][step] and their group normalisations.
        classifier: 1x1 convolution that computes the logits of the semantic classes.
    """

    def __init__(self, num_filters: int, num_classes: int, levels: list[int], name: str = "segmentation_head") -> None:
        super().__init__(name=name)
        self.levels = levels
        self.num_filters = num_filters
        steps = [max(1, level - TARGET_LEVEL) for level in levels]
        self.convs = [
            [
                keras.layers.Conv2D(
                    num_filters,
                    3,
                    padding="same",
                    kernel_initializer=keras.initializers.VarianceScaling(),
                    name=f"conv{level}_{i}",
                )
                for i in range(count)
            ]
            for level, count in zip(levels, steps, strict=True)
        ]
        self.norms = [
            [
                keras.layers.GroupNormalization(
                    min(_GROUPS, num_filters), epsilon=_GROUP_NORM_EPSILON, name=f"norm{level}_{i}"
                )
                for i in range(count)
            ]
            for level, count in zip(levels, steps, strict=True)
        ]
        self.classifier = keras.layers.Conv2D(
            num_classes, 1, kernel_initializer=keras.initializers.RandomNormal(stddev=0.01), name="classifier"
        )

    def build(self, input_shape: dict[int, tuple[int | None, ...]]) -> None:
        """Creates the variables."""
        for convs, norms, level in zip(self.convs, self.norms, self.levels, strict=True):
            channels = input_shape[level][-1]
            for conv, norm in zip(convs, norms, strict=True):
                conv.build((None, None, None, channels))
                channels = self.num_filters
                norm.build((None, None, None, channels))
        self.classifier.build((None, None, None, self.num_filters))
        self.built = True

    def call(self, features: dict[int, tf.Tensor]) -> tf.Tensor:
        """Computes float32 logits [batch, height / 4, width / 4, num_classes] from {level: [batch, h, w, c]}."""
        total = None
        for convs, norms, level in zip(self.convs, self.norms, self.levels, strict=True):
            x = features[level]
            for conv, norm in zip(convs, norms, strict=True):
                x = tf.nn.relu(norm(conv(x)))
                if level != TARGET_LEVEL:
                    x = upsample_nearest(x)
            total = x if total is None else total + x
        return tf.cast(self.classifier(total), tf.float32)
