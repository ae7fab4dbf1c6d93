"""Two replicas on half batches against one on the whole batch, with clipping, averages and frozen layers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).with_name("two_replicas.py")
CLIP = 0.5
RATE = 0.02
SETTINGS = (
    "task.model.input_size=[64,64,3]",
    f"trainer.optimizer_config.optimizer.sgd.global_clipnorm={CLIP}",
    "trainer.optimizer_config.ema.average_decay=0.9",
    f"trainer.optimizer_config.warmup.linear.warmup_learning_rate={RATE}",
    "task.model.backbone.resnet.freeze_at=2",
)
pytestmark = pytest.mark.slow

# Plain gradient descent: AdamW would divide gradients that are nothing but rounding by their own size.
EOMT = (
    "task.model.eomt.image_size=64",
    "task.model.eomt.num_hidden_layers=3",
    "task.model.eomt.drop_path_rate=0.3",
    "trainer.optimizer_config.optimizer.type=sgd",
    "trainer.optimizer_config.ema.average_decay=0.9",
    f"trainer.optimizer_config.warmup.linear.warmup_learning_rate={RATE}",
)

Run = Callable[..., dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def run(shapes_records: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("replicas")

    def steps(replicas: int, *settings: str, preset: str = "panoptic_fpn_shapes") -> dict[str, np.ndarray]:
        output = folder / f"{preset}{replicas}.npz"
        start = [sys.executable, str(SCRIPT), preset, str(replicas)]
        command = [*start, f"{shapes_records}/train-*", str(output), *settings]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        with np.load(output) as archive:
            return {name: archive[name] for name in archive.files}

    return steps


@pytest.fixture(scope="module")
def one(run: Run) -> dict[str, np.ndarray]:
    return run(1, *SETTINGS)


@pytest.fixture(scope="module")
def two(run: Run) -> dict[str, np.ndarray]:
    return run(2, *SETTINGS)


def part(result: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {key.removeprefix(f"{name}/"): value for key, value in result.items() if key.startswith(f"{name}/")}


def test_losses_gradients_and_statistics_agree(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> None:
    assert one.keys() == two.keys()
    # The first step starts from equal weights: what is left is float32 sums in another order.
    for name, loss in part(one, "log1").items():
        np.testing.assert_allclose(part(two, "log1")[name], loss, rtol=2e-5, err_msg=name)
    for name, before in part(one, "before").items():
        np.testing.assert_array_equal(part(two, "before")[name], before, err_msg=name)
        change, same = part(one, "after1")[name] - before, part(two, "after1")[name] - before
        # A pixel at the edge of a ReLU and statistics of few pixels move single elements, not the whole.
        # Biases before a normalisation have no gradient but rounding (1e-11, where others have 1e-4).
        last_bit = 1.2e-7 * np.abs(before).max() + 1e-9
        np.testing.assert_allclose(same, change, rtol=0, atol=3e-2 * np.abs(change).max() + last_bit, err_msg=name)
        assert np.linalg.norm(same - change) <= 5e-3 * np.linalg.norm(change) + last_bit * change.size**0.5, name


def test_frozen_layers_stay_and_others_move(two: dict[str, np.ndarray]) -> None:
    before, after = part(two, "before"), part(two, "after2")
    frozen = [name for name in before if "backbone/stem" in name or "backbone/level2" in name]
    assert len(frozen) > 10
    for name, start in before.items():
        if name in frozen or name.endswith("/kernel"):  # a scale of 1 may move by less than its last bit
            assert np.array_equal(start, after[name]) == (name in frozen), name


def test_the_gradient_of_the_whole_batch_is_clipped(one: dict[str, np.ndarray]) -> None:
    assert part(one, "log1")["gradient_norm"] > 2 * CLIP
    before, after = part(one, "before"), part(one, "after1")
    changes = [after[name].astype(np.float64) - before[name] for name in part(one, "average")]
    length = np.sqrt(sum(float(np.sum(change**2)) for change in changes))
    # the first update is the clipped gradient times the rate; weights are rounded to float32 after it
    assert length == pytest.approx(RATE * CLIP, rel=1e-3)


def test_averages(one: dict[str, np.ndarray]) -> None:
    first, second = part(one, "after1"), part(one, "after2")
    for name, average in part(one, "average").items():
        # After step 1 the average is the weights; in step 2 the decay is (1 + 2) / (10 + 2).
        np.testing.assert_allclose(average, 0.25 * first[name] + 0.75 * second[name], rtol=1e-5, atol=1e-7)


def test_eomt_computes_the_same_losses_and_gradients(run: Run) -> None:
    one, two = (run(replicas, *EOMT, preset="eomt_shapes") for replicas in (1, 2))
    assert one.keys() == two.keys()
    logs = part(one, "log1")
    assert {"total_loss", "cross_entropy_loss", "mask_loss", "dice_loss", "gradient_norm"} == logs.keys()
    for name, value in logs.items():
        np.testing.assert_allclose(part(two, "log1")[name], value, rtol=2e-5, err_msg=name)
    changes = {name: part(one, "after1")[name] - before for name, before in part(one, "before").items()}
    largest = max(np.linalg.norm(change) for change in changes.values())
    for name, before in part(one, "before").items():
        np.testing.assert_array_equal(part(two, "before")[name], before, err_msg=name)
        # Sums in another order, of numbers with 24 bits; the bias of keys has no gradient but rounding.
        difference = np.linalg.norm(part(two, "after1")[name] - before - changes[name])
        last_bit = 1.2e-7 * np.linalg.norm(before)
        assert difference <= 1e-4 * np.linalg.norm(changes[name]) + 1e-6 * largest + last_bit, name
