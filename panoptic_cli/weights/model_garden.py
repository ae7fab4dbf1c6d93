"""Checkpoints of tensorflow/models (official/projects/panoptic and official/vision's ResNet), by their object graph.

A TensorFlow 2 checkpoint stores the graph of Python objects that owned the variables. A variable is found by
walking attribute names from the root, which says what it is; its key in the file is only looked up at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2

from panoptic_cli.errors import RunError, summarize
from panoptic_cli.models.panoptic_fpn.fpn import FeaturePyramid
from panoptic_cli.models.panoptic_fpn.network import PanopticFPN
from panoptic_cli.models.panoptic_fpn.resnet import ResNet
from panoptic_cli.models.panoptic_fpn.semantic_head import SemanticHead
from panoptic_cli.weights.loaded import Loaded

_GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
_HEADS = ("decoder", "rpn_head", "detection_head", "mask_head", "segmentation_head")


def load(network: PanopticFPN, prefix: str, *, allow_backbone_only: bool = False) -> Loaded:
    """Loads a checkpoint into the network; nothing is changed unless everything fits.

    Args:
        network: the built network.
        prefix: the checkpoint's prefix, local or gs://.
        allow_backbone_only: accept a checkpoint that holds a classification ResNet.

    Raises:
        RunError: the file cannot be read, or variables are missing, left over or of another shape; lists them.
    """
    graph = _ObjectGraph(prefix)
    root = graph.find_model()
    # A checkpoint without heads is a classifier's: its ResNet is the backbone.
    backbone_only = allow_backbone_only and all(graph.child(root, name) is None for name in _HEADS)
    expected = dict(_backbone(network.backbone))
    if not backbone_only:
        expected.update(_heads(network))

    problems: list[str] = []
    assignments: list[tuple[Any, str]] = []
    for path, variable in expected.items():
        key = graph.variable_key(root, path)
        if key is None:
            problems.append(f"{path} is not in the checkpoint")
            continue
        shape = graph.shape(key)
        if tuple(shape) != tuple(variable.shape):
            problems.append(f"{path} is {list(shape)} in the checkpoint and {list(variable.shape)} here")
            continue
        assignments.append((variable, key))
    known = set(expected)
    parts = ("backbone",) if backbone_only else ("backbone", *_HEADS)
    problems += [
        f"{path} is in the checkpoint only"
        for part in parts
        for path in graph.variable_paths(root, part)
        if path not in known
    ]
    if problems:
        raise RunError(
            f"The checkpoint {prefix} does not fit the configured network: {summarize(problems, len(problems))}.",
            "Check the backbone, the levels and the numbers of classes (--set task.model....).",
        )
    values = [graph.read(key) for _, key in assignments]  # all of them before the first is assigned
    for (variable, _), value in zip(assignments, values, strict=True):
        variable.assign(value)
    parameters = sum(int(np.prod(variable.shape)) for variable, _ in assignments)
    return Loaded(prefix, len(assignments), parameters, backbone_only, graph.step())


class _ObjectGraph:
    """The object graph of a checkpoint file and its tensors."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        try:
            self._reader = tf.train.load_checkpoint(prefix)
            proto = trackable_object_graph_pb2.TrackableObjectGraph()
            proto.ParseFromString(self._reader.get_tensor(_GRAPH_KEY))
        except Exception as error:  # the reader raises a different class for every kind of damage
            reason = " ".join(str(error).split())[:300]
            raise RunError(
                f"The checkpoint {prefix} cannot be read as an object-based TensorFlow 2 checkpoint: {reason}.",
                "Give a checkpoint of panoptic train or of tensorflow/models.",
            ) from None
        self._nodes = proto.nodes
        self._shapes = self._reader.get_variable_to_shape_map()

    def child(self, node: int, name: str) -> int | None:
        """Returns the node that `node` holds under an attribute name."""
        for reference in self._nodes[node].children:
            if reference.local_name == name:
                return int(reference.node_id)
        return None

    def find_model(self) -> int:
        """Returns the node whose attributes are the parts of the network."""
        model = self.child(0, "model")
        for node in (0, model):
            if node is not None and self.child(node, "backbone") is not None:
                return node
        raise RunError(
            f"The checkpoint {self.prefix} holds no 'backbone'.",
            "Give a checkpoint of panoptic train, of the reference's panoptic models or of its ResNet classifiers.",
        )

    def variable_key(self, node: int, path: str) -> str | None:
        """Walks a path of attribute names and returns the key of the variable there."""
        current: int | None = node
        for name in path.split("/"):
            current = self.child(current, name) if current is not None else None
        if current is None:
            return None
        for attribute in self._nodes[current].attributes:
            if attribute.name == "VARIABLE_VALUE":
                return str(attribute.checkpoint_key)
        return None

    def variable_paths(self, node: int, part: str) -> Iterator[str]:
        """Yields the shortest path of every variable below a part of the network."""
        start = self.child(node, part)
        if start is None:
            return
        seen, queue = {start}, [(start, part)]
        while queue:
            current, path = queue.pop(0)
            if any(a.name == "VARIABLE_VALUE" for a in self._nodes[current].attributes):
                yield path
            # Functional models list a layer under several names; the one with weights is the stable one.
            children = sorted(
                self._nodes[current].children, key=lambda c: not c.local_name.startswith("layer_with_weights")
            )
            for reference in children:
                if reference.node_id not in seen:
                    seen.add(reference.node_id)
                    queue.append((reference.node_id, f"{path}/{reference.local_name}"))

    def shape(self, key: str) -> list[int]:
        """Returns the shape of a stored tensor."""
        return list(self._shapes[key])

    def read(self, key: str) -> np.ndarray:
        """Returns a stored tensor.

        Raises:
            RunError: the file that holds it is missing or damaged.
        """
        try:
            return np.asarray(self._reader.get_tensor(key))
        except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as error:
            reason = " ".join(str(error).split())[:300]
            raise RunError(
                f"The checkpoint {self.prefix} cannot be read: {reason}.", "It may be damaged: fetch it again."
            ) from None

    def step(self) -> int | None:
        """Returns the global step, where it is stored."""
        for name in ("global_step", "optimizer/iter", "optimizer/iterations"):
            key = self.variable_key(0, name)
            if key is not None and key in self._shapes:
                return int(self.read(key))
        return None


