"""The functions of a SavedModel: preprocessing, network, fusion and COCO's panoptic format in one graph."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from panoptic_cli.categories import ANY_THING
from panoptic_cli.export.coco_segments import encode_segment_png, segment_boxes
from panoptic_cli.images.decoding import decode_upright
from panoptic_cli.inference.predictor import LoadedModel
from panoptic_cli.models.network import TensorDescription
from panoptic_cli.pipeline.preprocessing import Geometry, geometry_spec
from panoptic_cli.records import schema

_MAP = ("batch", "H", "W")
SEMANTIC_MAP = "semantic_category_map"  # only of networks with a semantic head

OUTPUTS = {
    "detection_boxes": TensorDescription(
        "float32", ("batch", "n", 4), "y1, x1, y2, x2 in pixels of the original picture"
    ),
    "detection_scores": TensorDescription("float32", ("batch", "n"), "0..1, descending; 0 after the last detection"),
    "detection_category_ids": TensorDescription("int32", ("batch", "n"), "category ids; 0 after the last detection"),
    "detection_mask_counts": TensorDescription(
        "int32",
        ("batch", "n", "r"),
        "the mask at the original size as COCO's run lengths: the lengths of alternating runs of 0 and 1, starting "
        "with 0, in column-major order; 0 after the last run",
    ),
    "num_detections": TensorDescription("int32", ("batch",), "the number of detections"),
    SEMANTIC_MAP: TensorDescription(
        "int32", _MAP, f"stuff category ids of the semantic head alone; {ANY_THING} is any thing, 0 is void and padding"
    ),
    "panoptic_category_map": TensorDescription("int32", _MAP, "category ids; 0 is void and padding"),
    "panoptic_instance_map": TensorDescription(
        "int32", _MAP, "1-based index of the detection; 0 for stuff, void and padding"
    ),
    "image_sizes": TensorDescription("int32", ("batch", 2), "height and width of each original picture, in pixels"),
    "panoptic_png_bytes": TensorDescription(
        "string", ("batch",), "COCO panoptic PNG at the original size: segment id = R + 256 G + 65536 B, 0 is void"
    ),
    "segment_ids": TensorDescription("int32", ("batch", "s"), "ids in the PNG, from 1; 0 after the last segment"),
    "segment_category_ids": TensorDescription("int32", ("batch", "s"), "category ids; 0 after the last segment"),
    "segment_areas": TensorDescription("int32", ("batch", "s"), "in pixels"),
    "segment_boxes": TensorDescription("int32", ("batch", "s", 4), "x, y, width, height in pixels: COCO's bbox"),
    "segment_detections": TensorDescription(
        "int32", ("batch", "s"), "1-based index of a thing's detection; 0 for stuff"
    ),
    "num_segments": TensorDescription("int32", ("batch",), "the number of segments"),
}

# Small responses for HTTP, without maps and masks, which are megabytes as JSON. The PNG contains the same.
COMPACT = tuple(name for name in OUTPUTS if not name.endswith("_map") and name != "detection_mask_counts")


def served_outputs(model: LoadedModel) -> dict[str, TensorDescription]:
    """Describes the outputs of a model's signature `serving_default`."""
    return {name: text for name, text in OUTPUTS.items() if name != SEMANTIC_MAP or model.network.has_semantic_map}


