"""Records that cannot be used: the error names file and record, whatever the defect."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from panoptic_cli import models
from panoptic_cli.categories import CategoryTable
from panoptic_cli.config import load_experiment
from panoptic_cli.config.schema import Parser
from panoptic_cli.demo.shapes import CATEGORIES
from panoptic_cli.errors import DataError, PanopticError
from panoptic_cli.inspection.augmented_samples import draw_augmented
from panoptic_cli.pipeline.augmentation import augment
from panoptic_cli.pipeline.batches import evaluation_dataset, training_dataset
from panoptic_cli.pipeline.parsing import parse_record
from panoptic_cli.pipeline.preprocessing import Preprocessing
from panoptic_cli.pipeline.record_errors import naming, record_error
from panoptic_cli.records import schema
from panoptic_cli.records.schema import decode_example, encode_example
from panoptic_cli.records.tfrecord import TFRecordWriter, read_records

TABLE = CategoryTable.from_list(CATEGORIES, "shapes")
PREPROCESSING = Preprocessing((128, 128))


@pytest.fixture(scope="module")
def good(shapes_records: Path) -> list[bytes]:
    return [record for path in sorted(shapes_records.glob("train-*")) for record in read_records(path)]


def changed(record: bytes, **features: Any) -> bytes:
    kept: dict[str, Any] = {}
    for key, value in decode_example(record).items():
        single = isinstance(value, np.ndarray) or len(value) != 1 or key == schema.OBJECT_MASK
        kept[key] = value if single else value[0]
    kept |= {getattr(schema, name): value for name, value in features.items()}
    return encode_example({key: value for key, value in kept.items() if value is not None})


def picture(record: bytes) -> bytes:
    return decode_example(record)[schema.IMAGE_ENCODED][0]


def write(path: Path, good: list[bytes], bad: bytes, place: int) -> None:
    with TFRecordWriter(path) as writer:
        for record in [*good[:place], bad, *good[place : place + 3]]:
            writer.write(record)


def failure(dataset: tf.data.Dataset, pattern: str) -> str:
    with pytest.raises(tf.errors.OpError) as raised:
        for _ in dataset.take(20):
            pass
    error = record_error(raised.value, pattern)
    assert error is not None
    assert "\n" not in str(error)
    assert "{{" not in str(error)
    return str(error)


def training(pattern: str, batch_size: int) -> tf.data.Dataset:
    config = load_experiment("panoptic_fpn_shapes", options=[("task.train_data.input_path", pattern)])
    return training_dataset(config, models.training_targets(config, TABLE), batch_size=batch_size, seed=0)


def train(folder: Path) -> str:
    return failure(training(f"{folder}/bad-*", 2), f"{folder}/bad-*")


DEFECTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "no Example": (lambda r: b"\x07" + r[:50], "not a tf.train.Example"),
    "no picture": (lambda r: changed(r, IMAGE_ENCODED=None), "image/encoded is missing"),
    "half a picture": (lambda r: changed(r, IMAGE_ENCODED=picture(r)[: len(picture(r)) // 2]), "image/encoded cannot"),
    "no mask": (lambda r: changed(r, OBJECT_MASK=[b"none"] * len(decode_example(r)[schema.OBJECT_MASK])), "cannot"),
    "masks missing": (lambda r: changed(r, OBJECT_MASK=[]), "image/object/mask has 0 values"),
    "boxes missing": (lambda r: changed(r, OBJECT_YMIN=np.zeros(0, np.float32)), "ymin has 0 values"),
    "no labels": (
        lambda r: changed(r, SEGMENT_MASK=None, CATEGORY_MASK=None, SEMANTIC_MASK=None),
        "segments/encoded and",
    ),
    "labels cut": (
        lambda r: changed(r, SEGMENT_MASK=decode_example(r)[schema.SEGMENT_MASK][0][:60]),
        "segments/encoded cannot",
    ),
}


@pytest.fixture(scope="module")
def make_example() -> Any:
    """The function that the training pipeline maps over its records, traced once: takes (path, index, record)."""
    targets = models.training_targets(load_experiment("panoptic_fpn_shapes"), TABLE)

    def make_targets(record: tf.Tensor) -> dict[str, Any]:
        picture = augment(parse_record(record, PREPROCESSING), tf.constant([0, 0], tf.int64), PREPROCESSING, Parser())
        return {"images": picture.image, **targets(picture)}

    make = naming(make_targets)
    signature = [tf.TensorSpec([], dtype) for dtype in (tf.string, tf.int64, tf.string)]
    return tf.function(make, input_signature=signature, autograph=False)


@pytest.mark.parametrize("name", DEFECTS)
def test_every_defect_is_named(tmp_path: Path, good: list[bytes], make_example: Any, name: str) -> None:
    damage, reason = DEFECTS[name]
    path = tmp_path / "bad.tfrecord"
    bad = damage(good[3])
    write(path, good, bad, 2)
    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        make_example(str(path), 2, bad)
    message = str(record_error(raised.value, str(path)))
    assert message.startswith(f"Record 2 of {path} cannot be used: ")
    assert reason in message
    assert make_example(str(path), 3, good[0])["images"].shape == (128, 128, 3)  # the next record works


def test_training_names_the_record(tmp_path: Path, good: list[bytes]) -> None:
    write(tmp_path / "bad-0.tfrecord", good[4:], good[0], 0)
    write(tmp_path / "bad-1 [x].tfrecord", good, changed(good[3], IMAGE_ENCODED=b"\xff\xd8 none"), 3)
    assert f"Record 3 of {tmp_path}/bad-1 [x].tfrecord cannot be used: image/encoded cannot" in train(tmp_path)


def test_drawing_examples_names_the_record(tmp_path: Path, good: list[bytes]) -> None:
    write(tmp_path / "bad.tfrecord", good, changed(good[3], IMAGE_ENCODED=b"\xff\xd8 none"), 3)
    pattern = f"{tmp_path}/bad*"
    with pytest.raises(DataError, match=r"Record 3 of .*bad\.tfrecord cannot be used: image/encoded cannot"):
        draw_augmented(training(pattern, 1), lambda batch: Image.new("RGB", (2, 2)), 20, tmp_path / "drawn", pattern)


def test_damaged_files_are_named(tmp_path: Path, good: list[bytes]) -> None:
    write(tmp_path / "bad-0.tfrecord", good[4:], good[0], 0)
    broken = tmp_path / "bad-1.tfrecord"
    write(broken, good, good[3], 3)
    whole = broken.read_bytes()
    end = len(good[0]) + len(good[1]) + 2 * 16  # of the second record
    for data, reason in (
        (whole[: end + 100], "the file ends"),
        (whole[: end + 100] + b"?" + whole[end + 101 :], "checksum"),
    ):
        broken.write_bytes(data)
        message = train(tmp_path)
        assert f"{broken}, record 2" in message
        assert reason in message


def test_evaluation_leaves_out_the_record_and_names_it(tmp_path: Path, good: list[bytes]) -> None:
    pattern = f"{tmp_path}/bad-*"
    write(tmp_path / "bad-0.tfrecord", good, good[3], 3)
    write(tmp_path / "bad-1.tfrecord", good, changed(good[3], IMAGE_ENCODED=b"\xff\xd8 none"), 2)
    explanations: list[Callable[[], PanopticError]] = []
    dataset = evaluation_dataset(pattern, PREPROCESSING, batch_size=4, unusable=explanations.append)
    records = [record for _, _, batch in dataset.as_numpy_iterator() for record in batch]
    assert records == [*good[:3], good[3], *good[3:6], *good[:2], *good[2:5]]
    (explain,) = explanations
    message = f"Record 2 of {tmp_path}/bad-1.tfrecord cannot be used: image/encoded cannot be decoded"
    assert message in str(explain())


def test_errors_that_do_not_concern_a_record_are_not_explained() -> None:
    error = tf.errors.InvalidArgumentError(None, None, "shapes do not match")
    assert record_error(error, "nowhere-*") is None


def test_naming_changes_no_result() -> None:
    def make(x: tf.Tensor) -> dict[str, tf.Tensor]:
        tf.debugging.assert_less(x, 5)
        return {"square": x * x, "text": tf.strings.as_string(x)}

    wrapped = naming(make)
    dataset = tf.data.Dataset.range(7).map(lambda x: wrapped(tf.constant("file"), x, tf.cast(x, tf.int32)))
    made = dataset.as_numpy_iterator()
    for x in range(5):
        assert next(made) == {"square": x * x, "text": str(x).encode()}
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[file\] \[5\]"):
        next(made)
