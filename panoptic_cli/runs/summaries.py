"""TensorBoard events, written without the tensorboard package, which `tf.summary.scalar` and `image` need."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

import tensorflow as tf
from PIL import Image


class Summaries:
    """An event file of a run.

    Args:
        directory: TensorBoard's log folder; may be remote.
    """

    def __init__(self, directory: str) -> None:
        self._writer = tf.summary.create_file_writer(directory)

    def scalars(self, step: int, values: Mapping[str, float | None]) -> None:
        """Writes scalars by tag, without None and values that are not finite, which would spoil the axis."""
        metadata = _metadata("scalars", "DATA_CLASS_SCALAR")
        with self._writer.as_default(step=step):
            for tag, value in values.items():
                if value is not None and math.isfinite(value):
                    tf.summary.write(tag, tf.constant(value, tf.float32), metadata=metadata)
        self._writer.flush()

    def pictures(self, step: int, tag: str, images: Sequence[Image.Image]) -> None:
        """Writes pictures with the tags TAG/0, TAG/1, ..."""
        metadata = _metadata("images", "DATA_CLASS_BLOB_SEQUENCE")
        with self._writer.as_default(step=step):
            for place, image in enumerate(images):
                stream = io.BytesIO()
                image.save(stream, format="PNG")
                size = [str(image.width).encode(), str(image.height).encode()]
                tf.summary.write(f"{tag}/{place}", tf.constant([*size, stream.getvalue()]), metadata=metadata)
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()


def _metadata(plugin: str, data_class: str) -> tf.compat.v1.SummaryMetadata:
    data = tf.compat.v1.SummaryMetadata.PluginData(plugin_name=plugin)
    return tf.compat.v1.SummaryMetadata(plugin_data=data, data_class=data_class)