class ServedModel(tf.Module):
    """The exported functions, and the variables that they read.

    Args:
        model: the network.
        input_type: see `export_saved_model`.
        batch_size: see `export_saved_model`.
        description: the values of the signature `metadata` by name.

    Attributes:
        serve: signature `serving_default`, with all outputs.
        compact: signature `compact`, with the outputs in COMPACT.
        above_score: signature `above_score`, like `serve` with an additional input `score_threshold` for the fusion.
        metadata: signature `metadata`, which maps names in the description to their values as JSON.
    """

    def __init__(
        self, model: LoadedModel, input_type: str, batch_size: int | None, description: dict[str, Any]
    ) -> None:
        super().__init__()
        self._model = model
        # As text, because TensorFlow wraps dictionaries in the attributes of a module.
        self._metadata_values = {name: json.dumps(value) for name, value in description.items()}
        # Plain TensorFlow variables: the SavedModel contains no Keras objects and loads without Keras.
        self.weights = [variable.value for variable in model.network.variables]
        spec, decode = {
            "image_tensor": (tf.TensorSpec([batch_size, None, None, 3], tf.uint8, name="image"), _same),
            "image_bytes": (tf.TensorSpec([batch_size], tf.string, name="image_bytes"), self._decode_file),
            "tf_example": (tf.TensorSpec([batch_size], tf.string, name="tf_example"), self._decode_example),
        }[input_type]

        def above_score(inputs: tf.Tensor, score_threshold: tf.Tensor) -> dict[str, tf.Tensor]:
            return self._predict(inputs, decode, score_threshold)

        # Nothing here needs AutoGraph, which takes twice as long as the tracing itself.
        threshold = tf.TensorSpec([], tf.float32, name="score_threshold")
        self.above_score = tf.function(above_score, input_signature=[spec, threshold], autograph=False)

        def serve(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
            outputs: dict[str, tf.Tensor] = self.above_score(inputs, tf.constant(model.network.score_threshold))
            return outputs

        self.serve = tf.function(serve, input_signature=[spec], autograph=False)

        def compact(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
            outputs = self.serve(inputs)
            return {name: outputs[name] for name in COMPACT}

        self.compact = tf.function(compact, input_signature=[spec], autograph=False)
        keys = tf.TensorSpec([None], tf.string, name="keys")
        self.metadata = tf.function(self._metadata, input_signature=[keys], autograph=False)

    def functions(self) -> dict[str, Any]:
        """Returns the signatures by name."""
        return {
            "serving_default": self.serve,
            "compact": self.compact,
            "above_score": self.above_score,
            "metadata": self.metadata,
        }

    def _metadata(self, keys: tf.Tensor) -> dict[str, tf.Tensor]:
        # The input exists because TensorFlow Serving's HTTP interface rejects signatures without one.
        names = tf.constant(["", *self._metadata_values.keys()])
        values = tf.constant(["null", *self._metadata_values.values()])
        places = tf.argmax(keys[:, None] == names[None, :], axis=1)
        return {"values": tf.gather(values, places)}

    def _decode_file(self, encoded: tf.Tensor) -> tf.Tensor:
        return decode_upright(encoded, self._model.preprocessing.accurate_jpeg)

    def _decode_example(self, example: tf.Tensor) -> tf.Tensor:
        feature = {schema.IMAGE_ENCODED: tf.io.FixedLenFeature([], tf.string)}
        return self._model.preprocessing.decode(tf.io.parse_single_example(example, feature)[schema.IMAGE_ENCODED])

    def _predict(
        self, inputs: tf.Tensor, decode: Callable[[tf.Tensor], tf.Tensor], score_threshold: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        model = self._model

        def prepare(item: tf.Tensor) -> tuple[tf.Tensor, Geometry]:
            return model.preprocessing.prepare(decode(item))

        prepared = (tf.TensorSpec([*model.input_size, 3], tf.float32), geometry_spec())
        images, geometry = tf.map_fn(prepare, inputs, fn_output_signature=prepared)
        outputs = model.network(images, geometry, platform=model.platform)
        # Pictures of one batch may differ in size, so all maps are padded to the largest.
        canvas = tf.cast(tf.reduce_max(geometry.original_size, axis=0), tf.int32)

        def finish(item: tuple[dict[str, tf.Tensor], Geometry]) -> dict[str, tf.Tensor]:
            return self._finish(*item, score_threshold, canvas)

        with tf.device("CPU:0"):  # its shapes depend on the picture
            served = tf.map_fn(finish, (outputs, geometry), fn_output_signature=self._picture_spec())
        most = model.network.max_detections
        dense = {}
        for name, value in served.items():
            if isinstance(value, tf.RaggedTensor):
                # Lists of detections get a fixed length; others get that of the longest list in the batch.
                length = most if name.startswith("detection_") else None
                value = value.to_tensor(shape=[None, length, *value.shape[2:]])
            dense[name] = value
        return {name: tf.identity(dense[name]) for name in served_outputs(model)}

    def _picture_spec(self) -> dict[str, Any]:
        """Returns the specification of what `_finish` returns; the lists of each picture have different lengths."""
        ints, floats = tf.int32, tf.float32

        def listed(*shape: int | None, dtype: tf.DType = ints, ragged_rank: int = 0) -> tf.RaggedTensorSpec:
            return tf.RaggedTensorSpec([None, *shape], dtype, ragged_rank=ragged_rank)

        maps = (SEMANTIC_MAP, "panoptic_category_map", "panoptic_instance_map")
        spec = {
            "detection_boxes": listed(4, dtype=floats),
            "detection_scores": listed(dtype=floats),
            "detection_category_ids": listed(),
            "detection_mask_counts": listed(None, ragged_rank=1),
            "num_detections": tf.TensorSpec([], ints),
            **{name: tf.TensorSpec([None, None], ints) for name in maps},
            "image_sizes": tf.TensorSpec([2], ints),
            "panoptic_png_bytes": tf.TensorSpec([], tf.string),
            "segment_ids": listed(),
            "segment_category_ids": listed(),
            "segment_areas": listed(),
            "segment_boxes": listed(4),
            "segment_detections": listed(),
            "num_segments": tf.TensorSpec([], ints),
        }
        return {name: spec[name] for name in served_outputs(self._model)}

    def _finish(
        self, outputs: dict[str, tf.Tensor], geometry: Geometry, score_threshold: tf.Tensor, canvas: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Turns one picture's outputs into those of the signature; maps are padded to the canvas."""
        found = self._model.network.finish(outputs, geometry, score_threshold)
        count = tf.size(found.category_ids)
        size = tf.shape(found.segment_map)
        padding = [[0, canvas[0] - size[0]], [0, canvas[1] - size[1]]]

        def painted(values: tf.Tensor) -> tf.Tensor:
            return tf.pad(tf.gather(tf.concat([[0], values], axis=0), found.segment_map), padding)

        semantic = {} if found.semantic_map is None else {SEMANTIC_MAP: tf.pad(found.semantic_map, padding)}
        return {
            "detection_boxes": found.boxes,
            "detection_scores": found.scores,
            "detection_category_ids": found.detection_category_ids,
            "detection_mask_counts": found.masks,
            "num_detections": tf.size(found.scores),
            **semantic,
            "panoptic_category_map": painted(found.category_ids),
            "panoptic_instance_map": painted(found.detection_of_segment),
            "image_sizes": size,
            "panoptic_png_bytes": encode_segment_png(found.segment_map),
            "segment_ids": tf.range(1, count + 1),
            "segment_category_ids": found.category_ids,
            "segment_areas": found.areas,
            "segment_boxes": segment_boxes(found.segment_map, count),
            "segment_detections": found.detection_of_segment,
            "num_segments": count,
        }


def _same(image: tf.Tensor) -> tf.Tensor:
    return image
