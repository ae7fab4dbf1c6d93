"""The experiment configuration: typed, frozen, with the reference's three parts and field names.

Field names follow `official/projects/panoptic` of tensorflow/models where both have the same setting, so that
overrides written for it work here. The defaults are those of its experiment `panoptic_fpn_coco`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from panoptic_cli.config.eomt import Eomt
from panoptic_cli.config.panoptic_fpn import PanopticFPNLosses, PanopticFPNModel, PanopticFPNTargetSettings
from panoptic_cli.config.section import Fraction, NonNegative, Positive, Section


class Model(PanopticFPNModel):
    """The network: its family and the fields of that family.

    The fields of Panoptic FPN stand here, where the reference has them; those of EoMT in a section of their own. Only
    those of the chosen type are used, and written.
    """

    type: Literal["panoptic_fpn", "eomt"] = "panoptic_fpn"
    eomt: Eomt = Eomt()

    @model_serializer(mode="wrap")
    def _of_the_type(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        used = {"type", "eomt"} if self.type == "eomt" else type(self).model_fields.keys() - {"eomt"}
        return {key: value for key, value in serialize(self).items() if key in used}


class Parser(PanopticFPNTargetSettings):
    """Augmentation and training targets."""

    aug_rand_hflip: bool = False
    aug_scale_min: Annotated[float, Field(gt=0)] = 1.0
    aug_scale_max: Annotated[float, Field(gt=0)] = 1.0
    skip_crowd_during_training: bool = True
    max_num_instances: Positive = 100

    @model_validator(mode="after")
    def _scales_in_order(self) -> Parser:
        if self.aug_scale_min > self.aug_scale_max:
            raise ValueError("aug_scale_min must not be above aug_scale_max")
        return self


class Data(Section):
    """The training records and how they are read."""

    input_path: str = ""  # glob patterns of TFRecord shards, separated by commas
    global_batch_size: Positive = 64
    shuffle_buffer_size: Positive = 1000  # serialised records
    seed: int | None = None  # None: trainer.seed
    parser: Parser = Parser()


class ValidationData(Section):
    """The evaluation records and how they are read."""

    input_path: str = ""  # as for training
    global_batch_size: Positive = 8  # across all GPUs; a CPU processes one picture at a time


class Task(Section):
    """Network, losses and data."""

    init_checkpoint: str | None = None  # None: random weights
    init_categories: str | None = None  # file with the categories of init_checkpoint; None: those that it names
    strict_init: bool = False  # whether every variable of init_checkpoint has to fit
    freeze_backbone: bool = False  # the whole backbone; for a part of it: model.backbone.resnet.freeze_at
    annotation_file: str | None = None  # COCO instances JSON for box and mask AP; None: from the records
    categories_file: str | None = None  # None: categories.json beside the training records
    model: Model = Model()
    losses: PanopticFPNLosses = PanopticFPNLosses()
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
    epsilon: Annotated[float, Field(gt=0)] = 1e-7
    weight_decay_rate: Annotated[float, Field(ge=0)] = 0.0
    global_clipnorm: Annotated[float, Field(gt=0)] | None = None


class Optimizer(Section):
    """The optimizer; only the section of the chosen type is used."""

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
    """Cosine decay from the initial rate to alpha times that rate over decay_steps (None: all steps)."""

    initial_learning_rate: Annotated[float, Field(gt=0)] = 0.12
    decay_steps: Positive | None = None
    alpha: Fraction = 0.0


class Polynomial(Section):
    """Decay from the initial to the last rate over decay_steps (None: all steps): (1 - step / decay_steps)^power."""

    initial_learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    decay_steps: Positive | None = None
    end_learning_rate: Annotated[float, Field(ge=0)] = 0.0
    power: Annotated[float, Field(gt=0)] = 1.0


class LearningRate(Section):
    """The learning rate schedule; only the section of the chosen type is used."""

    type: Literal["stepwise", "cosine", "polynomial"] = "stepwise"
    polynomial: Polynomial = Polynomial()
    stepwise: Stepwise = Stepwise()
    cosine: Cosine = Cosine()


class Linear(Section):
    """Linear warm-up from warmup_learning_rate to the schedule's rate."""

    warmup_steps: NonNegative = 500
    warmup_learning_rate: Annotated[float, Field(ge=0)] = 0.0067


