"""Drawing training examples after augmentation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from panoptic_cli import config
from panoptic_cli.categories import CategoryTable, LabelSpace


@pytest.mark.slow
def test_masks_lie_in_their_boxes_and_on_the_things(shapes_records: Path) -> None:
    from panoptic_cli.inspection import augmented_samples

    pattern = f"{shapes_records}/train-*"
    table = CategoryTable.from_file(shapes_records / "categories.json")
    space = LabelSpace.create(table)
    side = 160
    experiment = config.load_experiment(
        "panoptic_fpn_shapes",
        settings=["task.train_data.parser.aug_rand_hflip=false", f"task.model.input_size=[{side},{side},3]"],
        options=[("task.train_data.input_path", pattern)],
    )
    examples = list(augmented_samples.examples(experiment, space, 12))
    assert len(examples) == 12
    for example in examples:
        rows, columns = example.inside.any(1).sum(), example.inside.any(0).sum()
        assert max(rows, columns) == side  # the longer side fills the input
        assert not example.image[~example.inside].any()
        assert example.inside[:rows, :columns].all()
        things = example.semantic == 1
        categories, instances = augmented_samples._paste(example, space)
        assert (categories > 0)[~example.inside].sum() == 0
        # Masks come from 56-pixel crops: their edges may move by a pixel or two, their inner parts do not.
        assert ((categories > 0) == things)[example.inside].mean() > 0.9
        for place, (box, label) in enumerate(zip(example.boxes, example.classes, strict=True), start=1):
            ys, xs = np.nonzero(instances == place)
            if ys.size:
                inside = (box[0] <= ys + 0.5) & (ys + 0.5 <= box[2]) & (box[1] <= xs + 0.5) & (xs + 0.5 <= box[3])
                assert inside.all()
                assert set(categories[ys, xs]) == {space.thing_ids[label]}
        picture = augmented_samples.draw_example(example, space)
        assert picture.height % side == 0
        assert picture.width > 2 * picture.height


@pytest.mark.slow
def test_denormalising_is_exact(shapes_records: Path) -> None:
    from panoptic_cli.inspection import augmented_samples
    from panoptic_cli.pipeline import preprocessing

    values = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    resizing = preprocessing.plan_resizing(np.array([16, 16]), (16, 16))
    batch = {
        "images": preprocessing.resize_image(values, resizing, (16, 16)).numpy()[None],
        "image_info": resizing.image_info.numpy()[None],
        "gt_boxes": np.full((1, 2, 4), -1.0, np.float32),
        "gt_classes": np.full((1, 2), -1, np.int32),
        "gt_masks": np.zeros((1, 2, 4, 4), np.uint8),
        "semantic_labels": np.zeros((1, 16, 16), np.int32),
    }
    example = augmented_samples._example(batch)
    np.testing.assert_array_equal(example.image, values)
    assert example.inside.all()
    assert len(example.boxes) == 0
