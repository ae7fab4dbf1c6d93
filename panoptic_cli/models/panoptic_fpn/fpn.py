"""Feature pyramid network (arXiv 1612.03144) as the reference builds it."""

from __future__ import annotations

import keras
import tensorflow as tf

from panoptic_cli.config.panoptic_fpn import NormActivation
from panoptic_cli.models.panoptic_fpn.normalization import batch_norm

_BACKBONE_MAX_LEVEL = 5


def upsample_nearest(x: tf.Tensor) -> tf.Tensor:
    """Doubles height and width by repeating pixels: [b, h, w, c] -> [b, 2h, 2w, c].

    It uses a broadcast instead of a resize, because a broadcast has a gradient and an XLA kernel on every device, and
    keeps static shapes.
    """
    batch, height, width, channels = x.shape
    if batch is None:
        batch = tf.shape(x)[0]
    if height is None or width is None:
        height, width = tf.shape(x)[1], tf.shape(x)[2]
    x = tf.reshape(x, [batch, height, 1, width, 1, channels])  # TensorFlow Lite slices at most five axes
    x = tf.broadcast_to(x, [batch, height, 2, width, 2, channels])
    return tf.reshape(x, [batch, height * 2, width * 2, channels])


class FeaturePyramid(keras.layers.Layer):
    """1x1 laterals with nearest upsampling, a 3x3 on each sum, strided 3x3 above level 5, then batch norm.

    Attributes:
        laterals, outputs: {level: convolution} for the levels of the backbone.
        coarser: {level: stride-2 convolution} for the levels above the backbone's, each computed from the level below
            *before* its normalisation.
        norms: {level: normalisation} for every level.
    """

    def __init__(
        self, min_level: int, max_level: int, num_filters: int, norm: NormActivation, name: str = "decoder"
    ) -> None:
        super().__init__(name=name)
        self.num_filters = num_filters
        self.levels = list(range(min_level, max_level + 1))
        self._shared = [level for level in self.levels if level <= _BACKBONE_MAX_LEVEL]

        def conv(size: int, stride: int, name: str) -> keras.layers.Conv2D:
            return keras.layers.Conv2D(
                num_filters,
                size,
                strides=stride,
                padding="same",
                kernel_initializer=keras.initializers.VarianceScaling(),
                name=name,
            )

        # Lists, not dictionaries: Keras tracks the layers in both, but keeps integer keys only in lists.
        self._laterals = [conv(1, 1, f"lateral{level}") for level in self._shared]
        self._outputs = [conv(3, 1, f"output{level}") for level in self._shared]
        self._coarser = [conv(3, 2, f"coarser{level}") for level in self.levels if level > _BACKBONE_MAX_LEVEL]
        self._norms = [batch_norm(norm, f"norm{level}") for level in self.levels]

    @property
    def laterals(self) -> dict[int, keras.layers.Conv2D]:
        """{level: 1x1 convolution} of the backbone's levels."""
        return dict(zip(self._shared, self._laterals, strict=True))

    @property
    def outputs(self) -> dict[int, keras.layers.Conv2D]:
        """{level: 3x3 convolution} of the sums."""
        return dict(zip(self._shared, self._outputs, strict=True))

    @property
    def coarser(self) -> dict[int, keras.layers.Conv2D]:
        """{level: stride-2 convolution} of the levels above the backbone's."""
        return dict(zip(self.levels[len(self._shared) :], self._coarser, strict=True))

    @property
    def norms(self) -> dict[int, keras.layers.BatchNormalization]:
        """{level: normalisation} of all levels."""
        return dict(zip(self.levels, self._norms, strict=True))

    def build(self, input_shape: dict[int, tuple[int | None, ...]]) -> None:
        """Creates the variables for backbone outputs of these shapes."""
        for level, lateral in self.laterals.items():
            lateral.build((None, None, None, input_shape[level][-1]))
        pyramid = (None, None, None, self.num_filters)
        for layer in [*self._outputs, *self._coarser, *self._norms]:
            layer.build(pyramid)
        self.built = True

    def call(self, features: dict[int, tf.Tensor], training: bool | None = None) -> dict[int, tf.Tensor]:
        """Computes the pyramid.

        Args:
            features: {level: [batch, h, w, c]} from the backbone.
            training: True updates the batch statistics.

        Returns:
            {level: [batch, height / 2^level, width / 2^level, num_filters]} for min_level..max_level.
        """
        laterals, outputs, norms = self.laterals, self.outputs, self.norms
        top_down: dict[int, tf.Tensor] = {}
        for level in reversed(self._shared):
            x = laterals[level](features[level])
            top_down[level] = x if level + 1 not in top_down else x + upsample_nearest(top_down[level + 1])
        pyramid = {level: outputs[level](top_down[level]) for level in self._shared}
        for level, conv in self.coarser.items():
            # From the second coarser level on, the reference puts a ReLU before the convolution (P7 of RetinaNet).
            below = pyramid[level - 1]
            pyramid[level] = conv(below if level == _BACKBONE_MAX_LEVEL + 1 else tf.nn.relu(below))
        return {level: norms[level](pyramid[level], training=training) for level in self.levels}
