"""Batch normalisation with the fused kernel, if one replica sees the whole batch."""

from __future__ import annotations

import keras
import tensorflow as tf

from panoptic_cli.config.panoptic_fpn import NormActivation


class BatchNormalization(keras.layers.BatchNormalization):
    """Keras' batch normalisation over the last axis of rank-4 inputs, in one kernel.

    The variables and results are those of `keras.layers.BatchNormalization` (population variance everywhere; statistics
    in float32 for any input). The fused kernel reads the activations once instead of three times, and at inference
    TensorFlow can fuse it with the preceding convolution. Several replicas with `synchronized` statistics, and inputs
    that are not of rank 4, use Keras' own implementation.
    """

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Normalises the inputs.

        Args:
            inputs: [batch, height, width, channels] or [..., channels], float32, float16 or bfloat16.
            training: True uses and collects the batch's statistics.

        Returns:
            A tensor with the shape and dtype of the inputs.
        """
        training = bool(training) and self.trainable
        if len(inputs.shape) != 4 or (training and self.is_synchronized):
            return super().call(inputs, training=training)
        gamma, beta = tf.cast(self.gamma, tf.float32), tf.cast(self.beta, tf.float32)
        if not training:
            return tf.raw_ops.FusedBatchNormV3(
                x=inputs,
                scale=gamma,
                offset=beta,
                mean=tf.cast(self.moving_mean, tf.float32),
                variance=tf.cast(self.moving_variance, tf.float32),
                epsilon=self.epsilon,
                is_training=False,
            ).y
        outputs, mean, variance = self.normalize(inputs, gamma, beta)
        self.collect(mean, variance)
        return outputs

    @property
    def is_synchronized(self) -> bool:
        """Whether several replicas share the statistics, which the fused kernel does not compute."""
        return bool(self.synchronized) and int(tf.distribute.get_strategy().num_replicas_in_sync) > 1

    def normalize(self, inputs: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Normalises [a, b, c, channels] with the batch's mean and variance; returns these, too."""
        empty = tf.constant([], tf.float32)
        outputs = tf.raw_ops.FusedBatchNormV3(
            x=inputs, scale=gamma, offset=beta, mean=empty, variance=empty, epsilon=self.epsilon, is_training=True
        )
        # The kernel returns the sample variance (n - 1); as in Keras, the moving average is of the population variance.
        count = tf.cast(tf.size(inputs) / tf.shape(inputs)[-1], tf.float32)
        return outputs.y, outputs.batch_mean, outputs.batch_variance * ((count - 1.0) / count)

    def collect(self, mean: tf.Tensor, variance: tf.Tensor) -> None:
        """Moves the moving statistics towards the batch's mean and population variance [channels]."""
        momentum = self.momentum
        self.moving_mean.assign(self.moving_mean * momentum + mean * (1.0 - momentum))
        self.moving_variance.assign(self.moving_variance * momentum + variance * (1.0 - momentum))


def batch_norm(config: NormActivation, name: str) -> BatchNormalization:
    """Creates a batch normalisation layer from the configuration."""
    return BatchNormalization(
        momentum=config.norm_momentum,
        epsilon=config.norm_epsilon,
        synchronized=config.use_sync_bn,
        name=name,
    )


def folded(conv: keras.layers.Conv2D, norm: keras.layers.BatchNormalization) -> tuple[tf.Tensor, tf.Tensor]:
    """Folds a convolution and the normalisation after it into one convolution, for inference.

    Returns:
        float32 kernel [h, w, channels, filters] and bias [filters].
    """
    scale = tf.convert_to_tensor(norm.gamma) * tf.math.rsqrt(tf.convert_to_tensor(norm.moving_variance) + norm.epsilon)
    kernel = tf.convert_to_tensor(conv.kernel) * scale
    bias = (tf.convert_to_tensor(conv.bias) - tf.convert_to_tensor(norm.moving_mean)) * scale
    return kernel, bias + tf.convert_to_tensor(norm.beta)
