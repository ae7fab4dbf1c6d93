"""Which devices a run uses. Nothing here imports TensorFlow before a strategy is really made."""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING, Any

from panoptic_cli import console
from panoptic_cli.config.schema import Runtime
from panoptic_cli.errors import DeviceError, UsageError

if TYPE_CHECKING:
    import tensorflow as tf

_REACH_SECONDS = 10.0
POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


def check_devices(
    runtime: Runtime,
    *,
    batch_size: int | None = None,
    model_dir: str | None = None,
    train_data: str | None = None,
) -> None:
    """Finds contradictions that can be seen without looking for devices; does not import TensorFlow.

    Args:
        runtime: devices and precision.
        batch_size: the global batch, checked against the number of GPUs where that is given.
        model_dir: the run directory, checked against a remote TPU.
        train_data: the pattern of the training records, likewise.

    Raises:
        UsageError: the settings contradict each other.
    """
    kind, tpu, gpus = runtime.distribution_strategy, runtime.tpu, runtime.num_gpus
    if tpu is not None:
        if gpus is not None:
            raise UsageError("--tpu and --gpus exclude each other.", "Leave one of them out.")
        if kind not in ("auto", "tpu"):
            raise UsageError(f"--tpu contradicts runtime.distribution_strategy={kind}.", "Use auto or tpu.")
        if runtime.mixed_precision_dtype == "float16":
            raise UsageError("A TPU does not compute in float16.", "Use --precision bfloat16.")
        if "TF_CONFIG" in os.environ:
            raise UsageError("--tpu contradicts TF_CONFIG in the environment.", "Unset TF_CONFIG.")
        if tpu != "local":
            _check_remote(tpu, model_dir, train_data)
    elif kind == "tpu":
        raise UsageError("runtime.distribution_strategy=tpu needs a TPU.", "Give --tpu NAME or --tpu local.")
    elif runtime.tpu_zone is not None or runtime.tpu_project is not None:
        raise UsageError("--tpu-zone and --tpu-project need --tpu.", "Give --tpu NAME.")
    if kind == "one_device" and gpus is not None and gpus > 1:
        raise UsageError(f"--gpus {gpus} contradicts runtime.distribution_strategy=one_device.", "Use mirrored.")
    if kind == "mirrored" and gpus == 0:
        raise UsageError("--gpus 0 contradicts runtime.distribution_strategy=mirrored.", "Use one_device.")
    workers = 1
    if "TF_CONFIG" in os.environ:
        if kind not in ("auto", "multi_worker_mirrored"):
            raise UsageError(
                f"runtime.distribution_strategy={kind} contradicts TF_CONFIG in the environment.",
                "Unset TF_CONFIG, or use multi_worker_mirrored.",
            )
        workers = _workers_of(os.environ["TF_CONFIG"])
    elif kind == "multi_worker_mirrored":
        raise UsageError(
            "runtime.distribution_strategy=multi_worker_mirrored needs TF_CONFIG in the environment.",
            "Set it on every worker, with the cluster and the worker's own task.",
        )
    if batch_size is not None:
        check_batch(batch_size, workers * (gpus or 1))


def _check_remote(tpu: str, model_dir: str | None, train_data: str | None) -> None:
    """A TPU of another machine reads the records and writes the checkpoints there."""
    if model_dir is not None and "://" not in model_dir:
        raise UsageError(
            f"The remote TPU {tpu} cannot write to the local directory {model_dir}.",
            "Give --model-dir gs://BUCKET/PATH, or --tpu local on a TPU VM.",
        )
    local = [part.strip() for part in (train_data or "").split(",") if part.strip() and "://" not in part]
    if local:
        raise UsageError(
            f"The remote TPU {tpu} cannot read the local records {local[0]}.",
            "Upload them with panoptic upload and give --train-data 'gs://BUCKET/PATH/train-*'.",
        )


def check_batch(batch_size: int, replicas: int) -> None:
    """Checks that every replica gets the same number of images.

    Raises:
        UsageError: the global batch does not divide by the replicas.
    """
    if batch_size % replicas:
        near = max(replicas, round(batch_size / replicas) * replicas)
        raise UsageError(
            f"The batch of {batch_size} images does not divide by {replicas} replicas.",
            f"Use --batch-size {near}, for example.",
        )


