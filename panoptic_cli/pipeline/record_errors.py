"""Finding the record that makes tf.data fail, and what is wrong with it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from panoptic_cli import storage
from panoptic_cli.errors import DataError
from panoptic_cli.images.decoding import decode_image, decoding_reason
from panoptic_cli.pipeline.stream import read_shard
from panoptic_cli.records import schema
from panoptic_cli.records.files import find_record_files
from panoptic_cli.records.schema import decode_example
from panoptic_cli.records.tfrecord import read_records, read_whole_records

_MARK = "unusable record"
_FOUND = re.compile(rf"\[{_MARK}\] \[(.*?)\] \[(\d+)\]")
_HINT = "Check the records with 'panoptic inspect', or make them again."
_PER_OBJECT = (
    schema.OBJECT_YMIN,
    schema.OBJECT_XMIN,
    schema.OBJECT_YMAX,
    schema.OBJECT_XMAX,
    schema.OBJECT_MASK,
)


def naming(make: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a function for `Dataset.map` so that its failures name the file and the index of the record.

    TensorFlow graphs have no try statement, but a data set of one element can drop an element that fails. A
    placeholder takes its place, and an assertion with the names fails. This costs 0.2 ms a record.

    Args:
        make: takes tensors, returns a structure of tensors with static shapes.

    Returns:
        A function of (path, index, *arguments of `make`) with the result of `make`.
    """

    def guarded(path: tf.Tensor, index: tf.Tensor, *arguments: tf.Tensor) -> Any:
        usable, result = _try(make, arguments)
        with tf.control_dependencies([tf.debugging.Assert(usable, [_MARK, path, index])]):
            return tf.nest.map_structure(tf.identity, result)

    return guarded


def dropping(make: Callable[..., Any], dropped: Callable[[str, int], None]) -> Callable[..., Any]:
    """Wraps a function for `Dataset.map` so that the records that make it fail can be filtered out.

    Args:
        make: as for `naming`.
        dropped: called with the file and the index of each record that makes it fail.

    Returns:
        A function of (path, index, *arguments of `make`) with (whether it worked, the result of `make` or zeros).
    """

    def tell(path: bytes, index: np.int64) -> None:
        dropped(path.decode(errors="surrogateescape"), int(index))

    def guarded(path: tf.Tensor, index: tf.Tensor, *arguments: tf.Tensor) -> Any:
        usable, result = _try(make, arguments)

        def failed() -> tf.Tensor:
            tf.numpy_function(tell, [path, index], [])
            return tf.constant(False)

        return tf.cond(usable, lambda: tf.constant(True), failed), result

    return guarded


def _try(make: Callable[..., Any], arguments: tuple[tf.Tensor, ...]) -> Any:
    """Returns whether a function works, and its result, or zeros in its place."""
    one = tf.data.Dataset.from_tensors(arguments)
    unconverted = tf.autograph.experimental.do_not_convert(make)  # AutoGraph would rewrite all that it calls
    made = one.map(lambda *a: (True, unconverted(*a)))
    spec = made.element_spec
    nothing = one.map(lambda *_: tf.nest.map_structure(lambda s: tf.zeros(s.shape, s.dtype), spec))
    return made.ignore_errors().concatenate(nothing).take(1).get_single_element()


def record_error(error: tf.errors.OpError, pattern: str) -> DataError | None:
    """Explains an error that a data set of `pipeline` raised.

    Args:
        error: the error that TensorFlow raised, maybe inside a training step.
        pattern: the records that were read, as for `find_record_files`.

    Returns:
        The error to raise instead, which names file and record; None if no record is at fault.
    """
    found = _FOUND.search(error.message)
    if found:
        return unusable_record(found[1], int(found[2]))
    if isinstance(error, tf.errors.DataLossError):
        damaged = DataError(f"A record of {pattern} is damaged: {decoding_reason(error)}.", _HINT)
        return _damaged_shard(pattern) or damaged
    return None


@contextlib.contextmanager
def explained_records(pattern: str) -> Iterator[None]:
    """Replaces errors of a data set that are the fault of a record.

    Args:
        pattern: as for `record_error`.

    Raises:
        DataError: a record cannot be used; names file and record.
    """
    try:
        yield
    except tf.errors.OpError as error:
        explanation = record_error(error, pattern)
        if explanation is None:
            raise
        raise explanation from error


def unusable_record(path: str, index: int) -> DataError:
    """Returns the error for a record that can be read but not used."""
    return DataError(f"Record {index} of {path} cannot be used: {_defect(path, index)}.", _HINT)


def _damaged_shard(pattern: str) -> DataError | None:
    """Finds the first damaged record. It reads all of them, which takes as long as copying the files."""
    for path in find_record_files(pattern):
        if not storage.is_remote(path):
            try:
                for _ in read_records(Path(path)):
                    pass
            except DataError as error:
                return error
            continue
        count = 0
        try:
            for _ in read_shard(path):
                count += 1
        except tf.errors.OpError as error:
            return DataError(f"Record {count} of {path} is damaged: {decoding_reason(error)}.", _HINT)
    return None


def _defect(path: str, index: int) -> str:
    """Returns what is wrong with a record that can be read but not used."""
    record = next((r for i, r in read_whole_records(path, lambda error: None) if i == index), b"")
    try:
        features = decode_example(record)
    except ValueError as error:
        return str(error)
    if len(features.get(schema.IMAGE_ENCODED, ())) != 1:
        return f"the feature {schema.IMAGE_ENCODED} is missing"
    if not any(len(features.get(k, ())) for k in (schema.SEGMENT_MASK, schema.CATEGORY_MASK, schema.SEMANTIC_MASK)):
        return f"the features {schema.SEGMENT_MASK} and {schema.CATEGORY_MASK} are missing"
    objects = len(features.get(schema.OBJECT_LABEL, ()))
    for key in _PER_OBJECT:
        if len(features.get(key, ())) != objects:
            return f"{key} has {len(features.get(key, ()))} values for {objects} objects"
    pngs = (schema.OBJECT_MASK, schema.SEGMENT_MASK, schema.CATEGORY_MASK, schema.SEMANTIC_MASK)
    for key in (schema.IMAGE_ENCODED, *pngs):
        for value in features.get(key, ()):
            try:
                tf.io.decode_png(value, channels=1) if key in pngs else decode_image(value)
            except (tf.errors.OpError, TypeError) as error:
                return f"{key} cannot be decoded ({decoding_reason(error)})"
    return "its values do not fit together"
