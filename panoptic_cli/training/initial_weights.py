"""The initial weights of a new run, and the categories that they were trained on."""

from __future__ import annotations

from panoptic_cli import config, models, storage, weights
from panoptic_cli.categories import CategoryTable, read_categories
from panoptic_cli.config import Experiment
from panoptic_cli.errors import ConfigError, PanopticError, RunError, one_line
from panoptic_cli.models.class_axes import ClassAxis
from panoptic_cli.models.network import PanopticNetwork
from panoptic_cli.runs.described_model import MADE_UP, find_described
from panoptic_cli.runs.model_source import run_of
from panoptic_cli.runs.run_directory import RunDirectory
from panoptic_cli.training import inputs
from panoptic_cli.weights import Loaded


def load_initial_weights(network: PanopticNetwork, experiment: Experiment, place: str) -> Loaded:
    """Loads what fits of initial weights; everything has to fit with `task.strict_init`.

    Args:
        network: the network of a new run.
        experiment: its configuration.
        place: a run, a folder or a prefix, where `task.init_checkpoint` was found.

    Returns:
        What was loaded.

    Raises:
        RunError: the checkpoint cannot be read, or does not fit.
    """
    import tensorflow as tf

    task = experiment.task
    table = None if task.init_categories is None else read_categories(task.init_categories)
    try:
        known = _known_axes(place, experiment, table)
        return weights.initialize(network, place, known=known, table=table, strict=task.strict_init)
    except (OSError, tf.errors.OpError) as error:
        raise RunError(f"The initial weights {place} cannot be read: {one_line(error)}.", inputs.INIT_HINT) from error


def _known_axes(place: str, experiment: Experiment, table: CategoryTable | None) -> list[dict[str, ClassAxis]]:
    """Returns the class axes that the network of a checkpoint may have, the likeliest first.

    Args:
        place: of the checkpoint.
        experiment: the configuration of the new run.
        table: the categories of --init-categories; None: those of the checkpoint's run or description.
    """
    theirs = _model_of_run(place)
    if table is not None:  # the numbers of classes tell which of these it is
        plain = config.load_experiment(experiment.experiment or config.DEFAULT_EXPERIMENT)
        others = [experiment, plain, models.with_derived_classes(experiment)]
        pairs = [(one, table) for one in ([theirs[0]] if theirs else []) + others]
    elif theirs is not None:
        pairs = [theirs]
    else:
        described = _described_categories(place)
        pairs = [] if described is None else [(experiment, described)]
    found = []
    for one, categories in pairs:
        try:
            found.append(models.class_axes(one, categories))
        except ConfigError:
            continue
    return found


def _model_of_run(place: str) -> tuple[Experiment, CategoryTable] | None:
    """Returns configuration and categories of the run that a checkpoint is in; None if that is not known."""
    run = _run_of(place)
    try:
        return None if run is None else (run.read_config(), run.read_table())
    except PanopticError:  # files of another version: the checkpoint itself may say enough
        return None


def _described_categories(place: str) -> CategoryTable | None:
    """Returns the categories of a network that a config.json describes; None if there is none or it does not say."""
    try:
        described = find_described(place)
    except RunError:  # a backbone alone; the loading of other folders says what is wrong
        return None
    if described is None:
        return None
    labels = described.network.labels
    if labels is None or (coco := described.coco_categories()) is not None:
        return None if labels is None else coco
    if any(label.startswith(MADE_UP) for label in labels):
        return None
    entries = [{"id": number, "name": label, "isthing": 1} for number, label in enumerate(labels, start=1)]
    return CategoryTable.from_list(entries, described.path)


def _run_of(checkpoint: str) -> RunDirectory | None:
    """Returns the run directory, local or remote, of a checkpoint in it; None if there is none."""
    if not storage.is_remote(checkpoint):
        local = run_of(checkpoint)
        return None if local is None else RunDirectory(local)
    folder = storage.normalize(checkpoint)
    for _ in range(3):  # RUN, RUN/checkpoints or RUN/checkpoints/ckpt-100
        if (run := RunDirectory(folder)).is_run:
            return run
        folder = folder.rpartition("/")[0]
    return None