def _workers_of(text: str) -> int:
    """Returns the number of workers of a TF_CONFIG.

    Raises:
        UsageError: it is no JSON object that names a chief or worker of its cluster.
    """
    try:
        value = json.loads(text)
        cluster = {kind: list(value["cluster"].get(kind, [])) for kind in ("chief", "worker")}
        kind, index = value["task"]["type"], int(value["task"]["index"])
    except (json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
        raise UsageError("TF_CONFIG is not a JSON object with cluster and task.", "Correct it or unset it.") from None
    if not 0 <= index < len(cluster.get(kind, [])):
        known = ", ".join(f"{name} {place}" for name, hosts in cluster.items() for place in range(len(hosts)))
        raise UsageError(
            f"TF_CONFIG: the task {kind} {index} is none of the cluster's workers ({known or 'it has none'}).",
            "The task must be a chief or a worker, with its place in the cluster's list.",
        )
    return sum(map(len, cluster.values()))


def create_strategy(runtime: Runtime) -> tf.distribute.Strategy:
    """Finds the devices and makes the strategy; sets memory growth on the GPUs it uses.

    Args:
        runtime: devices; call `check_devices` before.

    Returns:
        TPUStrategy, MultiWorkerMirroredStrategy (TF_CONFIG present), MirroredStrategy over the first GPUs, or
        OneDeviceStrategy on a GPU or the CPU.

    Raises:
        DeviceError: the devices asked for are not there.
    """
    import tensorflow as tf

    if runtime.tpu is not None:
        return _tpu_strategy(runtime)
    gpus = tf.config.list_physical_devices("GPU")
    wanted = runtime.num_gpus if runtime.num_gpus is not None else len(gpus)
    if wanted > len(gpus):
        visible = f"{len(gpus)} are" if len(gpus) > 1 else "1 is" if gpus else "none is"
        raise DeviceError(
            f"--gpus {wanted}: {visible} visible.",
            "Give a smaller number, leave --gpus out to use all there are, or check the driver with panoptic doctor.",
        )
    for gpu in gpus[:wanted]:
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:  # the process has used the GPU already
            console.detail(f"Memory growth of {gpu.name} was left as it is.")
    kind = runtime.distribution_strategy
    if "TF_CONFIG" in os.environ:
        if wanted == 0 and gpus:
            tf.config.set_visible_devices([], "GPU")
        elif wanted:
            tf.config.set_visible_devices(gpus[:wanted], "GPU")
        return tf.distribute.MultiWorkerMirroredStrategy()
    if kind == "mirrored" and wanted == 0:
        raise DeviceError("runtime.distribution_strategy=mirrored: no GPU is visible.", "Use auto or one_device.")
    if kind == "mirrored" or (kind == "auto" and wanted > 1):
        return tf.distribute.MirroredStrategy([f"/gpu:{index}" for index in range(wanted)])
    return tf.distribute.OneDeviceStrategy("/gpu:0" if wanted else "/cpu:0")


def _tpu_strategy(runtime: Runtime) -> tf.distribute.Strategy:
    import tensorflow as tf

    name = runtime.tpu or "local"
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(
            tpu=name, zone=runtime.tpu_zone, project=runtime.tpu_project
        )
        _reach(resolver.master())
        if name != "local":  # on a TPU VM the chips belong to this process: there is no cluster to join
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    # The resolver asks several services, each with its own exceptions; all of them mean the same to the user.
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DeviceError(
            f"The TPU {name} cannot be used: {reason}.",
            "Check its name, --tpu-zone and --tpu-project, that it is running, and the credentials.",
        ) from error


def _reach(address: str) -> None:
    """Tries to connect to grpc://HOST:PORT: TensorFlow itself would try for minutes.

    Raises:
        OSError: nothing answers there.
    """
    host, _, port = address.removeprefix("grpc://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS).close()


def set_precision(runtime: Runtime, *, on_cpu: bool = False) -> None:
    """Sets Keras' dtype policy: float32, or 16-bit computation with float32 variables.

    Args:
        runtime: `mixed_precision_dtype` counts.
        on_cpu: whether the run computes on the CPU, where float16 is emulated.
    """
    import keras

    if on_cpu and runtime.mixed_precision_dtype == "float16":
        console.warn("float16 is very slow on a CPU: --precision bfloat16 is the one to use here.")
    keras.config.set_dtype_policy(POLICIES[runtime.mixed_precision_dtype])


def describe(strategy: tf.distribute.Strategy) -> dict[str, Any]:
    """Returns the strategy's class, its number of replicas and its devices, for environment.json."""
    devices = getattr(strategy.extended, "worker_devices", ())
    return {
        "strategy": type(strategy).__name__,
        "replicas": strategy.num_replicas_in_sync,
        "devices": [str(device) for device in devices],
    }


def on_cpu(strategy: tf.distribute.Strategy) -> bool:
    """Whether all replicas compute on CPUs."""
    devices = getattr(strategy.extended, "worker_devices", ())
    return all("CPU" in str(device).upper() for device in devices)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes the run directory: the only one, or worker 0 without a chief."""
    resolver = strategy.cluster_resolver
    kind = getattr(resolver, "task_type", None)
    if type(strategy).__name__ == "TPUStrategyV2" or kind is None:
        return True
    spec = resolver.cluster_spec().as_dict()
    return kind == "chief" or (kind == "worker" and resolver.task_id == 0 and not spec.get("chief"))
