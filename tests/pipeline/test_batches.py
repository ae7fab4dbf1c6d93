"""Training examples and the order of the stream, with generated pictures."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from panoptic_cli import models
from panoptic_cli.categories import CategoryTable
from panoptic_cli.coco.dataset import read_dataset
from panoptic_cli.coco.layout import coco_files
from panoptic_cli.config import Experiment, load_experiment
from panoptic_cli.config.schema import Parser
from panoptic_cli.demo.shapes import CATEGORIES
from panoptic_cli.errors import DataError
from panoptic_cli.models.panoptic_fpn.label_space import LabelSpace
from panoptic_cli.models.panoptic_fpn.targets import PanopticFPNTargets, padding_label
from panoptic_cli.pipeline.augmentation import augment
from panoptic_cli.pipeline.batches import evaluation_dataset, training_dataset
from panoptic_cli.pipeline.parsing import decode_label_png, has_wide_labels, parse_record
from panoptic_cli.pipeline.preprocessing import Preprocessing, resize_labels
from panoptic_cli.records import schema
from panoptic_cli.records.files import count_records, find_record_files
from panoptic_cli.records.schema import decode_example
from panoptic_cli.records.tfrecord import read_records

TABLE = CategoryTable.from_list(CATEGORIES, "shapes")
LABELS = LabelSpace.create(TABLE)
# The sample includes all anchors.
SETTINGS: dict[str, Any] = {
    "max_num_instances": 16,
    "mask_crop_size": 28,
    "rpn_batch_size_per_im": 1_000_000,
    "rpn_fg_fraction": 1.0,
}
PLAIN = Parser(**SETTINGS)


def experiment(folder: Path, **settings: Any) -> Experiment:
    options = {"task.train_data.input_path": str(folder / "train-*"), **settings}
    return load_experiment("panoptic_fpn_shapes", options=list(options.items()))


TASK = load_experiment("panoptic_fpn_shapes").task
PREPROCESSING = Preprocessing(TASK.model.input_size[:2])


def targets_of(config: Experiment) -> Any:
    return models.training_targets(config, TABLE)


TARGETS = models.training_targets(load_experiment("panoptic_fpn_shapes"), TABLE)


@pytest.fixture(scope="module")
def serialized(shapes_records: Path) -> list[bytes]:
    return [record for path in sorted(shapes_records.glob("train-*")) for record in read_records(path)]


_graphs: dict[Parser, Any] = {}


def example(record: bytes, parser: Parser = PLAIN, seed: int = 0) -> dict[str, Any]:
    if parser not in _graphs:
        data = TASK.train_data.model_copy(update={"parser": parser})
        targets = PanopticFPNTargets(TASK.model_copy(update={"train_data": data}), LABELS)

        @tf.function(autograph=False)
        def make(record: tf.Tensor, seed: tf.Tensor) -> dict[str, Any]:
            picture = augment(parse_record(record, PREPROCESSING), seed, PREPROCESSING, parser)
            return {"images": picture.image, "geometry": picture.resizing.geometry, **targets(picture)}

        _graphs[parser] = make
    result = _graphs[parser](tf.constant(record), tf.constant([5, seed], tf.int64))
    return tf.nest.map_structure(lambda x: x.numpy(), result)


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(tf.nest.flatten(a), tf.nest.flatten(b), strict=True))


def test_an_example_without_augmentation_matches_the_annotations(serialized: list[bytes], shapes_dir: Path) -> None:
    pictures = {p.id: p for p in read_dataset(coco_files(shapes_dir, "train")).pictures}
    crowds = 0
    for record in serialized:
        raw = decode_example(record)
        picture = pictures[int(raw[schema.IMAGE_SOURCE_ID][0])]
        made = example(record)
        scale = np.tile(made["geometry"].scale, 2)
        np.testing.assert_array_equal(made["geometry"].original_size, [picture.height, picture.width])
        kept = np.array(raw[schema.OBJECT_IS_CROWD]) == 0
        crowds += int((~kept).sum())
        edges = (schema.OBJECT_YMIN, schema.OBJECT_XMIN, schema.OBJECT_YMAX, schema.OBJECT_XMAX)
        size = np.tile([picture.height, picture.width], 2)
        boxes = np.stack([np.array(raw[key])[kept] for key in edges], axis=-1) * size * scale
        ids = np.array(raw[schema.OBJECT_LABEL])[kept]
        n = len(ids)
        np.testing.assert_allclose(made["gt_boxes"][:n], boxes, atol=1e-3)
        np.testing.assert_array_equal(made["gt_classes"][:n], [LABELS.thing_class_of_id[i] for i in ids])
        # The rest is padding.
        assert (made["gt_boxes"][n:] == -1).all()
        assert (made["gt_classes"][n:] == -1).all()
        assert not made["gt_masks"][n:].any()
        # A mask fills a good part of its box.
        for mask in made["gt_masks"][:n]:
            assert 0.2 < mask.mean() / 255 <= 1
        assert made["images"].shape == (128, 128, 3)
        assert made["semantic_labels"].shape == (128, 128)
    assert crowds > 0  # there were crowds to skip


def test_labels_are_those_of_the_panoptic_png(serialized: list[bytes], shapes_dir: Path) -> None:
    pictures = {p.id: p for p in read_dataset(coco_files(shapes_dir, "train")).pictures}
    for record in serialized[:4]:
        picture = pictures[int(decode_example(record)[schema.IMAGE_SOURCE_ID][0])]
        parsed = parse_record(tf.constant(record), PREPROCESSING)
        png = np.asarray(Image.open(shapes_dir / "panoptic_train2017" / f"{picture.id:012d}.png"), np.uint32)
        ids = png[..., 0] + 256 * png[..., 1] + 65536 * png[..., 2]
        expected = np.zeros(ids.shape, np.int32)
        for segment in picture.segments:
            expected[ids == segment.id] = segment.category_id
        labels = tf.cast(decode_label_png(parsed.labels, wide=False), tf.int32)
        np.testing.assert_array_equal(tf.gather(parsed.label_ids, labels), expected)
        assert len(np.unique(expected)) >= 2


def test_equal_seeds_give_equal_examples(serialized: list[bytes]) -> None:
    parser = Parser(aug_rand_hflip=True, aug_scale_min=0.5, aug_scale_max=2, **SETTINGS)
    first = example(serialized[0], parser, 1)
    assert same(first, example(serialized[0], parser, 1))
    others = [example(serialized[0], parser, seed) for seed in range(2, 7)]
    assert not any(same(first, other) for other in others)
    for made in others:
        real = made["gt_classes"] > 0
        boxes = made["gt_boxes"][real]
        assert (boxes >= 0).all()
        assert (boxes <= 128).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        padded = made["semantic_labels"] == 255
        # The labels may be a row or column smaller than the picture.
        assert not padded.any() or (np.abs(made["images"][padded]).sum(-1) == 0).mean() > 0.9


def test_a_flip_mirrors_picture_boxes_masks_and_labels(serialized: list[bytes]) -> None:
    flip = Parser(aug_rand_hflip=True, **SETTINGS)
    seen = set()
    for record in serialized[:3]:
        width = int(decode_example(record)[schema.IMAGE_WIDTH][0])
        plain = example(record)
        inside = int(plain["geometry"].scale[1] * width + 0.5)  # columns that are not padding
        for seed in range(6):
            made = example(record, flip, seed)
            flipped = not np.allclose(made["gt_boxes"], plain["gt_boxes"], atol=1e-3)
            seen.add(flipped)
            if not flipped:
                continue
            n = int((plain["gt_classes"] > 0).sum())
            np.testing.assert_array_equal(made["gt_classes"], plain["gt_classes"])
            boxes = plain["gt_boxes"][:n]
            mirrored = np.stack([boxes[:, 0], inside - boxes[:, 3], boxes[:, 2], inside - boxes[:, 1]], -1)
            np.testing.assert_allclose(made["gt_boxes"][:n], mirrored, atol=1e-3)
            difference = made["gt_masks"][:n].astype(int) - plain["gt_masks"][:n, :, ::-1]
            assert np.abs(difference).mean() < 0.02 * 255  # sampled at mirrored places, up to rounding
            image = plain["images"][:, :inside][:, ::-1]
            np.testing.assert_allclose(made["images"][:, :inside], image, atol=2e-3)
            # If two neighbours are equally near, the other one may be chosen.
            labels = plain["semantic_labels"][:, :inside][:, ::-1]
            assert np.mean(made["semantic_labels"][:, :inside] == labels) > 0.93
    assert seen == {True, False}


def test_scaling_moves_boxes_with_the_picture(serialized: list[bytes]) -> None:
    parser = Parser(aug_scale_min=1.5, aug_scale_max=1.5001, **SETTINGS)
    plain, made = example(serialized[1]), example(serialized[1], parser, 3)
    scale, offset = made["geometry"].scale, made["geometry"].offset
    assert (offset > 0).any()  # the picture is larger than the input, so a part of it was chosen
    n = int((plain["gt_classes"] > 0).sum())
    boxes = plain["gt_boxes"][:n] / np.tile(plain["geometry"].scale, 2)
    moved = np.clip(boxes * np.tile(scale, 2) - np.tile(offset, 2), 0, 128)
    kept = (moved[:, 2] > moved[:, 0]) & (moved[:, 3] > moved[:, 1])
    np.testing.assert_allclose(made["gt_boxes"][: kept.sum()], moved[kept], atol=1e-2)


def test_an_example_has_at_most_max_num_instances(serialized: list[bytes]) -> None:
    parser = Parser(**{**SETTINGS, "max_num_instances": 1})
    fullest = max(serialized, key=lambda r: len(decode_example(r)[schema.OBJECT_LABEL]))
    assert len(decode_example(fullest)[schema.OBJECT_LABEL]) > 1
    made, plain = example(fullest, parser), example(fullest)
    assert made["gt_boxes"].shape == (1, 4)
    np.testing.assert_array_equal(made["gt_boxes"][0], plain["gt_boxes"][0])


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_label_pngs_of_8_and_16_bits_are_decoded(kind: type[np.unsignedinteger]) -> None:
    labels: np.ndarray = np.array([[0, 1, 255], [7, 200, np.iinfo(kind).max]], kind)
    stream = io.BytesIO()
    Image.fromarray(labels).save(stream, format="PNG")
    wide = kind == np.uint16
    assert has_wide_labels(tf.constant(stream.getvalue())) == wide
    decoded = decode_label_png(tf.constant(stream.getvalue()), wide)
    np.testing.assert_array_equal(decoded, labels)


@pytest.mark.parametrize("size", [(1, 700), (700, 1), (1, 1), (3, 5000), (333, 500)])
def test_pictures_of_any_size_are_resized(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    preprocessing = Preprocessing((128, 128))
    image, geometry = preprocessing.prepare(tf.constant(picture))
    assert np.isfinite(image).all()
    assert (geometry.scale > 0).numpy().all()
    assert np.any(image)
    resizing = preprocessing.plan(tf.constant(size))
    labels = resize_labels(tf.ones(size, tf.uint16), resizing, (128, 128), 255, tf.constant([0, 7])).numpy()
    assert set(np.unique(labels)) <= {7, 255}
    assert (labels == 7).any()
    assert preprocessing.resize(tf.constant(picture), resizing).shape == (128, 128, 3)


def places(dataset: tf.data.Dataset, batches: int, pictures: np.ndarray) -> list[int]:
    """Returns the index of each example's picture; they are equal up to the rounding of another graph."""
    found = []
    for batch in dataset.take(batches):
        for image in batch["images"].numpy():
            distance = np.abs(pictures - image).max(axis=(1, 2, 3))
            assert distance.min() < 1e-4
            found.append(int(distance.argmin()))
    return found


