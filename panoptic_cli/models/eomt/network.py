"""EoMT (arXiv 2503.19108): a plain vision transformer; queries join its tokens before the last blocks."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from panoptic_cli.categories import CategoryTable
from panoptic_cli.config.eomt import Eomt as EomtConfig
from panoptic_cli.models.class_axes import ClassAxis
from panoptic_cli.models.eomt import class_layers, training
from panoptic_cli.models.eomt.blocks import Block
from panoptic_cli.models.eomt.checkpoint_names import hugging_face_variables
from panoptic_cli.models.eomt.embeddings import Embeddings, Queries, RotaryPositions
from panoptic_cli.models.eomt.fusion import Fusion, Thresholds
from panoptic_cli.models.eomt.heads import Heads, Prediction, gradients_in_order
from panoptic_cli.models.eomt.layers import LayerNorm
from panoptic_cli.models.eomt.losses import SegmentTargets
from panoptic_cli.models.eomt.masking import open_patches
from panoptic_cli.models.eomt.preprocessing import preprocessing_of
from panoptic_cli.models.network import PanopticNetwork, TensorDescription
from panoptic_cli.models.platform import Platform
from panoptic_cli.models.random_numbers import fold, uniform_by_picture
from panoptic_cli.models.segments import Segments
from panoptic_cli.models.stored import StoredNetwork
from panoptic_cli.pipeline.preprocessing import Geometry


class Eomt(PanopticNetwork):
    """The network. The constructor creates its variables.

    Attributes:
        config: `task.model.eomt` of the configuration.
        table: the categories; class i is the i-th of them.
        train_steps: length of the training, for the decay of masked attention.
        recompute: whether the gradient computes the blocks again, instead of keeping what is inside them.
        embeddings, blocks, norm: the transformer, which is the backbone.
        queries, heads: the other parts of the network.
        fusion: turns its outputs into segments and detections.
        rotary_positions: the positions of patches if they rotate queries and keys; None if `embeddings` adds them.
    """

    def __init__(
        self,
        config: EomtConfig,
        table: CategoryTable,
        train_steps: int = 1,
        *,
        recompute: bool = False,
        name: str = "eomt",
    ) -> None:
        super().__init__(name=name)
        self.train_steps = train_steps
        self.recompute = recompute
        self.config = config
        self.table = table
        self.preprocessing = preprocessing_of(config)
        self.fusion = Fusion(
            [category.id for category in table.categories],
            [category.isthing for category in table.categories],
            Thresholds(config.threshold, config.mask_threshold, config.overlap_mask_area_threshold),
        )
        # Every query can be a thing in the map, which is always among the detections.
        self.max_detections = max(self.fusion.num_detections, config.num_queries)
        self.rotary_positions = RotaryPositions(config) if config.rotary else None
        with keras.name_scope(self.name, caller=self):  # for the paths of variables
            self.embeddings = Embeddings(config, name="embeddings")
            self.blocks = [Block(config, name=f"block{number}") for number in range(config.num_hidden_layers)]
            self.norm = LayerNorm(config.hidden_size, config.layer_norm_eps, name="norm")
            self.queries = Queries(config, name="queries")
            self.heads = Heads(config, len(table.categories), name="heads")
        self.built = True

    def freeze_backbone(self) -> None:
        """Excludes the transformer from training."""
        layers: list[keras.layers.Layer] = [self.embeddings, *self.blocks, self.norm]
        for layer in layers:
            layer.trainable = False

    def call(self, images: tf.Tensor, geometry: Geometry, platform: Platform = "cpu") -> dict[str, tf.Tensor]:
        """Runs the network for inference, without masked attention.

        Args:
            images: float32 [batch, image_size, image_size, 3], normalised.
            geometry: not used.
            platform: what the graph is traced for; results are the same up to rounding.

        Returns:
            class_logits float32 [batch, queries, classes + 1], whose last class is "no object", and mask_logits float32
            [batch, queries, height, width], patch_size / 2^num_upscale_blocks pixels a cell.
        """
        del geometry
        x = self.embeddings(images)
        rotation = None if self.rotary_positions is None else self.rotary_positions()
        for number, block in enumerate(self.blocks):
            if number == self._first_query_block:
                x = self.queries(x)
            x = block(x, rotation=rotation, platform=platform)
        classes, masks = self.heads.logits(self.norm(x, platform=platform), self._grid(images), platform)
        return {"class_logits": classes, "mask_logits": masks}

    def predictions(
        self,
        images: tf.Tensor,
        mask_probabilities: tf.Tensor | Sequence[float],
        seed: tf.Tensor,
        platform: Platform = "cpu",
        draws: Sequence[tf.Tensor] | None = None,
        training: bool = True,
    ) -> list[Prediction]:
        """Runs the network in training mode: predicts before each of the last blocks and at the end.

        Args:
            images: float32 [batch, image_size, image_size, 3], normalised.
            mask_probabilities: float32 [num_blocks], the probability that a query's attention is masked, for each block
                that processes queries: 1 at the beginning of a training, 0 at its end.
            seed: int32 [2], the seed of all random numbers.
            platform: what the graph is traced for.
            draws: for each of these blocks, the numbers that decide it, float32 [batch, queries] in 0..1: a query is
                masked where they are at most the probability. None: random.
            training: whether gradients will be computed, with stochastic depth and changed positions as configured.

        Returns:
            num_blocks + 1 predictions. The class logits of the first do not depend on the picture.
        """
        probabilities = tf.convert_to_tensor(mask_probabilities, tf.float32)
        seeds = [fold(seed, number) for number in range(len(self.blocks) + 2)]
        rotation = None
        if self.rotary_positions is not None:
            rotation = self.rotary_positions(seeds[-1] if training else None)
        x = self.embeddings(images)
        found: list[Prediction] = []
        for number, block in enumerate(self.blocks):
            opened = None
            place = number - self._first_query_block
            if place == 0:
                x = self.queries(x)
            if place >= 0:
                x, prediction = gradients_in_order(x, self._predict(x, images, platform, training))
                found.append(prediction)
                if draws is None:
                    draw = uniform_by_picture(images.shape[0], [self.config.num_queries], fold(seeds[-2], place))
                else:
                    draw = draws[place]
                opened = open_patches(found[-1], self._grid(images), probabilities[place], draw)
            compute = functools.partial(
                block.__call__,
                rotation=rotation,
                open_patches=opened,
                seed=seeds[number] if training else None,
                platform=platform,
                training=training,
            )
            x = tf.recompute_grad(compute)(x) if self.recompute and training else compute(x)
        return [*found, self._predict(x, images, platform, training)]

    def losses(
        self, batch: Mapping[str, Any], seed: tf.Tensor, step: tf.Tensor, platform: Platform
    ) -> dict[str, tf.Tensor]:
        """Runs the network in training mode and compares its predictions with the segments.

        Args:
            batch: "images", and "segment_map" and "segment_classes" of `EomtTargets`.
            seed: int32 [2], the seed of all random numbers.
            step: int32 scalar, the optimizer steps that are done.
            platform: cpu, gpu or xla.

        Returns:
            float32 scalars: total_loss, cross_entropy_loss, mask_loss, dice_loss; see `training.training_losses`.
        """
        probabilities = training.mask_probabilities(self.config, step, self.train_steps)
        found = self.predictions(batch["images"], probabilities, fold(seed, 0), platform)
        targets = SegmentTargets(batch["segment_map"], batch["segment_classes"])
        return training.training_losses(found, targets, None, fold(seed, 1), self.config, platform)

    def backbone_layers(self) -> list[list[keras.Variable]]:
        """Returns the transformer's variables by block; the embeddings go with the first, the norm with the last."""
        layers = [list(block.variables) for block in self.blocks]
        layers[0] = [*self.embeddings.variables, *layers[0]]
        layers[-1] = [*layers[-1], *self.norm.variables]
        return layers

    def class_axes(self) -> dict[str, ClassAxis]:
        """Returns the class axes of the layer that classifies the queries."""
        return class_layers.class_axes(self.table)

    def finish(
        self, outputs: Mapping[str, tf.Tensor], geometry: Geometry, score_threshold: tf.Tensor | float | None = None
    ) -> Segments:
        """Fuses the queries of one picture; see `fusion` and `PanopticNetwork.finish`."""
        return self.fusion(outputs["class_logits"], outputs["mask_logits"], geometry, score_threshold)

    @property
    def score_threshold(self) -> float:
        """The configured threshold of `finish`."""
        return self.config.threshold

    def describe_finish(self) -> dict[str, Any]:
        """Returns the settings of the fusion."""
        return self.fusion.describe()

    def describe_outputs(self) -> dict[str, TensorDescription]:
        """Describes what `call` returns for one picture."""
        queries, classes = self.config.num_queries, len(self.table.categories)
        side = self.config.grid_size * 2**self.config.num_upscale_blocks
        return {
            "class_logits": TensorDescription(
                "float32", (1, queries, classes + 1), "scores of the classes in class_category_ids; last, of no object"
            ),
            "mask_logits": TensorDescription(
                "float32", (1, queries, side, side), "a cell belongs to the mask of a query where it is above 0"
            ),
        }

    def describe_classes(self) -> dict[str, list[int]]:
        """Returns the category id of each class."""
        return {"class_category_ids": [category.id for category in self.table.categories]}

    def hugging_face_variables(self, config: Mapping[str, Any], source: str) -> StoredNetwork:
        """Returns the variables in a folder of EoMT, or of its backbone."""
        return hugging_face_variables(self, config, source)

    @property
    def _first_query_block(self) -> int:
        return len(self.blocks) - self.config.num_blocks

    def _grid(self, images: tf.Tensor) -> tuple[int, int]:
        """Returns (height, width) in patches."""
        height, width = images.shape[1:3]
        return height // self.config.patch_size, width // self.config.patch_size

    def _predict(self, x: tf.Tensor, images: tf.Tensor, platform: Platform, training: bool = False) -> Prediction:
        x = self.norm(x, platform=platform, training=training)
        return self.heads(x, grid=self._grid(images), platform=platform, training=training)
