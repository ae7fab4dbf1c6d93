"""The platforms that graphs are traced for: some operations have forms with equal results and different costs."""

from __future__ import annotations

from typing import Literal, TypeAlias

# cpu and gpu: TensorFlow's kernels. xla: static shapes and only operations that XLA compiles, as TPUs need.
# tflite and onnx: only operations that these formats have.
Platform: TypeAlias = Literal["cpu", "gpu", "xla", "tflite", "onnx"]
