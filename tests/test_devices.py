"""Devices and precision: contradicting settings are usage errors; missing devices are named at once."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from panoptic_cli import devices, gpus
from panoptic_cli.config.schema import Runtime
from panoptic_cli.errors import DeviceError, UsageError


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"tpu": "local", "num_gpus": 1}, "--gpus"),
        ({"tpu": "local", "mixed_precision_dtype": "float16"}, "float16"),
        ({"tpu": "local", "distribution_strategy": "mirrored"}, "mirrored"),
        ({"distribution_strategy": "tpu"}, "--tpu"),
        ({"tpu_zone": "z"}, "--tpu-zone"),
        ({"distribution_strategy": "one_device", "num_gpus": 2}, "one_device"),
        ({"distribution_strategy": "mirrored", "num_gpus": 0}, "mirrored"),
        ({"distribution_strategy": "multi_worker_mirrored"}, "TF_CONFIG"),
    ],
)
def test_contradictions_are_usage_errors(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=word) as caught:
        devices.check_devices(Runtime(**settings))
    assert caught.value.exit_code == 2
    assert caught.value.hint


def test_the_batch_size_is_divisible_by_the_gpus() -> None:
    with pytest.raises(UsageError, match="batch size 10 is not divisible by the number of replicas, 4"):
        devices.check_devices(Runtime(num_gpus=4), batch_size=10)
    devices.check_devices(Runtime(num_gpus=4), batch_size=8)


def test_a_remote_tpu_cannot_write_to_a_local_directory() -> None:
    with pytest.raises(UsageError, match="local directory runs/x"):
        devices.check_devices(Runtime(tpu="node-1"), model_dir="runs/x")
    devices.check_devices(Runtime(tpu="node-1"), model_dir="gs://bucket/x")
    devices.check_devices(Runtime(tpu="local"), model_dir="runs/x")


def test_a_remote_tpu_cannot_read_local_records() -> None:
    with pytest.raises(UsageError, match=r"local records data/train-\*"):
        devices.check_devices(Runtime(tpu="node-1"), train_data="gs://bucket/a-*,data/train-*")
    devices.check_devices(Runtime(tpu="node-1"), train_data="gs://bucket/a-*")
    devices.check_devices(Runtime(tpu="local"), train_data="data/train-*")


def _cluster(kind: str = "worker", index: int = 0) -> str:
    return json.dumps({"cluster": {"worker": ["a:1", "b:1", "c:1"]}, "task": {"type": kind, "index": index}})


def test_settings_that_contradict_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", _cluster())
    devices.check_devices(Runtime(num_gpus=2), batch_size=12)
    with pytest.raises(UsageError, match="batch size 16 is not divisible by the number of replicas, 6"):
        devices.check_devices(Runtime(num_gpus=2), batch_size=16)
    with pytest.raises(UsageError, match="mirrored conflicts with the environment variable TF_CONFIG"):
        devices.check_devices(Runtime(distribution_strategy="mirrored"))
    with pytest.raises(UsageError, match="--tpu conflicts with the environment variable TF_CONFIG"):
        devices.check_devices(Runtime(tpu="local"))


@pytest.mark.parametrize(("kind", "index"), [("worker", 3), ("worker", -1), ("ps", 0), ("evaluator", 0), ("chief", 0)])
def test_a_task_outside_the_cluster(monkeypatch: pytest.MonkeyPatch, kind: str, index: int) -> None:
    monkeypatch.setenv("TF_CONFIG", _cluster(kind, index))
    with pytest.raises(UsageError, match=f"{kind} {index} is not one of the cluster's workers"):
        devices.check_devices(Runtime())


@pytest.mark.parametrize("text", ["{", "[]", '{"cluster": {}, "task": {}}', '{"cluster": {"worker": ["a:1"]}}'])
def test_a_broken_tf_config(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UsageError, match="TF_CONFIG"):
        devices.check_devices(Runtime())


def test_checks_do_not_import_tensorflow() -> None:
    code = (
        "import sys; from panoptic_cli import devices;"
        "from panoptic_cli.config.schema import Runtime;"
        "devices.check_devices(Runtime(num_gpus=2), batch_size=4);"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], list[str]]:
    """Returns machine(cards, listed): what the driver and what TensorFlow says; the calls to TensorFlow are listed."""
    import tensorflow as tf

    calls: list[str] = []

    def pretend(cards: int, found: int) -> list[str]:
        program = tmp_path / "nvidia-smi"
        program.write_text("#!/bin/sh\n" + "echo NVIDIA L4, 550.54.15, 23034\n" * cards)
        program.chmod(0o755)
        names = [f"gpu{index}" for index in range(found)]
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: names)
        return calls

    def limit(gpus: list[str], kind: str) -> None:
        calls.append(f"use {' '.join(gpus)}")

    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(tf.config, "set_visible_devices", limit)
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda gpu, on: calls.append(f"grow {gpu} {on}"))
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda names: names)
    monkeypatch.setattr(tf.distribute, "OneDeviceStrategy", lambda name: name)
    return pretend


def test_too_few_gpus_are_an_error(machine: Callable[[int, int], list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    machine(2, 2)
    with pytest.raises(DeviceError, match=r"--gpus 8: only 2 GPUs are available\. Give a smaller number"):
        devices.create_strategy(Runtime(num_gpus=8, mixed_precision_dtype="float16"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    machine(2, 1)
    with pytest.raises(DeviceError, match=r"only 1 GPU is available \(CUDA_VISIBLE_DEVICES=1\)"):
        devices.create_strategy(Runtime(num_gpus=8))


def test_gpus_that_tensorflow_cannot_use_are_told(
    machine: Callable[[int, int], list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpus, "missing_libraries", lambda build: ["libcudnn.so.9"])
    machine(2, 0)
    with pytest.raises(DeviceError, match=r"--gpus 2: TensorFlow has no GPU: .* 2 GPUs \(NVIDIA L4\), but .*libcudnn"):
        devices.create_strategy(Runtime(num_gpus=2))
    assert devices.create_strategy(Runtime()) == "/cpu:0"
    (line,) = capsys.readouterr().err.splitlines()
    assert "This machine has 2 GPUs (NVIDIA L4), but TensorFlow cannot use them" in line
    assert "libcudnn.so.9. The CPU is used. Run: pip install 'panoptic-cli[gpu]'" in line


@pytest.mark.parametrize("why", ["asked for the CPU", "hidden", "none there"])
def test_a_cpu_that_was_meant_is_not_warned_of(
    machine: Callable[[int, int], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    why: str,
) -> None:
    machine(0 if why == "none there" else 2, 0)
    monkeypatch.setattr(gpus, "_PCI_DEVICES", Path("/nowhere"))
    if why == "hidden":
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert devices.create_strategy(Runtime(num_gpus=0 if why == "asked for the CPU" else None)) == "/cpu:0"
    assert capsys.readouterr().err == ""


def test_gpus_without_a_card_are_an_error(
    machine: Callable[[int, int], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(0, 0)
    monkeypatch.setattr(gpus, "_PCI_DEVICES", Path("/nowhere"))
    with pytest.raises(DeviceError, match="--gpus 3: TensorFlow has no GPU: this machine has no NVIDIA GPU"):
        devices.create_strategy(Runtime(num_gpus=3))


def test_other_gpus_stay_free_and_memory_is_taken_as_needed(machine: Callable[[int, int], list[str]]) -> None:
    calls = machine(4, 4)
    assert devices.create_strategy(Runtime(num_gpus=2)) == ["/gpu:0", "/gpu:1"]
    assert calls == ["use gpu0 gpu1", "grow gpu0 True", "grow gpu1 True"]
    calls.clear()
    assert devices.create_strategy(Runtime()) == ["/gpu:0", "/gpu:1", "/gpu:2", "/gpu:3"]
    assert calls == [f"grow gpu{index} True" for index in range(4)]
    calls.clear()
    assert devices.create_strategy(Runtime(num_gpus=0)) == "/cpu:0"
    assert calls == ["use "]


def test_zero_gpus_is_the_cpu() -> None:
    made = devices.create_strategy(Runtime(num_gpus=0))
    assert devices.describe(made)["replicas"] == 1
    assert devices.on_cpu(made)
    assert devices.is_chief(made)


class _Resolver:
    """A cluster resolver that finds a TPU at the address that is its name."""

    def __init__(self, tpu: str, zone: str | None, project: str | None) -> None:
        self.arguments = (tpu, zone, project)
        self.address = "" if tpu == "local" else f"grpc://{tpu}"

    def master(self) -> str:
        return self.address


@pytest.mark.parametrize("local", [True, False])
def test_a_tpu_is_initialized_and_a_remote_one_connected_first(monkeypatch: pytest.MonkeyPatch, local: bool) -> None:
    import tensorflow as tf

    calls: list[str] = []
    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", _Resolver)
    monkeypatch.setattr(tf.config, "experimental_connect_to_cluster", lambda resolver: calls.append("connect"))
    monkeypatch.setattr(tf.tpu.experimental, "initialize_tpu_system", lambda resolver: calls.append("initialize"))
    monkeypatch.setattr(tf.distribute, "TPUStrategy", lambda resolver: resolver)
    with socket.create_server(("127.0.0.1", 0)) as server:
        name = "local" if local else f"127.0.0.1:{server.getsockname()[1]}"
        resolver: Any = devices.create_strategy(Runtime(tpu=name, tpu_zone="z", tpu_project="p"))
    assert resolver.arguments == (name, "z", "p")
    assert calls == (["initialize"] if local else ["connect", "initialize"])


def test_a_tpu_address_that_does_not_answer_is_an_error_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", _Resolver)
    monkeypatch.setattr(tf.config, "experimental_connect_to_cluster", lambda r: pytest.fail("would wait for minutes"))
    begun = time.monotonic()
    with pytest.raises(DeviceError, match=r"127\.0\.0\.1:\d+ cannot be used: .*refused") as caught:
        devices.create_strategy(Runtime(tpu=f"127.0.0.1:{port}"))
    assert time.monotonic() - begun < 5
    assert "--tpu-zone" in str(caught.value.hint)


def test_an_unknown_tpu_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    def refuse(**_: object) -> NoReturn:
        raise ValueError("Could not lookup TPU metadata")

    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", refuse)
    with pytest.raises(DeviceError, match="node-9 cannot be used: Could not lookup"):
        devices.create_strategy(Runtime(tpu="node-9"))
    with pytest.raises(DeviceError, match=r"local cannot be used: .*\[tpu\]"):
        devices.create_strategy(Runtime(tpu="local"))


@pytest.mark.usefixtures("restored_policy")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_variables_are_float32_at_every_precision_unless_they_are_to_be_rounded(dtype: Any) -> None:
    import keras

    for half_variables, expected in ((False, "float32"), (True, dtype)):
        devices.set_precision(Runtime(mixed_precision_dtype=dtype), half_variables=half_variables)
        layer = keras.layers.Dense(2)
        assert (layer.compute_dtype, layer.variable_dtype) == (dtype, expected)


@pytest.mark.usefixtures("restored_policy")
@pytest.mark.parametrize(
    ("flags", "dtype", "words"),
    [
        ("flags\t: avx2 avx512_bf16", "float16", "use --precision bfloat16 instead"),
        ("flags\t: avx2", "float16", "use --precision float32 instead"),
        ("Features : asimd bf16", "bfloat16", ""),
        ("flags\t: avx2 avx512f", "bfloat16", "no instructions for bfloat16; --precision float32 is faster"),
        ("flags\t: avx2", "float32", ""),
        ("", "bfloat16", ""),  # an unknown system
    ],
)
def test_slow_precisions_on_a_cpu_are_told(
    flags: str,
    dtype: Any,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{flags}\n")
    monkeypatch.setattr(devices, "_CPU_INFO", tmp_path / "cpuinfo")
    devices.cpu_flags.cache_clear()
    try:
        devices.set_precision(Runtime(mixed_precision_dtype=dtype), on_cpu=True)
    finally:
        devices.cpu_flags.cache_clear()
    printed = capsys.readouterr().err
    assert words in printed if words else printed == ""
