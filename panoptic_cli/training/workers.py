"""What the workers of a cluster exchange besides gradients."""

from __future__ import annotations

import tensorflow as tf


class Workers:
    """The processes that train together: several with MultiWorkerMirroredStrategy, otherwise only this one.

    Args:
        strategy: the devices.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        resolver = strategy.cluster_resolver
        spec = resolver.cluster_spec().as_dict() if _several(strategy) else {}
        tasks = [(kind, task) for kind in ("chief", "worker") for task in range(len(spec.get(kind, [])))]
        self.count = max(len(tasks), 1)
        self._index = tasks.index((resolver.task_type, resolver.task_id)) if tasks else 0
        self._replicas = strategy.num_replicas_in_sync // self.count  # of one worker

        @tf.function(input_signature=[tf.TensorSpec([self.count], tf.float32)])
        def total(values: tf.Tensor) -> tf.Tensor:
            def sum_up(x: tf.Tensor) -> tf.Tensor:
                # A copy on the replica's device. The argument is on none, and the sum is placed where its input is.
                return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(x))

            return strategy.experimental_local_results(strategy.run(sum_up, args=(values,)))[0]

        self._total = total

    def gather(self, value: int) -> list[int]:
        """Returns the values of all workers, in their order. All workers must call it at the same step.

        Args:
            value: this worker's value, below 2^24. It is sent as float32, which every kind of device can sum.
        """
        if self.count == 1:
            return [value]
        own = tf.one_hot(self._index, self.count, on_value=float(value))
        return [round(x / self._replicas) for x in self._total(own).numpy().tolist()]


def _several(strategy: tf.distribute.Strategy) -> bool:
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) and bool(strategy.cluster_resolver)