@pytest.mark.slow
def test_an_epoch_contains_every_record_once(shapes_records: Path, serialized: list[bytes]) -> None:
    pictures = np.stack([example(r)["images"] for r in serialized])
    # Blocks of 3 records, and one larger than the epoch.
    for buffer in (6, 1000):
        config = experiment(
            shapes_records,
            **{"task.train_data.parser.aug_rand_hflip": False, "task.train_data.shuffle_buffer_size": buffer},
        )
        order = places(training_dataset(config, targets_of(config), batch_size=4, seed=1), 6, pictures)
        assert sorted(order[:12]) == sorted(order[12:]) == list(range(12))
        assert order[:12] != order[12:]  # another order
        assert order[:12] != list(range(12))


@pytest.mark.slow
def test_start_step_continues_the_same_stream(shapes_records: Path) -> None:
    config = experiment(
        shapes_records, **{"task.train_data.shuffle_buffer_size": 6, "task.train_data.parser.aug_scale_min": 0.8}
    )
    whole = list(
        training_dataset(config, targets_of(config), batch_size=5, seed=7).take(5)
    )  # across the ends of two epochs
    for start in (3,):
        rest = training_dataset(config, targets_of(config), batch_size=5, seed=7, start_step=start)
        for a, b in zip(whole[start:], rest, strict=False):
            assert same(a, b)
    other = next(iter(training_dataset(config, targets_of(config), batch_size=5, seed=8)))
    assert not same(whole[0], other)


