"""Choose the devices and the precision of a run. Only creating a strategy or setting a policy imports TensorFlow."""

from __future__ import annotations

import functools
import json
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from panoptic_cli import console, gpus
from panoptic_cli.config.schema import Runtime
from panoptic_cli.errors import DeviceError, UsageError, listed, one_line
from panoptic_cli.startup import tensorflow_packages

if TYPE_CHECKING:
    import tensorflow as tf

_REACH_SECONDS = 10.0
_CPU_INFO = Path("/proc/cpuinfo")
_BFLOAT16 = {"avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"}  # the last on ARM


def check_devices(
    runtime: Runtime,
    *,
    batch_size: int | None = None,
    model_dir: str | None = None,
    train_data: str | None = None,
) -> None:
    """Finds contradictions in the settings without looking for devices. Does not import TensorFlow.

    Args:
        runtime: devices and precision.
        batch_size: the global batch size, checked against the numbers of GPUs and workers.
        model_dir: the run directory, which a remote TPU must be able to write.
        train_data: the pattern of the training records, which a remote TPU must be able to read.

    Raises:
        UsageError: the settings contradict each other.
    """
    kind, tpu, gpus = runtime.distribution_strategy, runtime.tpu, runtime.num_gpus
    if tpu is not None:
        if gpus is not None:
            raise UsageError("--tpu and --gpus cannot be combined.", "Give only one of them.")
        if kind not in ("auto", "tpu"):
            raise UsageError(f"--tpu conflicts with runtime.distribution_strategy={kind}.", "Set it to auto or tpu.")
        if runtime.mixed_precision_dtype == "float16":
            raise UsageError("TPUs do not support float16.", "Use --precision bfloat16.")
        if "TF_CONFIG" in os.environ:
            raise UsageError("--tpu conflicts with the environment variable TF_CONFIG.", "Unset TF_CONFIG.")
        if tpu != "local":
            _check_remote(tpu, model_dir, train_data)
    elif kind == "tpu":
        raise UsageError("runtime.distribution_strategy=tpu needs a TPU.", "Give --tpu NAME or --tpu local.")
    elif runtime.tpu_zone is not None or runtime.tpu_project is not None:
        raise UsageError("--tpu-zone and --tpu-project need --tpu.", "Give --tpu NAME.")
    if kind == "one_device" and gpus is not None and gpus > 1:
        raise UsageError(
            f"--gpus {gpus} conflicts with runtime.distribution_strategy=one_device.", "Set it to mirrored."
        )
    if kind == "mirrored" and gpus == 0:
        raise UsageError("--gpus 0 conflicts with runtime.distribution_strategy=mirrored.", "Set it to one_device.")
    workers = 1
    if "TF_CONFIG" in os.environ:
        if kind not in ("auto", "multi_worker_mirrored"):
            raise UsageError(
                f"runtime.distribution_strategy={kind} conflicts with the environment variable TF_CONFIG.",
                "Unset TF_CONFIG, or use multi_worker_mirrored.",
            )
        workers = _workers_of(os.environ["TF_CONFIG"])
    elif kind == "multi_worker_mirrored":
        raise UsageError(
            "runtime.distribution_strategy=multi_worker_mirrored needs the environment variable TF_CONFIG.",
            "Set it on every worker to the cluster and that worker's task.",
        )
    if batch_size is not None:
        check_batch(batch_size, workers * (gpus or 1))


def _check_remote(tpu: str, model_dir: str | None, train_data: str | None) -> None:
    """Checks that a TPU on another machine can read the records and write the run directory."""
    if model_dir is not None and "://" not in model_dir:
        raise UsageError(
            f"The remote TPU {tpu} cannot write to the local directory {model_dir}.",
            "Give --model-dir gs://BUCKET/PATH, or --tpu local on a TPU VM.",
        )
    local = [part.strip() for part in (train_data or "").split(",") if part.strip() and "://" not in part]
    if local:
        raise UsageError(
            f"The remote TPU {tpu} cannot read the local records {local[0]}.",
            "Upload them with panoptic upload, then give --train-data 'gs://BUCKET/PATH/train-*'.",
        )


