"""Where the operations of a graph would run on a GPU, and which tensors would be copied for it.

TensorFlow registers its GPU kernels on every machine, so this needs no GPU. An operation without a GPU kernel for its
types runs on the host. Others have a GPU kernel that works in host memory (most arithmetic of int32, which TensorFlow
takes for shapes). Wherever such an operation reads a tensor that was computed on the GPU, the host waits and copies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from tensorflow.core.framework import attr_value_pb2, graph_pb2, kernel_def_pb2, node_def_pb2, op_def_pb2, types_pb2
from tensorflow.python.framework import kernels, op_def_registry

_LOOPS = {"While": ("cond", "body"), "StatelessWhile": ("cond", "body")}
_BRANCHES = {"If": ("then_branch", "else_branch"), "StatelessIf": ("then_branch", "else_branch")}
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_HANDLES = (types_pb2.DT_RESOURCE, types_pb2.DT_VARIANT, types_pb2.DT_STRING)  # always on the host
_ANYWHERE = ("NoOp", "Placeholder", "_Arg")


@dataclass(frozen=True)
class Copy:
    """A tensor that is computed on the GPU and read on the host.

    Attributes:
        node: name of the operation that reads it.
        op: its type.
        dtype: number of the tensor's type.
        source: name of the operation that computes it.
        kernel: whether the reading operation has a GPU kernel, which works in host memory.
    """

    node: str
    op: str
    dtype: int
    source: str
    kernel: bool


@cache
def _kernels(op: str) -> tuple[kernel_def_pb2.KernelDef, ...]:
    found = kernels.get_registered_kernels_for_op(op).kernel
    # Kernels of the device DEFAULT serve every device that has none of its own.
    return tuple(kernel for device in ("GPU", "DEFAULT") for kernel in found if kernel.device_type == device)


def _types(value: attr_value_pb2.AttrValue) -> list[int]:
    return list(value.list.type) if value.HasField("list") else [value.type]


def gpu_kernel(node: node_def_pb2.NodeDef) -> kernel_def_pb2.KernelDef | None:
    """Returns the GPU kernel that fits the types of an operation."""
    fitting = [
        kernel
        for kernel in _kernels(node.op)
        if all(
            set(_types(node.attr[constraint.name])) <= set(constraint.allowed_values.list.type)
            for constraint in kernel.constraint
        )
    ]
    return fitting[0] if fitting else None


def _arguments(node: node_def_pb2.NodeDef, arguments: Sequence[op_def_pb2.OpDef.ArgDef]) -> list[tuple[str, int]]:
    """Returns (name, type) of each input or output tensor of an operation."""
    found = []
    for argument in arguments:
        if argument.type_list_attr:
            types = list(node.attr[argument.type_list_attr].list.type)
        else:
            kind = node.attr[argument.type_attr].type if argument.type_attr else argument.type
            types = [kind] * (node.attr[argument.number_attr].i if argument.number_attr else 1)
        found += [(argument.name, kind) for kind in types]
    return found


class Placement:
    """Follows the tensors of a graph, its loops, branches and calls.

    Args:
        graph: the graph with its functions and shapes; its placeholders are on the GPU.
        on_host: names of the placeholders that are not.

    Attributes:
        copies: the tensors that leave the GPU.
        without_kernel: (type, name) of the operations without a GPU kernel.
        types: the types of all operations.
    """

    def __init__(self, graph: graph_pb2.GraphDef, on_host: Sequence[str] = ()) -> None:
        self.copies: list[Copy] = []
        self.without_kernel: list[tuple[str, str]] = []
        self.types: set[str] = set()
        self._on_host = set(on_host)
        self._functions = {function.signature.name: function for function in graph.library.function}
        self._walk(graph.node, {}, {})

    def _walk(
        self, nodes: Sequence[node_def_pb2.NodeDef], arguments: dict[str, bool], fetched: dict[str, str]
    ) -> dict[str, bool]:
        """Walks one graph; `arguments` says which of its inputs are on the GPU. Returns which of `fetched` are."""
        by_name = {node.name: node for node in nodes}
        on_gpu: dict[str, list[bool]] = {name: [place] for name, place in arguments.items()}
        outputs: dict[str, list[tuple[str, int]]] = {}
        constants: set[str] = set()
        for node in _sorted(nodes, by_name):
            definition = op_def_registry.get(node.op)
            outputs[node.name] = _arguments(node, definition.output_arg)
            inputs = [self._source(name, by_name, outputs) for name in node.input if not name.startswith("^")]
            places = [on_gpu[source][index] if source in on_gpu else False for source, index in inputs]
            if self._is_constant(node, definition, [source for source, _ in inputs], constants, by_name):
                constants.add(node.name)  # computed before the graph runs; the host has it
                on_gpu[node.name] = [False] * len(outputs[node.name])
                continue
            on_gpu[node.name] = self._place(node, definition, inputs, places, len(outputs[node.name]))
        result = {}
        for name, source in fetched.items():
            origin, index = self._source(source, by_name, outputs)
            result[name] = on_gpu[origin][index]
        return result

    def _is_constant(
        self,
        node: node_def_pb2.NodeDef,
        definition: op_def_pb2.OpDef,
        sources: list[str],
        constants: set[str],
        by_name: dict[str, node_def_pb2.NodeDef],
    ) -> bool:
        """Whether TensorFlow folds an operation: of constants, or the shape of a tensor whose shape is known."""
        if node.op in ("Shape", "ShapeN", "Size", "Rank"):
            return all(source in by_name and _known_shape(by_name[source]) for source in sources)
        return not definition.is_stateful and node.op not in _ANYWHERE and all(s in constants for s in sources)

    def _source(self, name: str, by_name: dict[str, Any], outputs: dict[str, list[tuple[str, int]]]) -> tuple[str, int]:
        """Resolves "node", "node:1" (graphs) and "node:output:1" (functions)."""
        parts = name.split(":")
        if parts[0] not in by_name or len(parts) == 1:
            return parts[0], 0
        if len(parts) == 2:
            return parts[0], int(parts[1])
        first = [argument for argument, _ in outputs[parts[0]]].index(parts[1])
        return parts[0], first + int(parts[2])

    def _place(
        self,
        node: node_def_pb2.NodeDef,
        definition: op_def_pb2.OpDef,
        inputs: list[tuple[str, int]],
        places: list[bool],
        count: int,
    ) -> list[bool]:
        """Records the copies of an operation, and returns which of its outputs are on the GPU."""
        if node.op in _LOOPS:
            return self._loop(node, places)
        if node.op in _BRANCHES:
            self._leave(node, inputs, places, [True] + [False] * (len(places) - 1), kernel=True)
            found = [self._call(node.attr[name].func.name, places[1:]) for name in _BRANCHES[node.op]]
            return [any(pair) for pair in zip(*found, strict=True)]
        if node.op in _CALLS:
            return self._call(node.attr["f"].func.name, places)
        self.types.add(node.op)
        if node.name in self._on_host:
            return [False] * count
        if node.op in _ANYWHERE:
            return [kind not in _HANDLES for _, kind in _arguments(node, definition.output_arg)]
        kernel = gpu_kernel(node)
        names = _arguments(node, definition.input_arg)
        if kernel is None:
            self.without_kernel.append((node.op, node.name))
            self._leave(node, inputs, places, [True] * len(places), kernel=False)
            return [False] * count
        host = set(kernel.host_memory_arg)
        self._leave(node, inputs, places, [name in host for name, _ in names], kernel=True)
        return [name not in host for name, _ in _arguments(node, definition.output_arg)]

    def _leave(
        self,
        node: node_def_pb2.NodeDef,
        inputs: list[tuple[str, int]],
        places: list[bool],
        host: list[bool],
        kernel: bool,
    ) -> None:
        definition = op_def_registry.get(node.op)
        types = [kind for _, kind in _arguments(node, definition.input_arg)]
        for (source, _), on_gpu, needed, kind in zip(inputs, places, host, types, strict=True):
            if on_gpu and needed:
                self.copies.append(Copy(node.name, node.op, kind, source, kernel))

    def _call(self, name: str, places: list[bool]) -> list[bool]:
        function = self._functions[name]
        arguments = dict(zip([argument.name for argument in function.signature.input_arg], places, strict=True))
        fetched = self._walk(function.node_def, arguments, dict(function.ret))
        return [fetched[argument.name] for argument in function.signature.output_arg]

    def _loop(self, node: node_def_pb2.NodeDef, places: list[bool]) -> list[bool]:
        condition, body = (node.attr[name].func.name for name in _LOOPS[node.op])
        outputs = self._call(body, places)
        (predicate,) = self._call(condition, outputs)
        if predicate:
            self.copies.append(Copy(node.name, node.op, 10, condition, kernel=True))
        return outputs


def _known_shape(node: node_def_pb2.NodeDef) -> bool:
    """Whether the shapes of all outputs are known; needs a graph with shapes."""
    shapes = node.attr["_output_shapes"].list.shape
    return bool(shapes) and all(not s.unknown_rank and all(d.size >= 0 for d in s.dim) for s in shapes)


def _sorted(nodes: Sequence[node_def_pb2.NodeDef], by_name: dict[str, Any]) -> Iterator[node_def_pb2.NodeDef]:
    """Yields the nodes, each after its inputs."""
    done: set[str] = set()
    for start in nodes:
        stack = [start]
        while stack:
            node = stack[-1]
            if node.name in done:
                stack.pop()
                continue
            before = {name.lstrip("^").split(":")[0] for name in node.input}
            waiting = [by_name[name] for name in before if name in by_name and name not in done]
            if waiting:
                stack += waiting
            else:
                done.add(node.name)
                stack.pop()
                yield node
