from __future__ import annotations

import json
import socket
import subprocess
import sys
import time

import pytest

from panoptic_cli import devices
from panoptic_cli.config.schema import Runtime
from panoptic_cli.errors import DeviceError, UsageError


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch):
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
def test_contradictions_are_usage_errors(settings, word):
    with pytest.raises(UsageError, match=word) as caught:
        devices.check_devices(Runtime(**settings))
    assert caught.value.exit_code == 2
    assert caught.value.hint


def test_batch_must_divide():
    with pytest.raises(UsageError, match="10 images does not divide by 4"):
        devices.check_devices(Runtime(num_gpus=4), batch_size=10)
    devices.check_devices(Runtime(num_gpus=4), batch_size=8)


def test_remote_tpu_cannot_write_here():
    with pytest.raises(UsageError, match="local directory runs/x"):
        devices.check_devices(Runtime(tpu="node-1"), model_dir="runs/x")
    devices.check_devices(Runtime(tpu="node-1"), model_dir="gs://bucket/x")
    devices.check_devices(Runtime(tpu="local"), model_dir="runs/x")


def test_remote_tpu_cannot_read_here():
    with pytest.raises(UsageError, match=r"local records data/train-\*"):
        devices.check_devices(Runtime(tpu="node-1"), train_data="gs://bucket/a-*,data/train-*")
    devices.check_devices(Runtime(tpu="node-1"), train_data="gs://bucket/a-*")
    devices.check_devices(Runtime(tpu="local"), train_data="data/train-*")


def _cluster(kind="worker", index=0):
    return json.dumps({"cluster": {"worker": ["a:1", "b:1", "c:1"]}, "task": {"type": kind, "index": index}})


def test_several_workers_and_what_contradicts_them(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", _cluster())
    devices.check_devices(Runtime(num_gpus=2), batch_size=12)
    with pytest.raises(UsageError, match="16 images does not divide by 6"):
        devices.check_devices(Runtime(num_gpus=2), batch_size=16)
    with pytest.raises(UsageError, match="mirrored contradicts TF_CONFIG"):
        devices.check_devices(Runtime(distribution_strategy="mirrored"))
    with pytest.raises(UsageError, match="--tpu contradicts TF_CONFIG"):
        devices.check_devices(Runtime(tpu="local"))


@pytest.mark.parametrize(("kind", "index"), [("worker", 3), ("worker", -1), ("ps", 0), ("evaluator", 0), ("chief", 0)])
def test_a_task_that_is_no_worker_of_the_cluster(monkeypatch, kind, index):
    monkeypatch.setenv("TF_CONFIG", _cluster(kind, index))
    with pytest.raises(UsageError, match=f"{kind} {index} is none of the cluster's workers"):
        devices.check_devices(Runtime())


@pytest.mark.parametrize("text", ["{", "[]", '{"cluster": {}, "task": {}}', '{"cluster": {"worker": ["a:1"]}}'])
def test_broken_tf_config(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UsageError, match="TF_CONFIG"):
        devices.check_devices(Runtime())


def test_checks_do_not_import_tensorflow():
    code = (
        "import sys; from panoptic_cli import devices;"
        "from panoptic_cli.training import trainer, inputs, run_directory;"
        "from panoptic_cli.config.schema import Runtime;"
        "devices.check_devices(Runtime(num_gpus=2), batch_size=4);"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_gpus_that_are_not_there():
    import tensorflow as tf

    count = len(tf.config.list_physical_devices("GPU"))
    with pytest.raises(DeviceError, match=f"--gpus {count + 3}: .* visible"):
        devices.create_strategy(Runtime(num_gpus=count + 3))


def test_gpus_zero_is_the_cpu():
    made = devices.create_strategy(Runtime(num_gpus=0))
    assert devices.describe(made)["replicas"] == 1
    assert devices.on_cpu(made)
    assert devices.is_chief(made)


class _Resolver:
    calls: list[tuple] = []  # noqa: RUF012 - reset by the test

    def __init__(self, tpu, zone, project):
        self.calls.append(("resolver", tpu, zone, project))
        self.address = "" if tpu == "local" else f"grpc://{tpu}"

    def master(self):
        return self.address


@pytest.mark.parametrize("local", [True, False])
def test_tpu_is_connected_initialised_and_wrapped(monkeypatch, local):
    import tensorflow as tf

    server = socket.create_server(("127.0.0.1", 0))
    name = "local" if local else f"127.0.0.1:{server.getsockname()[1]}"

    _Resolver.calls = calls = []
    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", _Resolver)
    monkeypatch.setattr(tf.config, "experimental_connect_to_cluster", lambda r: calls.append(("connect",)))
    monkeypatch.setattr(tf.tpu.experimental, "initialize_tpu_system", lambda r: calls.append(("initialize",)))
    monkeypatch.setattr(tf.distribute, "TPUStrategy", lambda r: ("strategy", r))
    made = devices.create_strategy(Runtime(tpu=name, tpu_zone="z", tpu_project="p"))
    assert made[0] == "strategy"
    connect = [] if name == "local" else [("connect",)]
    assert calls == [("resolver", name, "z", "p"), *connect, ("initialize",)]
    server.close()


def test_tpu_address_that_nobody_listens_at_is_an_error_at_once(monkeypatch):
    import tensorflow as tf

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", _Resolver)
    monkeypatch.setattr(tf.config, "experimental_connect_to_cluster", lambda r: pytest.fail("would wait for minutes"))
    begun = time.monotonic()
    with pytest.raises(DeviceError, match=r"127\.0\.0\.1:\d+ cannot be used: .*refused") as caught:
        devices.create_strategy(Runtime(tpu=f"127.0.0.1:{port}"))
    assert time.monotonic() - begun < 5
    assert "--tpu-zone" in caught.value.hint


def test_tpu_that_does_not_answer_is_one_error(monkeypatch):
    import tensorflow as tf

    def refuse(**_):
        raise ValueError("Could not lookup TPU metadata")

    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", refuse)
    with pytest.raises(DeviceError, match="node-9 cannot be used: Could not lookup"):
        devices.create_strategy(Runtime(tpu="node-9"))


@pytest.mark.parametrize(("dtype", "compute"), [("float32", "float32"), ("bfloat16", "bfloat16")])
def test_precision_keeps_float32_variables(dtype, compute):
    import keras

    before = keras.config.dtype_policy()
    try:
        devices.set_precision(Runtime(mixed_precision_dtype=dtype))
        layer = keras.layers.Dense(2)
        assert (layer.compute_dtype, layer.variable_dtype) == (compute, "float32")
    finally:
        keras.config.set_dtype_policy(before)


def test_float16_on_a_cpu_names_bfloat16(capsys):
    import keras

    before = keras.config.dtype_policy()
    try:
        devices.set_precision(Runtime(mixed_precision_dtype="float16"), on_cpu=True)
    finally:
        keras.config.set_dtype_policy(before)
    assert "bfloat16" in capsys.readouterr().err
