"""The training program for a TPU, as far as TensorFlow builds it without one: every operation has a kernel there.

`tpu_kernels.json` lists the operations that tensorflow-tpu 2.20.0 compiles for TPUs, with the numbers of their dtypes:
`kernels.get_all_registered_kernels()` of the device type XLA_TPU_JIT.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("fake_tpu.py")
KERNELS: dict[str, list[dict[str, list[int]]]] = json.loads(Path(__file__).with_name("tpu_kernels.json").read_text())
# These disappear when TensorFlow cuts the program out of the graph, or are calls whose functions are walked.
STRUCTURE = {
    *("TPUReplicateMetadata", "PartitionedCall", "StatefulPartitionedCall"),
    *("If", "StatelessIf", "While", "StatelessWhile", "Case"),
}
EVERYTHING = (
    "trainer.optimizer_config.ema.average_decay=0.99",
    "trainer.optimizer_config.optimizer.sgd.global_clipnorm=10",
)
pytestmark = pytest.mark.slow


@pytest.fixture(
    scope="module",
    params=[
        ("panoptic_fpn_shapes", *EVERYTHING),
        (
            "panoptic_fpn_shapes",
            "runtime.mixed_precision_dtype=bfloat16",
            "task.model.norm_activation.use_sync_bn=false",
            "task.model.input_size=[64,64,3]",
        ),
        (
            "panoptic_fpn_shapes",
            "runtime.mixed_precision_dtype=bfloat16",
            "trainer.gradient_accumulation_steps=2",
            "task.model.input_size=[64,64,3]",
        ),
        (
            "eomt_shapes",
            "runtime.mixed_precision_dtype=bfloat16",
            "trainer.recompute=true",
            "task.model.eomt.image_size=64",
            "task.model.eomt.drop_path_rate=0.1",
        ),
    ],
    ids=["float32", "bfloat16", "accumulated", "eomt"],
)
def program(request: pytest.FixtureRequest, shapes_records: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the program of three steps consists of."""
    output = tmp_path_factory.mktemp("tpu") / "program.json"
    command = [sys.executable, str(SCRIPT), f"{shapes_records}/train-*", str(output), *request.param]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(output.read_text())


def test_every_operation_compiles_for_a_tpu(program: Any) -> None:
    ops = {op: variants for op, variants in program["ops"].items() if op not in STRUCTURE}
    assert len(ops) > 80
    assert sorted(op for op in ops if op not in KERNELS) == []
    unfit = [
        f"{op} {dtypes}"
        for op, variants in ops.items()
        for dtypes in variants
        if not any(
            all(set(dtypes.get(name, [])) <= set(allowed) for name, allowed in kernel.items()) for kernel in KERNELS[op]
        )
    ]
    assert unfit == []


def test_the_steps_are_one_program_without_the_host(program: Any) -> None:
    # Two calls of the step would be compiled as two, under one name. Accumulation has a second program, the update.
    assert program["programs"] == len(program["names"]) == (2 if program["accumulation"] > 1 else 1)
    assert program["other_compiler"] == 0  # runtime.enable_xla is for GPUs; a TPU has its own compiler
    assert program["host_ops"] == []
    assert program["strings"] == []
    assert program["static"]


def test_variables_suit_the_replicas(program: Any) -> None:
    kinds = {tuple(kind.split()): count for kind, count in program["variables"].items()}
    # ON_WRITE: each core has its copy. NONE: it writes its own, and all write the same, because gradients are summed
    # and statistics are shared before. Only the optimizer's counter is exchanged, once a step.
    assert {kind[0] for kind in kinds} == {"TPUDistributedVariable"}
    assert {kind[1] for kind in kinds} == {"ON_WRITE"}
    assert {kind[2:] for kind in kinds} == {("NONE", "float32"), ("ONLY_FIRST_REPLICA", "int64")}
    assert [count for kind, count in kinds.items() if kind[3] == "int64"] == [1]
    assert [variant["T"] for variant in program["ops"]["AllToAll"]] == [[9]]  # int64


def test_checkpoints_and_roles(program: Any) -> None:
    assert program["checkpoints_return"]
    assert program["is_chief"]
