"""ResNet v1.5 backbone (arXiv 1512.03385; the stride is on the 3x3 convolution)."""

from __future__ import annotations

import keras
import tensorflow as tf

from panoptic_cli.config.panoptic_fpn import NormActivation, ResNetBackbone
from panoptic_cli.models.panoptic_fpn.normalization import batch_norm

# Depth -> (kind of block, number of blocks in the stages at levels 2..5).
_STAGES: dict[int, tuple[str, tuple[int, int, int, int]]] = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}
_EXPANSION = 4  # ratio of a bottleneck block's output filters to its inner filters


def _conv(filters: int, size: int, stride: int, name: str) -> keras.layers.Conv2D:
    return keras.layers.Conv2D(
        filters,
        size,
        strides=stride,
        padding="same",
        use_bias=False,
        kernel_initializer=keras.initializers.VarianceScaling(),
        name=name,
    )


class ResidualBlock(keras.layers.Layer):
    """Two 3x3 convolutions (basic) or 1x1, 3x3, 1x1 (bottleneck), with a shortcut around them.

    Attributes:
        convs: the convolutions of the branch, in order.
        norms: their batch normalisations.
        shortcut: 1x1 projection of the shortcut, or None for the identity.
        shortcut_norm: its normalisation, or None.
    """

    def __init__(self, kind: str, filters: int, stride: int, project: bool, norm: NormActivation, name: str) -> None:
        super().__init__(name=name)
        if kind == "bottleneck":
            self.output_filters = filters * _EXPANSION
            shapes = [(filters, 1, 1), (filters, 3, stride), (self.output_filters, 1, 1)]
        else:
            self.output_filters = filters
            shapes = [(filters, 3, stride), (filters, 3, 1)]
        self.convs = [_conv(*shape, name=f"conv{i}") for i, shape in enumerate(shapes, start=1)]
        self.norms = [batch_norm(norm, f"norm{i}") for i in range(1, len(shapes) + 1)]
        self.shortcut = _conv(self.output_filters, 1, stride, "shortcut") if project else None
        self.shortcut_norm = batch_norm(norm, "shortcut_norm") if project else None

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the variables for inputs with this number of channels."""
        channels = input_shape[-1]
        for conv, norm in zip(self.convs, self.norms, strict=True):
            conv.build((None, None, None, channels))
            channels = conv.filters
            norm.build((None, None, None, channels))
        if self.shortcut is not None and self.shortcut_norm is not None:
            self.shortcut.build((None, None, None, input_shape[-1]))
            self.shortcut_norm.build((None, None, None, channels))
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Computes [batch, h / stride, w / stride, output_filters] from [batch, h, w, c]."""
        shortcut = inputs
        if self.shortcut is not None and self.shortcut_norm is not None:
            shortcut = self.shortcut_norm(self.shortcut(inputs), training=training)
        x = inputs
        for place, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True), start=1):
            x = norm(conv(x), training=training)
            if place < len(self.convs):
                x = tf.nn.relu(x)
        return tf.nn.relu(x + shortcut)


class ResNet(keras.layers.Layer):
    """The backbone: features at strides 4, 8, 16 and 32.

    Attributes:
        blocks: the residual blocks of all stages, in order.
        channels: {level: channels} of the outputs.
    """

    def __init__(self, config: ResNetBackbone, norm: NormActivation, name: str = "backbone") -> None:
        super().__init__(name=name)
        kind, repeats = _STAGES[config.model_id]

        def scaled(filters: int) -> int:
            return max(8, round(filters * config.depth_multiplier / 8) * 8)

        self.stem_conv = _conv(scaled(64), 7, 2, "stem_conv")
        self.stem_norm = batch_norm(norm, "stem_norm")
        self.blocks: list[ResidualBlock] = []
        self.channels: dict[int, int] = {}
        self._last_block_of_level: dict[int, int] = {}
        for level, count in enumerate(repeats, start=2):
            for place in range(count):
                block = ResidualBlock(
                    kind,
                    scaled(64 * 2 ** (level - 2)),
                    stride=2 if place == 0 and level > 2 else 1,
                    # The reference projects at the start of every stage, even if the shapes already agree.
                    project=place == 0,
                    norm=norm,
                    name=f"level{level}_block{place}",
                )
                self.blocks.append(block)
            self.channels[level] = self.blocks[-1].output_filters
            self._last_block_of_level[level] = len(self.blocks) - 1
        self.freeze(config.freeze_at)

    def freeze(self, stage: int) -> None:
        """Freezes the weights and statistics of all stages up to `stage`: 1 is the stem, 2 to 5 the levels, 0 none."""
        first = self._last_block_of_level[stage] + 1 if stage > 1 else 0
        frozen = [self.stem_conv, self.stem_norm, *self.blocks[:first]] if stage > 0 else []
        for layer in frozen:
            layer.trainable = False

    def variables_by_layer(self) -> list[list[keras.Variable]]:
        """Returns the variables of the stem, then those of each residual block."""
        stem = [*self.stem_conv.variables, *self.stem_norm.variables]
        return [stem, *(block.variables for block in self.blocks)]

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the variables."""
        self.stem_conv.build((None, None, None, input_shape[-1]))
        channels = self.stem_conv.filters
        self.stem_norm.build((None, None, None, channels))
        for block in self.blocks:
            block.build((None, None, None, channels))
            channels = block.output_filters
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> dict[int, tf.Tensor]:
        """Computes the features.

        Args:
            inputs: [batch, height, width, 3], normalised; sides multiples of 32.
            training: True updates the batch statistics.

        Returns:
            {level: [batch, height / 2^level, width / 2^level, channels[level]]} for levels 2..5.
        """
        x = tf.nn.relu(self.stem_norm(self.stem_conv(inputs), training=training))
        x = tf.nn.max_pool2d(x, 3, 2, "SAME")
        outputs: dict[int, tf.Tensor] = {}
        levels = {index: level for level, index in self._last_block_of_level.items()}
        for index, block in enumerate(self.blocks):
            x = block(x, training=training)
            if index in levels:
                outputs[levels[index]] = x
        return outputs
