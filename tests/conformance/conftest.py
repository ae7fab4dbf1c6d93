"""The reference's checkpoint, rebuilt from its recipe, and the figures that the reference computed with it."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FIGURES = Path(__file__).parent / "reference"
_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


@pytest.fixture(scope="session")
def pictures(shared: Path) -> Callable[[str, str], np.ndarray]:
    """Reads pictures of the figures, which are not in the project because of their licences (mark: shared)."""

    def read(name: str, key: str) -> np.ndarray:
        with np.load(shared / "conformance" / "reference" / f"{name}.npz") as archive:
            return archive[key]

    return read


@pytest.fixture(scope="session")
def figures() -> Callable[[str], dict[str, np.ndarray]]:
    """Reads an npz of figures by its name."""

    def read(name: str) -> dict[str, np.ndarray]:
        with np.load(FIGURES / f"{name}.npz") as archive:
            return {key: archive[key] for key in archive.files}

    return read


def variable_value(key: str, shape: list[int], salt: str) -> np.ndarray:
    """Returns the value of a variable: random numbers that depend only on the salt and the name."""
    name = key.removesuffix(_SUFFIX)
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(f"{salt}:{name}".encode())))
    value = generator.standard_normal(shape, dtype=np.float32)
    kind = name.rsplit("/", 1)[-1]
    if kind == "kernel":
        value = value * np.sqrt(2 / np.prod(shape[:-1]))
        if name == "detection_head/0/_classifier/kernel":
            value = value * 0.45
    elif kind == "gamma":
        value = (1 + 0.1 * value) * (0.25 if "_norm3" in name else 1.0)
    elif kind == "moving_variance":
        value = np.exp(0.2 * value)
    else:
        assert kind in ("beta", "moving_mean", "bias"), name
        value = 0.1 * value
    return value.astype(np.float32)


@pytest.fixture(scope="session")
def reference_variables() -> dict[str, Any]:
    """The salt, and the shape of each variable by its key in the checkpoint."""
    return json.loads((FIGURES / "variables.json").read_text())


@pytest.fixture(scope="session")
def reference_checkpoint(reference_variables: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The prefix of the checkpoint, which has the reference's own format."""
    import tensorflow as tf

    prefix = tmp_path_factory.mktemp("reference") / "ckpt-1"
    shapes, salt = reference_variables["variables"], reference_variables["salt"]
    tensors = [tf.constant(variable_value(key, shape, salt)) for key, shape in shapes.items()]
    tensors.append(tf.constant((FIGURES / "object_graph.pb").read_bytes()))
    names = [*shapes, "_CHECKPOINTABLE_OBJECT_GRAPH"]
    tf.raw_ops.SaveV2(prefix=str(prefix), tensor_names=names, shape_and_slices=[""] * len(names), tensors=tensors)
    return str(prefix)


@pytest.fixture(scope="session")
def coco_labels() -> Any:
    """The reference's label space: every id that COCO may have, things up to 90 and stuff from 92."""
    from panoptic_cli.categories import CategoryTable
    from panoptic_cli.models.panoptic_fpn.label_space import LabelSpace

    ids = [i for i in range(1, 201) if i != 91]
    table = CategoryTable.from_list(
        [{"id": i, "name": f"category {i}", "isthing": int(i < 91)} for i in ids], "the test"
    )
    return LabelSpace.create(table, 90, 91, 111)


@pytest.fixture(scope="session")
def coco_config() -> Any:
    """The preset panoptic_fpn_coco with the input size of the figures."""
    from panoptic_cli.config import load_experiment

    return load_experiment(settings=["task.model.input_size=[512,512,3]"])


@pytest.fixture(scope="session")
def reference_network(coco_config: Any, coco_labels: Any, reference_checkpoint: str) -> Any:
    """The network of the preset with the weights of the checkpoint."""
    from panoptic_cli import weights
    from panoptic_cli.models.panoptic_fpn.network import PanopticFPN

    network = PanopticFPN(coco_config.task, coco_labels)
    weights.load_weights(network, reference_checkpoint)
    return network
