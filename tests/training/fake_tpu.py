"""Traces training steps for a TPU with two cores that is not there; a script of test_tpu.

python fake_tpu.py RECORDS OUTPUT.json PRESET [dotted.key=value ...]

TensorFlow builds the strategy, its variables and the whole program; only running it needs the TPU. The cores' variables
live on two logical CPUs.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import function_pb2, node_def_pb2, types_pb2
from tensorflow.python.distribute.cluster_resolver.tpu import tpu_cluster_resolver
from tensorflow.python.tpu.tpu_system_metadata import TPUSystemMetadata

from panoptic_cli import devices, models
from panoptic_cli.categories import CategoryTable
from panoptic_cli.config import load_experiment
from panoptic_cli.config.schema import Runtime
from panoptic_cli.demo.shapes import CATEGORIES
from panoptic_cli.pipeline.batches import training_dataset
from panoptic_cli.training.loop import make_steps
from panoptic_cli.training.parameter_groups import parameter_groups
from panoptic_cli.training.schedules import build_optimizer
from panoptic_cli.training.step import TrainingModel
from panoptic_cli.weights.checkpoints import Checkpoints

CORES = 2
HOST_OPS = (
    "PyFunc",
    "PyFuncStateless",
    "EagerPyFunc",
    "Assert",
    "Print",
    "PrintV2",
    "StringFormat",
)


class CoreName(str):
    """The name of a logical CPU that passes for a TPU core."""

    def __contains__(self, part: object) -> bool:
        return part == "device:TPU:" or (isinstance(part, str) and super().__contains__(part))


class FakeResolver(tpu_cluster_resolver.TPUClusterResolver):
    """Finds a TPU on this machine, as `TPUClusterResolver(tpu="local")` does on a TPU VM."""

    task_type: Any = None
    task_id: Any = None

    def __init__(self, tpu: str, zone: str | None = None, project: str | None = None) -> None:
        assert (tpu, zone, project) == ("local", None, None)

    def master(self, *_: Any, **__: Any) -> str:
        return ""

    def cluster_spec(self) -> tf.train.ClusterSpec:
        return tf.train.ClusterSpec({})

    def get_tpu_system_metadata(self) -> TPUSystemMetadata:
        names = [CoreName(f"/job:localhost/replica:0/task:0/device:CPU:{index}") for index in range(CORES)]
        cores = [SimpleNamespace(name=name, device_type="TPU") for name in names]
        return TPUSystemMetadata(
            num_cores=CORES, num_hosts=1, num_of_cores_per_host=CORES, topology=None, devices=cores
        )


class Walk:
    """Walks a graph and its functions.

    Attributes:
        inside: types of the operations that the TPU would run, with their dtypes.
        sites: how many programs for the TPU there are.
        names: their names.
        compiled: how many calls another compiler would take.
    """

    def __init__(self, graph: Any) -> None:
        self.inside: dict[str, set[str]] = {}
        self.sites = self.compiled = 0
        self.names: set[str] = set()
        self._functions: dict[str, function_pb2.FunctionDef] = {f.signature.name: f for f in graph.library.function}
        self._walk(graph.node, False)

    def _walk(self, nodes: Any, inside: bool) -> None:
        for node in nodes:
            on_tpu = inside or "_tpu_replicate" in node.attr
            if node.op == "TPUReplicateMetadata":
                self.sites += 1
                self.names.add(node.attr["_tpu_replicate"].s.decode())
            self.compiled += node.attr["_XlaMustCompile"].b
            if on_tpu:
                self.inside.setdefault(node.op, set()).add(json.dumps(_dtypes(node), sort_keys=True))
            for attribute in list(node.attr.values()):
                for function in [attribute.func, *attribute.list.func]:
                    if function.name in self._functions:
                        self._walk(self._functions[function.name].node_def, on_tpu)


def _dtypes(node: node_def_pb2.NodeDef) -> dict[str, list[int]]:
    return {
        name: list(value.list.type) or [value.type]
        for name, value in node.attr.items()
        if value.type or value.list.type
    }


def checkpoints_return(strategy: tf.distribute.Strategy, build: Any) -> bool:
    """Whether every core gets back what was saved."""
    folder = tempfile.mkdtemp()
    rng = np.random.default_rng(0)
    model, optimizer = build()
    saved = [*model.variables, *optimizer.variables]
    for variable in saved:
        integers = "int" in variable.dtype
        variable.assign(rng.integers(1, 9, variable.shape) if integers else rng.standard_normal(variable.shape))
    with strategy.scope():
        Checkpoints(folder, model, optimizer, max_to_keep=1, chief=True).save(5)
        other, its_optimizer = build()
        step = Checkpoints(folder, other, its_optimizer, max_to_keep=1, chief=True).restore_latest()
    restored = [*other.variables, *its_optimizer.variables]
    return step == 5 and all(
        np.array_equal(value.numpy(), a.numpy())
        for a, b in zip(saved, restored, strict=True)
        for value in b.value.values
    )


def main(records: str, output: str, preset: str, *settings: str) -> None:
    """Traces three steps in one call and writes what the program consists of."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * CORES)
    tf.distribute.cluster_resolver.TPUClusterResolver = FakeResolver
    tf.tpu.experimental.initialize_tpu_system = lambda resolver: None
    experiment = load_experiment(preset, settings=[f"task.train_data.input_path={records}", *settings])
    table = CategoryTable.from_list(CATEGORIES, "shapes")
    strategy = devices.create_strategy(Runtime(tpu="local"))
    assert isinstance(strategy, tf.distribute.TPUStrategy)
    devices.set_precision(experiment.runtime)

    def build() -> tuple[TrainingModel, keras.optimizers.Optimizer]:
        with strategy.scope():
            model = TrainingModel(models.create_network(experiment, table), experiment, "xla")
            precision, config = experiment.runtime.mixed_precision_dtype, experiment.trainer.optimizer_config
            groups = parameter_groups(model.network, config.layer_decay) if config.by_group else None
            optimizer = build_optimizer(config, 100, precision, groups)
            optimizer.build(model.trainable_variables)
            model.compile(optimizer=optimizer, auto_scale_loss=False)
        return model, optimizer

    model, optimizer = build()
    kinds = Counter(
        " ".join([type(v.value).__name__, v.value.synchronization.name, v.value.aggregation.name, v.dtype])
        for v in [*model.variables, *optimizer.variables]
    )
    targets = models.training_targets(experiment, table)
    batches = strategy.distribute_datasets_from_function(
        lambda context: training_dataset(experiment, targets, batch_size=2 * CORES, seed=1, input_context=context)
    )
    iterator = iter(batches)
    steps: Any = make_steps(model, strategy, 3, xla=True)
    walk = Walk(steps.get_concrete_function(iterator, tf.constant(0)).graph.as_graph_def())
    shapes = [spec.shape for spec in tf.nest.flatten(iterator.element_spec, expand_composites=True)]
    ops = {op: [json.loads(text) for text in sorted(dtypes)] for op, dtypes in walk.inside.items()}
    strings = {
        op
        for op, variants in ops.items()
        for dtypes in variants
        if any(types_pb2.DT_STRING in kinds for kinds in dtypes.values())
    }
    result = {
        "variables": kinds,
        "programs": walk.sites,
        "names": sorted(walk.names),
        "accumulation": model.accumulation,
        "other_compiler": walk.compiled,
        "ops": ops,
        "static": all(shape.is_fully_defined() for shape in shapes),
        "host_ops": sorted(set(walk.inside) & set(HOST_OPS)),
        "strings": sorted(strings),
        "checkpoints_return": checkpoints_return(strategy, build),
        "is_chief": devices.is_chief(strategy),
    }
    with open(output, "w") as stream:
        json.dump(result, stream)


if __name__ == "__main__":
    main(*sys.argv[1:])