class TwoStage(Section):
    """Linear warm-up from 0, first of the heads, while the backbone rests, then of the backbone; decay comes after."""

    head_steps: NonNegative = 500
    backbone_steps: NonNegative = 1000


class Warmup(Section):
    """The warm-up; only the section of the chosen type is used."""

    type: Literal["linear", "two_stage"] | None = "linear"
    linear: Linear = Linear()
    two_stage: TwoStage = TwoStage()

    @property
    def steps(self) -> int:
        """The optimizer steps until all rates have been at their highest."""
        if self.type == "linear":
            return self.linear.warmup_steps
        return 0 if self.type is None else self.two_stage.head_steps + self.two_stage.backbone_steps


class LayerDecay(Section):
    """Smaller learning rates for the first layers of the backbone (arXiv 2106.08254): rate^(layers above)."""

    rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    full_rate_layers: NonNegative = 0  # the last layers, which keep the whole rate


class EMA(Section):
    """Exponential moving average of the weights, which is evaluated and exported instead of them."""

    average_decay: Fraction | None = None  # fraction of the old average kept in each step; None: no average
    start_step: NonNegative = 0  # until then, the average equals the weights
    dynamic_decay: bool = True  # at most (1 + n) / (10 + n), n steps after start_step: short runs get an average, too


class OptimizerConfig(Section):
    """Optimizer, moving average, learning rate and warm-up."""

    optimizer: Optimizer = Optimizer()
    ema: EMA = EMA()
    learning_rate: LearningRate = LearningRate()
    warmup: Warmup = Warmup()
    layer_decay: LayerDecay = LayerDecay()

    @property
    def by_group(self) -> bool:
        """Whether the rate differs between the variables."""
        return self.layer_decay.rate < 1 or self.warmup.type == "two_stage"

    @model_validator(mode="after")
    def _groups_fit(self) -> OptimizerConfig:
        if self.by_group and self.optimizer.type != "adamw":
            raise ValueError("layer_decay and a warmup of type two_stage need optimizer.type adamw")
        if self.warmup.type == "two_stage" and self.learning_rate.type != "polynomial":
            raise ValueError("a warmup of type two_stage needs learning_rate.type polynomial")
        return self


def _some_or_all(steps: int) -> int:
    if steps < -1 or steps == 0:
        raise ValueError(f"must be -1 for all batches, or at least 1, not {steps}")
    return steps


_Batches = Annotated[int, AfterValidator(_some_or_all)]


class EarlyStopping(Section):
    """Ends the training when PQ no longer rises; see runs.plateau."""

    patience: Positive | None = None  # evaluations without a gain; None: train all steps
    min_delta: Fraction = 0.0  # the smallest gain in PQ (0..1) that counts


class Trainer(Section):
    """Steps and intervals, all counted in optimizer steps."""

    train_steps: Positive = 22500
    gradient_accumulation_steps: Positive = 1  # batches per optimizer step
    steps_per_loop: Positive = 1  # steps per call into TensorFlow
    recompute: bool = False  # computes the blocks of a transformer again for the gradient: less memory, more time
    summary_interval: Positive = 20
    checkpoint_interval: Positive = 1000
    max_to_keep: Positive = 5
    validation_interval: NonNegative | None = None  # steps between evaluations; 0 or None: none
    validation_steps: _Batches | None = None  # of validation_data; -1 or None: all
    early_stopping: EarlyStopping = EarlyStopping()
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
    """One experiment: everything that determines what a run computes."""

    experiment: str = ""  # name of the preset it came from
    task: Task = Task()
    trainer: Trainer = Trainer()
    runtime: Runtime = Runtime()

    @model_validator(mode="after")
    def _recompute_applies(self) -> Experiment:
        if self.trainer.recompute and self.task.model.type != "eomt":
            raise ValueError("trainer.recompute applies to networks with task.model.type eomt only")
        return self

    @property
    def pictures_per_step(self) -> int:
        """How many pictures an optimizer step sees: the batch size times the number of accumulated batches."""
        return self.task.train_data.global_batch_size * self.trainer.gradient_accumulation_steps

    @property
    def data_seed(self) -> int:
        """The seed for shuffling and augmentation."""
        seed = self.task.train_data.seed
        return self.trainer.seed if seed is None else seed
