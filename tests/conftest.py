"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import filelock
import pytest
from hypothesis import settings

from panoptic_cli import console, startup

if TYPE_CHECKING:  # a fast test is not to wait for TensorFlow
    from panoptic_cli.inference.predictor import LoadedModel, Predictor

# The same examples at every run, so that a change is judged by what it changed; `make fuzz` looks for new ones.
settings.register_profile("fixed", derandomize=True, database=None, deadline=None)
settings.register_profile("random", print_blob=True, deadline=None)
settings.load_profile("fixed")

# A shell starts what runs in its background with Ctrl-C ignored, nohup ignores SIGHUP; children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# What XLA compiles is tested, not what LLVM makes of it, which takes a third of the time of these tests.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

SHARED = Path(__file__).resolve().parents[2] / "shared"
# Modules whose slow tests take minutes, the longest first: they begin first, so that two processes end together.
LONGEST = (
    "test_same_everywhere",
    "test_fine_tuning",
    "test_compiled_step",
    "test_workers",
    "test_distribution",
    "test_tpu",
    "test_demo",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = pytest.mark.skip(reason=f"reference data not found: {SHARED} is absent")
    for item in items:
        is_shared = "shared" in item.keywords or "shared" in getattr(item, "fixturenames", ())
        if is_shared and not SHARED.is_dir():
            item.add_marker(missing)
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    # Every test and its fixtures draw the same weights at every run, whichever tests ran before: Keras takes the seeds
    # of initializers from here. TensorFlow's own seed is unused, and setting it would throw away all kernels.
    random.seed(0)


@pytest.fixture(autouse=True)
def _default_process() -> Iterator[None]:
    console.configure(verbosity=0, json_output=False)
    yield
    # A test that owns the process lets a later one redirect the error stream of all that follow.
    assert not startup._state["owns_process"]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with reference figures and coco100. Tests without it that read its files have the mark `shared`."""
    return SHARED


@pytest.fixture(scope="session")
def coco100(shared: Path) -> Path:
    """Real COCO: 100 training and 50 validation pictures with panoptic and instance annotations."""
    return shared / "data" / "coco100"


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 training and 6 validation pictures; do not change them."""
    from panoptic_cli.demo import shapes

    folder = tmp_path_factory.mktemp("generated") / "shapes"
    shapes.generate(folder, train=12, val=6, seed=1)
    return folder


@pytest.fixture
def dataset(generated: Path, tmp_path: Path) -> Path:
    """A copy of `generated` to be broken."""
    return Path(shutil.copytree(generated, tmp_path / "data"))


@pytest.fixture
def mine(dataset: Path, tmp_path: Path) -> Path:
    """The validation split of `dataset`, laid out otherwise: pictures/, labels/ and labels.json."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (dataset / "val2017").rename(folder / "pictures")
    (dataset / "panoptic_val2017").rename(folder / "labels")
    (dataset / "annotations" / "panoptic_val2017.json").rename(folder / "labels.json")
    return folder


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Returns a folder that the first of the test processes makes, and that none of them changes."""
    base = tmp_path_factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def folder(name: str, make: Callable[[Path], object]) -> Path:
        path, done = root / name, root / f".{name}.done"
        with filelock.FileLock(root / f".{name}.lock"):
            if not done.exists():
                make(path)
                done.touch()
        return path

    return folder


@pytest.fixture(scope="session")
def shapes_dir(made_once: Callable[..., Path]) -> Path:
    """The generated shapes set: 12 training pictures (two with a crowd) and 4 validation pictures."""
    from panoptic_cli.demo import shapes

    return made_once("shapes", lambda folder: shapes.generate(folder, train=12, val=4, seed=3))


@pytest.fixture(scope="session")
def shapes_records(shapes_dir: Path, made_once: Callable[..., Path]) -> Path:
    """A folder with the records of `shapes_dir`: train in 3 shards, val in 1."""
    from panoptic_cli.coco.dataset import read_dataset
    from panoptic_cli.coco.layout import coco_files
    from panoptic_cli.records.conversion import convert
    from panoptic_cli.records.plans import ConversionPlan

    def make(folder: Path) -> None:
        for split, shards in (("train", 3), ("val", 1)):
            files = coco_files(shapes_dir, split)
            convert(ConversionPlan(files, folder, shards), read_dataset(files), workers=1)

    return made_once("shapes_records", make)


# The smallest network that has every part. It is hardly trained, so its scores are low: the thresholds are too, so
# that pictures show many things and several kinds of stuff.
_TINY_NETWORK = (
    "task.model.input_size=[64,64,3]",
    "task.model.backbone.resnet.depth_multiplier=0.25",
    "task.model.decoder.fpn.num_filters=16",
    "task.model.rpn_head.num_filters=16",
    "task.model.detection_head.fc_dims=32",
    "task.model.mask_head.num_filters=16",
    "task.model.segmentation_model.head.num_filters=16",
    "task.model.roi_generator={pre_nms_top_k: 50, num_proposals: 16, test_pre_nms_top_k: 50, test_num_proposals: 16}",
    "task.model.roi_sampler.num_sampled_rois=16",
    "task.model.panoptic_segmentation_generator={score_threshold: 0.1, stuff_area_threshold: 16}",
)


@pytest.fixture(scope="session")
def tiny_network() -> tuple[str, ...]:
    """Settings `a.b=c` of a network that is built and run in seconds."""
    return _TINY_NETWORK


@pytest.fixture(scope="session")
def tiny_run(shapes_records: Path, made_once: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a very small network, trained for three steps on `shapes_records`."""
    from panoptic_cli import config
    from panoptic_cli.runs.categories import load_categories
    from panoptic_cli.training import trainer

    def make(run: Path) -> None:
        experiment = config.load_experiment(
            "panoptic_fpn_shapes",
            settings=[*_TINY_NETWORK, "trainer.train_steps=3", "task.train_data.global_batch_size=4"],
            options=[
                ("task.train_data.input_path", f"{shapes_records}/train-*"),
                ("task.validation_data.input_path", f"{shapes_records}/val-*"),
            ],
        )
        assert trainer.train(experiment, run, load_categories(experiment)).status == "finished"

    # Commands lock a run and write into it, so every process has its own.
    return Path(shutil.copytree(made_once("tiny_run", make), tmp_path_factory.mktemp("tiny") / "run"))


@pytest.fixture(scope="session")
def tiny_model(tiny_run: Path) -> LoadedModel:
    """The network of `tiny_run`."""
    from panoptic_cli.inference.predictor import load_model
    from panoptic_cli.runs import run_directory

    return load_model(*run_directory.load_run(tiny_run), tiny_run)


@pytest.fixture(scope="session")
def tiny_predictor(tiny_model: LoadedModel) -> Predictor:
    """Runs `tiny_model`; it takes seconds to trace, once."""
    from panoptic_cli.inference.predictor import Predictor

    return Predictor(tiny_model)


@pytest.fixture
def harmless_sigterm() -> Iterator[None]:
    """Lets code that does not handle SIGTERM go on, so that a test of that fails instead of ending pytest."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def restored_policy() -> Iterator[None]:
    """Restores Keras' dtype policy after one test."""
    import keras

    before = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(before)


@pytest.fixture
def float32_policy(restored_policy: None) -> None:
    """Sets Keras' dtype policy, which commands of other tests may have changed, for one test."""
    import keras

    keras.config.set_dtype_policy("float32")
