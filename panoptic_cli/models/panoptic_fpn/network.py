"""Panoptic FPN (arXiv 1901.02446): one backbone and pyramid, box, mask and semantic heads."""

from __future__ import annotations

import keras
import tensorflow as tf

from panoptic_cli.categories import LabelSpace
from panoptic_cli.config.schema import Model, ROIAligner
from panoptic_cli.models.panoptic_fpn import boxes as box_ops
from panoptic_cli.models.panoptic_fpn.anchors import anchor_boxes, anchors_per_place
from panoptic_cli.models.panoptic_fpn.detection import detect
from panoptic_cli.models.panoptic_fpn.fpn import FeaturePyramid
from panoptic_cli.models.panoptic_fpn.heads import BoxHead, MaskBranch
from panoptic_cli.models.panoptic_fpn.resnet import ResNet
from panoptic_cli.models.panoptic_fpn.roi_align import roi_align
from panoptic_cli.models.panoptic_fpn.roi_sampling import mask_targets, sample_rois
from panoptic_cli.models.panoptic_fpn.rpn import RegionProposalHead, propose
from panoptic_cli.models.panoptic_fpn.semantic_head import SemanticHead


class PanopticFPN(keras.Model):
    """The network. Variables exist from construction on.

    Attributes:
        config: its part of the configuration.
        label_space: classes of the heads.
        backbone, decoder, rpn_head, detection_head, mask_head, segmentation_head: its parts.
    """

    def __init__(self, config: Model, label_space: LabelSpace, name: str = "panoptic_fpn") -> None:
        super().__init__(name=name)
        self.config = config
        self.label_space = label_space
        self.levels = list(range(config.min_level, config.max_level + 1))
        norm = config.norm_activation
        filters = config.decoder.fpn.num_filters
        self.backbone = ResNet(config.backbone.resnet, norm)
        self.decoder = FeaturePyramid(config.min_level, config.max_level, filters, norm)
        self.rpn_head = RegionProposalHead(config.rpn_head, anchors_per_place(config.anchor), self.levels, norm)
        self.detection_head = BoxHead(config.detection_head, label_space.num_classes, norm)
        self.mask_head = MaskBranch(config.mask_head, label_space.num_classes, norm)
        self.segmentation_head = SemanticHead(
            config.segmentation_model.head.num_filters, label_space.num_semantic_classes, self.levels
        )
        self._build_parts(filters)

    def _build_parts(self, filters: int) -> None:
        self.backbone.build((None, None, None, 3))
        self.decoder.build({level: (None, None, None, c) for level, c in self.backbone.channels.items()})
        shape: tuple[int | None, ...] = (None, None, None, filters)
        pyramid = dict.fromkeys(self.levels, shape)
        self.rpn_head.build(pyramid)
        self.segmentation_head.build(pyramid)
        box_crop, mask_crop = self.config.roi_aligner.crop_size, self.config.mask_roi_aligner.crop_size
        self.detection_head.build((box_crop, box_crop, filters))
        self.mask_head.build((mask_crop, mask_crop, filters))
        self.built = True

    def pyramid(self, images: tf.Tensor, training: bool) -> dict[int, tf.Tensor]:
        """Normalised images float32 [batch, h, w, 3] -> {level: features}, in the compute dtype."""
        images = tf.cast(images, self.compute_dtype)
        return self.decoder(self.backbone(images, training=training), training=training)

    def call(self, images: tf.Tensor, image_info: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        """Detects and segments; inference only (training takes `training_outputs`).

        Args:
            images: float32 [batch, height, width, 3], normalised and padded, sides multiples of 2^max_level.
            image_info: float32 [batch, 4, 2]: original size, input size, scale, crop offset, each (y, x).
            training: ignored: batch statistics are never collected here.

        Returns:
            detection_boxes float32 [batch, n, 4] in pixels of the input, detection_scores [batch, n] descending,
            detection_classes int32 [batch, n] (0 behind the last), num_detections int32 [batch],
            detection_masks float32 [batch, n, m, m] probabilities (0 behind the last),
            semantic_logits float32 [batch, height / 4, width / 4, classes].
        """
        del training
        features = self.pyramid(images, training=False)
        scores, offsets = self.rpn_head(features, training=False)
        image_shape = image_info[:, 1]
        proposals, _ = propose(
            scores, offsets, self._anchors(images), image_shape, self.config.roi_generator, training=False
        )
        outputs = self._detect(features, proposals, image_shape)
        outputs["semantic_logits"] = self.segmentation_head(features)
        return outputs

    def _detect(
        self, features: dict[int, tf.Tensor], proposals: tf.Tensor, image_shape: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        align: ROIAligner = self.config.roi_aligner
        crops = roi_align(features, proposals, align.crop_size, align.sample_offset)
        # GPU libraries choose their own ways, and measure them anew for every shape.
        on_cpu = not tf.config.get_visible_devices("GPU")
        winograd = on_cpu and crops.dtype == tf.float32
        logits, offsets = self.detection_head(crops, training=False, winograd=winograd)
        outputs = detect(logits, offsets, proposals, image_shape, self.config.detection_generator)

        align = self.config.mask_roi_aligner
        boxes, classes = outputs["detection_boxes"], outputs["detection_classes"]
        places = boxes.shape[1]
        count = tf.maximum(tf.reduce_max(outputs["num_detections"]), 1) if on_cpu else places
        crops = roi_align(features, boxes[:, :count], align.crop_size, align.sample_offset)
        classes = classes[:, :count]
        masks = tf.sigmoid(self.mask_head(crops, classes, training=False))
        masks = tf.where((classes > 0)[..., None, None], masks, 0.0)
        masks = tf.pad(masks, [[0, 0], [0, places - count], [0, 0], [0, 0]])
        outputs["detection_masks"] = tf.ensure_shape(masks, [None, places, 2 * align.crop_size, 2 * align.crop_size])
        return outputs

    def training_outputs(
        self,
        images: tf.Tensor,
        image_info: tf.Tensor,
        gt_boxes: tf.Tensor,
        gt_classes: tf.Tensor,
        gt_masks: tf.Tensor,
        seed: tf.Tensor,
        compiled: bool = False,
    ) -> dict[str, tf.Tensor | dict[int, tf.Tensor]]:
        """Everything the losses need; static shapes throughout.

        Args:
            images: float32 [batch, height, width, 3], normalised.
            image_info: float32 [batch, 4, 2].
            gt_boxes: float32 [batch, m, 4] in pixels of the input, padded with -1.
            gt_classes: int32 [batch, m], padded with -1.
            gt_masks: [batch, m, s, s], masks cropped to their boxes.
            seed: int32 [2] of the ROI sampling.
            compiled: whether XLA compiles the step; see `rpn.propose`.

        Returns:
            rpn_scores, rpn_boxes by level; class_logits [batch, k, c], box_offsets [batch, k, c, 4],
            class_targets [batch, k], box_targets [batch, k, 4]; mask_logits and mask_targets [batch, j, s, s],
            mask_classes [batch, j]; semantic_logits [batch, h / 4, w / 4, classes].
        """
        features = self.pyramid(images, training=True)
        scores, offsets = self.rpn_head(features, training=True)
        proposals, _ = propose(
            {level: tf.stop_gradient(x) for level, x in scores.items()},
            {level: tf.stop_gradient(x) for level, x in offsets.items()},
            self._anchors(images),
            image_info[:, 1],
            self.config.roi_generator,
            training=True,
            compiled=compiled,
        )
        rois = sample_rois(proposals, gt_boxes, gt_classes, self.config.roi_sampler, seed)
        align: ROIAligner = self.config.roi_aligner
        crops = roi_align(features, rois.boxes, align.crop_size, align.sample_offset)
        # XLA and GPU libraries choose their own ways.
        winograd = not compiled and not tf.config.get_visible_devices("GPU") and crops.dtype == tf.float32
        class_logits, box_offsets = self.detection_head(crops, training=True, winograd=winograd)
        box_targets = box_ops.encode(rois.matched_boxes, rois.boxes, box_ops.BOX_HEAD_WEIGHTS)
        box_targets = tf.where((rois.classes > 0)[..., None], box_targets, 0.0)

        align = self.config.mask_roi_aligner
        mask_boxes, mask_classes, targets = mask_targets(
            rois, gt_masks, self.config.mask_sampler.num_sampled_masks, 2 * align.crop_size
        )
        crops = roi_align(features, mask_boxes, align.crop_size, align.sample_offset)
        return {
            "rpn_scores": scores,
            "rpn_boxes": offsets,
            "class_logits": class_logits,
            "box_offsets": box_offsets,
            "class_targets": rois.classes,
            "box_targets": box_targets,
            "mask_logits": self.mask_head(crops, mask_classes, training=True, winograd=winograd),
            "mask_targets": targets,
            "mask_classes": mask_classes,
            "semantic_logits": self.segmentation_head(features),
        }

    def _anchors(self, images: tf.Tensor) -> dict:
        height, width = images.shape[1:3]
        return anchor_boxes(self.config.anchor, (height, width), self.levels[0], self.levels[-1])
