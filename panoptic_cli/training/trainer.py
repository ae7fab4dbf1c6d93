"""The training: devices, model, data and callbacks around `keras.Model.fit`."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from panoptic_cli import console
from panoptic_cli.categories import CategoryTable, LabelSpace
from panoptic_cli.config import Experiment
from panoptic_cli.errors import DataError, PanopticError, RunError, TrainingError
from panoptic_cli.startup import import_tensorflow
from panoptic_cli.training import inputs
from panoptic_cli.training import strategy as devices
from panoptic_cli.training.run_directory import RunDirectory

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from panoptic_cli.training.callbacks import Progress, StepCallback
    from panoptic_cli.training.checkpoints import Checkpoints

# (experiment, label_space) -> training model; see training.step.PanopticTrainingModel for what it must have.
BuildModel = Callable[[Experiment, LabelSpace], Any]
# (experiment, label_space, *, batch_size, seed, start_step) -> infinite dataset of batches.
BuildDataset = Callable[..., Any]

_EXIT_CODES = {"finished": 0, "already_finished": 0, "interrupted": 130, "preempted": 143}


@dataclass(frozen=True)
class TrainResult:
    """How a training ended.

    Attributes:
        model_dir: the run directory.
        status: "finished", "already_finished", "interrupted" (Ctrl-C) or "preempted" (SIGTERM).
        start_step: the step from which this process went on.
        step: the step at which it stopped.
        train_steps: the length of the training.
        checkpoint: prefix of the newest checkpoint.
        seconds: wall time of the steps.
        losses: scalars of the last step by name.
    """

    model_dir: str
    status: str
    start_step: int
    step: int
    train_steps: int
    checkpoint: str | None
    seconds: float
    losses: dict[str, float] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """The process's exit code for this end."""
        return _EXIT_CODES[self.status]

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields for `--json`."""
        return asdict(self)


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
    devices.check_devices(experiment.runtime, batch_size=batch_size, model_dir=run.path)
    run.check(experiment, table)
    if experiment.task.init_checkpoint is not None and run.latest_checkpoint() is None:
        inputs.check_init_checkpoint(experiment.task.init_checkpoint)
    model = experiment.task.model
    return LabelSpace.create(table, model.stuff_classes_offset, model.num_classes, model.segmentation_model.num_classes)


def train(
    experiment: Experiment,
    model_dir: str | Path,
    table: CategoryTable,
    *,
    build_model: BuildModel | None = None,
    build_dataset: BuildDataset | None = None,
    strategy: tf.distribute.Strategy | None = None,
) -> TrainResult:
    """Trains until `trainer.train_steps`, from the newest checkpoint of the run directory where there is one.

    Args:
        experiment: the resolved configuration.
        model_dir: the run directory, made when missing.
        table: the category table.
        build_model: makes the training model; None: the Panoptic FPN.
        build_dataset: makes the batches; None: the pipeline of the configured records.
        strategy: the devices; None: those of `runtime`.

    Returns:
        How it ended. Ctrl-C and SIGTERM end it after the current step with a checkpoint.

    Raises:
        PanopticError: see `check`; a loss is not finite; the data ended or cannot be read; memory ran out.
    """
    label_space = check(experiment, model_dir, table)
    import_tensorflow()
    import keras

    if strategy is None:
        strategy = devices.create_strategy(experiment.runtime)
    batch_size = experiment.task.train_data.global_batch_size
    devices.check_batch(batch_size, strategy.num_replicas_in_sync)
    devices.set_precision(experiment.runtime, on_cpu=devices.on_cpu(strategy))
    chief = devices.is_chief(strategy)
    run = RunDirectory(model_dir)
    if chief:
        run.create_or_resume(experiment, table)
        run.record_devices(devices.describe(strategy))
    keras.utils.set_random_seed(experiment.trainer.seed)
    with strategy.scope(), _failures(experiment):
        model, checkpoints = _build(experiment, label_space, run, build_model or _panoptic_model, chief)
        start = checkpoints.restore_latest()
        train_steps = experiment.trainer.train_steps
        if start >= train_steps:
            console.info(f"The run {run} is finished already: step {start} of {train_steps}.")
            return TrainResult(run.path, "already_finished", start, start, train_steps, run.latest_checkpoint(), 0.0)
        if start:
            console.info(f"Resuming {run} at step {start} of {train_steps}.")
        elif experiment.task.init_checkpoint is not None:
            console.info(_initialize(model.network, experiment.task.init_checkpoint))
    if chief:
        run.truncate_metrics(start)

    def dataset(start_step: int) -> Any:
        seed = experiment.task.train_data.seed
        return (build_dataset or _panoptic_data)(
            experiment,
            label_space,
            batch_size=batch_size,
            seed=experiment.trainer.seed if seed is None else seed,
            start_step=start_step,
        )

    return _Loop(experiment, run, model, checkpoints, strategy, chief).run(start, dataset)


class _Loop:
    """Calls `fit` with the callbacks until the last step."""

    def __init__(
        self,
        experiment: Experiment,
        run: RunDirectory,
        model: Any,
        checkpoints: Checkpoints,
        strategy: tf.distribute.Strategy,
        chief: bool,
    ) -> None:
        self.experiment = experiment
        self.trainer = experiment.trainer
        self.directory = run
        self.model = model
        self.checkpoints = checkpoints
        self.strategy = strategy
        self.chief = chief

    def run(self, start: int, dataset: Callable[[int], Any]) -> TrainResult:
        """Trains from `start` to the end; `dataset(step)` gives the batches from a step on."""
        from panoptic_cli.training.callbacks import Progress, StopOnSignal, Stopped

        total = self.trainer.train_steps
        progress = Progress(step=start)
        signals = StopOnSignal(progress, self.checkpoints)
        status, begun = "finished", time.monotonic()
        with contextlib.ExitStack() as stack:
            stack.enter_context(signals.listening())
            stack.enter_context(_failures(self.experiment))
            callbacks = stack.enter_context(self._callbacks(progress, signals))
            try:
                for count, per_loop in self._parts(start):
                    self._fit(dataset(progress.step), progress, count, per_loop, callbacks)
            except Stopped as stop:
                status = "interrupted" if stop.number == signal.SIGINT else "preempted"
            except KeyboardInterrupt:  # a second Ctrl-C: the step may be half done, so nothing is saved
                status = "interrupted"
        saved = self.checkpoints.saved_step
        if status != "finished":
            kept = f"The checkpoint of step {saved} is kept" if saved else "There is no checkpoint yet"
            console.info(f"Stopped at step {progress.step} of {total}. {kept}; the same command goes on from there.")
        return TrainResult(
            model_dir=self.directory.path,
            status=status,
            start_step=start,
            step=progress.step,
            train_steps=total,
            checkpoint=self.directory.latest_checkpoint(),
            seconds=time.monotonic() - begun,
            losses=progress.losses,
        )

    def _parts(self, start: int) -> list[tuple[int, int]]:
        """(steps, steps per loop) of each call of fit: whole loops, then the rest: the end is exact."""
        per_loop = self.trainer.steps_per_loop
        whole, rest = divmod(self.trainer.train_steps - start, per_loop)
        parts = [(whole * per_loop, per_loop), (rest, rest)]
        return [part for part in parts if part[0]]

    def _fit(self, dataset: Any, progress: Progress, steps: int, per_loop: int, callbacks: list[StepCallback]) -> None:
        progress.offset = progress.step
        if self.model.steps_per_execution != per_loop:
            self.model.steps_per_execution = per_loop
            self.model.train_function = None  # traced for the other length
        self.model.fit(
            _shard_by_batch(dataset),
            epochs=1,
            steps_per_epoch=steps,
            shuffle=False,  # the pipeline has done it
            verbose=0,
            callbacks=list(callbacks),
        )
        if progress.step != progress.offset + steps:
            raise DataError(
                f"The training data ended at step {progress.step} of {self.trainer.train_steps}.",
                "The records may be empty: run panoptic inspect on them.",
            )

    @contextlib.contextmanager
    def _callbacks(self, progress: Progress, signals: Any) -> Iterator[list[StepCallback]]:
        from panoptic_cli.training import callbacks as c
        from panoptic_cli.training.schedules import build_schedule

        trainer, total = self.trainer, self.trainer.train_steps

        schedule = build_schedule(trainer.optimizer_config, total)
        # Not the host's step: a step that loss scaling skips does not move the schedule on.
        iterations = self.model.optimizer.iterations

        def learning_rate() -> float:
            """The rate of the last update."""
            return float(schedule(max(int(iterations.value.numpy()) - 1, 0)))

        with contextlib.ExitStack() as stack:
            made: list[StepCallback] = [c.CountSteps(progress), c.StopOnNonFinite(progress, self.checkpoints)]
            if self.chief:
                advance = stack.enter_context(console.progress("Training", total, unit="steps", start=progress.step))
                metrics = c.WriteMetrics(
                    progress,
                    self.directory.metrics,
                    self.directory.logs,
                    interval=trainer.summary_interval,
                    last_step=total,
                    batch_size=self.experiment.task.train_data.global_batch_size,
                    learning_rate=learning_rate,
                )
                stack.callback(metrics.close)
                made += [metrics, c.ShowProgress(progress, advance, learning_rate, total)]
            made.append(
                c.SaveCheckpoints(progress, self.checkpoints, interval=trainer.checkpoint_interval, last_step=total)
            )
            made.append(signals)
            yield made


def _build(
    experiment: Experiment, label_space: LabelSpace, run: RunDirectory, build_model: BuildModel, chief: bool
) -> tuple[Any, Checkpoints]:
    """Builds and compiles the model with all variables, and its checkpoints; in the strategy's scope."""
    from panoptic_cli.training.checkpoints import Checkpoints
    from panoptic_cli.training.schedules import build_optimizer

    trainer = experiment.trainer
    model = build_model(experiment, label_space)
    model.built = True  # its variables exist; Keras would otherwise call it on symbolic inputs to make them
    optimizer = build_optimizer(trainer.optimizer_config, trainer.train_steps, experiment.runtime.mixed_precision_dtype)
    optimizer.build(model.trainable_variables)
    model.compile(
        optimizer=optimizer,
        jit_compile=experiment.runtime.enable_xla,
        steps_per_execution=trainer.steps_per_loop,
        auto_scale_loss=False,
    )
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


def _panoptic_data(experiment: Experiment, label_space: LabelSpace, **position: int) -> Any:
    from panoptic_cli.datasets.pipeline import training_dataset

    return training_dataset(experiment, label_space, **position)


def _shard_by_batch(dataset: Any) -> Any:
    """Lets several workers split each batch: splitting the files would change what is in a batch."""
    import tensorflow as tf

    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return dataset.with_options(options)


@contextlib.contextmanager
def _failures(experiment: Experiment) -> Iterator[None]:
    """Turns the failures that a user can do something about into errors that say what."""
    import tensorflow as tf

    try:
        yield
    except PanopticError:
        raise
    except tf.errors.ResourceExhaustedError as error:
        size = experiment.task.model.input_size
        raise TrainingError(
            f"The memory does not suffice for {experiment.task.train_data.global_batch_size} images of "
            f"{size[0]} x {size[1]} a step.",
            "Give a smaller --batch-size or task.model.input_size, more devices, or --precision bfloat16.",
        ) from error
    except (tf.errors.DataLossError, tf.errors.NotFoundError) as error:
        reason = " ".join(error.message.split())[:200]
        raise DataError(
            f"A training record is damaged or gone: {reason}.",
            "Find it with panoptic inspect, or write the records again.",
        ) from error
