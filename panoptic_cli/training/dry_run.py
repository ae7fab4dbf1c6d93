"""One real batch and one real step, to show what a training would need. Writes nothing."""

from __future__ import annotations

import math
import resource
import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from panoptic_cli.config import Experiment

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True)
class DryRun:
    """What a training would need.

    Attributes:
        model_dir: the run directory that a training would use.
        start_step: the step at which it would start.
        train_steps: its length.
        pictures_per_step: what an optimizer step sees, in all its batches.
        initial_weights: what was loaded, see `Loaded.to_dict`; None: random weights, or a resumed run.
        strategy: class of the distribution strategy.
        devices: names of the devices.
        replicas: how many devices share a batch.
        batch: dtype and shape of each part of a batch, by name.
        parameters: "total" and "trainable": how many numbers the network's variables have.
        losses: scalars of the step.
        memory: "peak_rss" of the process and "peak_device" of each GPU, in bytes.
        seconds: "batch" (the pipeline's first), "first_step" (with tracing and compilation), "step".
    """

    model_dir: str
    start_step: int
    train_steps: int
    pictures_per_step: int
    initial_weights: dict[str, Any] | None
    strategy: str
    devices: list[str]
    replicas: int
    batch: dict[str, str]
    parameters: dict[str, int]
    losses: dict[str, float]
    memory: dict[str, Any]
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields for `--json`."""
        return asdict(self)


def dry_run(experiment: Experiment, model_dir: str | Path) -> DryRun:
    """Builds everything that training builds, and trains on one batch in memory.

    The step runs twice on that batch. The first run includes tracing and compilation.

    Args:
        experiment: the resolved configuration.
        model_dir: the run directory; its newest checkpoint is restored.

    Raises:
        PanopticError: as for `trainer.train`.
    """
    from panoptic_cli.training.session import prepare

    session = prepare(experiment, model_dir)
    import tensorflow as tf

    from panoptic_cli import devices
    from panoptic_cli.training import loop
    from panoptic_cli.training.failures import explained

    with explained(experiment, session.workers.count):
        dataset = session.dataset(session.start)
        begun = time.perf_counter()
        batch = next(iter(dataset.take(1)))
        seconds = {"batch": time.perf_counter() - begun}
        steps = loop.make_steps(session.model, session.strategy, 1, xla=experiment.runtime.enable_xla)
        again = partial(_again, tf.data.Dataset.from_tensors(batch), experiment.task.train_data.global_batch_size)
        iterator = iter(session.strategy.distribute_datasets_from_function(again))
        for name in ("first_step", "step"):
            begun = time.perf_counter()
            losses = {key: float(value) for key, value in steps(iterator, tf.constant(session.start)).items()}
            seconds[name] = time.perf_counter() - begun
    network = session.model.network
    described = devices.describe(session.strategy)
    return DryRun(
        model_dir=session.run.path,
        start_step=session.start,
        train_steps=experiment.trainer.train_steps,
        pictures_per_step=experiment.pictures_per_step,
        initial_weights=None if session.initial is None else session.initial.to_dict(),
        **described,
        batch=_shapes(batch),
        parameters={
            "total": sum(math.prod(v.shape) for v in network.variables),
            "trainable": sum(math.prod(v.shape) for v in network.trainable_variables),
        },
        losses=losses,
        memory=_memory(),
        seconds={name: round(value, 3) for name, value in seconds.items()},
    )


def _again(whole: tf.data.Dataset, batch_size: int, context: tf.distribute.InputContext) -> tf.data.Dataset:
    """Returns the parts of one batch that a worker's replicas get, repeated for ever."""
    replicas = context.num_replicas_in_sync // context.num_input_pipelines
    parts = whole.unbatch().batch(context.get_per_replica_batch_size(batch_size), drop_remainder=True)
    return parts.skip(replicas * context.input_pipeline_id).take(replicas).repeat()


def _shapes(value: Any, prefix: str = "") -> dict[str, str]:
    """Returns dtype and shape of each tensor of a nested structure, by its path."""
    if isinstance(value, dict):
        pairs = [(f"{prefix}.{key}" if prefix else str(key), x) for key, x in value.items()]
    elif isinstance(value, (tuple, list)):
        pairs = [(f"{prefix}[{place}]", x) for place, x in enumerate(value)]
    else:
        return {prefix: f"{value.dtype.name} {list(value.shape)}"}
    return {name: text for key, x in pairs for name, text in _shapes(x, key).items()}


def _memory() -> dict[str, Any]:
    """Returns the peak memory of the process and of each GPU, in bytes."""
    import tensorflow as tf

    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    found: dict[str, Any] = {"peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    gpus = [device.name for device in tf.config.list_logical_devices("GPU")]
    if gpus:
        found["peak_device"] = {name: int(tf.config.experimental.get_memory_info(name)["peak"]) for name in gpus}
    return found
