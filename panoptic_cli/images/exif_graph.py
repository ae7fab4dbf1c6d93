"""The EXIF orientation in TensorFlow graphs, for exported models that decode pictures themselves."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from panoptic_cli.images import png

_EXIF = b"Exif\0\0"
_APP1, _START_OF_SCAN, _PADDING = 0xE1, 0xDA, 0xFF
_WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD9))
_TAG = 0x0112
_ENTRY = 12  # bytes of an entry of a TIFF directory
_SHORT, _LONG = 3, 4  # types of TIFF values


def exif_orientation(encoded: tf.Tensor) -> tf.Tensor:
    """Returns the EXIF orientation of a JPEG or PNG, an int32 scalar in 1..8, as `orientation.orientation_of` does.

    Args:
        encoded: string scalar, the file's bytes. Other files and damaged ones have the orientation 1.
    """
    with tf.device("CPU:0"):  # single bytes are not worth a way to a GPU
        data = _Bytes(encoded)
        place = tf.cond(
            data.equal(0, b"\xff\xd8"),
            lambda: _find(2, lambda place: _jpeg_segment(data, place)),
            lambda: _find(8, lambda place: _png_chunk(data, place)),
        )
        return tf.cond(place >= 0, lambda: _orientation_at(data, place), lambda: tf.constant(1))


class _Bytes:
    """The bytes of a file; those outside are 0."""

    def __init__(self, encoded: tf.Tensor) -> None:
        self._values = tf.io.decode_raw(tf.strings.join([encoded, b"\0"]), tf.uint8)  # the last is what is outside
        self._size = tf.size(self._values) - 1

    def numbers(self, places: tf.Tensor, length: int, little: tf.Tensor | bool = False) -> tf.Tensor:
        """Returns the unsigned integers of `length` bytes at `places`, int32; at most 2^31 - 1."""
        spread = tf.range(length)
        place = places[..., None] + tf.where(little, spread[::-1], spread)
        inside = (place >= 0) & (place < self._size)
        values = tf.cast(tf.gather(self._values, tf.where(inside, place, self._size)), tf.int64)
        powers = tf.constant([256 ** (length - 1 - i) for i in range(length)], tf.int64)
        total = tf.reduce_sum(values * powers, axis=-1)
        return tf.cast(tf.minimum(total, tf.int32.max), tf.int32)

    def equal(self, place: tf.Tensor | int, expected: bytes) -> tf.Tensor:
        """Returns whether the bytes from `place` on are the expected ones, a bool scalar."""
        places = tf.range(len(expected)) + place
        return tf.reduce_all(self.numbers(places, 1) == tf.constant(list(expected)))


# Both functions return where the EXIF data begin (-1: not here), and the next place to look at (-1: nowhere).


def _jpeg_segment(data: _Bytes, place: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    marker = data.numbers(place + 1, 1)
    is_segment = (data.numbers(place, 1) == 0xFF) & (marker != _START_OF_SCAN) & (marker != 0)
    is_exif = (marker == _APP1) & data.equal(place + 4, _EXIF)
    bare = tf.reduce_any(marker == tf.constant(_WITHOUT_LENGTH))
    step = tf.where(marker == _PADDING, 1, tf.where(bare, 2, 2 + data.numbers(place + 2, 2)))
    return tf.where(is_segment & is_exif, place + 4 + len(_EXIF), -1), tf.where(is_segment, place + step, -1)


def _png_chunk(data: _Bytes, place: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    length = tf.minimum(data.numbers(place, 4), 1 << 30)
    ends = data.equal(place + 4, b"IEND") | data.equal(place + 4, bytes(4)) | ~data.equal(0, png.SIGNATURE)
    return tf.where(data.equal(place + 4, b"eXIf"), place + 8, -1), tf.where(ends, -1, place + 12 + length)


def _find(start: int, look: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]) -> tf.Tensor:
    def step(_: tf.Tensor, place: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return look(place)

    found, _ = tf.while_loop(
        lambda found, place: (found < 0) & (place >= 0), step, (tf.constant(-1), tf.constant(start))
    )
    return found


def _orientation_at(data: _Bytes, base: tf.Tensor) -> tf.Tensor:
    """Reads the orientation from TIFF data that begin at `base`."""
    little = data.equal(base, b"II*\0")
    is_tiff = little | data.equal(base, b"MM\0*")
    directory = base + tf.minimum(data.numbers(base + 4, 4, little), 1 << 29)
    entries = directory + 2 + _ENTRY * tf.range(data.numbers(directory, 2, little))
    kinds = data.numbers(entries + 2, 2, little)
    shorts, longs = data.numbers(entries + 8, 2, little), data.numbers(entries + 8, 4, little)
    values = tf.where(kinds == _SHORT, shorts, tf.where(kinds == _LONG, longs, 0))
    is_orientation = (data.numbers(entries, 2, little) == _TAG) & is_tiff
    value = tf.reduce_max(tf.where(is_orientation, values, 0))
    return tf.where((value >= 1) & (value <= 8), value, 1)
