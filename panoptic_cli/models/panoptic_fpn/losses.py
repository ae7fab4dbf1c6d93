"""The losses of Panoptic FPN, computed in float32 as in the reference.

Sums are divided by counts that are averaged over the replicas, so that the mean of the replicas' losses equals the loss
of the whole batch on one device.
"""

from __future__ import annotations

import tensorflow as tf

_COUNT_EPSILON = 0.01  # keeps a batch without targets finite
_SEMANTIC_EPSILON = 1e-5


def _share(count: tf.Tensor, epsilon: float) -> tf.Tensor:
    """Returns the divisor of a replica: its share of the whole batch's count, plus epsilon."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return count + epsilon
    return (context.all_reduce(tf.distribute.ReduceOp.SUM, count) + epsilon) / context.num_replicas_in_sync


def huber(error: tf.Tensor, delta: float) -> tf.Tensor:
    """Computes the element-wise Huber loss: quadratic within `delta`, linear beyond it."""
    size = tf.abs(error)
    return tf.where(size <= delta, 0.5 * tf.square(size), delta * size - 0.5 * delta * delta)


def rpn_score_loss(logits: dict[int, tf.Tensor], targets: dict[int, tf.Tensor], batch_size_per_image: int) -> tf.Tensor:
    """Computes the sigmoid cross-entropy of the sampled anchors, divided by batch * batch_size_per_image.

    The losses of the levels are added.

    Args:
        logits: {level: float32 [batch, h, w, a]}.
        targets: {level: int [batch, h, w, a]}, 1 or 0; -1 is ignored.
        batch_size_per_image: the number of anchors sampled per image.

    Returns:
        float32 scalar.
    """
    losses = []
    for level, level_logits in logits.items():
        labels = tf.cast(targets[level], tf.float32)  # on a GPU, TensorFlow computes with int32 on the host
        entropy = tf.nn.sigmoid_cross_entropy_with_logits(labels=tf.maximum(labels, 0.0), logits=level_logits)
        batch = tf.cast(tf.shape(level_logits)[0], tf.float32)
        losses.append(tf.reduce_sum(tf.where(labels >= 0.0, entropy, 0.0)) / (batch * float(batch_size_per_image)))
    return tf.add_n(losses)


def rpn_box_loss(offsets: dict[int, tf.Tensor], targets: dict[int, tf.Tensor], delta: float) -> tf.Tensor:
    """Computes the Huber loss of the positive anchors.

    The loss of each level is divided by its number of coordinates. The losses of the levels are added.

    Args:
        offsets: {level: float32 [batch, h, w, a * 4]}.
        targets: the same shapes, zero for anchors without a box.
        delta: the limit of the quadratic part.

    Returns:
        float32 scalar.
    """
    losses = []
    for level, level_offsets in offsets.items():
        level_targets = targets[level]
        shape = tf.concat([tf.shape(level_targets)[:-1], [-1, 4]], axis=0)
        has_box = tf.reduce_any(tf.abs(tf.reshape(level_targets, shape)) > 1e-6, axis=-1)
        loss = tf.reduce_sum(tf.reshape(huber(level_targets - level_offsets, delta), shape), axis=-1)
        count = 4.0 * tf.reduce_sum(tf.cast(has_box, tf.float32))
        losses.append(tf.reduce_sum(tf.where(has_box, loss, 0.0)) / _share(count, _COUNT_EPSILON))
    return tf.add_n(losses)


def box_class_loss(logits: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    """Computes the mean softmax cross-entropy of sampled ROIs: logits [batch, k, c], classes int [batch, k]."""
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=classes, logits=logits))


def box_regression_loss(offsets: tf.Tensor, classes: tf.Tensor, targets: tf.Tensor, delta: float) -> tf.Tensor:
    """Computes the Huber loss of the boxes of the target classes.

    Args:
        offsets: float32 [batch, k, c, 4].
        classes: int [batch, k]; 0 is background, which is ignored.
        targets: float32 [batch, k, 4].
        delta: the limit of the quadratic part.

    Returns:
        float32 scalar: the sum, divided by the number of coordinates.
    """
    chosen = tf.gather(offsets, classes, batch_dims=2)
    foreground = classes > 0
    loss = tf.reduce_sum(huber(targets - chosen, delta), axis=-1)
    count = 4.0 * tf.reduce_sum(tf.cast(foreground, tf.float32))
    return tf.reduce_sum(tf.where(foreground, loss, 0.0)) / _share(count, _COUNT_EPSILON)


def mask_loss(logits: tf.Tensor, targets: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    """Computes the sigmoid cross-entropy of the masks of the target classes, averaged over the pixels of real targets.

    Args:
        logits: float32 [batch, k, s, s].
        targets: float32 [batch, k, s, s] in 0..1.
        classes: int [batch, k]; 0 means no target.

    Returns:
        float32 scalar.
    """
    entropy = tf.nn.sigmoid_cross_entropy_with_logits(labels=targets, logits=logits)
    real = tf.cast(classes > 0, tf.float32)
    pixels = tf.cast(tf.shape(logits)[2] * tf.shape(logits)[3], tf.float32)
    count = tf.reduce_sum(real) * pixels
    total = tf.reduce_sum(entropy * real[:, :, None, None])
    return total / _share(count, _COUNT_EPSILON)


def semantic_loss(logits: tf.Tensor, labels: tf.Tensor, ignore_label: int) -> tf.Tensor:
    """Computes the softmax cross-entropy of the pixels that are not ignored, with logits resized to the labels.

    Args:
        logits: float32 [batch, h, w, c].
        labels: int [batch, H, W].
        ignore_label: label of the ignored pixels.

    Returns:
        float32 scalar.
    """
    labels = tf.cast(labels, tf.int64)  # on a GPU, TensorFlow computes with int32 on the host
    resized = tf.image.resize(logits, tf.shape(labels)[1:3], method="bilinear")
    counted = labels != ignore_label
    entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=tf.where(counted, labels, 0), logits=resized)
    count = tf.reduce_sum(tf.cast(counted, tf.float32))
    return tf.reduce_sum(tf.where(counted, entropy, 0.0)) / _share(count, _SEMANTIC_EPSILON)