def check_batch(batch_size: int, replicas: int) -> None:
    """Checks that every replica gets the same number of images.

    Raises:
        UsageError: the global batch size is not divisible by the number of replicas.
    """
    if batch_size % replicas:
        near = max(replicas, round(batch_size / replicas) * replicas)
        raise UsageError(
            f"The batch size {batch_size} is not divisible by the number of replicas, {replicas}.",
            f"For example, use --batch-size {near}.",
        )


def _workers_of(text: str) -> int:
    """Returns the number of workers in a TF_CONFIG.

    Raises:
        UsageError: it is not a JSON object whose task is a chief or worker of its cluster.
    """
    try:
        value = json.loads(text)
        cluster = {kind: list(value["cluster"].get(kind, [])) for kind in ("chief", "worker")}
        kind, index = value["task"]["type"], int(value["task"]["index"])
    except (json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
        raise UsageError("TF_CONFIG is not a JSON object with cluster and task.", "Correct or unset it.") from None
    if not 0 <= index < len(cluster.get(kind, [])):
        known = listed([f"{name} {place}" for name, hosts in cluster.items() for place in range(len(hosts))])
        raise UsageError(
            f"TF_CONFIG: the task {kind} {index} is not one of the cluster's workers ({known or 'it has none'}).",
            "The task must be a chief or worker, and its index a position in the cluster's list.",
        )
    return sum(map(len, cluster.values()))


def create_strategy(runtime: Runtime) -> tf.distribute.Strategy:
    """Finds the devices and creates the strategy; turns on memory growth for the GPUs it uses.

    Args:
        runtime: devices; call `check_devices` first.

    Returns:
        TPUStrategy, MultiWorkerMirroredStrategy (if TF_CONFIG is set), MirroredStrategy over the first GPUs, or
        OneDeviceStrategy on a GPU or the CPU.

    Raises:
        DeviceError: the requested devices are not available.
    """
    import tensorflow as tf

    if runtime.tpu is not None:
        return _tpu_strategy(runtime)
    found = tf.config.list_physical_devices("GPU")
    count = runtime.num_gpus if runtime.num_gpus is not None else len(found)
    if count > len(found):
        raise _too_few(count, len(found))
    if not found and runtime.num_gpus is None:
        _warn_of_unused_gpus()
    _prepare_gpus(found, count)
    kind = runtime.distribution_strategy
    if "TF_CONFIG" in os.environ:
        return tf.distribute.MultiWorkerMirroredStrategy()
    if kind == "mirrored" and count == 0:
        raise DeviceError("runtime.distribution_strategy=mirrored: no GPU is visible.", "Use auto or one_device.")
    if kind == "mirrored" or (kind == "auto" and count > 1):
        return tf.distribute.MirroredStrategy([f"/gpu:{index}" for index in range(count)])
    return tf.distribute.OneDeviceStrategy("/gpu:0" if count else "/cpu:0")


def tensorflow_build() -> gpus.Build:
    """Returns what the imported TensorFlow was built for."""
    import tensorflow as tf

    build = tf.sysconfig.get_build_info()
    cuda = build.get("cuda_version") if build.get("is_cuda_build") else None
    return gpus.Build(tf.__version__, cuda, build.get("cudnn_version"))


def _too_few(wanted: int, found: int) -> DeviceError:
    """Returns the error of --gpus: how many GPUs TensorFlow has, and why not more."""
    if found:
        are = "only 1 GPU is" if found == 1 else f"only {found} GPUs are"
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        why = f" (CUDA_VISIBLE_DEVICES={hidden})" if hidden else ""
        return DeviceError(f"--gpus {wanted}: {are} available{why}.", "Give a smaller number, or omit it to use all.")
    cards = gpus.find_cards()
    reason, remedy = gpus.why_unusable(tensorflow_build(), cards)
    has = f"this machine has {gpus.count_and_names(cards)}, but " if cards else ""
    return DeviceError(f"--gpus {wanted}: TensorFlow has no GPU: {has}{reason}.", remedy)


def _warn_of_unused_gpus() -> None:
    """Warns that the run uses the CPU although the machine has GPUs."""
    if gpus.hidden() or not (cards := gpus.find_cards()):
        return
    reason, remedy = gpus.why_unusable(tensorflow_build(), cards)
    has = gpus.count_and_names(cards)
    console.warn(f"This machine has {has}, but TensorFlow cannot use them: {reason}. The CPU is used. {remedy}")


def _prepare_gpus(found: list[Any], count: int) -> None:
    """Leaves the other GPUs to other processes, and lets this one take memory only as it needs it."""
    import tensorflow as tf

    try:
        if count < len(found):
            tf.config.set_visible_devices(found[:count], "GPU")
        for gpu in found[:count]:
            tf.config.experimental.set_memory_growth(gpu, True)
    except RuntimeError:  # TensorFlow has started with these GPUs
        console.detail("TensorFlow already uses the GPUs; their memory settings are unchanged.")


def _tpu_strategy(runtime: Runtime) -> tf.distribute.Strategy:
    import tensorflow as tf

    name = runtime.tpu or "local"
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(
            tpu=name, zone=runtime.tpu_zone, project=runtime.tpu_project
        )
        _reach(resolver.master())
        if name != "local":  # on a TPU VM the chips belong to this process; there is no cluster
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    # The resolver calls several services, each with its own exceptions. To the user they all mean the same.
    except Exception as error:
        remedy = "Check that it is running, and check its name, --tpu-zone, --tpu-project and the credentials."
        if name == "local" and "libtpu" not in tensorflow_packages():
            remedy = "On a TPU VM, TensorFlow comes with: pip install 'panoptic-cli[tpu]'"
        raise DeviceError(f"The TPU {name} cannot be used: {one_line(error)}.", remedy) from error


def _reach(address: str) -> None:
    """Connects to grpc://HOST:PORT once, because TensorFlow would try for minutes.

    Raises:
        OSError: the address does not answer.
    """
    host, _, port = address.removeprefix("grpc://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS).close()


@functools.cache
def cpu_flags() -> frozenset[str]:
    """Returns the features of the CPU by Linux' names, such as avx512f; none on other systems."""
    try:
        lines = _CPU_INFO.read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(word for line in lines if line.startswith(("flags", "Features")) for word in line.split()[2:])


def cpu_computes_bfloat16() -> bool:
    """Whether the CPU has instructions for bfloat16, which others emulate; True if it is not known."""
    return not cpu_flags() or bool(cpu_flags() & _BFLOAT16)


def set_precision(runtime: Runtime, *, on_cpu: bool = False, half_variables: bool = False) -> None:
    """Sets Keras' dtype policy: float32, or 16-bit computation with float32 or 16-bit variables.

    Args:
        runtime: its `mixed_precision_dtype` is used.
        on_cpu: whether the run computes on the CPU, which emulates float16.
        half_variables: whether the variables are in 16 bits, too, where the computation is.
    """
    import keras

    dtype = runtime.mixed_precision_dtype
    if on_cpu and dtype == "float16":
        better = "bfloat16" if cpu_computes_bfloat16() else "float32"
        console.warn(f"float16 is very slow on a CPU; use --precision {better} instead.")
    if on_cpu and dtype == "bfloat16" and not cpu_computes_bfloat16():
        console.warn("This CPU has no instructions for bfloat16; --precision float32 is faster.")
    keras.config.set_dtype_policy(dtype if half_variables or dtype == "float32" else f"mixed_{dtype}")


def describe(strategy: tf.distribute.Strategy) -> dict[str, Any]:
    """Returns the strategy's class, number of replicas and devices, for environment.json."""
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
    """Whether this process writes the run directory: the only process, the chief, or worker 0 without a chief."""
    resolver = strategy.cluster_resolver
    kind = getattr(resolver, "task_type", None)
    if type(strategy).__name__ == "TPUStrategyV2" or kind is None:
        return True
    spec = resolver.cluster_spec().as_dict()
    return kind == "chief" or (kind == "worker" and resolver.task_id == 0 and not spec.get("chief"))
