"""What one process trains with: devices, network, optimizer, checkpoints, data."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from panoptic_cli import console, devices, models
from panoptic_cli.categories import CategoryTable
from panoptic_cli.config import Experiment
from panoptic_cli.errors import RunError, listed
from panoptic_cli.runs.run_directory import RunDirectory
from panoptic_cli.startup import import_tensorflow
from panoptic_cli.training import inputs

if TYPE_CHECKING:
    import tensorflow as tf

    from panoptic_cli.training.step import TrainingModel
    from panoptic_cli.training.workers import Workers
    from panoptic_cli.weights import Loaded
    from panoptic_cli.weights.checkpoints import Checkpoints


@dataclass
class Session:
    """Everything that one process trains with.

    Attributes:
        experiment: the configuration.
        table: the category table.
        run: the run directory.
        strategy: the devices.
        workers: the processes that train together.
        chief: whether this process writes the run directory.
        model: the compiled training model, restored.
        checkpoints: of the model and its optimizer.
        start: the restored step; 0 for a new run.
        initial: the initial weights of a new run; None: random ones.
    """

    experiment: Experiment
    table: CategoryTable
    run: RunDirectory
    strategy: tf.distribute.Strategy
    workers: Workers
    chief: bool
    model: TrainingModel
    checkpoints: Checkpoints
    start: int
    initial: Loaded | None = None

    def dataset(self, step: int, input_context: tf.distribute.InputContext | None = None) -> tf.data.Dataset:
        """Returns the endless batches from a step on.

        Args:
            step: the optimizer steps that are done.
            input_context: the worker whose part of each batch is returned, split for its replicas; None: whole batches.
        """
        from panoptic_cli.pipeline import batches

        return batches.training_dataset(
            self.experiment,
            models.training_targets(self.experiment, self.table),
            batch_size=self.experiment.task.train_data.global_batch_size,
            seed=self.experiment.data_seed,
            start_step=step * self.experiment.trainer.gradient_accumulation_steps,
            input_context=input_context,
        )


def prepare(
    experiment: Experiment,
    model_dir: str | Path,
    table: CategoryTable | None = None,
    *,
    strategy: tf.distribute.Strategy | None = None,
    lock: contextlib.ExitStack | None = None,
) -> Session:
    """Builds everything that training needs and restores the newest checkpoint.

    Args:
        experiment: the resolved configuration.
        model_dir: the run directory, created if missing.
        table: the category table; None: read the one that the configuration points to.
        strategy: the devices; None: those of `runtime`.
        lock: gets what keeps other trainings out of the run directory until it is closed; None: the directory is not
            written.

    Raises:
        PanopticError: see `inputs.check`; or the devices do not exist, a checkpoint or the initial weights do not fit,
            or another training is running in the directory.
    """
    checked = inputs.check(experiment, model_dir, table)
    initial = None if checked.initial is None else checked.initial.fetch()
    import_tensorflow(models.prefers_onednn(experiment, training=True))
    import keras

    from panoptic_cli.training.failures import explained
    from panoptic_cli.training.initial_weights import load_initial_weights
    from panoptic_cli.training.workers import Workers

    if strategy is None:
        strategy = devices.create_strategy(experiment.runtime)
    devices.check_batch(experiment.task.train_data.global_batch_size, strategy.num_replicas_in_sync)
    devices.set_precision(experiment.runtime, on_cpu=devices.on_cpu(strategy))
    chief = devices.is_chief(strategy)
    run = RunDirectory(model_dir)
    if chief and lock is not None:
        lock.enter_context(run.only_training())
    for change in checked.changes if chief and lock is not None else ():
        console.info(f"Changed since the last start: {change.key} is {change.ours!r}, was {change.theirs!r}.")
    keras.utils.set_random_seed(experiment.trainer.seed)
    workers = Workers(strategy)
    loaded = None
    with strategy.scope(), explained(experiment, workers.count):
        model, checkpoints = _build(experiment, checked.table, run, strategy, chief)
        start = checkpoints.restore_latest()
        if start == 0 and initial is not None:
            loaded = load_initial_weights(model.network, experiment, initial)
            console.info(str(loaded))
        steps = workers.gather(start)
    if len(set(steps)) > 1:
        raise RunError(
            f"The workers would resume at different steps ({listed(steps)}): {run} is not the same directory for all "
            "of them.",
            "Give a --model-dir that all workers share, for example a bucket.",
        )
    if chief and lock is not None:  # at last, so that a start that fails leaves nothing
        run.start(experiment, checked.table)
        run.record_devices(devices.describe(strategy))
    return Session(experiment, checked.table, run, strategy, workers, chief, model, checkpoints, start, loaded)


def _build(
    experiment: Experiment, table: CategoryTable, run: RunDirectory, strategy: tf.distribute.Strategy, chief: bool
) -> tuple[TrainingModel, Checkpoints]:
    """Builds the compiled model with all its variables, and its checkpoints. Call it in the strategy's scope."""
    from panoptic_cli.training.parameter_groups import parameter_groups
    from panoptic_cli.training.schedules import build_optimizer
    from panoptic_cli.training.step import TrainingModel
    from panoptic_cli.weights.checkpoints import Checkpoints

    trainer = experiment.trainer
    network = models.create_network(experiment, table)
    if experiment.task.freeze_backbone:
        network.freeze_backbone()  # first, because averages and optimizer follow the trainable variables
    model = TrainingModel(network, experiment, _platform(experiment, strategy))
    config, precision = trainer.optimizer_config, experiment.runtime.mixed_precision_dtype
    groups = parameter_groups(network, config.layer_decay) if config.by_group else None
    optimizer = build_optimizer(config, trainer.train_steps, precision, groups)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer=optimizer, auto_scale_loss=False)
    checkpoints = Checkpoints(run.checkpoints, model, optimizer, max_to_keep=trainer.max_to_keep, chief=chief)
    return model, checkpoints


def _platform(experiment: Experiment, strategy: tf.distribute.Strategy) -> models.Platform:
    """Returns what the training step is traced for."""
    import tensorflow as tf

    if experiment.runtime.enable_xla or isinstance(strategy, tf.distribute.TPUStrategy):
        return "xla"
    return "cpu" if devices.on_cpu(strategy) else "gpu"
