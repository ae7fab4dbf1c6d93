"""What a graph is traced for: some operations have several forms that give equal results at different costs."""

from __future__ import annotations

from typing import Literal, TypeAlias

# cpu and gpu: TensorFlow's kernels. xla: static shapes, nothing but operations that XLA compiles; TPUs need it.
# tflite and onnx: operations that these formats have.
Platform: TypeAlias = Literal["cpu", "gpu", "xla", "tflite", "onnx"]
