"""The box and mask heads (arXiv 1703.06870, section 3; in the four-convolution form of arXiv 1901.02446)."""

from __future__ import annotations

import keras
import tensorflow as tf

from panoptic_cli.config.panoptic_fpn import DetectionHead, MaskHead, NormActivation
from panoptic_cli.models.panoptic_fpn.mask_predictor import class_masks, upsample
from panoptic_cli.models.panoptic_fpn.normalization import BatchNormalization, batch_norm, folded
from panoptic_cli.models.panoptic_fpn.winograd import conv3x3


def _he_normal() -> keras.initializers.Initializer:
    return keras.initializers.VarianceScaling(scale=2.0, mode="fan_out", distribution="untruncated_normal")


def _conv_tower(
    count: int, filters: int, norm: NormActivation
) -> tuple[list[keras.layers.Conv2D], list[BatchNormalization]]:
    convs = [
        keras.layers.Conv2D(filters, 3, padding="same", kernel_initializer=_he_normal(), name=f"conv{i}")
        for i in range(count)
    ]
    return convs, [batch_norm(norm, f"conv_norm{i}") for i in range(count)]


def _build_tower(convs: list[keras.layers.Conv2D], norms: list[BatchNormalization], channels: int) -> int:
    for conv, norm in zip(convs, norms, strict=True):
        conv.build((None, None, None, channels))
        channels = conv.filters
        norm.build((None, None, None, channels))
    return channels


def _convolve(
    x: tf.Tensor,
    convs: list[keras.layers.Conv2D],
    norms: list[BatchNormalization],
    training: bool | None,
    winograd: bool,
) -> tf.Tensor:
    """Applies the tower of convolutions: [n, crop, crop, channels] -> [n, crop, crop, filters].

    With `winograd` (float32 only), they need fewer multiplications: on a CPU, this takes less than half of the time and
    has three times the rounding error of plain convolutions.
    """
    if not winograd:
        for conv, norm in zip(convs, norms, strict=True):
            x = tf.nn.relu(norm(conv(x), training=training))
        return x
    x = tf.transpose(x, [1, 2, 0, 3])
    if training:
        previous = None
        for conv, norm in zip(convs, norms, strict=True):
            x, previous = _convolve_again(x, previous, conv), norm
        x = x if previous is None else tf.nn.relu(previous(x, training=True))
    else:
        for conv, norm in zip(convs, norms, strict=True):
            kernel, bias = folded(conv, norm)
            x = tf.nn.relu(conv3x3(x, kernel) + bias)
    return tf.transpose(x, [2, 0, 1, 3])


