"""Every stage on generated data: generate, convert, train, evaluate, export, predict."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from panoptic_cli import config, console
from panoptic_cli.coco import layout
from panoptic_cli.demo import shapes
from panoptic_cli.errors import DataError, RunError
from panoptic_cli.files import read_json
from panoptic_cli.locks import folder_lock
from panoptic_cli.records import conversion
from panoptic_cli.records.plans import ConversionPlan

_SHARDS = {"train": 4, "val": 2}
_PICTURES_SHOWN = 6


@dataclass
class DemoResult:
    """The results of a demo.

    Attributes:
        evaluation: the object of `panoptic evaluate --json`.
        overlay: contact sheet of predictions on held-out pictures.
        run: the run directory.
        saved_model: the exported model.
        seconds: wall time of each stage.
    """

    evaluation: dict[str, Any]
    overlay: Path
    run: Path
    saved_model: Path
    seconds: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns the object that --json prints."""
        return {
            **self.evaluation,
            "overlay": str(self.overlay),
            "run": str(self.run),
            "saved_model": str(self.saved_model),
            "seconds": {name: round(value, 1) for name, value in self.seconds.items()},
        }


def run_demo(
    folder: Path,
    experiment_name: str = "panoptic_fpn_shapes",
    *,
    seed: int = 0,
    steps: int | None = None,
    settings: tuple[str, ...] = (),
) -> DemoResult:
    """Runs every stage. What an interrupted demo finished in the same folder is kept.

    Args:
        folder: for data/, run/ and predictions/.
        experiment_name: the preset to train, which must suit the generated pictures.
        seed: of the data and the training.
        steps: training steps; None: as in the preset.
        settings: overrides `a.b=c`.

    Returns:
        Figures and paths.

    Raises:
        PanopticError: the folder contains other files, or a demo with another seed, length or configuration, or another
            demo is running in it.
    """
    train_data, eval_data = config.default_records(folder / "data")
    experiment = config.load_experiment(
        experiment_name,
        settings=settings,
        options=[
            ("task.train_data.input_path", train_data),
            ("task.validation_data.input_path", eval_data),
            ("trainer.seed", seed),
            *([("trainer.train_steps", steps)] if steps is not None else []),
        ],
    )
    folder.mkdir(parents=True, exist_ok=True)
    with folder_lock(folder, "panoptic demo", "give another --output"):
        return _run_stages(folder, experiment, seed)


def _run_stages(folder: Path, experiment: config.Experiment, seed: int) -> DemoResult:
    data, run = folder / "data", folder / "run"
    records, predictions = Path(config.default_records(data)[0]).parent, folder / "predictions"
    seconds: dict[str, float] = {}

    @contextmanager
    def stage(name: str, what: str) -> Iterator[None]:
        console.info(f"[{len(seconds) + 1}/6] {what}")
        begun = time.perf_counter()
        yield
        seconds[name] = time.perf_counter() - begun

    with stage("generate", f"Generating pictures of shapes in {data}"):
        _generate(data, seed)
    with stage("make-tfrecords", f"Writing records to {records}"):
        plans = [ConversionPlan(files, records, _SHARDS[files.name]) for files in layout.find_splits(data)]
        conversion.convert_all(plans, workers=2)
    with stage("train", f"Training {experiment.experiment} for {experiment.trainer.train_steps} steps in {run}"):
        from panoptic_cli.runs.categories import load_categories
        from panoptic_cli.training import inputs, trainer

        table = load_categories(experiment)
        try:
            inputs.check(experiment, run, table)
        except RunError as error:
            raise RunError(error.message, "Give another --output, or the options of the earlier demo.") from None
        outcome = trainer.train(experiment, run, table)
        if outcome.exit_code:
            raise KeyboardInterrupt  # interrupted training ends the demo; the same command continues it
    from panoptic_cli.coco.image_info import choose_image_ids
    from panoptic_cli.evaluation.evaluator import Evaluator
    from panoptic_cli.export.saved_model import export_saved_model
    from panoptic_cli.images.contact_sheet import write_contact_sheet
    from panoptic_cli.images.pictures import find_pictures
    from panoptic_cli.inference.pictures import predict_pictures
    from panoptic_cli.inference.predictor import Predictor, load_model

    with stage("evaluate", "Evaluating on the held-out pictures"):
        model = load_model(experiment, table, run)
        evaluation = Evaluator(model).evaluate().to_dict()
    with stage("export", f"Exporting a SavedModel to {run / 'saved_model'}"):
        export_saved_model(model, run / "saved_model")
    with stage("predict", f"Predicting {_PICTURES_SHOWN} held-out pictures into {predictions}"):
        pictures = find_pictures([str(data / "val2017")])[:_PICTURES_SHOWN]
        summary = predict_pictures(Predictor(model), choose_image_ids(pictures), predictions, source=model.source)
        overlay = predictions / "overlay.png"
        write_contact_sheet(summary.overlays, overlay)
    return DemoResult(evaluation, overlay, run, run / "saved_model", seconds)


def _generate(data: Path, seed: int) -> None:
    marker = data / "annotations" / shapes.MARKER
    if not marker.is_file():
        shapes.generate(data, seed=seed)
    elif (found := read_json(marker, "generated shapes").get("seed")) != seed:
        raise DataError(f"{data} has pictures of seed {found}, not {seed}.", "Give another --output, or that --seed.")
