"""The variables of Panoptic FPN in checkpoints of tensorflow/models: their paths in the object graphs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import keras

from panoptic_cli.models.panoptic_fpn.fpn import FeaturePyramid
from panoptic_cli.models.panoptic_fpn.heads import BoxHead, MaskBranch
from panoptic_cli.models.panoptic_fpn.resnet import ResNet
from panoptic_cli.models.panoptic_fpn.rpn import RegionProposalHead
from panoptic_cli.models.panoptic_fpn.semantic_head import TARGET_LEVEL, SemanticHead


class Parts(Protocol):
    """The parts of a PanopticFPN."""

    backbone: ResNet
    decoder: FeaturePyramid
    rpn_head: RegionProposalHead
    detection_head: BoxHead
    mask_head: MaskBranch
    segmentation_head: SemanticHead


def model_garden_variables(network: Parts) -> dict[str, dict[str, Any]]:
    """Maps each part of the network to {path in the checkpoint: our variable}; the backbone comes first."""
    parts: dict[str, dict[str, Any]] = {"backbone": dict(_backbone(network.backbone))}
    for path, variable in _heads(network):
        parts.setdefault(path.partition("/")[0], {})[path] = variable
    return parts


def _weights(layer: keras.layers.Layer, path: str) -> Iterator[tuple[str, Any]]:
    for variable in layer.weights:
        yield f"{path}/{variable.path.rsplit('/', 1)[-1]}", variable


def _backbone(backbone: ResNet) -> Iterator[tuple[str, Any]]:
    """Yields (path in the checkpoint, our variable) for the ResNet: the stem, then the blocks in order."""
    yield from _weights(backbone.stem_conv, "backbone/layer_with_weights-0")
    yield from _weights(backbone.stem_norm, "backbone/layer_with_weights-1")
    for place, block in enumerate(backbone.blocks, start=2):
        path = f"backbone/layer_with_weights-{place}"
        for number, (conv, norm) in enumerate(zip(block.convs, block.norms, strict=True), start=1):
            yield from _weights(conv, f"{path}/_conv{number}")
            yield from _weights(norm, f"{path}/_norm{number}")
        if block.shortcut is not None:
            yield from _weights(block.shortcut, f"{path}/_shortcut")
            yield from _weights(block.shortcut_norm, f"{path}/_norm0")


def _heads(network: Parts) -> Iterator[tuple[str, Any]]:
    """Yields (path in the checkpoint, our variable) for everything after the backbone."""
    for place, layer in enumerate(_decoder_order(network.decoder)):
        yield from _weights(layer, f"decoder/layer_with_weights-{place}")

    rpn = network.rpn_head
    for place, conv in enumerate(rpn.convs):
        yield from _weights(conv, f"rpn_head/_convs/{place}")
    for level, norms in enumerate(rpn.norms):
        for place, norm in enumerate(norms):
            yield from _weights(norm, f"rpn_head/_norms/{level}/{place}")
    yield from _weights(rpn.classifier, "rpn_head/_classifier")
    yield from _weights(rpn.box_regressor, "rpn_head/_box_regressor")

    box, path = network.detection_head, "detection_head/0"
    for name in ("convs", "conv_norms", "fcs", "fc_norms"):
        for place, layer in enumerate(getattr(box, name)):
            yield from _weights(layer, f"{path}/_{name}/{place}")
    yield from _weights(box.classifier, f"{path}/_classifier")
    yield from _weights(box.box_regressor, f"{path}/_box_regressor")

    mask = network.mask_head
    for name in ("convs", "conv_norms"):
        for place, layer in enumerate(getattr(mask, name)):
            yield from _weights(layer, f"mask_head/_{name}/{place}")
    yield from _weights(mask.deconv, "mask_head/_deconv")
    yield from _weights(mask.deconv_norm, "mask_head/_deconv_bn")
    yield from _weights(mask.mask_regressor, "mask_head/_mask_regressor")

    semantic = network.segmentation_head
    for place, layer in enumerate(_semantic_order(semantic)):
        yield from _weights(layer, f"segmentation_head/_panoptic_fpn_fusion/layer_with_weights-{place}")
    yield from _weights(semantic.classifier, "segmentation_head/_classifier")


# The reference's pyramid and its semantic fusion are functional Keras models. Their layers are numbered by depth (the
# longest path to an output), deepest first, and within a depth in the order in which a search backwards from the
# outputs, lowest level first, reaches them.


def _decoder_order(decoder: FeaturePyramid) -> list[keras.layers.Layer]:
    laterals, outputs, coarser, norms = decoder.laterals, decoder.outputs, decoder.coarser, decoder.norms
    top = max(laterals)
    order = [laterals[level] for level in sorted(laterals, reverse=True)]
    if coarser:
        # Each coarser level depends on the previous one, so the output at the top and the lower levels are deeper.
        order.append(outputs[top])
        order.extend(coarser[level] for level in sorted(coarser)[:-1])
        order.extend(outputs[level] for level in sorted(outputs) if level != top)
        order.append(coarser[max(coarser)])
    else:
        order.extend(outputs[level] for level in sorted(outputs))
    return order + [norms[level] for level in sorted(norms)]


def _semantic_order(head: SemanticHead) -> list[keras.layers.Layer]:
    """Orders the layers as the reference does.

    Every step of a branch is a convolution, a norm, a ReLU and, except at the target level, the operations of
    upsampling. The number of these operations does not matter as long as there are at least two.
    """
    placed: list[tuple[int, int, keras.layers.Layer]] = []
    for branch, (level, convs, norms) in enumerate(zip(head.levels, head.convs, head.norms, strict=True)):
        length = 3 if level == TARGET_LEVEL else 5
        for step, (conv, norm) in enumerate(zip(convs, norms, strict=True)):
            following = (len(convs) - 1 - step) * length
            placed.append((following + length, branch, conv))
            placed.append((following + length - 1, branch, norm))
    return [layer for _, _, layer in sorted(placed, key=lambda item: (-item[0], item[1]))]