def test_batches_do_not_depend_on_the_number_of_threads(shapes_records: Path) -> None:
    dataset = training_dataset(experiment(shapes_records), TARGETS, batch_size=3, seed=2)
    batches = []
    for threads in (1, 5):
        options = tf.data.Options()
        options.threading.private_threadpool_size = threads
        batches.append(list(dataset.with_options(options).take(4)))
    assert all(same(a, b) for a, b in zip(*batches, strict=True))


@pytest.mark.slow
def test_the_parts_of_all_workers_make_up_the_batches(shapes_records: Path) -> None:
    config = experiment(shapes_records)
    for start_step in (0, 2):
        whole = next(iter(training_dataset(config, targets_of(config), batch_size=12, seed=1, start_step=start_step)))
        for worker in range(3):
            context = tf.distribute.InputContext(3, worker, num_replicas_in_sync=6)
            parts = training_dataset(
                config, targets_of(config), batch_size=12, seed=1, start_step=start_step, input_context=context
            )
            assert parts.element_spec["images"].shape == (2, 128, 128, 3)  # those of one replica
            for number, part in enumerate(parts.take(2)):
                first = 4 * worker + 2 * number
                assert same(part, tf.nest.map_structure(lambda x, at=first: x[at : at + 2], whole))


def test_batches_have_static_shapes(shapes_records: Path) -> None:
    dataset = training_dataset(experiment(shapes_records), TARGETS, batch_size=2, seed=0)
    for spec in tf.nest.flatten(dataset.element_spec):
        assert spec.shape.is_fully_defined(), spec
    assert dataset.element_spec["images"].shape == (2, 128, 128, 3)
    assert set(dataset.element_spec["rpn_scores"]) == {"2", "3", "4", "5"}


