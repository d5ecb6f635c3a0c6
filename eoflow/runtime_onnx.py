"""An ONNX graph that is rewritten: what is asked of its nodes again and again, and new nodes in their place."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
BLOCK = 16
"""Channels that ONNX Runtime keeps together in its own layout; a convolution to fewer is filled up with zeros."""


class Graph:
    """A graph from bytes. `swap` puts nodes in the place of others, and `bytes` forgets what nobody takes any more.

    made: node by output. users: nodes by input. given: names of the graph's outputs.
    """

    def __init__(self, graph: bytes) -> None:
        import onnx

        self.model = onnx.load_from_string(graph)
        self.helper, self.numpy, self.inference = onnx.helper, onnx.numpy_helper, onnx.shape_inference
        nodes = self.model.graph.node
        self.made: dict[str, Any] = {name: n for n in nodes for name in n.output}
        self.users: dict[str, list[Any]] = {}
        for node in nodes:
            for name in node.input:
                self.users.setdefault(name, []).append(node)
        self.given = {o.name for o in self.model.graph.output}
        self.constants = {i.name: i for i in self.model.graph.initializer}
        self._instead: dict[int, list[Any]] = {}

    @property
    def nodes(self) -> Sequence[Any]:
        """As they were."""
        return self.model.graph.node  # type: ignore[no-any-return]

    def channels(self, name: str) -> int:
        """Of an image (1, C, h, w); 0 where the number is not to be known."""
        while not (known := self._channels.get(name, 0)):
            node = self.made.get(name)
            axes = self.value(node.input[3]) if node is not None and node.op_type == "Slice" else None
            if node is None or axes is None or axes.tolist() != [0]:
                return 0
            name = node.input[0]  # one of two dates that were run side by side
        return known

    @cached_property
    def _channels(self) -> dict[str, int]:
        found = self.inference.infer_shapes(self.model).graph
        shapes = {v.name: v.type.tensor_type.shape.dim for v in (*found.value_info, *found.input, *found.output)}
        return {name: int(dims[1].dim_value) for name, dims in shapes.items() if len(dims) == 4 and dims[1].dim_value}

    def value(self, name: str) -> Array | None:
        """Of a constant."""
        if name in self.constants:
            return np.asarray(self.numpy.to_array(self.constants[name]))
        node = self.made.get(name)
        if node is not None and node.op_type == "Constant":
            return np.asarray(self.numpy.to_array(node.attribute[0].t))
        return None

    def said(self, node: Any) -> dict[str, Any]:
        """A node's attributes."""
        return {a.name: self.helper.get_attribute_value(a) for a in node.attribute}

    def only(self, name: str) -> bool:
        """Whether one node alone takes it."""
        return len(self.users.get(name, [])) == 1 and name not in self.given

    def bias(self, node: Any, count: int) -> Array:
        """(count,) of a convolution; zeros where it has none."""
        found = self.value(node.input[2]) if len(node.input) > 2 else None
        return np.zeros(count, "f4") if found is None else found

    def held(self, name: str, value: Array) -> str:
        """A new constant, float32 unless it holds whole numbers."""
        kind = "i8" if value.dtype.kind == "i" else "f4"
        self.model.graph.initializer.append(self.numpy.from_array(np.ascontiguousarray(value, kind), name))
        return name

    def node(self, op: str, inputs: Sequence[str], output: str, **said: Any) -> Any:
        """A new node of one output."""
        return self.helper.make_node(op, list(inputs), [output], name=f"{output}/{op}", **said)

    def swap(self, node: Any, new: Sequence[Any]) -> None:
        """Put new nodes where a node was."""
        self._instead[id(node)] = list(new)

    def swapped(self, node: Any) -> bool:
        """Whether new nodes stand for this one."""
        return id(node) in self._instead

    @property
    def changed(self) -> bool:
        """Whether anything was swapped."""
        return bool(self._instead)

    def bytes(self) -> bytes:
        """The graph as it is now."""
        nodes = [new for n in self.nodes for new in self._instead.get(id(n), [n])]
        while True:
            taken = {name for n in nodes for name in n.input} | self.given
            kept = [n for n in nodes if any(name in taken for name in n.output)]
            if len(kept) == len(nodes):
                break
            nodes = kept
        held = [i for i in self.model.graph.initializer if i.name in taken]
        kept_nodes = [type(n).FromString(n.SerializeToString()) for n in nodes]
        del self.model.graph.node[:], self.model.graph.initializer[:]
        self.model.graph.node.extend(kept_nodes)
        self.model.graph.initializer.extend(held)
        return bytes(self.model.SerializeToString())


def padded_by_one(said: dict[str, Any]) -> bool:
    """Of a convolution's attributes: stride 1 and a border of one pixel of zeros."""
    return list(said.get("pads", [])) == [1, 1, 1, 1] and one_by_one(said)


def one_by_one(said: dict[str, Any]) -> bool:
    """Of a convolution's attributes: it sees every pixel and every channel."""
    ones = [1, 1]
    return (
        said.get("group", 1) == 1 and list(said.get("strides", ones)) == list(said.get("dilations", ones)) == ones
    )