def _weights(layer: keras.layers.Layer, path: str) -> Iterator[tuple[str, Any]]:
    for variable in layer.weights:
        yield f"{path}/{variable.path.rsplit('/', 1)[-1]}", variable


def _backbone(backbone: ResNet) -> Iterator[tuple[str, Any]]:
    """Yields (path in the checkpoint, our variable) of the ResNet: stem, then the blocks in order."""
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


def _heads(network: PanopticFPN) -> Iterator[tuple[str, Any]]:
    """Yields (path in the checkpoint, our variable) of everything behind the backbone."""
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


# The reference's pyramid and its semantic fusion are functional Keras models, whose layers are numbered by their
# depth (the longest way to an output), deepest first, and within a depth in the order in which a walk back from the
# outputs, lowest level first, meets them.


def _decoder_order(decoder: FeaturePyramid) -> list[keras.layers.Layer]:
    laterals, outputs, coarser, norms = decoder.laterals, decoder.outputs, decoder.coarser, decoder.norms
    top = max(laterals)
    order = [laterals[level] for level in sorted(laterals, reverse=True)]
    if coarser:
        # Each coarser level hangs on the one before, so the output at the top and the lower ones lie deeper.
        order.append(outputs[top])
        order.extend(coarser[level] for level in sorted(coarser)[:-1])
        order.extend(outputs[level] for level in sorted(outputs) if level != top)
        order.append(coarser[max(coarser)])
    else:
        order.extend(outputs[level] for level in sorted(outputs))
    return order + [norms[level] for level in sorted(norms)]


def _semantic_order(head: SemanticHead) -> list[keras.layers.Layer]:
    """Every step of a branch is convolution, norm, ReLU and, but at the lowest level, the operations of upsampling.

    How many operations those are does not matter as long as they are at least two.
    """
    placed: list[tuple[int, int, keras.layers.Layer]] = []
    for branch, (level, convs, norms) in enumerate(zip(head.levels, head.convs, head.norms, strict=True)):
        length = 3 if level == head.levels[0] else 5
        for step, (conv, norm) in enumerate(zip(convs, norms, strict=True)):
            behind = (len(convs) - 1 - step) * length
            placed.append((behind + length, branch, conv))
            placed.append((behind + length - 1, branch, norm))
    return [layer for _, _, layer in sorted(placed, key=lambda item: (-item[0], item[1]))]
