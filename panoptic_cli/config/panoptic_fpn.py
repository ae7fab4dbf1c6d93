"""The configuration of the model family Panoptic FPN: network, losses and targets.

Field names follow `official/projects/panoptic` of tensorflow/models. The defaults are those of its experiment
`panoptic_fpn_coco`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from panoptic_cli.config.section import Fraction, NonNegative, Positive, Section


class ResNetBackbone(Section):
    """Residual network v1.5 (arXiv 1512.03385, stride on the 3x3)."""

    model_id: Literal[18, 34, 50, 101, 152] = 50
    depth_multiplier: Annotated[float, Field(gt=0)] = 1.0  # scales the filters of every layer
    freeze_at: Annotated[int, Field(ge=0, le=5)] = 0  # freezes stages up to this one: 1 stem, 2-5 levels, 0 none


class Backbone(Section):
    """The feature extractor."""

    type: Literal["resnet"] = "resnet"
    resnet: ResNetBackbone = ResNetBackbone()


class FPN(Section):
    """The feature pyramid (arXiv 1612.03144)."""

    num_filters: Positive = 256


class Decoder(Section):
    """The part that builds the feature pyramid from the backbone's levels."""

    type: Literal["fpn"] = "fpn"
    fpn: FPN = FPN()


class Anchor(Section):
    """Anchors of size anchor_size * 2^level (pixels of the network's input) at every location of a level."""

    num_scales: Positive = 1
    aspect_ratios: tuple[Annotated[float, Field(gt=0)], ...] = (0.5, 1.0, 2.0)  # width / height
    anchor_size: Annotated[float, Field(gt=0)] = 8.0


class RPNHead(Section):
    """The region proposal head, shared by all levels."""

    num_convs: Positive = 1
    num_filters: Positive = 256


class DetectionHead(Section):
    """The box head: convolutions, then fully connected layers."""

    num_convs: NonNegative = 4
    num_filters: Positive = 256
    num_fcs: NonNegative = 1
    fc_dims: Positive = 1024


class ROIGenerator(Section):
    """Selection of proposals by their RPN scores; the `test_` fields apply to inference."""

    pre_nms_top_k: Positive = 2000
    pre_nms_score_threshold: Fraction = 0.0
    nms_iou_threshold: Fraction = 0.7
    num_proposals: Positive = 1000
    test_pre_nms_top_k: Positive = 1000
    test_pre_nms_score_threshold: Fraction = 0.0
    test_nms_iou_threshold: Fraction = 0.7
    test_num_proposals: Positive = 1000


class ROISampler(Section):
    """Sampling of the proposals that the box and mask heads are trained on."""

    mix_gt_boxes: bool = True
    num_sampled_rois: Positive = 512
    foreground_fraction: Fraction = 0.25
    foreground_iou_threshold: Fraction = 0.5
    background_iou_high_threshold: Fraction = 0.5
    background_iou_low_threshold: Fraction = 0.0


class ROIAligner(Section):
    """Feature crops for the box head."""

    crop_size: Positive = 7
    sample_offset: Fraction = 0.5


class DetectionGenerator(Section):
    """Selection of detections from class scores and boxes."""

    pre_nms_top_k: Positive = 5000
    pre_nms_score_threshold: Fraction = 0.05
    nms_iou_threshold: Fraction = 0.5
    max_num_detections: Positive = 100


class MaskHead(Section):
    """The mask head: convolutions, then a transposed convolution that doubles the size."""

    num_convs: NonNegative = 4
    num_filters: Positive = 256


class MaskSampler(Section):
    """Number of foreground ROIs per image that the mask head is trained on."""

    num_sampled_masks: Positive = 128


class MaskROIAligner(ROIAligner):
    """Feature crops for the mask head; the masks are twice this size."""

    crop_size: Positive = 14


class NormActivation(Section):
    """Batch normalisation."""

    norm_momentum: Fraction = 0.997
    norm_epsilon: Annotated[float, Field(gt=0)] = 1e-4
    use_sync_bn: bool = True


class SegmentationHead(Section):
    """The semantic head (arXiv 1901.02446, section 3.1)."""

    num_filters: Positive = 128


class SegmentationModel(Section):
    """The semantic branch."""

    num_classes: Positive | None = None  # void, thing and stuff; None: from the category table
    head: SegmentationHead = SegmentationHead()


class PanopticSegmentationGenerator(Section):
    """Fusion of things and stuff into one panoptic map."""

    mask_binarize_threshold: Fraction = 0.5
    score_threshold: Fraction = 0.5
    things_overlap_threshold: Fraction = 0.5
    stuff_area_threshold: Annotated[float, Field(ge=0)] = 4096.0  # pixels of the original picture


class PanopticFPNModel(Section):
    """Panoptic FPN: the sizes and thresholds of the network."""

    num_classes: Positive | None = None  # of the box and mask heads, with background; None: from the category table
    stuff_classes_offset: NonNegative | None = None  # None: classes in table order; see LabelSpace
    input_size: tuple[Positive, Positive, Literal[3]] = (1024, 1024, 3)
    min_level: Annotated[int, Field(ge=2, le=5)] = 2
    max_level: Annotated[int, Field(ge=2, le=7)] = 6
    backbone: Backbone = Backbone()
    decoder: Decoder = Decoder()
    anchor: Anchor = Anchor()
    rpn_head: RPNHead = RPNHead()
    detection_head: DetectionHead = DetectionHead()
    roi_generator: ROIGenerator = ROIGenerator()
    roi_sampler: ROISampler = ROISampler()
    roi_aligner: ROIAligner = ROIAligner()
    detection_generator: DetectionGenerator = DetectionGenerator()
    mask_head: MaskHead = MaskHead()
    mask_sampler: MaskSampler = MaskSampler()
    mask_roi_aligner: MaskROIAligner = MaskROIAligner()
    norm_activation: NormActivation = NormActivation()
    segmentation_model: SegmentationModel = SegmentationModel()
    panoptic_segmentation_generator: PanopticSegmentationGenerator = PanopticSegmentationGenerator()

    @model_validator(mode="after")
    def _sizes_fit(self) -> PanopticFPNModel:
        stride = 2**self.max_level
        if self.min_level > min(self.max_level, 5):
            raise ValueError(f"min_level {self.min_level} must not be above max_level {self.max_level}")
        if any(side % stride for side in self.input_size[:2]):
            raise ValueError(f"sides in input_size {list(self.input_size)} must be multiples of {stride} (2^max_level)")
        return self


class PanopticFPNLosses(Section):
    """Weights and constants of the losses."""

    rpn_huber_loss_delta: Annotated[float, Field(gt=0)] = 1 / 9
    frcnn_huber_loss_delta: Annotated[float, Field(gt=0)] = 1.0
    l2_weight_decay: Annotated[float, Field(ge=0)] = 4e-5
    rpn_score_weight: float = 1.0
    rpn_box_weight: float = 1.0
    frcnn_class_weight: float = 1.0
    frcnn_box_weight: float = 1.0
    mask_weight: float = 1.0
    instance_segmentation_weight: float = 1.0
    semantic_segmentation_weight: float = 0.5
    semantic_segmentation_ignore_label: NonNegative = 255


class PanopticFPNTargetSettings(Section):
    """Settings of the training targets."""

    rpn_match_threshold: Fraction = 0.7
    rpn_unmatched_threshold: Fraction = 0.3
    rpn_batch_size_per_im: Positive = 256
    rpn_fg_fraction: Fraction = 0.5
    mask_crop_size: Positive = 112
