"""What one process trains with: devices, model, optimizer, checkpoints, data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from panoptic_cli import console, devices
from panoptic_cli.categories import CategoryTable, LabelSpace
from panoptic_cli.config import Experiment
from panoptic_cli.errors import RunError
from panoptic_cli.models.panoptic_fpn.label_space import label_space_of
from panoptic_cli.runs.run_directory import RunDirectory
from panoptic_cli.startup import import_tensorflow
from panoptic_cli.training import inputs

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from panoptic_cli.training.workers import Workers
    from panoptic_cli.weights.checkpoints import Checkpoints

# (experiment, label_space) -> training model; see training.step.PanopticTrainingModel for what it must have.
BuildModel = Callable[[Experiment, LabelSpace], Any]
# (experiment, label_space, *, batch_size, seed, start_step, input_context) -> infinite dataset of batches; see
# datasets.pipeline.training_dataset.
BuildDataset = Callable[..., Any]


def check(experiment: Experiment, model_dir: str | Path, table: CategoryTable) -> LabelSpace:
    """Checks all that can be checked without TensorFlow; writes nothing.

    Args:
        experiment: the resolved configuration.
        model_dir: the run directory.
        table: the category table.

    Returns:
        The classes of the network's heads.

    Raises:
        PanopticError: devices contradict each other, the categories do not fit, the directory holds another
            run, or the initial weights are not there.
    """
    run = RunDirectory(model_dir)
    batch_size = experiment.task.train_data.global_batch_size
    devices.check_devices(
        experiment.runtime,
        batch_size=batch_size,
        model_dir=run.path,
        train_data=experiment.task.train_data.input_path,
    )
    run.check(experiment, table)
    if experiment.task.init_checkpoint is not None and run.latest_checkpoint() is None:
        inputs.check_init_checkpoint(experiment.task.init_checkpoint)
    return label_space_of(experiment, table)


@dataclass
class Session:
    """Everything that one process trains with.

    Attributes:
        experiment: the configuration.
        table: the categories.
        label_space: the classes of the heads.
        run: the run directory.
        strategy: the devices.
        workers: the processes that train together.
        chief: whether this one writes the run directory.
        model: the compiled training model, restored.
        checkpoints: of the model and its optimizer.
        start: the step that was restored; 0 for a new run.
        build_dataset: makes the batches; None: the pipeline of the configured records.
    """

    experiment: Experiment
    table: CategoryTable
    label_space: LabelSpace
    run: RunDirectory
    strategy: tf.distribute.Strategy
    workers: Workers
    chief: bool
    model: Any
    checkpoints: Checkpoints
    start: int
    build_dataset: BuildDataset | None

    def dataset(self, step: int, input_context: tf.distribute.InputContext | None = None) -> Any:
        """Returns the batches from a step on; with an input context, one replica's parts of them."""
        return (self.build_dataset or _panoptic_data)(
            self.experiment,
            self.label_space,
            batch_size=self.experiment.task.train_data.global_batch_size,
            seed=self.experiment.data_seed,
            start_step=step,
            input_context=input_context,
        )


def prepare(
    experiment: Experiment,
    model_dir: str | Path,
    table: CategoryTable,
    *,
    build_model: BuildModel | None = None,
    build_dataset: BuildDataset | None = None,
    strategy: tf.distribute.Strategy | None = None,
    write: bool = True,
) -> Session:
    """Makes everything that training needs and restores the newest checkpoint.

    Args:
        experiment: the resolved configuration.
        model_dir: the run directory, made when missing.
        table: the category table.
        build_model: makes the training model; None: the Panoptic FPN.
        build_dataset: makes the batches; None: the pipeline of the configured records.
        strategy: the devices; None: those of `runtime`.
        write: whether the run directory may be written.

    Raises:
        PanopticError: see `check`; the devices are not there, a checkpoint or the initial weights do not fit.
    """
    label_space = check(experiment, model_dir, table)
    import_tensorflow()
    import keras

    from panoptic_cli.training.failures import explained
    from panoptic_cli.training.workers import Workers

    if strategy is None:
        strategy = devices.create_strategy(experiment.runtime)
    devices.check_batch(experiment.task.train_data.global_batch_size, strategy.num_replicas_in_sync)
    devices.set_precision(experiment.runtime, on_cpu=devices.on_cpu(strategy))
    chief = devices.is_chief(strategy)
    run = RunDirectory(model_dir)
    if chief and write:
        run.create_or_resume(experiment, table)
        run.record_devices(devices.describe(strategy))
    keras.utils.set_random_seed(experiment.trainer.seed)
    workers = Workers(strategy)
    with strategy.scope(), explained(experiment, workers.count):
        model, checkpoints = _build(experiment, label_space, run, build_model or _panoptic_model, chief)
        start = checkpoints.restore_latest()
        if start == 0 and experiment.task.init_checkpoint is not None:
            console.info(_initialize(model.network, experiment.task.init_checkpoint))
        steps = workers.gather(start)
    if len(set(steps)) > 1:
        raise RunError(
            f"The workers would go on at different steps ({', '.join(map(str, steps))}): {run} is not the same "
            "directory for all of them.",
            "Give a --model-dir that all workers share, a bucket for example.",
        )
    return Session(
        experiment, table, label_space, run, strategy, workers, chief, model, checkpoints, start, build_dataset
    )


def _build(
    experiment: Experiment, label_space: LabelSpace, run: RunDirectory, build_model: BuildModel, chief: bool
) -> tuple[Any, Checkpoints]:
    """Builds and compiles the model with all variables, and its checkpoints; in the strategy's scope."""
    from panoptic_cli.training.schedules import build_optimizer
    from panoptic_cli.weights.checkpoints import Checkpoints

    trainer = experiment.trainer
    model = build_model(experiment, label_space)
    model.built = True  # its variables exist; Keras would otherwise call it on symbolic inputs to make them
    optimizer = build_optimizer(trainer.optimizer_config, trainer.train_steps, experiment.runtime.mixed_precision_dtype)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer=optimizer, auto_scale_loss=False)
    checkpoints = Checkpoints(run.checkpoints, model, optimizer, max_to_keep=trainer.max_to_keep, chief=chief)
    return model, checkpoints


def _initialize(network: keras.Model, checkpoint: str) -> str:
    import tensorflow as tf

    from panoptic_cli import weights

    try:
        return str(weights.initialize(network, checkpoint))
    except (OSError, tf.errors.OpError) as error:
        reason = " ".join(str(error).split())[:300]
        raise RunError(
            f"The initial weights {checkpoint} cannot be read: {reason}.",
            inputs.INIT_HINT,
        ) from error


def _panoptic_model(experiment: Experiment, label_space: LabelSpace) -> Any:
    from panoptic_cli.training.step import PanopticTrainingModel

    return PanopticTrainingModel(experiment, label_space)


def _panoptic_data(experiment: Experiment, label_space: LabelSpace, **position: Any) -> Any:
    from panoptic_cli.pipeline.batches import training_dataset

    return training_dataset(experiment, label_space, **position)
