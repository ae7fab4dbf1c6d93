"""Panoptic FPN (arXiv 1901.02446): one backbone and pyramid with box, mask and semantic heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from panoptic_cli.config.schema import Task
from panoptic_cli.models.network import PanopticNetwork, TensorDescription
from panoptic_cli.models.panoptic_fpn import boxes as box_ops
from panoptic_cli.models.panoptic_fpn import fusion
from panoptic_cli.models.panoptic_fpn.anchors import anchor_boxes, anchors_per_place
from panoptic_cli.models.panoptic_fpn.checkpoint_names import model_garden_variables
from panoptic_cli.models.panoptic_fpn.detection import detect
from panoptic_cli.models.panoptic_fpn.fpn import FeaturePyramid
from panoptic_cli.models.panoptic_fpn.heads import BoxHead, MaskBranch
from panoptic_cli.models.panoptic_fpn.label_space import LabelSpace
from panoptic_cli.models.panoptic_fpn.losses import batch_losses
from panoptic_cli.models.panoptic_fpn.nms import Suppression
from panoptic_cli.models.panoptic_fpn.resnet import ResNet
from panoptic_cli.models.panoptic_fpn.roi_align import roi_align, with_area
from panoptic_cli.models.panoptic_fpn.roi_sampling import mask_targets, sample_rois
from panoptic_cli.models.panoptic_fpn.rpn import RegionProposalHead, propose
from panoptic_cli.models.panoptic_fpn.semantic_head import SemanticHead
from panoptic_cli.models.panoptic_fpn.targets import padding_label
from panoptic_cli.models.platform import Platform
from panoptic_cli.models.segments import Segments
from panoptic_cli.pipeline.preprocessing import Geometry, Preprocessing


class _Forms(NamedTuple):
    """The forms of the operations that suit a platform.

    Attributes:
        suppression: see `nms.Suppression`.
        winograd: whether the heads' towers use Winograd's algorithm, in float32. GPU libraries and XLA choose their
            own convolutions.
        dynamic: whether the mask head may run only on the detections, so that shapes depend on the pictures. On GPUs,
            every new shape makes the libraries measure their algorithms again.
        index_dtype: of computed indices, see `roi_align`.
        with_area: whether boxes need an area, because the format cannot compute the logarithm of 0, not even in a
            branch that is not taken.
    """

    suppression: Suppression
    winograd: bool = False
    dynamic: bool = False
    index_dtype: tf.DType = tf.int32
    with_area: bool = False


_FORMS: dict[Platform, _Forms] = {
    "cpu": _Forms("kernel", winograd=True, dynamic=True),
    "gpu": _Forms("matrix", index_dtype=tf.int64),
    "xla": _Forms("padded"),
    "tflite": _Forms("padded", with_area=True),
    "onnx": _Forms("lists", with_area=True),
}


_OUTPUTS = {
    "detection_boxes": TensorDescription("float32", (1, "n", 4), "y1, x1, y2, x2 in pixels of the network's input"),
    "detection_scores": TensorDescription("float32", (1, "n"), "0..1, descending; 0 after the last detection"),
    "detection_classes": TensorDescription(
        "int32", (1, "n"), "indices of class_category_ids; 0 after the last detection"
    ),
    "detection_masks": TensorDescription("float32", (1, "n", "m", "m"), "probabilities within the box, 0..1"),
    "num_detections": TensorDescription("int32", (1,), "the number of detections"),
    "semantic_logits": TensorDescription(
        "float32", (1, "height / 4", "width / 4", "classes"), "scores of the classes in semantic_category_ids"
    ),
}


class PanopticFPN(PanopticNetwork):
    """The network. The constructor creates its variables.

    Attributes:
        config: `task.model` of the configuration.
        label_space: the classes of the heads.
        backbone, decoder, rpn_head, detection_head, mask_head, segmentation_head: the parts of the network.
    """

    has_semantic_map = True

    def __init__(self, task: Task, label_space: LabelSpace, name: str = "panoptic_fpn") -> None:
        super().__init__(name=name)
        config = task.model
        self.task = task
        self.config = config
        self.label_space = label_space
        self.preprocessing = Preprocessing(config.input_size[:2])
        self.max_detections = config.detection_generator.max_num_detections
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

    def freeze_backbone(self) -> None:
        """Excludes the whole backbone from training."""
        self.backbone.freeze(5)

    def pyramid(self, images: tf.Tensor, training: bool) -> dict[int, tf.Tensor]:
        """Computes {level: features} in the compute dtype from prepared images, float32 [batch, h, w, 3]."""
        images = tf.cast(images, self.compute_dtype)
        return self.decoder(self.backbone(images, training=training), training=training)

    def call(self, images: tf.Tensor, geometry: Geometry, platform: Platform = "cpu") -> dict[str, tf.Tensor]:
        """Runs the network for inference.

        Args:
            images: float32 [batch, height, width, 3], normalised and padded, sides multiples of 2^max_level.
            geometry: the geometry of the batch.
            platform: what the graph is traced for; results are the same up to rounding.

        Returns:
            detection_boxes float32 [batch, n, 4] in pixels of the input, detection_scores [batch, n] descending,
            detection_classes int32 [batch, n] (0 after the last), num_detections int32 [batch],
            detection_masks float32 [batch, n, m, m] probabilities (0 after the last),
            semantic_logits float32 [batch, height / 4, width / 4, classes].
        """
        forms, image_shape = _FORMS[platform], geometry.input_size
        features = self.pyramid(images, training=False)
        scores, offsets = self.rpn_head(features, training=False)
        generator, anchors = self.config.roi_generator, self._anchors(images)
        proposals, _ = propose(
            scores, offsets, anchors, image_shape, generator, training=False, suppression=forms.suppression
        )
        outputs = self._detect(features, proposals, image_shape, forms)
        outputs["semantic_logits"] = self.segmentation_head(features)
        return outputs

    def _detect(
        self, features: dict[int, tf.Tensor], proposals: tf.Tensor, image_shape: tf.Tensor, forms: _Forms
    ) -> dict[str, tf.Tensor]:
        align = self.config.roi_aligner
        rois = with_area(proposals) if forms.with_area else proposals
        crops = roi_align(features, rois, align.crop_size, align.sample_offset, forms.index_dtype)
        winograd = forms.winograd and crops.dtype == tf.float32
        logits, offsets = self.detection_head(crops, training=False, winograd=winograd)
        generator = self.config.detection_generator
        outputs = detect(logits, offsets, proposals, image_shape, generator, forms.suppression)

        boxes = outputs["detection_boxes"]
        classes = tf.cast(outputs["detection_classes"], tf.int64)  # TensorFlow computes with int32 on the host
        places = boxes.shape[1]
        if forms.dynamic:
            count = tf.maximum(tf.reduce_max(outputs["num_detections"]), 1)
            boxes, classes = boxes[:, :count], classes[:, :count]
        align = self.config.mask_roi_aligner
        rois = with_area(boxes) if forms.with_area else boxes
        crops = roi_align(features, rois, align.crop_size, align.sample_offset, forms.index_dtype)
        masks = tf.sigmoid(self.mask_head(crops, classes, training=False))
        masks = tf.where((classes > 0)[..., None, None], masks, 0.0)
        if forms.dynamic:
            masks = tf.pad(masks, [[0, 0], [0, places - count], [0, 0], [0, 0]])
        outputs["detection_masks"] = tf.ensure_shape(masks, [None, places, 2 * align.crop_size, 2 * align.crop_size])
        return outputs

    def finish(
        self, outputs: Mapping[str, tf.Tensor], geometry: Geometry, score_threshold: tf.Tensor | float | None = None
    ) -> Segments:
        """Fuses the things and stuff of one picture; see `fusion` and `PanopticNetwork.finish`."""
        generator = self.config.panoptic_segmentation_generator
        return fusion.finish(outputs, geometry, generator, self.label_space, score_threshold)

    @property
    def score_threshold(self) -> float:
        """The configured threshold of `finish`."""
        return self.config.panoptic_segmentation_generator.score_threshold

    def describe_finish(self) -> dict[str, Any]:
        """Returns the thresholds of the fusion."""
        return self.config.panoptic_segmentation_generator.model_dump(mode="json")

    def describe_outputs(self) -> dict[str, TensorDescription]:
        """Describes what `call` returns for one picture."""
        return dict(_OUTPUTS)

    def describe_classes(self) -> dict[str, list[int]]:
        """Returns the category id of each class of the box head and of the semantic head."""
        return {
            "class_category_ids": self.label_space.thing_ids.tolist(),
            "semantic_category_ids": self.label_space.semantic_ids.tolist(),
        }

    def model_garden_variables(self) -> dict[str, dict[str, Any]]:
        """Maps each part to {path in a checkpoint of tensorflow/models: variable}."""
        return model_garden_variables(self)

    def losses(self, batch: Mapping[str, Any], seed: tf.Tensor, platform: Platform) -> dict[str, tf.Tensor]:
        """Runs the network in training mode and compares its outputs with the targets.

        Args:
            batch: "images", "geometry" and the targets of `PanopticFPNTargets`.
            seed: int32 [2], the seed of the ROI sampling.
            platform: cpu, gpu or xla.

        Returns:
            float32 scalars: total_loss, rpn_score_loss, rpn_box_loss, frcnn_class_loss, frcnn_box_loss, mask_loss,
            semantic_loss, l2_loss. The total is weighted, the parts are not.
        """
        outputs = self.training_outputs(batch, seed, platform)
        # Weight decay applies to the kernels of convolutions and dense layers, not to biases and normalisations.
        kernels = [variable for variable in self.trainable_variables if variable.name == "kernel"]
        ignored = padding_label(self.task, self.label_space)
        return batch_losses(outputs, batch, kernels, self.task, ignored)

    def training_outputs(
        self, batch: Mapping[str, Any], seed: tf.Tensor, platform: Platform
    ) -> dict[str, tf.Tensor | dict[int, tf.Tensor]]:
        """Computes everything that the losses need, with static shapes.

        Args:
            batch: see `losses`.
            seed: int32 [2], the seed of the ROI sampling.
            platform: cpu, gpu or xla.

        Returns:
            rpn_scores and rpn_boxes by level; class_logits [batch, k, c], box_offsets [batch, k, c, 4],
            class_targets [batch, k], box_targets [batch, k, 4]; mask_logits and mask_targets [batch, j, s, s],
            mask_classes [batch, j]; semantic_logits [batch, h / 4, w / 4, classes].
        """
        forms, images = _FORMS[platform], batch["images"]
        features = self.pyramid(images, training=True)
        scores, offsets = self.rpn_head(features, training=True)
        proposals, _ = propose(
            {level: tf.stop_gradient(x) for level, x in scores.items()},
            {level: tf.stop_gradient(x) for level, x in offsets.items()},
            self._anchors(images),
            batch["geometry"].input_size,
            self.config.roi_generator,
            training=True,
            suppression=forms.suppression,
        )
        rois = sample_rois(proposals, batch["gt_boxes"], batch["gt_classes"], self.config.roi_sampler, seed)
        align = self.config.roi_aligner
        crops = roi_align(features, rois.boxes, align.crop_size, align.sample_offset, forms.index_dtype)
        winograd = forms.winograd and crops.dtype == tf.float32
        class_logits, box_offsets = self.detection_head(crops, training=True, winograd=winograd)
        box_targets = box_ops.encode(rois.matched_boxes, rois.boxes, box_ops.BOX_HEAD_WEIGHTS)
        box_targets = tf.where((rois.classes > 0)[..., None], box_targets, 0.0)

        align = self.config.mask_roi_aligner
        mask_boxes, mask_classes, targets = mask_targets(
            rois, batch["gt_masks"], self.config.mask_sampler.num_sampled_masks, 2 * align.crop_size
        )
        crops = roi_align(features, mask_boxes, align.crop_size, align.sample_offset, forms.index_dtype)
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

    def _anchors(self, images: tf.Tensor) -> dict[int, np.ndarray]:
        height, width = images.shape[1:3]
        return anchor_boxes(self.config.anchor, (height, width), self.levels[0], self.levels[-1])
