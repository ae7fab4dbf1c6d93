"""Drawing the examples of a training as the network gets them, for `panoptic inspect --augmented`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from panoptic_cli import config, models
from panoptic_cli.categories import CategoryTable
from panoptic_cli.config import Experiment
from panoptic_cli.errors import ConfigError
from panoptic_cli.runs.categories import load_categories
from panoptic_cli.startup import import_tensorflow


@dataclass(frozen=True)
class TrainingExamples:
    """The training whose examples are drawn.

    Attributes:
        experiment: the configuration; `task.train_data` names the records.
        table: the categories.
    """

    experiment: Experiment
    table: CategoryTable

    def draw(self, count: int, output_dir: Path) -> list[Path]:
        """Draws the first examples into a folder and returns the files.

        Raises:
            DataError: a record cannot be used; names file and record.
        """
        import_tensorflow()
        from panoptic_cli.inspection.augmented_samples import draw_augmented
        from panoptic_cli.pipeline.batches import training_dataset

        targets = models.training_targets(self.experiment, self.table)
        dataset = training_dataset(self.experiment, targets, batch_size=1, seed=0)
        drawer = models.example_drawer(self.experiment, self.table)
        return draw_augmented(dataset, drawer, count, output_dir, self.experiment.task.train_data.input_path)


def find_examples(
    record_files: Sequence[str],
    categories: str | None = None,
    experiment: str | None = None,
    config_file: Path | None = None,
    settings: Sequence[str] | None = None,
) -> TrainingExamples:
    """Resolves the configuration and the categories of a training on some records.

    Args:
        record_files: the records.
        categories: file with the categories; None: that of the configuration, or else categories.json beside the first
            records.
        experiment: name of a preset; None: the default one. If nothing else is configured either, its network takes any
            categories.
        config_file: YAML configuration.
        settings: overrides "a.b=c".

    Raises:
        DataError: there is no file with the categories.
        ConfigError: the configuration is invalid, or the categories do not fit it.
    """
    options = [("task.train_data.input_path", ",".join(record_files))]
    if categories:
        options.append(("task.categories_file", categories))
    loaded = config.load_experiment(
        experiment or config.DEFAULT_EXPERIMENT, config_file=config_file, settings=settings or (), options=options
    )
    table = load_categories(loaded)
    try:
        models.check_categories(loaded, table)
    except ConfigError:
        if experiment or config_file or settings:
            raise
        loaded = models.with_derived_classes(loaded)
    return TrainingExamples(loaded, table)
