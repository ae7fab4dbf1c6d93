"""Our records compared with the reference's records of the same pictures, and read by TensorFlow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from panoptic_cli.coco.dataset import read_dataset
from panoptic_cli.coco.layout import coco_files
from panoptic_cli.images import masks
from panoptic_cli.records import schema
from panoptic_cli.records.encoding import PictureEncoder
from panoptic_cli.records.regrouping import Regrouping
from panoptic_cli.records.schema import decode_example
from panoptic_cli.records.tfrecord import TFRecordWriter, read_records

pytestmark = pytest.mark.shared

EQUAL = (
    *(schema.IMAGE_ENCODED, schema.IMAGE_FILENAME, schema.IMAGE_SOURCE_ID, schema.IMAGE_SHA256),
    *(schema.IMAGE_HEIGHT, schema.IMAGE_WIDTH),
    *(schema.OBJECT_LABEL, schema.OBJECT_TEXT, schema.OBJECT_IS_CROWD, schema.OBJECT_AREA),
)
BOXES = (schema.OBJECT_XMIN, schema.OBJECT_XMAX, schema.OBJECT_YMIN, schema.OBJECT_YMAX)
LABELS = (schema.SEMANTIC_MASK, schema.CATEGORY_MASK, schema.INSTANCE_MASK, schema.OBJECT_MASK)


def _ours(coco100: Path) -> tuple[PictureEncoder, dict[int, Any]]:
    dataset = read_dataset(coco_files(coco100, "val"))
    return PictureEncoder(dataset.files, Regrouping(dataset.table)), {p.id: p for p in dataset.pictures}


def test_records_equal_those_of_the_reference(shared: Path, coco100: Path) -> None:
    encoder, pictures = _ours(coco100)
    paths = sorted((shared / "conformance" / "tfrecords").glob("*.tfrecord"))
    compared = 0
    for record in (record for path in paths for record in read_records(path)):
        theirs = decode_example(record)
        identifier = int(theirs[schema.IMAGE_SOURCE_ID][0])
        ours = decode_example(encoder.encode(pictures[identifier])[0])
        # IMAGE_FORMAT is left out: the reference writes "jpg" there, we write "jpeg".
        assert ours.keys() >= theirs.keys()
        for key in EQUAL:
            assert list(ours[key]) == list(theirs[key]), key
        for key in BOXES:  # both compute in float64 and round to float32 once
            np.testing.assert_allclose(np.asarray(ours[key]), np.asarray(theirs[key]), atol=1e-7)
        for key in LABELS:
            assert len(ours[key]) == len(theirs[key])
            for a, b in zip(ours[key], theirs[key], strict=True):
                np.testing.assert_array_equal(masks.decode_png(bytes(a)), masks.decode_png(bytes(b)), err_msg=key)
        compared += 1
    assert compared == 14


@pytest.mark.slow
def test_tensorflow_parses_and_decodes_the_records(coco100: Path, tmp_path: Path) -> None:
    import tensorflow as tf

    encoder, pictures = _ours(coco100)
    chosen = [pictures[i] for i in (139, 632, 7888)]  # plain, with a crowd, greyscale
    with TFRecordWriter(tmp_path / "a.tfrecord") as writer:
        for picture in chosen:
            writer.write(encoder.encode(picture)[0])
    one, many = tf.io.FixedLenFeature([], tf.string), tf.io.VarLenFeature(tf.string)
    keys = {schema.IMAGE_ENCODED: one, schema.SEGMENT_MASK: one, schema.OBJECT_MASK: many}
    numbers = {
        schema.OBJECT_LABEL: tf.io.VarLenFeature(tf.int64),
        schema.OBJECT_XMIN: tf.io.VarLenFeature(tf.float32),
    }
    parsed = [
        tf.io.parse_single_example(record, {**keys, **numbers})
        for record in tf.data.TFRecordDataset(str(tmp_path / "a.tfrecord"))
    ]
    for picture, features in zip(chosen, parsed, strict=True):
        size = (picture.height, picture.width)
        assert tf.io.decode_image(features[schema.IMAGE_ENCODED], channels=3).shape == (*size, 3)
        places = tf.io.decode_png(features[schema.SEGMENT_MASK], dtype=tf.uint8).numpy()[..., 0]
        assert places.shape == size
        assert set(np.unique(places)) - {0} == set(range(1, len(picture.segments) + 1))
        drawn = tf.sparse.to_dense(features[schema.OBJECT_MASK]).numpy()
        assert len(drawn) == len(picture.objects) == features[schema.OBJECT_LABEL].dense_shape[0]
        for encoded in drawn:
            mask = tf.io.decode_png(encoded).numpy()
            assert mask.shape == (*size, 1)
            assert set(np.unique(mask)) == {0, 1}
