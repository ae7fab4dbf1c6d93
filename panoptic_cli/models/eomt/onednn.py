"""What oneDNN's kernels, which TensorFlow may use on CPUs, do on this machine."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import tensorflow as tf

_CPU_INFO = Path("/proc/cpuinfo")


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
    return is_used() and (dtype == tf.float32 or (dtype == tf.bfloat16 and _has_bfloat16()))


@functools.cache
def _has_bfloat16() -> bool:
    """Whether TensorFlow gives oneDNN operations on bfloat16: on x86 CPUs with these instructions."""
    try:
        return re.search(r"\b(avx512f|avx_ne_convert)\b", _CPU_INFO.read_text()) is not None
    except OSError:  # not Linux
        return False
