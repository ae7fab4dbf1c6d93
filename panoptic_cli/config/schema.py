"""The experiment configuration: typed, frozen, with the reference's three parts and field names.

Field names follow `official/projects/panoptic` of tensorflow/models where both have the same thing, so that
override lines written for it work here. Defaults are those of its experiment `panoptic_fpn_coco`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    """A part of the tree: frozen, and every key must be known."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


class ResNet(Section):
    """Residual network v1.5 (arXiv 1512.03385, stride on the 3x3)."""

    model_id: Literal[18, 34, 50, 101, 152] = 50
    depth_multiplier: Annotated[float, Field(gt=0)] = 1.0  # scales the filters of every layer
    freeze_at: Annotated[int, Field(ge=0, le=5)] = 0  # stages up to here keep their weights: 1 stem, 2-5 levels, 0 none


class Backbone(Section):
    """The feature extractor."""

    type: Literal["resnet"] = "resnet"
    resnet: ResNet = ResNet()


class FPN(Section):
    """Feature pyramid (arXiv 1612.03144)."""

    num_filters: Positive = 256


class Decoder(Section):
    """What makes the feature pyramid from the backbone's levels."""

    type: Literal["fpn"] = "fpn"
    fpn: FPN = FPN()


class Anchor(Section):
    """Anchors of size anchor_size * 2^level (pixels of the network's input) at every place of a level."""

    num_scales: Positive = 1
    aspect_ratios: tuple[Annotated[float, Field(gt=0)], ...] = (0.5, 1.0, 2.0)  # width / height
    anchor_size: Annotated[float, Field(gt=0)] = 8.0


class RPNHead(Section):
    """Region proposal head, shared by the levels."""

    num_convs: Positive = 1
    num_filters: Positive = 256


class DetectionHead(Section):
    """Box head: convolutions, then fully connected layers."""

    num_convs: NonNegative = 4
    num_filters: Positive = 256
    num_fcs: NonNegative = 1
    fc_dims: Positive = 1024


class ROIGenerator(Section):
    """From RPN scores to proposals; the `test_` fields are those of inference."""

    pre_nms_top_k: Positive = 2000
    pre_nms_score_threshold: Fraction = 0.0
    nms_iou_threshold: Fraction = 0.7
    num_proposals: Positive = 1000
    test_pre_nms_top_k: Positive = 1000
    test_pre_nms_score_threshold: Fraction = 0.0
    test_nms_iou_threshold: Fraction = 0.7
    test_num_proposals: Positive = 1000


class ROISampler(Section):
    """Which proposals the box and mask heads are trained on."""

    mix_gt_boxes: bool = True
    num_sampled_rois: Positive = 512
    foreground_fraction: Fraction = 0.25
    foreground_iou_threshold: Fraction = 0.5
    background_iou_high_threshold: Fraction = 0.5
    background_iou_low_threshold: Fraction = 0.0


class ROIAligner(Section):
    """Crops of the box head."""

    crop_size: Positive = 7
    sample_offset: Fraction = 0.5


class DetectionGenerator(Section):
    """From class scores and boxes to detections."""

    pre_nms_top_k: Positive = 5000
    pre_nms_score_threshold: Fraction = 0.05
    nms_iou_threshold: Fraction = 0.5
    max_num_detections: Positive = 100


class MaskHead(Section):
    """Mask head: convolutions, then a transposed one that doubles the size."""

    num_convs: NonNegative = 4
    num_filters: Positive = 256


class MaskSampler(Section):
    """How many foreground ROIs of an image the mask head is trained on."""

    num_sampled_masks: Positive = 128


class MaskROIAligner(ROIAligner):
    """Crops of the mask head; the masks are twice this size."""

    crop_size: Positive = 14


class NormActivation(Section):
    """Batch normalisation."""

    norm_momentum: Fraction = 0.997
    norm_epsilon: Annotated[float, Field(gt=0)] = 1e-4
    use_sync_bn: bool = True


class SegmentationHead(Section):
    """Semantic head (arXiv 1901.02446, section 3.1)."""

    num_filters: Positive = 128


class SegmentationModel(Section):
    """The semantic branch."""

    num_classes: Positive | None = None  # void, thing and stuff; None: from the category table
    head: SegmentationHead = SegmentationHead()


class PanopticSegmentationGenerator(Section):
    """How things and stuff become one picture."""

    mask_binarize_threshold: Fraction = 0.5
    score_threshold: Fraction = 0.5
    things_overlap_threshold: Fraction = 0.5
    stuff_area_threshold: Annotated[float, Field(ge=0)] = 4096.0  # pixels of the original picture


class Model(Section):
    """The network."""

    num_classes: Positive | None = None  # of the box and mask heads with background; None: from the category table
    stuff_classes_offset: NonNegative | None = None  # None: classes in table order; see categories.LabelSpace
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
    def _sizes_fit(self) -> Model:
        stride = 2**self.max_level
        if self.min_level > min(self.max_level, 5):
            raise ValueError(f"min_level {self.min_level} must not be above max_level {self.max_level}")
        if any(side % stride for side in self.input_size[:2]):
            raise ValueError(f"input_size {list(self.input_size)} must be multiples of {stride} (2^max_level)")
        return self


class Losses(Section):
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