def test_evaluation_reads_all_pictures_in_order(shapes_records: Path) -> None:
    pattern = str(shapes_records / "val-*")
    dataset = list(evaluation_dataset(pattern, PREPROCESSING, batch_size=3))
    assert [len(images) for images, _, _ in dataset] == [3, 1]
    (path,) = find_record_files(pattern)
    stored = list(read_records(Path(path)))
    assert [r for _, _, serialized in dataset for r in serialized.numpy()] == stored
    limited = list(evaluation_dataset(pattern, PREPROCESSING, batch_size=2, limit=3))
    assert [len(images) for images, _, _ in limited] == [2, 1]


def test_missing_and_truncated_records_are_errors(shapes_records: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none-"):
        find_record_files(f"{shapes_records}/train-*,{tmp_path}/none-*")
    assert sum(count_records(find_record_files(f"{shapes_records}/train-*"))) == 12
    whole = (shapes_records / "val-00000-of-00001.tfrecord").read_bytes()
    broken = tmp_path / "broken.tfrecord"
    broken.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="ends inside a record"):
        count_records([str(broken)])


def test_the_padding_label_is_never_a_semantic_class() -> None:
    entries = [{"id": 1, "name": "thing", "isthing": 1}]
    entries += [{"id": i, "name": f"stuff {i}", "isthing": 0} for i in range(2, 302)]
    many = LabelSpace.create(CategoryTable.from_list(entries, "the test"))
    assert many.num_semantic_classes == 302
    assert padding_label(TASK, many) == -1  # 255 is the class of a category
    assert padding_label(TASK, LABELS) == 255  # as in the reference, where no class has that number
    losses = TASK.losses.model_copy(update={"semantic_segmentation_ignore_label": 0})
    assert padding_label(TASK.model_copy(update={"losses": losses}), many) == 0  # asked for: void does not count
