"""The heads: classes and masks of the queries, and the features of the pixels that the masks are compared with."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from panoptic_cli.config.eomt import Eomt
from panoptic_cli.models.eomt.attention import CHUNK_BYTES, ranges
from panoptic_cli.models.eomt.layers import LayerNorm, Linear, activation, after, uniform
from panoptic_cli.models.platform import Platform


class Prediction(NamedTuple):
    """What the queries predict.

    A training needs the mask logits of few queries, at few places: then they are not computed for all.

    Attributes:
        class_logits: float32 [batch, queries, classes + 1]; "no object" is the last.
        embeddings: float [batch, queries, channels].
        features: float [batch, height, width, channels], patch_size / 2^num_upscale_blocks pixels a cell. The logit of
            a query at a cell is the product of both vectors.
    """

    class_logits: tf.Tensor
    embeddings: tf.Tensor
    features: tf.Tensor

    @property
    def mask_logits(self) -> tf.Tensor:
        """float32 [batch, queries, height, width]."""
        height, width, channels = self.features.shape[1:]
        pixels = tf.reshape(self.features, [-1, height * width, channels])
        masks = tf.matmul(self.embeddings, pixels, transpose_b=True)
        return tf.reshape(tf.cast(masks, tf.float32), [-1, self.embeddings.shape[1], height, width])


@tf.custom_gradient
def _in_order(
    x: tf.Tensor, class_logits: tf.Tensor, embeddings: tf.Tensor, features: tf.Tensor
) -> tuple[tuple[tf.Tensor, ...], Callable[..., tuple[tf.Tensor, ...]]]:
    def gradient(to_x: tf.Tensor, *to_prediction: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return (to_x, *after(to_x, *to_prediction))

    return (tf.identity(x), tf.identity(class_logits), tf.identity(embeddings), tf.identity(features)), gradient


def gradients_in_order(x: tf.Tensor, prediction: Prediction) -> tuple[tf.Tensor, Prediction]:
    """Makes the gradient of a prediction wait for that of the blocks after it.

    All predictions go into one loss. Otherwise TensorFlow would compute the gradients of all heads at once, as soon as
    the loss is known, and keep what each of them needs for it in memory together.

    Args:
        x: the tokens that the prediction was made from, [batch, tokens, channels].
        prediction: of `Heads`.

    Returns:
        Both as they are; the later blocks must be given these tokens.
    """
    x, *outputs = _in_order(x, *prediction)
    return x, Prediction(*outputs)


class MaskHead(keras.layers.Layer):
    """Three linear layers, which turn a query into a vector that pixels are compared with."""

    def __init__(self, config: Eomt, **options: Any) -> None:
        super().__init__(**options)
        width, function = config.hidden_size, activation(config.hidden_act)
        with keras.name_scope(self.name, caller=self):  # for the paths of variables
            self.linears = [
                Linear(width, width, kernel=uniform(width), bias=uniform(width), activation=act, name=f"linear{number}")
                for number, act in enumerate((function, function, None), start=1)
            ]
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Computes [batch, queries, channels] of the same shape."""
        for layer in self.linears:
            x = layer(x)
        return x


class UpscaleBlock(keras.layers.Layer):
    """Doubles the size: a transposed convolution, an activation, a depthwise convolution, and layer normalisation.

    The transposed convolution has as many taps as strides, so it is a linear layer for each of the four pixels. It is
    computed as two, for the pairs of pixels of the upper and of the lower row, because the results of a pair are in the
    right order.
    """

    def __init__(self, config: Eomt, **options: Any) -> None:
        super().__init__(**options)
        width = config.hidden_size
        self.width = width
        self.activation = activation(config.hidden_act)
        shape = (2, width, 2 * width)  # row of the pair, channels, columns of the pair times channels
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=uniform(4 * width))
        self.bias = self.add_weight(name="bias", shape=(width,), initializer=uniform(4 * width))
        self.depthwise = self.add_weight(name="depthwise_kernel", shape=(3, 3, width, 1), initializer=uniform(9))
        with keras.name_scope(self.name, caller=self):
            self.norm = LayerNorm(width, 1e-6, name="norm")
        self.built = True

    def call(
        self,
        x: tf.Tensor,
        rows: tuple[int, int] | None = None,
        platform: Platform = "cpu",
        training: bool = False,
    ) -> tf.Tensor:
        """Computes [batch, 2 * height, 2 * width, channels] from [batch, height, width, channels].

        Args:
            x: the pixels.
            rows: (start, stop): only what becomes of these rows is returned, [batch, 2 * (stop - start), ...].
            platform: what the graph is traced for.
            training: whether gradients will be computed.
        """
        height, width = x.shape[1:3]
        if rows is not None:
            return self._stripe(x, *rows, platform, training)
        y = tf.concat([self._doubled(x, row) for row in (0, 1)], axis=-1)
        y = tf.reshape(y, [-1, 2 * height, 2 * width, self.width])
        return self._finish(y, "SAME", platform, training)

    def _stripe(self, x: tf.Tensor, start: int, stop: int, platform: Platform, training: bool) -> tf.Tensor:
        """Computes a part of the result from the rows that it depends on.

        The depthwise convolution needs one more row on either side: the lower one of the pixels above, and the upper
        one of the pixels below. Beyond the edges is 0.
        """
        height, width = x.shape[1:3]
        lower = self._doubled(x[:, max(start - 1, 0) : stop], 1)
        upper = self._doubled(x[:, start : min(stop + 1, height)], 0)
        lower = tf.pad(lower, [[0, 0], [1, 0], [0, 0]]) if start == 0 else lower
        upper = tf.pad(upper, [[0, 0], [0, 1], [0, 0]]) if stop == height else upper
        edge = tf.zeros_like(lower[:, :, : self.width])
        y = tf.concat([edge, lower, edge, edge, upper, edge], axis=-1)
        y = tf.reshape(y, [-1, 2 * (stop - start + 1), 2 * width + 2, self.width])
        return self._finish(y, "VALID", platform, training)

    def _doubled(self, x: tf.Tensor, row: int) -> tf.Tensor:
        """Returns the upper (0) or lower (1) of the two rows that each row of pixels becomes, activated.

        Shape: [batch, height, 2 * width * channels].
        """
        bias = tf.convert_to_tensor(self.bias)
        y = tf.matmul(tf.reshape(x, [-1, self.width]), tf.convert_to_tensor(self.kernel)[row])
        y = self.activation(tf.nn.bias_add(y, tf.concat([bias, bias], axis=0)))
        return tf.reshape(y, [-1, x.shape[1], 2 * x.shape[2] * self.width])

    def _finish(self, y: tf.Tensor, padding: str, platform: Platform, training: bool) -> tf.Tensor:
        y = tf.nn.depthwise_conv2d(y, tf.convert_to_tensor(self.depthwise), strides=[1, 1, 1, 1], padding=padding)
        _, height, width, channels = y.shape
        y = self.norm(tf.reshape(y, [-1, height * width, channels]), platform=platform, training=training)
        return tf.reshape(y, [-1, height, width, channels])