class Parser(Section):
    """Augmentation and training targets."""

    aug_rand_hflip: bool = False
    aug_scale_min: Annotated[float, Field(gt=0)] = 1.0
    aug_scale_max: Annotated[float, Field(gt=0)] = 1.0
    skip_crowd_during_training: bool = True
    max_num_instances: Positive = 100
    rpn_match_threshold: Fraction = 0.7
    rpn_unmatched_threshold: Fraction = 0.3
    rpn_batch_size_per_im: Positive = 256
    rpn_fg_fraction: Fraction = 0.5
    mask_crop_size: Positive = 112

    @model_validator(mode="after")
    def _scales_in_order(self) -> Parser:
        if self.aug_scale_min > self.aug_scale_max:
            raise ValueError("aug_scale_min must not be above aug_scale_max")
        return self


class Data(Section):
    """Where records are and how they are read."""

    input_path: str = ""  # glob patterns of TFRecord shards, several with commas
    global_batch_size: Positive = 64
    shuffle_buffer_size: Positive = 1000  # serialized records
    seed: int | None = None  # None: trainer.seed
    parser: Parser = Parser()


class ValidationData(Section):
    """Where the records of the evaluation are."""

    input_path: str = ""  # as for training
    global_batch_size: Positive = 8  # over all GPUs; a CPU takes one picture at a time


class Task(Section):
    """Network, losses and data."""

    init_checkpoint: str | None = None  # None: from random weights
    freeze_backbone: bool = False  # all of it; parts: model.backbone.resnet.freeze_at
    annotation_file: str | None = None  # COCO instances JSON for box and mask AP; None: from the records
    categories_file: str | None = None  # None: categories.json beside the training records
    model: Model = Model()
    losses: Losses = Losses()
    train_data: Data = Data()
    validation_data: ValidationData = ValidationData()


class SGD(Section):
    """Stochastic gradient descent with momentum."""

    momentum: Fraction = 0.9
    nesterov: bool = False
    global_clipnorm: Annotated[float, Field(gt=0)] | None = None


class AdamW(Section):
    """Adam with decoupled weight decay."""

    beta_1: Fraction = 0.9
    beta_2: Fraction = 0.999
    weight_decay_rate: Annotated[float, Field(ge=0)] = 0.0
    global_clipnorm: Annotated[float, Field(gt=0)] | None = None


class Optimizer(Section):
    """The optimizer; the section of the chosen type counts."""

    type: Literal["sgd", "adamw"] = "sgd"
    sgd: SGD = SGD()
    adamw: AdamW = AdamW()


class Stepwise(Section):
    """Piecewise constant rate: values[i] up to and including step boundaries[i]."""

    boundaries: tuple[Positive, ...] = (15000, 20000)
    values: tuple[Annotated[float, Field(ge=0)], ...] = (0.12, 0.012, 0.0012)

    @model_validator(mode="after")
    def _one_more_value(self) -> Stepwise:
        if len(self.values) != len(self.boundaries) + 1:
            raise ValueError(f"{len(self.boundaries)} boundaries need {len(self.boundaries) + 1} values")
        if list(self.boundaries) != sorted(set(self.boundaries)):
            raise ValueError("boundaries must increase")
        return self


class Cosine(Section):
    """Half a cosine from the initial rate to alpha times it, over decay_steps (None: all steps)."""

    initial_learning_rate: Annotated[float, Field(gt=0)] = 0.12
    decay_steps: Positive | None = None
    alpha: Fraction = 0.0


class LearningRate(Section):
    """The schedule; the section of the chosen type counts."""

    type: Literal["stepwise", "cosine"] = "stepwise"
    stepwise: Stepwise = Stepwise()
    cosine: Cosine = Cosine()


class Linear(Section):
    """Linear warm-up from warmup_learning_rate to the schedule's rate."""

    warmup_steps: NonNegative = 500
    warmup_learning_rate: Annotated[float, Field(ge=0)] = 0.0067


class Warmup(Section):
    """The warm-up."""

    type: Literal["linear"] | None = "linear"
    linear: Linear = Linear()


class EMA(Section):
    """Exponential moving average of the weights; evaluated and exported in their place."""

    average_decay: Fraction | None = None  # share of the old average that stays in a step; None: no average
    start_step: NonNegative = 0  # until then the average is the weights themselves
    dynamic_decay: bool = True  # at most (1 + n) / (10 + n) in step n after start_step, so that short runs have one


class OptimizerConfig(Section):
    """Optimizer, rate and warm-up."""

    optimizer: Optimizer = Optimizer()
    ema: EMA = EMA()
    learning_rate: LearningRate = LearningRate()
    warmup: Warmup = Warmup()


class Trainer(Section):
    """Steps and intervals, all counted in optimizer steps."""

    train_steps: Positive = 22500
    steps_per_loop: Positive = 1  # steps of one call into TensorFlow
    summary_interval: Positive = 20
    checkpoint_interval: Positive = 1000
    max_to_keep: Positive = 5
    validation_interval: NonNegative | None = None  # steps between evaluations; 0 or None: none
    validation_steps: Positive | Literal[-1] | None = None  # batches of validation_data; -1 or None: all of it
    seed: int = 0
    optimizer_config: OptimizerConfig = OptimizerConfig()


class Runtime(Section):
    """Devices and precision."""

    distribution_strategy: Literal["auto", "one_device", "mirrored", "multi_worker_mirrored", "tpu"] = "auto"
    num_gpus: NonNegative | None = None  # None: all visible
    tpu: str | None = None
    tpu_zone: str | None = None
    tpu_project: str | None = None
    mixed_precision_dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    enable_xla: bool = False


class Experiment(Section):
    """One experiment: everything that decides what a run computes."""

    experiment: str = ""  # name of the preset it came from
    task: Task = Task()
    trainer: Trainer = Trainer()
    runtime: Runtime = Runtime()

    @property
    def data_seed(self) -> int:
        """The seed of shuffling and augmentation."""
        seed = self.task.train_data.seed
        return self.trainer.seed if seed is None else seed
