"""Convolutions behind an enlargement, run before it: the same numbers by fewer multiplications.

A 3 x 3 convolution of an image enlarged by two (nearest neighbour) sees at each output pixel no more than 2 x 2 of the
small image, and which weights they take depends only on whether the row and the column are even (the four phases of
Shi et al., arXiv 1609.07009). So four kernels of 2 x 2 run on the small image and their answers are interleaved: 4
multiplications a channel instead of 9. Beyond the edge both have zeros at the same places. Where other channels are
joined to the enlarged ones (a decoder's), the convolution is split at the seam.

Transposed convolutions of 3 x 3 go the same way. Those of 2 x 2 could; it was tried and gains next to nothing (3 % of a
U-Net, less what their bias costs at the edges).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from eoflow.runtime_onnx import Array, Graph, padded_by_one

LEAST = 16
"""Channels of the small image below which interleaving costs more than it saves."""
TWICE = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}
"""Of a transposed convolution that doubles the sides."""


def by_phases(graph: bytes) -> bytes:
    """An ONNX graph with its 3 x 3 convolutions of enlarged images run on the small ones."""
    view = Graph(graph)
    for node in view.nodes:
        if node.op_type == "ConvTranspose":
            _untransposed(view, node)
        elif (place := _found(view, node)) is not None:
            view.swap(node, _replaced(view, place))
    return view.bytes() if view.changed else graph


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


def _found(view: Graph, node: Any) -> _Place | None:
    """A convolution of an enlarged image, alone or joined with others before it or behind it."""
    if node.op_type != "Conv" or not padded_by_one(view.said(node)):
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
        deep = view.channels(enlarging.input[0])
        if deep >= LEAST:
            parts = np.split(weight, [weight.shape[1] - deep if at else deep], 1)
            beside = [n for n in joined.input if n != name]
            return _Place(node, enlarging, joined, parts[at], parts[-1 - at], beside)
    return None


def _doubles(view: Graph, node: Any) -> bool:
    """Whether a node enlarges by two to the nearest neighbour."""
    said = view.said(node)
    exactly = {"mode": b"nearest", "nearest_mode": b"floor", "coordinate_transformation_mode": b"asymmetric"}
    if node.op_type != "Resize" or any(said.get(k) != v for k, v in exactly.items()):
        return False
    scales = view.value(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    return scales is not None and scales.tolist() == [1, 1, 2, 2]


def _replaced(view: Graph, place: _Place) -> list[Any]:
    """The nodes that stand for a convolution and for what enlarges before it."""
    node, small, name = place.node, place.enlarging.input[0], place.node.output[0]
    bias = view.bias(node, len(place.mine))
    rest, phases, nodes = place.beside, list[str](), list[Any]()
    for (p, q), kernel in _kernels(place.mine).items():
        own = [small, view.held(f"{name}/w{p}{q}", kernel), *([] if rest else [view.held(f"{name}/b{p}{q}", bias)])]
        phases.append(f"{name}/phase{p}{q}")
        nodes.append(view.node("Conv", own, phases[-1], pads=[1 - p, 1 - q, p, q], kernel_shape=[2, 2]))
    large = f"{name}/large" if rest else name
    nodes += _interleaved(view, phases, large)
    if not rest:
        return nodes
    beside = rest[0]
    if len(rest) > 1:
        beside = f"{name}/rest"
        nodes.append(view.node("Concat", rest, beside, axis=1))
    inputs = [beside, view.held(f"{name}/w", place.others), view.held(f"{name}/b", bias)]
    nodes.append(view.node("Conv", inputs, f"{name}/beside", **view.said(node)))
    return [*nodes, view.node("Add", [f"{name}/beside", large], name)]


def _interleaved(view: Graph, phases: list[str], name: str) -> list[Any]:
    """Four images of phases (row, column) as one of twice the sides."""
    every = f"{name}/phases"
    return [view.node("Concat", phases, every, axis=1),
            view.node("DepthToSpace", [every], name, blocksize=2, mode="DCR")]  # fmt: skip


def _untransposed(view: Graph, node: Any) -> None:
    """A transposed convolution of 3 x 3 that doubles the sides, as one convolution a phase.

    Row 2 i takes the middle tap of small row i, row 2 i + 1 the last of row i and the first of row i + 1: the same
    products, in a better order.
    """
    said, weight, name = view.said(node), view.value(node.input[1]), node.output[0]
    plain = said.get("group", 1) == 1 and list(said.get("dilations", [1, 1])) == [1, 1]
    if weight is None or not plain or any(list(said.get(k, [])) != v for k, v in TWICE.items()):
        return
    bias = view.held(f"{name}/b", view.bias(node, weight.shape[1]))
    taps, phases, nodes = ([1], [2, 0]), list[str](), list[Any]()
    for p in (0, 1):
        for q in (0, 1):
            kernel = weight[:, :, taps[p]][..., taps[q]].transpose(1, 0, 2, 3)
            phases.append(f"{name}/phase{p}{q}")
            inputs = [node.input[0], view.held(f"{name}/w{p}{q}", kernel), bias]
            nodes.append(view.node("Conv", inputs, phases[-1], pads=[0, 0, p, q], kernel_shape=[p + 1, q + 1]))
    view.swap(node, [*nodes, *_interleaved(view, phases, name)])


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
