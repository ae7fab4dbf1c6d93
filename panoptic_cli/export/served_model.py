"""The functions of a SavedModel: preprocessing, network, fusion and COCO's panoptic format in one graph."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from panoptic_cli.categories import THING_LABEL
from panoptic_cli.export.coco_segments import CocoSegments, coco_segments
from panoptic_cli.export.description import ANY_THING, Output
from panoptic_cli.inference.predictor import LoadedModel
from panoptic_cli.models.panoptic_fpn.fusion import fuse
from panoptic_cli.pipeline.preprocessing import decode_image, preprocess
from panoptic_cli.records import schema

_MAP = ("batch", "H", "W")

OUTPUTS = {
    "detection_boxes": Output("float32", ("batch", "n", 4), "y1, x1, y2, x2 in pixels of the original picture"),
    "detection_scores": Output("float32", ("batch", "n"), "0..1, descending; 0 behind the last detection"),
    "detection_category_ids": Output("int32", ("batch", "n"), "category ids; 0 behind the last detection"),
    "detection_masks": Output("float32", ("batch", "n", "m", "m"), "probabilities within the box, 0..1"),
    "num_detections": Output("int32", ("batch",), "how many detections there are"),
    "semantic_category_map": Output(
        "int32", _MAP, f"stuff category ids of the semantic head alone; {ANY_THING} is any thing, 0 void and padding"
    ),
    "panoptic_category_map": Output("int32", _MAP, "category ids; 0 is void and padding"),
    "panoptic_instance_map": Output("int32", _MAP, "1-based place of the detection; 0 for stuff, void and padding"),
    "image_sizes": Output("int32", ("batch", 2), "height and width of each original picture, in pixels"),
    "panoptic_png_bytes": Output(
        "string", ("batch",), "COCO panoptic PNG at the original size: segment id = R + 256 G + 65536 B, 0 is void"
    ),
    "segment_ids": Output("int32", ("batch", "s"), "ids in the PNG, from 1; 0 behind the last segment"),
    "segment_category_ids": Output("int32", ("batch", "s"), "category ids; 0 behind the last segment"),
    "segment_areas": Output("int32", ("batch", "s"), "pixels"),
    "segment_boxes": Output("int32", ("batch", "s", 4), "x, y, width, height in pixels: COCO's bbox"),
    "segment_detections": Output("int32", ("batch", "s"), "1-based place of a thing's detection; 0 for stuff"),
    "num_segments": Output("int32", ("batch",), "how many segments there are"),
}

# Small answers for HTTP: no maps and masks, which are megabytes as JSON. The PNG holds the same.
COMPACT = tuple(name for name in OUTPUTS if not name.endswith("_map") and name != "detection_masks")


class ServedModel(tf.Module):
    """What is exported, and the variables it reads.

    Args:
        model: the network.
        input_type: see `export_saved_model`.
        batch_size: see `export_saved_model`.
        description: JSON object for signature `metadata`.

    Attributes:
        serve: signature `serving_default`, with all of OUTPUTS.
        compact: with those of COMPACT.
        metadata: from names in the description to their values as JSON.
    """

    def __init__(
        self, model: LoadedModel, input_type: str, batch_size: int | None, description: dict[str, Any]
    ) -> None:
        super().__init__()
        self._model = model
        # As text: TensorFlow wraps the dictionaries of a module's attributes.
        self._metadata_values = {name: json.dumps(value) for name, value in description.items()}
        # Plain TensorFlow variables, so that the SavedModel holds no Keras objects and needs no Keras to load.
        self.weights = [variable.value for variable in model.network.variables]
        spec, decode = {
            "image_tensor": (tf.TensorSpec([batch_size, None, None, 3], tf.uint8, name="image"), _same),
            "image_bytes": (tf.TensorSpec([batch_size], tf.string, name="image_bytes"), decode_image),
            "tf_example": (tf.TensorSpec([batch_size], tf.string, name="tf_example"), _decode_example),
        }[input_type]

        def serve(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
            return self._predict(inputs, decode)

        # Nothing in it needs AutoGraph, which takes twice as long as tracing itself.
        self.serve = tf.function(serve, input_signature=[spec], autograph=False)

        def compact(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
            outputs = self.serve(inputs)
            return {name: outputs[name] for name in COMPACT}

        self.compact = tf.function(compact, input_signature=[spec], autograph=False)
        keys = tf.TensorSpec([None], tf.string, name="keys")
        self.metadata = tf.function(self._metadata, input_signature=[keys], autograph=False)

    def functions(self) -> dict[str, Any]:
        """Returns the signatures by name."""
        return {"serving_default": self.serve, "compact": self.compact, "metadata": self.metadata}

    def _metadata(self, keys: tf.Tensor) -> dict[str, tf.Tensor]:
        # With an input, because TensorFlow Serving's HTTP interface refuses signatures that have none.
        names = tf.constant(["", *self._metadata_values.keys()])
        values = tf.constant(["null", *self._metadata_values.values()])
        places = tf.argmax(keys[:, None] == names[None, :], axis=1)
        return {"values": tf.gather(values, places)}

    def _predict(self, inputs: tf.Tensor, decode: Callable[[tf.Tensor], tf.Tensor]) -> dict[str, tf.Tensor]:
        model, size = self._model, self._model.input_size

        def prepare(item: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return preprocess(decode(item), size)

        prepared = (tf.TensorSpec([*size, 3], tf.float32), tf.TensorSpec([4, 2], tf.float32))
        images, info = tf.map_fn(prepare, inputs, fn_output_signature=prepared)
        network = model.network(images, info, training=False)
        ids = tf.gather(tf.constant(model.label_space.thing_ids, tf.int32), network["detection_classes"])
        # Pictures of one batch may differ in size: all maps are padded to the largest.
        canvas = tf.cast(tf.reduce_max(info[:, 0], axis=0), tf.int32)

        def finish(
            item: tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor],
        ) -> tuple[tuple[tf.Tensor, ...], CocoSegments]:
            return self._finish(*item, canvas)

        i32 = tf.int32
        maps_spec = (tf.TensorSpec([None, None], i32),) * 3
        room = len(model.table.stuff) + int(ids.shape[1])
        row, scalar = tf.TensorSpec([room], i32), tf.TensorSpec([], i32)
        segments_spec = CocoSegments(
            tf.TensorSpec([], tf.string), scalar, row, row, row, tf.TensorSpec([room, 4], i32), row
        )
        (semantic, category, instance), segments = tf.map_fn(
            finish, (network, info, ids), fn_output_signature=(maps_spec, segments_spec)
        )
        most = tf.reduce_max(segments.count)
        return {
            "detection_boxes": network["detection_boxes"] / tf.tile(info[:, 2:3], [1, 1, 2]),
            "detection_scores": network["detection_scores"],
            "detection_category_ids": ids,
            "detection_masks": network["detection_masks"],
            "num_detections": network["num_detections"],
            "semantic_category_map": semantic,
            "panoptic_category_map": category,
            "panoptic_instance_map": instance,
            "image_sizes": tf.cast(info[:, 0], i32),
            "panoptic_png_bytes": segments.png,
            "segment_ids": segments.ids[:, :most],
            "segment_category_ids": segments.category_ids[:, :most],
            "segment_areas": segments.areas[:, :most],
            "segment_boxes": segments.boxes[:, :most],
            "segment_detections": segments.detections[:, :most],
            "num_segments": segments.count,
        }

    def _finish(
        self, network: dict[str, tf.Tensor], info: tf.Tensor, ids: tf.Tensor, canvas: tf.Tensor
    ) -> tuple[tuple[tf.Tensor, ...], CocoSegments]:
        """Fuses one picture; its maps padded to the canvas, and its segments."""
        model = self._model
        config = model.experiment.task.model.panoptic_segmentation_generator
        maps = fuse(network, info, config, model.label_space)
        # Classes that no category has (COCO's label space has some) are void, as in every file that we write.
        space, table = model.label_space, model.table
        exists = np.zeros(max(table.max_id, space.thing_ids.max(), space.semantic_ids.max()) + 1, np.int32)
        exists[list(table.by_id)] = 1
        known = tf.gather(tf.constant(exists), maps.category)
        category, instance = maps.category * known, maps.instance * known
        semantic_ids = space.semantic_ids * exists[space.semantic_ids]
        semantic_ids[THING_LABEL] = ANY_THING
        semantic = tf.gather(tf.constant(semantic_ids, tf.int32), maps.semantic)
        shape = tf.shape(category)
        padding = [[0, canvas[0] - shape[0]], [0, canvas[1] - shape[1]]]
        padded = tuple(tf.pad(m, padding) for m in (semantic, category, instance))
        return padded, coco_segments(category, instance, ids, table)


def _same(image: tf.Tensor) -> tf.Tensor:
    return image


def _decode_example(example: tf.Tensor) -> tf.Tensor:
    feature = {schema.IMAGE_ENCODED: tf.io.FixedLenFeature([], tf.string)}
    return decode_image(tf.io.parse_single_example(example, feature)[schema.IMAGE_ENCODED])
