"""Convolutions behind an enlargement, run before it: the same numbers by fewer multiplications.

A 3 x 3 convolution of an image enlarged by two (nearest neighbour) sees at each output pixel no more than 2 x 2 of the
small image, and which weights they take depends only on whether the row and the column are even (the four phases of
Shi et al., arXiv 1609.07009). So four kernels of 2 x 2 run on the small image and their answers are interleaved: 4
multiplications a channel instead of 9. Beyond the edge both have zeros at the same places. Where other channels are
joined to the enlarged ones (a decoder's), the convolution is split at the seam.

Transposed convolutions of 2 x 2 could go the same way; it was tried and gains next to nothing (3 % of a U-Net).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
LEAST = 16
"""Channels of the small image below which interleaving costs more than it saves."""


@dataclass
class _Graph:
    """What of an ONNX graph is asked for again and again."""

    graph: Any

    def __post_init__(self) -> None:
        from onnx import helper, numpy_helper

        self.helper, self.numpy = helper, numpy_helper
        self.made = {name: n for n in self.graph.node for name in n.output}
        self.users: dict[str, list[Any]] = {}
        for node in self.graph.node:
            for name in node.input:
                self.users.setdefault(name, []).append(node)
        self.given = {o.name for o in self.graph.output}
        self.constants = {i.name: i for i in self.graph.initializer}

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


def by_phases(graph: bytes) -> bytes:
    """An ONNX graph with its 3 x 3 convolutions of enlarged images run on the small ones."""
    import onnx

    model = onnx.load_from_string(graph)
    view, nodes = _Graph(model.graph), []
    done = set[int]()
    for node in model.graph.node:
        place = _found(view, node)
        if place is None:
            nodes.append(node)
            continue
        done |= {id(place.enlarging), id(place.joined)}
        nodes += _replaced(view, place)
    if not done:
        return graph
    del model.graph.node[:]
    model.graph.node.extend(n for n in nodes if id(n) not in done)
    return bytes(model.SerializeToString())


@dataclass
class _Place:
    """A convolution (O, M + rest, 3, 3) that can be replaced, and what enlarges before it.

    mine, others: its weights for the enlarged channels and for those that are joined to them (`beside`: their names).
    """

    node: Any
    enlarging: Any
    joined: Any
    mine: Array
    others: Array
    beside: list[str]


def _found(view: _Graph, node: Any) -> _Place | None:
    """A convolution of an enlarged image, alone or joined with others before it or behind it."""
    if node.op_type != "Conv" or not _plain(view.said(node)):
        return None
    weight = view.value(node.input[1])
    if weight is None or weight.shape[2:] != (3, 3):
        return None
    joined = view.made.get(node.input[0])
    if joined is None or not view.only(node.input[0]):
        return None
    if joined.op_type != "Concat":
        enough = weight.shape[1] >= LEAST and _doubles(view, joined)
        return _Place(node, joined, None, weight, weight[:, :0], []) if enough else None
    if view.said(joined).get("axis") != 1:
        return None
    for at, name in {-1: joined.input[-1], 0: joined.input[0]}.items():
        enlarging = view.made.get(name)
        if enlarging is None or not view.only(name) or not _doubles(view, enlarging):
            continue
        deep = _channels(view, enlarging.input[0])
        if deep >= LEAST:
            parts = np.split(weight, [weight.shape[1] - deep if at else deep], 1)
            beside = [n for n in joined.input if n != name]
            return _Place(node, enlarging, joined, parts[at], parts[-1 - at], beside)
    return None


def _plain(said: dict[str, Any]) -> bool:
    """A convolution with stride 1 and a border of one pixel of zeros."""
    return (
        list(said.get("pads", [])) == [1, 1, 1, 1] and said.get("group", 1) == 1
        and list(said.get("strides", [1, 1])) == [1, 1] and list(said.get("dilations", [1, 1])) == [1, 1]
    )  # fmt: skip


def _doubles(view: _Graph, node: Any) -> bool:
    """Whether a node enlarges by two to the nearest neighbour."""
    said = view.said(node)
    exactly = {"mode": b"nearest", "nearest_mode": b"floor", "coordinate_transformation_mode": b"asymmetric"}
    if node.op_type != "Resize" or any(said.get(k) != v for k, v in exactly.items()):
        return False
    scales = view.value(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    return scales is not None and scales.tolist() == [1, 1, 2, 2]


def _channels(view: _Graph, name: str) -> int:
    """Of an image, from the convolution that made it; 0 where that is not to be seen."""
    while (node := view.made.get(name)) is not None:
        if node.op_type == "Conv":
            weight = view.value(node.input[1])
            return 0 if weight is None else int(weight.shape[0])
        if node.op_type not in ("Relu", "LeakyRelu", "MaxPool", "Clip", "Sigmoid"):
            return 0
        name = node.input[0]
    return 0


def _replaced(view: _Graph, place: _Place) -> list[Any]:
    """The nodes that stand for a convolution and for what enlarges before it."""
    node, small, mine = place.node, place.enlarging.input[0], place.mine
    make, name, graph = view.helper.make_node, node.output[0], view.graph
    nodes: list[Any] = []

    def held(what: str, value: Array) -> str:
        graph.initializer.append(view.numpy.from_array(np.ascontiguousarray(value, "f4"), f"{name}/{what}"))
        return f"{name}/{what}"

    def added(op: str, inputs: list[str], what: str, **said: Any) -> str:
        nodes.append(make(op, inputs, [f"{name}/{what}"], name=f"{name}/{what}/{op}", **said))
        return f"{name}/{what}"

    bias = view.value(node.input[2]) if len(node.input) > 2 else None
    bias = np.zeros(len(mine), "f4") if bias is None else bias
    rest, phases = place.beside, list[str]()
    for (p, q), kernel in _kernels(mine).items():
        own = [small, held(f"w{p}{q}", kernel), *([] if rest else [held(f"b{p}{q}", bias)])]
        phases.append(added("Conv", own, f"phase{p}{q}", pads=[1 - p, 1 - q, p, q], kernel_shape=[2, 2]))
    every = added("Concat", phases, "phases", axis=1)
    if not rest:
        nodes.append(make("DepthToSpace", [every], [name], blocksize=2, mode="DCR"))
        return nodes
    large = added("DepthToSpace", [every], "large", blocksize=2, mode="DCR")
    beside = rest[0] if len(rest) == 1 else added("Concat", rest, "rest", axis=1)
    inputs = [beside, held("w", place.others), held("b", bias)]
    nodes.append(make("Add", [added("Conv", inputs, "beside", **view.said(node)), large], [name]))
    return nodes


def _kernels(weight: Array) -> dict[tuple[int, int], Array]:
    """Of each phase (row, column): (O, C, 2, 2) on the small image, from weights (O, C, 3, 3).

    Row 2 i + p and tap d lie in small row i + (p + d) // 2; a phase's kernel begins at small row i + p - 1.
    """
    found = {}
    for p in (0, 1):
        for q in (0, 1):
            kernel = np.zeros((*weight.shape[:2], 2, 2))
            for y in (-1, 0, 1):
                for x in (-1, 0, 1):
                    kernel[:, :, (p + y) // 2 - p + 1, (q + x) // 2 - q + 1] += weight[:, :, y + 1, x + 1]
            found[p, q] = kernel
    return found
