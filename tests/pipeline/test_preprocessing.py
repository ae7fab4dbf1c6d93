"""The preprocessing that families can choose: antialiasing like Pillow, padding before normalisation, exact JPEGs."""

from __future__ import annotations

import io
import json
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from panoptic_cli.pipeline.preprocessing import Geometry, Preprocessing
from panoptic_cli.pipeline.resampling import resample

_PICTURE = tf.TensorSpec([None, None, 3], tf.uint8)
_PAIR = tf.TensorSpec([2], tf.int32)
WINDOW = (40, 56)


@cache
def resampled() -> Any:
    """One graph for all sizes, as in a data pipeline or an exported model."""

    def of_window(image: tf.Tensor, scaled: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
        return resample(image, scaled, offset, WINDOW)

    return tf.function(of_window, input_signature=[_PICTURE, _PAIR, _PAIR], autograph=False)


def family(side: int) -> Preprocessing:
    return Preprocessing((side, side), antialias=True, pads_levels=True, accurate_jpeg=True)


def pillow(pixels: np.ndarray, scaled: tuple[int, int], offset: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Resizes with Pillow, rows first whatever its version prefers, and cuts out WINDOW: uint8."""
    height, width = scaled
    by_row = Image.fromarray(pixels).resize((width, pixels.shape[0]), Image.Resampling.BILINEAR)
    whole = np.asarray(by_row.resize((width, height), Image.Resampling.BILINEAR))
    part = whole[offset[0] : offset[0] + WINDOW[0], offset[1] : offset[1] + WINDOW[1]]
    canvas = np.zeros((*WINDOW, 3), np.uint8)
    canvas[: part.shape[0], : part.shape[1]] = part
    return canvas


def random_picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(data=st.data())
@hypothesis_settings(max_examples=120)
def test_every_pixel_equals_pillow_for_any_sizes_and_windows(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 150)), data.draw(st.integers(1, 150))
    scaled = data.draw(st.integers(1, 100)), data.draw(st.integers(1, 100))
    offset = data.draw(st.integers(0, scaled[0] - 1)), data.draw(st.integers(0, scaled[1] - 1))
    pixels = random_picture(height, width, seed=data.draw(st.integers(0, 9)))
    found = resampled()(pixels, tf.constant(scaled), tf.constant(offset)).numpy()
    np.testing.assert_array_equal(found, pillow(pixels, scaled, offset))


@pytest.mark.parametrize("size", [(300, 700), (3000, 40), (1, 4000), (257, 256), (40, 56)])
def test_large_reductions_equal_pillow(size: tuple[int, int]) -> None:
    """The first has more pixels than are resized at once; the third has 71 taps for each place."""
    pixels = random_picture(*size)
    scaled = (min(size[0], 33), min(size[1], 56))
    found = resampled()(pixels, tf.constant(scaled), tf.constant([0, 0])).numpy()
    np.testing.assert_array_equal(found, pillow(pixels, scaled))


def test_white_stays_white_and_black_stays_black() -> None:
    for level in (0, 255):
        pixels = np.full((61, 47, 3), level, np.uint8)
        found = resampled()(pixels, tf.constant(WINDOW), tf.constant([0, 0])).numpy()
        assert (found == level).all()


@pytest.mark.parametrize("size", [(30, 41), (96, 70), (48, 20)])  # enlarged, shrunk, unchanged
def test_eager_graph_and_xla_agree(size: tuple[int, int]) -> None:
    preprocessing = family(48)
    pixels = tf.constant(random_picture(*size))
    eager = preprocessing.prepare(pixels)
    graph = tf.function(preprocessing.prepare, input_signature=[_PICTURE], autograph=False)(pixels)
    for ours, theirs in zip(tf.nest.flatten(eager), tf.nest.flatten(graph), strict=True):
        np.testing.assert_array_equal(ours, theirs)

    plan = preprocessing.plan(tf.constant(size))

    @tf.function(jit_compile=True, autograph=False)
    def compiled() -> tuple[tf.Tensor, tf.Tensor]:
        canvas = resample(pixels, plan.scaled_size, plan.offset, preprocessing.input_size)
        return canvas, preprocessing.normalize(canvas)

    canvas, image = compiled()
    np.testing.assert_array_equal(canvas, resample(pixels, plan.scaled_size, plan.offset, preprocessing.input_size))
    np.testing.assert_array_equal(image, eager[0])


def test_normalisation_of_every_level_is_rounded_like_float32() -> None:
    """Division by a constant may be compiled as a multiplication; the last bit must not depend on that."""
    preprocessing = family(16)
    levels = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=-1)
    fractions = (levels * (1 / 255)).astype(np.float32)
    expected = (fractions - np.array(preprocessing.mean, np.float32)) / np.array(preprocessing.stddev, np.float32)
    for compile_it in (False, True):
        found = tf.function(preprocessing.normalize, jit_compile=compile_it, autograph=False)(tf.constant(levels))
        np.testing.assert_array_equal(found, expected)


def test_a_batch_of_a_data_set_equals_single_pictures() -> None:
    preprocessing = family(48)
    pictures = [random_picture(30 + 7 * place, 64, place) for place in range(4)]
    dataset = tf.data.Dataset.from_generator(lambda: pictures, output_signature=_PICTURE)
    dataset = dataset.map(preprocessing.prepare, num_parallel_calls=2, deterministic=True).batch(4)
    assert dataset.element_spec[0].shape.as_list() == [None, 48, 48, 3]
    images, geometry = next(iter(dataset))
    for place, pixels in enumerate(pictures):
        image, single = preprocessing.prepare(tf.constant(pixels))
        np.testing.assert_array_equal(images[place], image)
        np.testing.assert_array_equal(Geometry(*geometry).scale[place], single.scale)


def test_padding_is_zero_before_or_after_normalisation() -> None:
    pixels = tf.constant(random_picture(20, 40))
    means, deviations = (0.5, 0.25, 0.125), (0.5, 0.25, 0.5)
    mean, stddev = np.array(means, np.float32), np.array(deviations, np.float32)
    for pads_levels, expected in ((True, -mean / stddev), (False, np.zeros(3))):
        preprocessing = Preprocessing((40, 40), means, deviations, antialias=True, pads_levels=pads_levels)
        image, _ = preprocessing.prepare(pixels)
        np.testing.assert_array_equal(image[20:], np.broadcast_to(expected, (20, 40, 3)))
        # The picture itself: one rounding of 1/255 in float32 and one of the division.
        np.testing.assert_allclose(image[:20], (pixels.numpy() / 255 - mean) / stddev, rtol=3e-7, atol=3e-7)


def test_records_and_files_are_decoded_as_the_family_asks(tmp_path: Path) -> None:
    from panoptic_cli.images.decoding import decode_upright
    from panoptic_cli.images.pictures import read_picture

    stream = io.BytesIO()
    Image.fromarray(random_picture(64, 64)).save(stream, format="JPEG", quality=60, subsampling=0)
    encoded, path = tf.constant(stream.getvalue()), tmp_path / "a.jpg"
    path.write_bytes(stream.getvalue())
    exact = np.asarray(Image.open(path).convert("RGB"))
    fast = Preprocessing((64, 64)).decode(encoded).numpy()
    np.testing.assert_array_equal(family(64).decode(encoded), exact)
    np.testing.assert_array_equal(decode_upright(encoded, accurate_jpeg=True), exact)
    np.testing.assert_array_equal(read_picture(path, accurate_jpeg=True), exact)
    np.testing.assert_array_equal(read_picture(path), fast)
    assert (exact != fast).any()  # the two decoders do differ
    grey = io.BytesIO()
    Image.fromarray(random_picture(16, 8)[..., 0]).save(grey, format="JPEG")
    decoded = family(64).decode(tf.constant(grey.getvalue())).numpy()
    assert decoded.shape == (16, 8, 3)
    np.testing.assert_array_equal(decoded, np.asarray(Image.open(grey).convert("RGB")))


@pytest.mark.shared
def test_sizes_are_those_of_the_authors(shared: Path) -> None:
    facts = json.loads((shared / "conformance" / "eomt" / "preprocess.json").read_text())["scaled_sizes"]
    assert facts["columns"][:5] == ["height", "width", "size", "tue_height", "tue_width"]
    for height, width, side, *scaled in (row[:5] for row in facts["rows"]):
        assert family(side).plan(tf.constant([height, width])).scaled_size.numpy().tolist() == scaled


@given(height=st.integers(1, 5000), width=st.integers(1, 5000), side=st.sampled_from([224, 320, 640, 1280]))
@hypothesis_settings(max_examples=60)
def test_sizes_follow_pythons_arithmetic(height: int, width: int, side: int) -> None:
    factor = min(side / height, side / width)
    plan = family(side).plan(tf.constant([height, width]))
    assert plan.scaled_size.numpy().tolist() == [max(1, round(height * factor)), max(1, round(width * factor))]
    geometry = plan.geometry  # from which the fusion has to find the size again
    found = np.rint(geometry.original_size.numpy() * geometry.scale.numpy())
    assert found.tolist() == plan.scaled_size.numpy().tolist()


@pytest.mark.shared
def test_figures_of_the_authors(shared: Path, coco100: Path) -> None:
    folder = shared / "conformance" / "eomt"
    arrays = np.load(folder / "preprocess.npz")
    files = {int(path.stem): path for path in coco100.rglob("*.jpg")}
    figures = json.loads((folder / "preprocess.json").read_text())["figures"]
    assert len(figures) == 8
    for facts in figures:
        preprocessing = family(facts["size"])
        key, (rows, columns) = facts["key"], facts["scaled"]
        pixels = preprocessing.decode(tf.constant(files[facts["id"]].read_bytes()))
        assert zlib.crc32(pixels.numpy().tobytes()) == facts["crc32_decoded"], key
        plan = preprocessing.plan(tf.shape(pixels)[:2])
        canvas = resample(pixels, plan.scaled_size, plan.offset, preprocessing.input_size).numpy()
        assert zlib.crc32(canvas.tobytes()) == facts["crc32_canvas"], key
        image, _ = preprocessing.prepare(pixels)
        result = np.moveaxis(image.numpy(), -1, 0)
        np.testing.assert_array_equal(result[:, ::16, ::16], arrays[f"{key}_sample"])
        np.testing.assert_array_equal(result[:, :8, :8], arrays[f"{key}_first"])
        np.testing.assert_array_equal(result[:, -8:, -8:], arrays[f"{key}_last"])
        edge = result[:, max(rows - 8, 0) : rows + 8, max(columns - 8, 0) : columns + 8]
        np.testing.assert_array_equal(edge, arrays[f"{key}_edge"])
        # Float64 sums of the same values in another order.
        np.testing.assert_allclose(result.mean((1, 2), np.float64), facts["mean"], rtol=1e-9)
        np.testing.assert_allclose(result.std((1, 2), np.float64), facts["std"], rtol=1e-9)


def test_a_saved_model_prepares_files_alike(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(random_picture(50, 70)).save(stream, format="JPEG")
    preprocessing = family(32)

    def prepare(files: tf.Tensor) -> tf.Tensor:
        spec = tf.TensorSpec([32, 32, 3], tf.float32)
        return tf.map_fn(lambda x: preprocessing.prepare(preprocessing.decode(x))[0], files, fn_output_signature=spec)

    module = tf.Module()
    module.prepare = tf.function(prepare, input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    tf.saved_model.save(module, str(tmp_path / "model"))
    found = tf.saved_model.load(str(tmp_path / "model")).prepare(tf.constant([stream.getvalue()]))
    pixels = np.asarray(Image.open(stream).convert("RGB"))
    np.testing.assert_array_equal(found[0], preprocessing.prepare(tf.constant(pixels))[0])