def _convolve_again(x: tf.Tensor, norm: BatchNormalization | None, conv: keras.layers.Conv2D) -> tf.Tensor:
    """Normalises (unless `norm` is None), applies ReLU and convolves [s, s, n, channels] in training.

    For the gradient, the normalised input and the factors of the products, which are 2.5 times as large as the crops,
    are computed again, so that only the input stays in memory.
    """
    kernel, bias = tf.convert_to_tensor(conv.kernel), tf.convert_to_tensor(conv.bias)
    if norm is None or norm.is_synchronized or not norm.trainable:
        x = x if norm is None else tf.nn.relu(norm(x, training=True))
        return tf.recompute_grad(conv3x3)(x, kernel) + bias

    @tf.recompute_grad
    def function(
        x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, kernel: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        y, mean, variance = norm.normalize(x, gamma, beta)
        return conv3x3(tf.nn.relu(y), kernel), mean, variance

    gamma, beta = tf.convert_to_tensor(norm.gamma), tf.convert_to_tensor(norm.beta)
    y, mean, variance = function(x, gamma, beta, kernel)
    norm.collect(mean, variance)
    return y + bias


class BoxHead(keras.layers.Layer):
    """Convolutions, fully connected layers, then class logits and class-specific box offsets.

    Attributes:
        convs, conv_norms: the convolutions and their normalisations.
        fcs, fc_norms: the fully connected layers and their normalisations.
        classifier: computes num_classes logits (0 is background).
        box_regressor: computes num_classes * 4 offsets.
    """

    def __init__(
        self, config: DetectionHead, num_classes: int, norm: NormActivation, name: str = "detection_head"
    ) -> None:
        super().__init__(name=name)
        self.num_classes = num_classes
        self.convs, self.conv_norms = _conv_tower(config.num_convs, config.num_filters, norm)
        self.fcs = [
            keras.layers.Dense(
                config.fc_dims,
                kernel_initializer=keras.initializers.VarianceScaling(
                    scale=1 / 3.0, mode="fan_out", distribution="uniform"
                ),
                name=f"fc{i}",
            )
            for i in range(config.num_fcs)
        ]
        self.fc_norms = [batch_norm(norm, f"fc_norm{i}") for i in range(config.num_fcs)]
        self.classifier = keras.layers.Dense(
            num_classes, kernel_initializer=keras.initializers.RandomNormal(stddev=0.01), name="classifier"
        )
        self.box_regressor = keras.layers.Dense(
            num_classes * 4, kernel_initializer=keras.initializers.RandomNormal(stddev=0.001), name="box_regressor"
        )

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Creates the variables for crops of shape (crop, crop, channels)."""
        crop, _, channels = input_shape
        width = crop * crop * _build_tower(self.convs, self.conv_norms, channels)
        for fc, norm in zip(self.fcs, self.fc_norms, strict=True):
            fc.build((None, width))
            width = fc.units
            norm.build((None, None, None, width))
        self.classifier.build((None, width))
        self.box_regressor.build((None, width))
        self.built = True

    def call(
        self, crops: tf.Tensor, training: bool | None = None, winograd: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Classifies and refines ROIs.

        Args:
            crops: [batch, n, crop, crop, channels].
            training: True updates the batch statistics.
            winograd: see `_convolve`.

        Returns:
            float32 class logits [batch, n, num_classes] and offsets [batch, n, num_classes, 4].
        """
        shape = tf.shape(crops)
        x = tf.reshape(crops, [-1, *crops.shape[2:]])
        x = _convolve(x, self.convs, self.conv_norms, training, winograd)
        x = tf.reshape(x, [-1, x.shape[1] * x.shape[2] * x.shape[3]])
        for fc, norm in zip(self.fcs, self.fc_norms, strict=True):
            # The fused kernel needs rank 4.
            x = tf.nn.relu(norm(fc(x)[:, None, None, :], training=training)[:, 0, 0, :])
        logits = tf.cast(self.classifier(x), tf.float32)
        offsets = tf.cast(self.box_regressor(x), tf.float32)
        return (
            tf.reshape(logits, [shape[0], -1, self.num_classes]),
            tf.reshape(offsets, [shape[0], -1, self.num_classes, 4]),
        )


class MaskBranch(keras.layers.Layer):
    """Convolutions, a transposed convolution that doubles the size, then one mask per class.

    Attributes:
        convs, conv_norms: the convolutions and their normalisations.
        deconv, deconv_norm: the transposed convolution and its normalisation.
        mask_regressor: 1x1 convolution that computes num_classes masks.
    """

    def __init__(self, config: MaskHead, num_classes: int, norm: NormActivation, name: str = "mask_head") -> None:
        super().__init__(name=name)
        self.convs, self.conv_norms = _conv_tower(config.num_convs, config.num_filters, norm)
        self.deconv = keras.layers.Conv2DTranspose(
            config.num_filters, 2, strides=2, padding="valid", kernel_initializer=_he_normal(), name="deconv"
        )
        self.deconv_norm = batch_norm(norm, "deconv_norm")
        self.mask_regressor = keras.layers.Conv2D(
            num_classes, 1, kernel_initializer=_he_normal(), name="mask_regressor"
        )

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Creates the variables for crops of shape (crop, crop, channels)."""
        channels = _build_tower(self.convs, self.conv_norms, input_shape[-1])
        self.deconv.build((None, None, None, channels))
        self.deconv_norm.build((None, None, None, self.deconv.filters))
        self.mask_regressor.build((None, None, None, self.deconv.filters))
        self.built = True

    def call(
        self, crops: tf.Tensor, classes: tf.Tensor, training: bool | None = None, winograd: bool = False
    ) -> tf.Tensor:
        """Predicts the mask of each ROI's class.

        Args:
            crops: [batch, n, crop, crop, channels].
            classes: int64 [batch, n], the class of each ROI.
            training: True updates the batch statistics.
            winograd: see `_convolve`.

        Returns:
            float32 logits [batch, n, 2 * crop, 2 * crop].
        """
        shape = tf.shape(crops)
        x = tf.reshape(crops, [-1, *crops.shape[2:]])
        x = _convolve(x, self.convs, self.conv_norms, training, winograd)
        # The 1x1 convolution is computed only for the given class: one dot product per pixel instead of num_classes.
        chosen = tf.reshape(tf.maximum(classes, 0), [-1])
        kernel = tf.gather(tf.transpose(tf.cast(self.mask_regressor.kernel, tf.float32)[0, 0]), chosen)
        bias = tf.gather(tf.cast(self.mask_regressor.bias, tf.float32), chosen)
        matrices = tf.reshape(tf.cast(self.deconv.kernel, x.dtype), [4, self.deconv.filters, x.shape[-1]])
        matrices, deconv_bias = tf.transpose(matrices, [2, 0, 1]), tf.cast(self.deconv.bias, x.dtype)
        if training and winograd and self.deconv_norm.trainable and not self.deconv_norm.is_synchronized:
            logits = class_masks(x, matrices, deconv_bias, self.deconv_norm, kernel)
        else:
            x = tf.nn.relu(self.deconv_norm(upsample(x, matrices, deconv_bias), training=training))
            logits = tf.einsum("nhwc,nc->nhw", tf.cast(x, tf.float32), kernel)
        logits += bias[:, None, None]
        # Only now that a pixel is one number, the four pixels of each location move to their two rows.
        height, width = crops.shape[2], crops.shape[3]
        logits = tf.transpose(tf.reshape(logits, [-1, height, width, 2, 2]), [0, 1, 3, 2, 4])
        return tf.reshape(logits, [shape[0], -1, 2 * height, 2 * width])
