"""Learning rates that differ between the variables of a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from panoptic_cli.config.schema import AdamW, LayerDecay
from panoptic_cli.models.network import PanopticNetwork


class ParameterGroup(NamedTuple):
    """How the learning rate of a variable follows from the schedule.

    Attributes:
        of_backbone: whether it follows the schedule of the backbone.
        factor: what the rate is multiplied with.
    """

    of_backbone: bool
    factor: float


def parameter_groups(network: PanopticNetwork, decay: LayerDecay) -> list[ParameterGroup]:
    """Returns the group of each trainable variable of a network, in their order.

    Layer i of the backbone, of n, has the factor rate^(n - 1 - i); everything else has 1.

    Args:
        network: its backbone is divided by `backbone_layers`.
        decay: the rate.
    """
    layers = network.backbone_layers()
    groups = {}
    for place, variables in enumerate(layers):
        above = len(layers) - 1 - place
        factor = 1.0 if above < decay.full_rate_layers else decay.rate**above
        groups.update({id(variable): ParameterGroup(True, factor) for variable in variables})
    return [groups.get(id(variable), ParameterGroup(False, 1.0)) for variable in network.trainable_variables]


class SummedGradients:
    """An optimizer whose gradients are already summed over the replicas.

    Keras sums them too, but only after each replica has clipped its own and looked for infinities. The training step
    needs the sum before both.
    """

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> list[Any]:
        return list(grads_and_vars)


class GroupedAdamW(SummedGradients, keras.optimizers.Adam):
    """AdamW (arXiv 1711.05101) with a learning rate for each variable.

    Weight decay applies to every variable, biases and normalisations too, with the variable's own rate. As in the paper
    and in PyTorch, and unlike in Keras' AdamW, `epsilon` is added to the root of the corrected second moment: with
    gradients clipped to a norm of 0.01 it is not negligible.

    Args:
        config: moments, epsilon and weight decay.
        schedule: the rate of everything but the backbone; it is the optimizer's `learning_rate`.
        backbone: the rate of the backbone.
        groups: the group of each variable, in the order in which `build` gets them.
        name: the optimizer's name.
    """

    def __init__(
        self,
        config: AdamW,
        schedule: keras.optimizers.schedules.LearningRateSchedule,
        backbone: keras.optimizers.schedules.LearningRateSchedule,
        groups: Sequence[ParameterGroup],
        name: str,
    ) -> None:
        super().__init__(
            schedule, beta_1=config.beta_1, beta_2=config.beta_2, epsilon=config.epsilon, weight_decay=None, name=name
        )
        self._decay_rate = config.weight_decay_rate
        self._backbone = backbone
        self._groups = list(groups)

    def _backend_update_step(self, grads: Any, trainable_variables: Any, learning_rate: Any) -> None:
        """Computes once what all variables share: both rates, and the corrections of both moments."""
        step = ops.cast(self.iterations + 1, "float32")
        shared = [
            ops.cast(learning_rate, "float32"),
            ops.cast(self._backbone(self.iterations), "float32"),
            1.0 - ops.power(float(self.beta_1), step),
            1.0 - ops.power(float(self.beta_2), step),
        ]
        super()._backend_update_step(grads, trainable_variables, ops.stack(shared))

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Updates one variable; `learning_rate` is what `_backend_update_step` computed."""
        rate, of_backbone, first_correction, second_correction = ops.unstack(ops.cast(learning_rate, variable.dtype), 4)
        place = self._get_variable_index(variable)
        group = self._groups[place]
        rate = (of_backbone if group.of_backbone else rate) * group.factor
        gradient = ops.cast(gradient, variable.dtype)
        first, second = self._momentums[place], self._velocities[place]
        self.assign_add(first, (gradient - first) * (1 - self.beta_1))
        self.assign_add(second, (ops.square(gradient) - second) * (1 - self.beta_2))
        spread = ops.sqrt(second / second_correction)
        self.assign_sub(
            variable, rate * (self._decay_rate * variable + first / first_correction / (spread + self.epsilon))
        )
