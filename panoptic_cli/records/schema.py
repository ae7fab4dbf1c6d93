"""The record schema, one tf.train.Example for each picture: feature names, and encoding without TensorFlow.

The keys are those of the reference (`official/projects/panoptic` of tensorflow/models), whose parser reads these
records. The `image/panoptic/segments` keys are ours; exact panoptic quality needs them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from panoptic_cli.categories import CategoryTable

IMAGE_ENCODED = "image/encoded"  # bytes: JPEG or PNG as found
IMAGE_FORMAT = "image/format"  # bytes: "jpeg" or "png"
IMAGE_FILENAME = "image/filename"  # bytes
IMAGE_SOURCE_ID = "image/source_id"  # bytes: the image id in decimal
IMAGE_SHA256 = "image/key/sha256"  # bytes: hexadecimal, of the encoded picture
IMAGE_HEIGHT = "image/height"  # int64, pixels
IMAGE_WIDTH = "image/width"  # int64, pixels
OBJECT_XMIN = "image/object/bbox/xmin"  # float list, 0..1
OBJECT_XMAX = "image/object/bbox/xmax"
OBJECT_YMIN = "image/object/bbox/ymin"
OBJECT_YMAX = "image/object/bbox/ymax"
OBJECT_LABEL = "image/object/class/label"  # int64 list: category id
OBJECT_TEXT = "image/object/class/text"  # bytes list: category name
OBJECT_IS_CROWD = "image/object/is_crowd"  # int64 list: 0 or 1
OBJECT_AREA = "image/object/area"  # float list, pixels
OBJECT_MASK = "image/object/mask"  # bytes list: a PNG of 0 and 1 each, as large as the picture
SEMANTIC_MASK = "image/segmentation/class/encoded"  # bytes: PNG of semantic classes, see semantic_lookup
CATEGORY_MASK = "image/panoptic/category_mask"  # bytes: PNG of category ids, 0 void
INSTANCE_MASK = "image/panoptic/instance_mask"  # bytes: PNG, 1-based place in segments_info for things, otherwise 0
SEGMENT_MASK = "image/panoptic/segments/encoded"  # bytes: PNG, 1-based place for every segment, 0 unlabelled
SEGMENT_ID = "image/panoptic/segments/id"  # int64 lists in the order of segments_info
SEGMENT_CATEGORY = "image/panoptic/segments/category_id"
SEGMENT_IS_CROWD = "image/panoptic/segments/is_crowd"
SEGMENT_AREA = "image/panoptic/segments/area"

_COCO_THINGS = range(1, 91)
_COCO_STUFF = range(92, 201)
_COCO_OFFSET = 90
_THING_CLASS, _FIRST_STUFF_CLASS = 1, 2

FeatureValue = bytes | int | Sequence[bytes] | np.ndarray


def semantic_lookup(table: CategoryTable) -> np.ndarray:
    """Returns the semantic class of each category id, as `image/segmentation/class/encoded` stores it.

    Things have class 1. Stuff has the reference's class, id - 90, if all ids are in COCO's ranges (things 1..90, stuff
    92..200). In other tables, stuff is counted from 2 in table order.

    Returns:
        uint16 [max id + 1]; 0 for ids that are not in the table.
    """
    lookup = np.zeros(table.max_id + 1, np.uint16)
    coco = all(c.id in (_COCO_THINGS if c.isthing else _COCO_STUFF) for c in table.categories)
    for place, category in enumerate(table.stuff, start=_FIRST_STUFF_CLASS):
        lookup[category.id] = category.id - _COCO_OFFSET if coco else place
    lookup[[category.id for category in table.things]] = _THING_CLASS
    return lookup


@cache
def _example_class() -> Any:
    """Builds tf.train.Example's message class at run time.

    The descriptors are in a separate pool, because TensorFlow registers messages of the same names in the default pool.
    """
    file = descriptor_pb2.FileDescriptorProto(name="panoptic_cli/example.proto", package="tensorflow", syntax="proto3")
    kind = descriptor_pb2.FieldDescriptorProto

    def add(message: Any, name: str, number: int, type_name: str, repeated: bool = False, **more: int) -> None:
        label = kind.LABEL_REPEATED if repeated else kind.LABEL_OPTIONAL
        full_name = f".tensorflow.{type_name}"
        message.field.add(name=name, number=number, label=label, type=kind.TYPE_MESSAGE, type_name=full_name, **more)

    for name, value_type in (
        ("BytesList", kind.TYPE_BYTES),
        ("FloatList", kind.TYPE_FLOAT),
        ("Int64List", kind.TYPE_INT64),
    ):
        message = file.message_type.add(name=name)
        message.field.add(name="value", number=1, label=kind.LABEL_REPEATED, type=value_type)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, value) in enumerate(
        (("bytes_list", "BytesList"), ("float_list", "FloatList"), ("int64_list", "Int64List")), start=1
    ):
        add(feature, name, number, value, oneof_index=0)
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=kind.LABEL_OPTIONAL, type=kind.TYPE_STRING)
    add(entry, "value", 2, "Feature")
    add(features, "feature", 1, "Features.FeatureEntry", repeated=True)
    example = file.message_type.add(name="Example")
    add(example, "features", 1, "Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


def encode_example(features: Mapping[str, FeatureValue]) -> bytes:
    """Serialises features as tf.train.Example; equal features give equal bytes.

    Args:
        features: bytes, an int, a list of bytes, or an array of integers or floats. Empty ones become empty features.

    Raises:
        TypeError: a value has another type.
    """
    example = _example_class()()
    target = example.features.feature
    for key, value in features.items():
        feature = target[key]
        if isinstance(value, bytes | int):
            value = [value] if isinstance(value, bytes) else np.array([value], np.int64)
        if isinstance(value, np.ndarray):
            if value.dtype.kind not in "iuf":
                raise TypeError(f"feature {key}: arrays of {value.dtype} cannot be stored")
            kind = feature.float_list if value.dtype.kind == "f" else feature.int64_list
            kind.SetInParent()
            kind.value.extend(value.tolist())
        else:
            feature.bytes_list.SetInParent()
            feature.bytes_list.value.extend(value)
    return bytes(example.SerializeToString(deterministic=True))


def decode_example(record: bytes) -> dict[str, list[bytes] | np.ndarray]:
    """Parses a serialised tf.train.Example.

    Returns:
        A list of bytes, a float32 array or an int64 array for each feature.

    Raises:
        ValueError: the bytes are not an Example.
    """
    try:
        example = _example_class().FromString(record)
    except DecodeError:
        raise ValueError("the record is not a tf.train.Example") from None
    features: dict[str, list[bytes] | np.ndarray] = {}
    for key, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        if kind == "float_list":
            features[key] = np.asarray(feature.float_list.value, np.float32)
        elif kind == "int64_list":
            features[key] = np.asarray(feature.int64_list.value, np.int64)
        else:
            features[key] = list(feature.bytes_list.value)
    return features
