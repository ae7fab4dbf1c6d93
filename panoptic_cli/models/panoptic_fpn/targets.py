"""The training targets of one picture: boxes, cropped masks, semantic labels and anchors."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from panoptic_cli.config.schema import Task
from panoptic_cli.models.panoptic_fpn.anchor_targets import anchor_targets
from panoptic_cli.models.panoptic_fpn.anchors import anchor_boxes
from panoptic_cli.models.panoptic_fpn.label_space import LabelSpace
from panoptic_cli.pipeline.augmentation import FREE_STREAM, AugmentedPicture, random_stream
from panoptic_cli.pipeline.parsing import decode_label_png, has_wide_labels, look_up
from panoptic_cli.pipeline.preprocessing import Preprocessing, resize_labels

_DEFAULT_IGNORE_LABEL = 255


def padding_label(task: Task, label_space: LabelSpace) -> int:
    """Returns the semantic label of ignored pixels.

    It is the configured label. If that is the default, 255, and the semantic head has a class of that number, it is -1.
    """
    configured = task.losses.semantic_segmentation_ignore_label
    return -1 if configured == _DEFAULT_IGNORE_LABEL < label_space.num_semantic_classes else configured


class PanopticFPNTargets:
    """Computes the training targets of a picture.

    Args:
        task: sizes, anchors and thresholds.
        label_space: the classes of the heads.

    Attributes:
        preprocessing: how pictures are prepared.
    """

    accepts = None  # a crop without objects is a picture of background

    def __init__(self, task: Task, label_space: LabelSpace) -> None:
        model = task.model
        self.preprocessing = Preprocessing(model.input_size[:2])
        self._parser = task.train_data.parser
        self._label_space = label_space
        self._padding = padding_label(task, label_space)
        self._anchors = anchor_boxes(model.anchor, model.input_size[:2], model.min_level, model.max_level)

    def __call__(self, picture: AugmentedPicture) -> dict[str, Any]:
        """Computes the targets.

        Returns:
            gt_boxes float32 [m, 4] in pixels of the input and gt_classes int32 [m], both padded with -1;
            gt_masks uint8 [m, s, s] in 0..255, each cropped to its box;
            semantic_labels int32 [height, width];
            rpn_scores and rpn_boxes by level (keys are strings), see `anchor_targets`.
        """
        classes = look_up(self._label_space.thing_class_of_id, picture.category_ids)
        things = classes > 0
        boxes, classes = tf.boolean_mask(picture.boxes, things), tf.boolean_mask(classes, things)
        in_masks, masks = tf.boolean_mask(picture.boxes_in_masks, things), tf.boolean_mask(picture.masks, things)
        seed = random_stream(picture.seed, FREE_STREAM)
        rpn_scores, rpn_boxes = anchor_targets(self._anchors, boxes, self._parser, seed)

        most, crop = self._parser.max_num_instances, self._parser.mask_crop_size
        boxes, classes = boxes[:most], classes[:most]
        crops = _crop_masks(masks[:most], in_masks[:most], crop)
        padding = most - tf.shape(boxes)[0]
        return {
            "gt_boxes": tf.ensure_shape(tf.pad(boxes, [[0, padding], [0, 0]], constant_values=-1.0), [most, 4]),
            "gt_classes": tf.ensure_shape(tf.pad(classes, [[0, padding]], constant_values=-1), [most]),
            "gt_masks": tf.ensure_shape(tf.pad(crops, [[0, padding], [0, 0], [0, 0]]), [most, crop, crop]),
            "semantic_labels": tf.cond(
                has_wide_labels(picture.labels),
                lambda: self._semantic_labels(picture, wide=True),
                lambda: self._semantic_labels(picture, wide=False),
            ),
            "rpn_scores": {str(level): target for level, target in rpn_scores.items()},
            "rpn_boxes": {str(level): target for level, target in rpn_boxes.items()},
        }

    def _semantic_labels(self, picture: AugmentedPicture, wide: bool) -> tf.Tensor:
        ids = picture.label_ids
        classes = tf.where(ids < 0, -ids, look_up(self._label_space.semantic_class_of_id, ids))
        labels = decode_label_png(picture.labels, wide)
        size = self.preprocessing.input_size
        return resize_labels(labels, picture.resizing, size, self._padding, classes, picture.mirrored)


def _crop_masks(pngs: tf.Tensor, boxes: tf.Tensor, size: int) -> tf.Tensor:
    """Crops each mask to its box, one at a time: a stack of whole masks would be a hundred times as large.

    Args:
        pngs: string [n].
        boxes: float32 [n, 4], fractions of the mask; a box with x2 < x1 is sampled from right to left.
        size: side of the crops in cells.

    Returns:
        uint8 [n, size, size]: 255 inside, 0 outside, values in between at the edges.
    """

    def crop(item: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        png, box = item
        mask = tf.io.decode_png(png, channels=1)
        return tf.image.crop_and_resize(mask[None], box[None], [0], [size, size])[0, ..., 0]

    crops = tf.map_fn(crop, (pngs, boxes), fn_output_signature=tf.TensorSpec([size, size], tf.float32))
    return tf.cast(tf.round(tf.minimum(crops, 1.0) * 255.0), tf.uint8)
