"""The forms of the network's operations that suit a platform."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from panoptic_cli.models.panoptic_fpn.nms import Suppression
from panoptic_cli.models.platform import Platform


class Forms(NamedTuple):
    """Which of several equal forms the network takes.

    Attributes:
        suppression: see `nms.Suppression`.
        winograd: whether the heads' towers use Winograd's algorithm, in float32. GPU libraries and XLA choose their
            own convolutions.
        dynamic: whether the mask head may run only on the detections, so that shapes depend on the pictures. On GPUs,
            every new shape makes the libraries measure their algorithms again.
        one_by_one: whether each head's gradient is computed right after its loss, which saves memory. XLA chooses its
            own order.
        index_dtype: of computed indices, see `roi_align`.
        with_area: whether boxes need an area, because the format cannot compute the logarithm of 0, not even in a
            branch that is not taken.
    """

    suppression: Suppression
    winograd: bool = False
    dynamic: bool = False
    one_by_one: bool = False
    index_dtype: tf.DType = tf.int32
    with_area: bool = False


FORMS: dict[Platform, Forms] = {
    "cpu": Forms("kernel", winograd=True, dynamic=True, one_by_one=True),
    "gpu": Forms("matrix", one_by_one=True, index_dtype=tf.int64),
    "xla": Forms("padded"),
    "tflite": Forms("padded", with_area=True),
    "onnx": Forms("lists", with_area=True),
}
