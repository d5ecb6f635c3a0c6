"""Convolutions of images that are joined: the same numbers without joining them, and by fewer multiplications.

Both orders. A head that sees (a, b) and (b, a) with the same weights (A, B) computes A a + B b and A b + B a. With s =
a + b and d = a - b these are S + D and S - D, where S = (A + B) / 2 s and D = (A - B) / 2 d: half the multiplications.

Seams. A convolution of a concatenation is the sum of convolutions of its parts. Where a part is in the runtime's own
layout already, joining it would take it out and bring it back.

Thin images. An image of less than BLOCK channels is filled up with zeros in that layout; enlarging them all costs more
than leaving it.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

from eoflow.runtime_onnx import BLOCK, Graph, one_by_one

OWN_LAYOUT = ("Conv", "MaxPool", "AveragePool")
POINTWISE = ("Relu", "LeakyRelu", "Clip", "Sigmoid", "Add")


def joined_apart(graph: bytes) -> bytes:
    """An ONNX graph with the three applied, where they are of use."""
    for rule in (_both_orders, _seams, _thin):
        view = Graph(graph)
        rule(view)
        graph = view.bytes() if view.changed else graph
    return graph


def _joins(view: Graph, node: Any) -> list[str] | None:
    """What is concatenated before a convolution that alone takes it; None for any other node."""
    if node.op_type != "Conv" or view.value(node.input[1]) is None or view.said(node).get("group", 1) != 1:
        return None
    before = view.made.get(node.input[0])
    if before is None or before.op_type != "Concat" or view.said(before).get("axis") != 1:
        return None
    return list(before.input) if view.only(node.input[0]) else None


def _both_orders(view: Graph) -> None:
    """See the module."""
    found = [(n, j) for n in view.nodes if (j := _joins(view, n)) is not None and len(j) == 2]
    for (one, (a, b)), (other, (c, d)) in combinations(found, 2):
        if (a, b) != (d, c) or a == b or view.swapped(one) or view.swapped(other):
            continue
        weight, again = (np.asarray(view.value(n.input[1])) for n in (one, other))
        bias, bias_again = (view.bias(n, len(weight)) for n in (one, other))
        same = np.array_equal(weight, again) and np.array_equal(bias, bias_again) and view.said(one) == view.said(other)
        if not same or not 2 * view.channels(a) == 2 * view.channels(b) == weight.shape[1]:
            continue
        first, second = np.split(weight, 2, 1)
        name, said = one.output[0], view.said(one)
        inputs = [f"{name}/sum", view.held(f"{name}/ws", (first + second) / 2), view.held(f"{name}/b", bias)]
        view.swap(one, [
            view.node("Add", [a, b], f"{name}/sum"), view.node("Sub", [a, b], f"{name}/difference"),
            view.node("Conv", inputs, f"{name}/even", **said),
            view.node("Conv", [f"{name}/difference", view.held(f"{name}/wd", (first - second) / 2)], f"{name}/odd",
                      **said),
            view.node("Add", [f"{name}/even", f"{name}/odd"], name),
            view.node("Sub", [f"{name}/even", f"{name}/odd"], other.output[0]),
        ])  # fmt: skip
        view.swap(other, [])


def _seams(view: Graph) -> None:
    """See the module."""
    for node in view.nodes:
        parts = _joins(view, node)
        if parts is None or not one_by_one(view.said(node)):
            continue
        deep = [view.channels(p) for p in parts]
        weight, name, said = view.value(node.input[1]), node.output[0], view.said(node)
        assert weight is not None
        if any(k % BLOCK or not k for k in deep) or sum(deep) != weight.shape[1]:
            continue
        if not any(_in_own_layout(view, p) for p in parts):
            continue
        nodes, total = list[Any](), ""
        for i, (part, own) in enumerate(zip(parts, np.split(weight, np.cumsum(deep)[:-1], 1), strict=True)):
            inputs = [part, view.held(f"{name}/w{i}", own), *([] if i else node.input[2:])]
            nodes.append(view.node("Conv", inputs, f"{name}/part{i}", **said))
            if i:
                onward = name if i == len(parts) - 1 else f"{name}/sum{i}"
                nodes.append(view.node("Add", [total, f"{name}/part{i}"], onward))
                total = onward
            else:
                total = f"{name}/part0"
        view.swap(node, nodes)


def _in_own_layout(view: Graph, name: str) -> bool:
    """Whether the runtime has an image in its own layout: a convolution's or a pooling's, pointwise functions of it."""
    node = view.made.get(name)
    while node is not None and node.op_type in POINTWISE:
        node = view.made.get(node.input[0])
    return node is not None and node.op_type in OWN_LAYOUT


def _thin(view: Graph) -> None:
    """See the module. An axis that is put on and taken off again is what the runtime's layout does not follow."""
    for node in view.nodes:
        before = view.made.get(node.input[0]) if node.op_type == "Resize" else None
        if before is None or before.op_type != "Conv" or not 0 < view.channels(node.input[0]) < BLOCK:
            continue
        name = node.output[0]
        axis = view.held(f"{name}/axis", np.array([0]))
        again = type(node).FromString(node.SerializeToString())
        again.input[0] = f"{name}/thin"
        view.swap(node, [view.node("Unsqueeze", [node.input[0], axis], f"{name}/more"),
                         view.node("Squeeze", [f"{name}/more", axis], f"{name}/thin"), again])  # fmt: skip
