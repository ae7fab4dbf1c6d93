"""The configuration of the model family EoMT (arXiv 2503.19108): network, losses and thresholds of the fusion.

Fields have the names of Hugging Face's config.json, for both of its kinds. The defaults are those of its large model at
640 pixels. Which classes are stuff is a matter of the category table.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from panoptic_cli.config.section import Fraction, NonNegative, Positive, Section

Activation = Literal["gelu", "gelu_pytorch_tanh", "silu", "relu"]
_NonNegativeFloat = Annotated[float, Field(ge=0)]
_AboveOne = Annotated[float, Field(gt=1)]


class Eomt(Section):
    """EoMT: a plain vision transformer whose last blocks also process queries, one for each possible segment."""

    # eomt: positions are learned (DINOv2); eomt_dinov3: positions rotate queries and keys (DINOv3)
    model_type: Literal["eomt", "eomt_dinov3"] = "eomt"
    image_size: Positive = 640  # height and width of the network's input in pixels
    patch_size: Positive = 16
    hidden_size: Positive = 1024
    num_hidden_layers: Positive = 24
    num_attention_heads: Positive = 16
    num_register_tokens: NonNegative = 4
    num_queries: Positive = 200
    num_blocks: Positive = 4  # the last blocks, which process queries
    num_upscale_blocks: NonNegative = 2  # each doubles the size of the masks: patch_size / 2^n pixels a cell
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0  # width of the MLP over hidden_size
    intermediate_size: Positive | None = None  # width of the MLP of eomt_dinov3; None: from mlp_ratio
    hidden_act: Activation = "gelu"
    use_swiglu_ffn: bool = False  # eomt: an MLP with a gate, two thirds as wide, always with SiLU
    use_gated_mlp: bool = False  # eomt_dinov3: an MLP with a gate
    query_bias: bool = True
    key_bias: bool = True  # False in DINOv3
    value_bias: bool = True
    proj_bias: bool = True
    mlp_bias: bool = True
    layer_norm_eps: Annotated[float, Field(gt=0)] = 1e-6
    rope_theta: Annotated[float, Field(gt=0)] = 100.0  # eomt_dinov3: base of the frequencies
    # eomt_dinov3, in training: positions are moved by up to `shift`, and multiplied by factors between 1 / f and f, a
    # factor for each axis (jitter) and one for both (rescale)
    pos_embed_shift: _NonNegativeFloat | None = None
    pos_embed_jitter: _AboveOne | None = None
    pos_embed_rescale: _AboveOne | None = 2.0
    initializer_range: Annotated[float, Field(gt=0)] = 0.02  # standard deviation of random weights
    layerscale_value: float = 1.0  # of random weights
    drop_path_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0  # probability that training skips half a block

    class_weight: _NonNegativeFloat = 2.0
    mask_weight: _NonNegativeFloat = 5.0
    dice_weight: _NonNegativeFloat = 5.0
    no_object_weight: _NonNegativeFloat = 0.1
    train_num_points: Positive = 12544  # places of a mask that the losses compare
    oversample_ratio: Annotated[float, Field(ge=1)] = 3.0  # candidates for each place
    importance_sample_ratio: Fraction = 0.75  # share of the places that are the most uncertain candidates

    # In training, a query attends to the patches of its own mask, first in all blocks, then in fewer and fewer: the
    # optimizer steps at which each block begins and ends to give it up; None: after one to four sixths of the training
    attn_mask_annealing_start_steps: tuple[NonNegative, ...] | None = None
    attn_mask_annealing_end_steps: tuple[NonNegative, ...] | None = None

    threshold: Fraction = 0.8  # queries with a higher score become segments
    mask_threshold: Fraction = 0.5  # probability from which on a pixel belongs to a query's mask
    overlap_mask_area_threshold: Fraction = 0.8  # share of its mask that a segment must keep

    @property
    def grid_size(self) -> int:
        """Number of patches along a side of the input."""
        return self.image_size // self.patch_size

    @property
    def head_dim(self) -> int:
        """Number of channels of an attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def rotary(self) -> bool:
        """Whether positions rotate queries and keys; otherwise they are learned."""
        return self.model_type == "eomt_dinov3"

    @property
    def gated(self) -> bool:
        """Whether the MLP has a gate."""
        return self.use_gated_mlp if self.rotary else self.use_swiglu_ffn

    @property
    def gate_activation(self) -> Activation:
        """The activation of a gate: always SiLU in eomt."""
        return self.hidden_act if self.rotary else "silu"

    @property
    def mlp_size(self) -> int:
        """Width of the MLP."""
        if self.rotary and self.intermediate_size is not None:
            return self.intermediate_size
        width = int(self.hidden_size * self.mlp_ratio)
        # As DINOv2 does: two thirds, because the gate is a third matrix, in multiples of 8.
        return (width * 2 // 3 + 7) // 8 * 8 if self.use_swiglu_ffn else width

    def annealing_steps(self, train_steps: int) -> tuple[list[int], list[int]]:
        """Returns the steps at which each block with queries begins and ends to give up its masks.

        Unless they are set, the first block begins after a sixth of the training, the last one after four sixths, and
        each takes a sixth, as the authors' do.

        Args:
            train_steps: length of the training.
        """
        starts, ends = self.attn_mask_annealing_start_steps, self.attn_mask_annealing_end_steps
        if starts is not None and ends is not None:
            return list(starts), list(ends)
        sixth = train_steps / 6
        shares = [3 * place / max(self.num_blocks - 1, 1) for place in range(self.num_blocks)]
        return [int(sixth * (1 + x) + 0.5) for x in shares], [int(sixth * (2 + x) + 0.5) for x in shares]

    @model_validator(mode="after")
    def _sizes_fit(self) -> Eomt:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} must be a multiple of patch_size {self.patch_size}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of num_attention_heads {self.num_attention_heads}"
            )
        if self.num_blocks > self.num_hidden_layers:
            raise ValueError(
                f"num_blocks {self.num_blocks} must not be above num_hidden_layers {self.num_hidden_layers}"
            )
        if self.rotary and self.head_dim % 4:
            raise ValueError(f"hidden_size / num_attention_heads is {self.head_dim}, but must be a multiple of 4")
        return self

    @model_validator(mode="after")
    def _annealing_fits(self) -> Eomt:
        starts, ends = self.attn_mask_annealing_start_steps, self.attn_mask_annealing_end_steps
        if (starts is None) != (ends is None):
            raise ValueError("attn_mask_annealing_start_steps and attn_mask_annealing_end_steps go together")
        if starts is not None and ends is not None:
            if len(starts) != self.num_blocks or len(ends) != self.num_blocks:
                raise ValueError(f"attn_mask_annealing_..._steps must have num_blocks = {self.num_blocks} numbers")
            if any(start > end for start, end in zip(starts, ends, strict=True)):
                raise ValueError("attn_mask_annealing_end_steps must not be below attn_mask_annealing_start_steps")
        return self

    @model_validator(mode="after")
    def _fields_apply(self) -> Eomt:
        if self.rotary and self.use_swiglu_ffn:
            raise ValueError("use_swiglu_ffn applies to model_type eomt only; use_gated_mlp is that of eomt_dinov3")
        if not self.rotary and self.use_gated_mlp:
            raise ValueError("use_gated_mlp applies to model_type eomt_dinov3 only; use_swiglu_ffn is that of eomt")
        if not self.rotary and self.intermediate_size is not None:
            raise ValueError("intermediate_size applies to model_type eomt_dinov3 only; use mlp_ratio")
        return self
