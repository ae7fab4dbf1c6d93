"""What oneDNN's kernels, which TensorFlow may use on CPUs, do on this machine."""

from __future__ import annotations

import functools

import tensorflow as tf

from panoptic_cli import devices

# Where TensorFlow gives oneDNN operations on bfloat16.
_BFLOAT16 = {"avx512f", "avx_ne_convert"}


@functools.cache
def is_used() -> bool:
    """Whether TensorFlow's CPU kernels are oneDNN's."""
    try:
        from tensorflow.python.util import _pywrap_util_port
    except ImportError:  # not part of TensorFlow's interface
        return False
    return bool(_pywrap_util_port.IsMklEnabled())


def computes(dtype: tf.DType) -> bool:
    """Whether oneDNN's kernels compute with a type: with float32 inside, whatever the type of inputs and results."""
    return is_used() and (dtype == tf.float32 or (dtype == tf.bfloat16 and bool(devices.cpu_flags() & _BFLOAT16)))