class Heads(keras.layers.Layer):
    """Classes and masks from normalised tokens."""

    def __init__(self, config: Eomt, num_classes: int, **options: Any) -> None:
        super().__init__(**options)
        width = config.hidden_size
        self.queries = config.num_queries
        with keras.name_scope(self.name, caller=self):
            # In float32 whatever the policy: it costs nothing, and scores are compared with thresholds.
            self.classes = Linear(
                width, num_classes + 1, kernel=uniform(width), bias=uniform(width), dtype="float32", name="classes"
            )
            self.masks = MaskHead(config, name="masks")
            self.upscale = [UpscaleBlock(config, name=f"upscale{n}") for n in range(1, config.num_upscale_blocks + 1)]
        self.built = True

    def call(
        self, x: tf.Tensor, grid: tuple[int, int], platform: Platform = "cpu", training: bool = False
    ) -> Prediction:
        """Computes the predictions.

        Args:
            x: [batch, tokens, channels], normalised; the queries come first, the patches last.
            grid: (height, width) of the picture in patches.
            platform: what the graph is traced for.
            training: whether gradients will be computed.
        """
        queries, pixels = self._divided(x, grid)
        # The upscaling is cheap, and what its gradient needs is the largest part of a step's memory.
        upscale = functools.partial(self._upscale, platform=platform, training=training)
        pixels = tf.recompute_grad(upscale)(pixels) if training else upscale(pixels)
        return Prediction(self.classes(queries), self.masks(queries), tf.cast(pixels, self.compute_dtype))

    def logits(self, x: tf.Tensor, grid: tuple[int, int], platform: Platform = "cpu") -> tuple[tf.Tensor, tf.Tensor]:
        """Computes the class and mask logits of an inference, without the features of all pixels in memory at once.

        The last upscaling block is computed in stripes of rows, which the queries are compared with one by one.

        Args:
            x: as in `call`.
            grid: likewise.
            platform: what the graph is traced for.

        Returns:
            `Prediction.class_logits` and `Prediction.mask_logits`.
        """
        queries, pixels = self._divided(tf.cast(x, self.compute_dtype), grid)  # as Keras casts what `call` gets
        classes, embeddings = self.classes(queries), self.masks(queries)
        for block in self.upscale[:-1]:
            pixels = block(pixels, platform=platform)
        height, width, channels = pixels.shape[1:]
        bytes_of_row = 4 * 4 * width * channels  # a pixel becomes four, which are normalised in float32
        rows = max(1, CHUNK_BYTES[platform] // bytes_of_row)
        if not self.upscale or rows >= height:
            features = self.upscale[-1](pixels, platform=platform) if self.upscale else pixels
            return classes, Prediction(classes, embeddings, tf.cast(features, self.compute_dtype)).mask_logits
        parts: list[tf.Tensor] = []
        for start, stop in ranges(0, height, rows):
            (part,) = after(parts[-1], pixels) if parts else (pixels,)  # or all stripes may be in memory at once
            features = tf.cast(self.upscale[-1](part, rows=(start, stop), platform=platform), self.compute_dtype)
            parts.append(Prediction(classes, embeddings, features).mask_logits)
        return classes, tf.concat(parts, axis=2)

    def _divided(self, x: tf.Tensor, grid: tuple[int, int]) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the queries, [batch, queries, channels], and the patches, [batch, height, width, channels]."""
        tokens, width = x.shape[1:]
        patches = grid[0] * grid[1]
        queries, _, pixels = tf.split(x, [self.queries, tokens - self.queries - patches, patches], axis=1)
        return queries, tf.reshape(pixels, [-1, *grid, width])

    def _upscale(self, pixels: tf.Tensor, platform: Platform, training: bool) -> tf.Tensor:
        for block in self.upscale:
            pixels = block(pixels, platform=platform, training=training)
        return pixels
