"""Panoptic FPN (arXiv 1901.02446): one backbone and pyramid with box, mask and semantic heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from panoptic_cli.categories import CategoryTable
from panoptic_cli.config.schema import Task
from panoptic_cli.models.class_axes import ClassAxis
from panoptic_cli.models.network import PanopticNetwork, TensorDescription
from panoptic_cli.models.panoptic_fpn import boxes as box_ops
from panoptic_cli.models.panoptic_fpn import class_layers, fusion
from panoptic_cli.models.panoptic_fpn import losses as loss_ops
from panoptic_cli.models.panoptic_fpn.anchors import anchor_boxes, anchors_per_place
from panoptic_cli.models.panoptic_fpn.checkpoint_names import model_garden_variables
from panoptic_cli.models.panoptic_fpn.detection import detect
from panoptic_cli.models.panoptic_fpn.differentiation import Features, HeadLoss, differentiated
from panoptic_cli.models.panoptic_fpn.forms import FORMS, Forms
from panoptic_cli.models.panoptic_fpn.fpn import FeaturePyramid
from panoptic_cli.models.panoptic_fpn.heads import BoxHead, MaskBranch
from panoptic_cli.models.panoptic_fpn.label_space import LabelSpace
from panoptic_cli.models.panoptic_fpn.resnet import ResNet
from panoptic_cli.models.panoptic_fpn.roi_align import roi_align, with_area
from panoptic_cli.models.panoptic_fpn.roi_sampling import SampledROIs, mask_targets, sample_rois
from panoptic_cli.models.panoptic_fpn.rpn import RegionProposalHead, propose
from panoptic_cli.models.panoptic_fpn.semantic_head import SemanticHead
from panoptic_cli.models.panoptic_fpn.targets import padding_label
from panoptic_cli.models.platform import Platform
from panoptic_cli.models.segments import Segments
from panoptic_cli.pipeline.preprocessing import Geometry, Preprocessing

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


class HeadInputs(NamedTuple):
    """What the heads are trained on.

    Attributes:
        features: {level: [batch, h, w, c]}.
        rpn_scores: {level: float32 [batch, h, w, anchors]}.
        rpn_boxes: {level: float32 [batch, h, w, 4 * anchors]}.
        rois: the sampled regions.
    """

    features: Features
    rpn_scores: Features
    rpn_boxes: Features
    rois: SampledROIs


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

    def backbone_layers(self) -> list[list[keras.Variable]]:
        """Returns the variables of the backbone by layer."""
        return self.backbone.variables_by_layer()

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
        forms, image_shape = FORMS[platform], geometry.input_size
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
        self, features: dict[int, tf.Tensor], proposals: tf.Tensor, image_shape: tf.Tensor, forms: Forms
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

    def class_axes(self) -> dict[str, ClassAxis]:
        """Returns the class axes of the last layers of the heads."""
        return class_layers.class_axes(self.label_space)

    def model_garden_variables(self) -> dict[str, dict[str, Any]]:
        """Maps each part to {path in a checkpoint of tensorflow/models: variable}."""
        return model_garden_variables(self)

    def model_garden_class_axes(self, table: CategoryTable) -> dict[str, ClassAxis]:
        """Returns the class axes of a checkpoint of tensorflow/models; see `PanopticNetwork`."""
        return class_layers.model_garden_class_axes(table)

    def losses(
        self, batch: Mapping[str, Any], seed: tf.Tensor, step: tf.Tensor, platform: Platform
    ) -> dict[str, tf.Tensor]:
        """Runs the network in training mode and compares its outputs with the targets.

        Args:
            batch: "images", "geometry" and the targets of `PanopticFPNTargets`.
            seed: int32 [2], the seed of the ROI sampling.
            step: not used.
            platform: cpu, gpu or xla.

        Returns:
            float32 scalars: total_loss, rpn_score_loss, rpn_box_loss, frcnn_class_loss, frcnn_box_loss, mask_loss,
            semantic_loss, l2_loss. The total is weighted, the parts are not.
        """
        forms, config = FORMS[platform], self.task.losses
        inputs = self.head_inputs(batch, seed, forms)
        rpn_total, parts = self._rpn_losses(inputs, batch)
        totals = [rpn_total]
        # With float16, the scale of the loss must go through the whole gradient.
        one_by_one = forms.one_by_one and self.compute_dtype != "float16"
        before: list[tf.Tensor] = []
        heads: tuple[keras.layers.Layer, ...] = (self.segmentation_head, self.mask_head, self.detection_head)
        for head, loss in zip(heads, self._head_losses(inputs, batch, forms), strict=True):
            with tf.control_dependencies(before):
                if one_by_one:
                    total, found, before = differentiated(loss, inputs.features, head.trainable_variables)
                else:
                    total, found = loss(inputs.features)
            totals.append(total)
            parts |= found
        # Weight decay applies to the kernels of convolutions and dense layers, not to biases and normalisations.
        kernels = [variable.value for variable in self.trainable_variables if variable.name == "kernel"]
        l2_loss = config.l2_weight_decay * tf.add_n([tf.nn.l2_loss(kernel) for kernel in kernels])
        return {"total_loss": tf.add_n([*totals, l2_loss]), **parts, "l2_loss": l2_loss}

    def head_inputs(self, batch: Mapping[str, Any], seed: tf.Tensor, forms: Forms) -> HeadInputs:
        """Runs backbone, pyramid and RPN head in training mode, and samples regions, all with static shapes.

        The arguments are those of `losses`.
        """
        features = self.pyramid(batch["images"], training=True)
        scores, offsets = self.rpn_head(features, training=True)
        proposals, _ = propose(
            {level: tf.stop_gradient(x) for level, x in scores.items()},
            {level: tf.stop_gradient(x) for level, x in offsets.items()},
            self._anchors(batch["images"]),
            batch["geometry"].input_size,
            self.config.roi_generator,
            training=True,
            suppression=forms.suppression,
        )
        rois = sample_rois(proposals, batch["gt_boxes"], batch["gt_classes"], self.config.roi_sampler, seed)
        return HeadInputs(features, scores, offsets, rois)

    def box_outputs(self, features: Features, rois: SampledROIs, forms: Forms) -> dict[str, tf.Tensor]:
        """Trains the box head: class_logits [batch, k, c], box_offsets [batch, k, c, 4], box_targets [batch, k, 4]."""
        align = self.config.roi_aligner
        crops = roi_align(features, rois.boxes, align.crop_size, align.sample_offset, forms.index_dtype)
        winograd = forms.winograd and crops.dtype == tf.float32
        logits, offsets = self.detection_head(crops, training=True, winograd=winograd)
        targets = box_ops.encode(rois.matched_boxes, rois.boxes, box_ops.BOX_HEAD_WEIGHTS)
        targets = tf.where((rois.classes > 0)[..., None], targets, 0.0)
        return {"class_logits": logits, "box_offsets": offsets, "box_targets": targets}

    def mask_outputs(
        self, features: Features, rois: SampledROIs, gt_masks: tf.Tensor, forms: Forms
    ) -> dict[str, tf.Tensor]:
        """Trains the mask head: mask_logits and mask_targets [batch, j, s, s], mask_classes int64 [batch, j]."""
        align, count = self.config.mask_roi_aligner, self.config.mask_sampler.num_sampled_masks
        boxes, classes, targets = mask_targets(rois, gt_masks, count, 2 * align.crop_size)
        crops = roi_align(features, boxes, align.crop_size, align.sample_offset, forms.index_dtype)
        winograd = forms.winograd and crops.dtype == tf.float32
        logits = self.mask_head(crops, classes, training=True, winograd=winograd)
        return {"mask_logits": logits, "mask_targets": targets, "mask_classes": classes}

    def _rpn_losses(self, inputs: HeadInputs, batch: Mapping[str, Any]) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Computes the weighted loss of the proposals, and its parts."""
        config, anchors_per_image = self.task.losses, self.task.train_data.parser.rpn_batch_size_per_im
        scores, boxes = ({int(k): x for k, x in batch[name].items()} for name in ("rpn_scores", "rpn_boxes"))
        score_loss = loss_ops.rpn_score_loss(inputs.rpn_scores, scores, anchors_per_image)
        box_loss = loss_ops.rpn_box_loss(inputs.rpn_boxes, boxes, config.rpn_huber_loss_delta)
        weighted = config.rpn_score_weight * score_loss + config.rpn_box_weight * box_loss
        parts = {"rpn_score_loss": score_loss, "rpn_box_loss": box_loss}
        return config.instance_segmentation_weight * weighted, parts

    def _head_losses(self, inputs: HeadInputs, batch: Mapping[str, Any], forms: Forms) -> tuple[HeadLoss, ...]:
        """Returns the losses of the semantic, the mask and the box head as functions of the features."""
        config, ignored, rois = self.task.losses, padding_label(self.task, self.label_space), inputs.rois

        def semantic(features: Features) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
            loss = loss_ops.semantic_loss(self.segmentation_head(features), batch["semantic_labels"], ignored)
            return config.semantic_segmentation_weight * loss, {"semantic_loss": loss}

        def masks(features: Features) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
            found = self.mask_outputs(features, rois, batch["gt_masks"], forms)
            loss = loss_ops.mask_loss(found["mask_logits"], found["mask_targets"], found["mask_classes"])
            return config.instance_segmentation_weight * config.mask_weight * loss, {"mask_loss": loss}

        def boxes(features: Features) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
            found = self.box_outputs(features, rois, forms)
            class_loss = loss_ops.box_class_loss(found["class_logits"], rois.classes)
            box_loss = loss_ops.box_regression_loss(
                found["box_offsets"], rois.classes, found["box_targets"], config.frcnn_huber_loss_delta
            )
            weighted = config.frcnn_class_weight * class_loss + config.frcnn_box_weight * box_loss
            parts = {"frcnn_class_loss": class_loss, "frcnn_box_loss": box_loss}
            return config.instance_segmentation_weight * weighted, parts

        return semantic, masks, boxes

    def _anchors(self, images: tf.Tensor) -> dict[int, np.ndarray]:
        height, width = images.shape[1:3]
        return anchor_boxes(self.config.anchor, (height, width), self.levels[0], self.levels[-1])
