"""The network, fusion and scoring run at the same time; figures, errors, Ctrl-C and memory do not depend on it."""

from __future__ import annotations

import _thread
import errno
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from predictions import detections_of, prediction_of

from panoptic_cli.categories import ANY_THING, CategoryTable
from panoptic_cli.errors import DeviceError, RunError
from panoptic_cli.evaluation import evaluator
from panoptic_cli.inference.predictor import LoadedModel
from panoptic_cli.pipeline.preprocessing import Geometry
from panoptic_cli.results.prediction import Prediction

RECORDS = "train-*"  # twelve pictures


class FakePredictor:
    """Predicts one thing in the upper half of every picture; counts what waits for its fusion."""

    replicas = 1
    table: CategoryTable

    def __init__(
        self, before_run: Callable[[int], None] = lambda n: None, before_fusion: Callable[[int], None] = lambda n: None
    ) -> None:
        self.before_run, self.before_fusion = before_run, before_fusion
        self.runs = self.made = self.fused = self.most_waiting = 0
        self._lock = threading.Lock()

    def run(self, images: Any, geometry: Geometry, share: int) -> list[int]:
        self.before_run(self.runs)
        self.runs += 1
        with self._lock:
            numbers = list(range(self.made, self.made + len(images)))
            self.made += len(images)
            self.most_waiting = max(self.most_waiting, self.made - self.fused)
        return numbers

    def finish(self, outputs: int, geometry: Geometry) -> Prediction:
        self.before_fusion(outputs)
        height, width = np.asarray(geometry.original_size).astype(int).tolist()
        category, instance = np.zeros((2, height, width), np.int32)
        category[: height // 2], instance[: height // 2] = 5, 1
        with self._lock:
            self.fused += 1
        box = np.array([[0, 0, height // 2, width]])
        detections = detections_of(box, [0.5 + outputs / 100], [5], [instance])
        return prediction_of(category, instance, self.table, detections, np.full_like(category, ANY_THING))


@pytest.fixture
def run(tiny_model: LoadedModel, shapes_records: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    def evaluate(predictor: FakePredictor, batch_size: int = 1, limit: int | None = None, **options: Any) -> Any:
        predictor.table = tiny_model.table
        monkeypatch.setattr(evaluator, "Predictor", lambda model: predictor)
        pattern = f"{shapes_records}/{RECORDS}"
        return evaluator.Evaluator(tiny_model, pattern, batch_size=batch_size, limit=limit).evaluate(**options)

    return evaluate


def figures(result: Any) -> dict[str, Any]:
    return {name: value for name, value in result.to_dict().items() if name != "images_per_second"}


def test_figures_do_not_depend_on_the_timing(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    plain = figures(run(FakePredictor()))
    assert plain["images"] == 12
    assert not plain["partial"]
    rng = np.random.default_rng(0)
    pauses = rng.uniform(0, 0.03, 24)

    def pause(number: int) -> None:
        time.sleep(pauses[number])

    assert figures(run(FakePredictor(pause, pause), batch_size=5)) == plain
    # Beside a GPU several threads fuse, and pictures are fused out of their order.
    monkeypatch.setattr(LoadedModel, "platform", "gpu")
    monkeypatch.setattr(evaluator.os, "cpu_count", lambda: 4)
    assert figures(run(FakePredictor(pause, pause), batch_size=3)) == plain


def test_the_network_runs_while_pictures_are_scored(run: Callable[..., Any]) -> None:
    # The second batch starts before the first picture is fused, or this would wait for ever.
    second = threading.Event()
    predictor = FakePredictor(
        before_run=lambda n: second.set() if n == 1 else None,
        before_fusion=lambda n: None if second.wait(20) else pytest.fail("the network waited for the scoring"),
    )
    assert run(predictor).images == 12


def test_few_pictures_wait(run: Callable[..., Any]) -> None:
    predictor = FakePredictor(before_fusion=lambda n: time.sleep(0.02))
    run(predictor, batch_size=2)
    # Two batches wait, one has just been made, and one picture is being scored.
    assert predictor.most_waiting <= 2 * 2 + 2 + 1


def test_an_error_names_the_picture_and_comes_once(
    run: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(number: int) -> None:
        if number >= 3:
            raise ValueError(f"no fusion of {number}")

    predictor = FakePredictor(before_fusion=fail)
    with pytest.raises(RunError, match=r"Image 1000\d+ cannot be evaluated: ValueError: no fusion of 3\.") as caught:
        run(predictor, output_dir=tmp_path / "out")
    assert isinstance(caught.value.__cause__, ValueError)
    assert predictor.runs < 12  # it did not go on to the end
    assert not list(tmp_path.iterdir())
    assert "no fusion" not in capsys.readouterr().err


def test_a_full_disk_is_not_blamed_on_a_picture(run: Callable[..., Any], tmp_path: Path) -> None:
    def fail(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "pred/1.png")

    with pytest.raises(OSError, match="No space left on device"):
        run(FakePredictor(before_fusion=fail), output_dir=tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_networks_errors_are_explained(run: Callable[..., Any]) -> None:
    import tensorflow as tf

    def raising(error: Exception) -> Callable[[int], None]:
        def fail(number: int) -> None:
            raise error

        return fail

    too_large = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")
    with pytest.raises(DeviceError, match="not enough memory for 2 pictures of 64 x 64") as caught:
        run(FakePredictor(before_run=raising(too_large)), batch_size=2)
    assert "--batch-size" in str(caught.value)
    with pytest.raises(RunError, match=r"The network failed on image 1000\d+, 1000\d+: broken kernel"):
        run(FakePredictor(before_run=raising(tf.errors.InternalError(None, None, "broken kernel"))), batch_size=2)


def interrupt_at(run_number: int) -> Callable[[int], None]:
    def before_run(number: int) -> None:
        if number == run_number:
            _thread.interrupt_main()
            for _ in range(100):
                time.sleep(0.01)

    return before_run


def test_ctrl_c_gives_the_figures_of_what_was_done(
    run: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/pred.json").write_text("older")
    result = run(FakePredictor(interrupt_at(6)), keep_partial=True, output_dir=tmp_path / "out")
    assert result.partial
    assert 0 < result.images <= 6
    assert f"only {result.images} pictures are scored" in capsys.readouterr().err
    # The same as of so many pictures, and older predictions were left alone.
    limited = figures(run(FakePredictor(), limit=result.images))
    assert figures(result) == {**limited, "partial": True}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out/pred.json").read_text() == "older"


def test_ctrl_c_is_passed_on_where_nothing_was_done_or_wanted(run: Callable[..., Any]) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(FakePredictor(interrupt_at(0)), keep_partial=True)
    with pytest.raises(KeyboardInterrupt):
        run(FakePredictor(interrupt_at(6)))
