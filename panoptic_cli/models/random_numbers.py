"""Random numbers of a training step, which do not depend on the devices.

Each picture's numbers follow from the step's seed and the picture's place in the batch of all replicas. So two replicas
draw for half a batch each what one draws for the whole. The algorithm is fixed, because each kind of device would
choose its own; even so, a step that XLA compiles draws other numbers than one that it does not.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

_ALGORITHM = "philox"


def fold(seed: tf.Tensor, number: tf.Tensor | int) -> tf.Tensor:
    """Returns another seed, int32 [2], for one of several independent streams."""
    return tf.random.experimental.stateless_fold_in(seed, number, alg=_ALGORITHM)


def uniform(shape: Sequence[int | tf.Tensor] | tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Returns float32 numbers in [0, 1). Those of a longer first axis begin with those of a shorter one."""
    return tf.random.stateless_uniform(shape, seed, alg=_ALGORITHM)


def uniform_by_picture(batch: int, shape: Sequence[int | tf.Tensor], seed: tf.Tensor) -> tf.Tensor:
    """Returns float32 [batch, *shape] in [0, 1).

    Args:
        batch: the number of this replica's pictures.
        shape: the shape of each picture's numbers.
        seed: int32 [2], the same on every replica.
    """
    context = tf.distribute.get_replica_context()
    replica: tf.Tensor | int = 0 if context is None else tf.cast(context.replica_id_in_sync_group, tf.int32)
    places = replica * batch + tf.range(batch)
    # One draw in a loop, not one operation for each picture: a step draws for several dozens of purposes.
    made = tf.map_fn(lambda place: uniform(shape, fold(seed, place)), places, fn_output_signature=tf.float32)
    return tf.ensure_shape(made, [batch, *(size if isinstance(size, int) else None for size in shape)])
