"""Drawings of Panoptic FPN's training examples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from panoptic_cli import config
from panoptic_cli.categories import read_categories


@pytest.mark.slow
def test_masks_are_inside_their_boxes_and_cover_the_things(shapes_records: Path) -> None:
    from panoptic_cli.models.panoptic_fpn import drawing
    from panoptic_cli.models.panoptic_fpn.label_space import LabelSpace
    from panoptic_cli.models.panoptic_fpn.targets import PanopticFPNTargets
    from panoptic_cli.pipeline.batches import training_dataset

    space = LabelSpace.create(read_categories(shapes_records / "categories.json"))
    side = 160
    experiment = config.load_experiment(
        "panoptic_fpn_shapes",
        settings=["task.train_data.parser.aug_rand_hflip=false", f"task.model.input_size=[{side},{side},3]"],
        options=[("task.train_data.input_path", f"{shapes_records}/train-*")],
    )
    targets = PanopticFPNTargets(experiment.task, space)
    dataset = training_dataset(experiment, targets, batch_size=1, seed=0)
    drawer = drawing.ExampleDrawer(experiment.task, space)
    for batch in dataset.take(12).as_numpy_iterator():
        example = drawing.read_example(batch, targets.preprocessing)
        rows, columns = example.inside.any(1).sum(), example.inside.any(0).sum()
        assert max(rows, columns) == side  # the longer side fills the input
        assert not example.image[~example.inside].any()
        assert example.inside[:rows, :columns].all()
        things = example.semantic == 1
        categories, instances = drawing._paste(example, space)
        assert (categories > 0)[~example.inside].sum() == 0
        # Masks come from crops of 56 pixels: their edges may move by a pixel or two, their interiors do not.
        assert ((categories > 0) == things)[example.inside].mean() > 0.9
        for place, (box, label) in enumerate(zip(example.boxes, example.classes, strict=True), start=1):
            ys, xs = np.nonzero(instances == place)
            if ys.size:
                inside = (box[0] <= ys + 0.5) & (ys + 0.5 <= box[2]) & (box[1] <= xs + 0.5) & (xs + 0.5 <= box[3])
                assert inside.all()
                assert set(categories[ys, xs]) == {space.thing_ids[label]}
        picture = drawer(batch)
        assert picture.height % side == 0
        assert picture.width > 2 * picture.height


@pytest.mark.slow
def test_the_normalisation_is_undone_exactly() -> None:
    import tensorflow as tf

    from panoptic_cli.models.panoptic_fpn import drawing
    from panoptic_cli.pipeline.preprocessing import Preprocessing

    values = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    preprocessing = Preprocessing((16, 16))
    image, geometry = preprocessing.prepare(tf.constant(values))
    batch = {
        "images": image.numpy()[None],
        "geometry": tuple(value.numpy()[None] for value in geometry),
        "gt_boxes": np.full((1, 2, 4), -1.0, np.float32),
        "gt_classes": np.full((1, 2), -1, np.int32),
        "gt_masks": np.zeros((1, 2, 4, 4), np.uint8),
        "semantic_labels": np.zeros((1, 16, 16), np.int32),
    }
    example = drawing.read_example(batch, preprocessing)
    np.testing.assert_array_equal(example.image, values)
    assert example.inside.all()
    assert len(example.boxes) == 0
