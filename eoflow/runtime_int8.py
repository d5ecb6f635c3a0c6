"""Convolutions of an ONNX graph in 8 bits: static post-training quantisation, calibrated on windows.

Weights symmetric, one scale an output channel; activations with the range seen on the windows (arXiv 2004.09602).
The first and the last convolution stay as they are: the one sees the data, the other gives the answer.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor


class _Windows:
    """What the calibration asks for, one window after the other; inputs that the graph does not have are left out."""

    def __init__(self, windows: list[dict[str, Tensor]], names: set[str]) -> None:
        self.feeds: Iterator[dict[str, Any]] = (
            {n: np.ascontiguousarray(x[i : i + 1].numpy()) for n, x in window.items() if n in names}
            for window in windows for i in range(len(next(iter(window.values()))))
        )  # fmt: skip

    def get_next(self) -> dict[str, Any] | None:
        """The protocol of onnxruntime's calibration."""
        return next(self.feeds, None)


def quantise(graph: bytes, windows: list[dict[str, Tensor]]) -> bytes:
    """The graph with its inner convolutions in 8 bits, ranges from `windows`.

    windows: inputs of the graph by name, one or more along the first axis.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory(prefix="eoflow-int8-") as temp:
        first, second, third = (Path(temp) / f"{i}.onnx" for i in range(3))
        first.write_bytes(graph)
        quant_pre_process(first, second, skip_symbolic_shape=True)
        model = onnx.load(second)
        feeds = _Windows(windows, {i.name for i in model.graph.input})
        quantize_static(
            second, third, feeds, quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, calibrate_method=CalibrationMethod.MinMax,
            op_types_to_quantize=["Conv", "MaxPool", "Concat"], nodes_to_exclude=_ends(model.graph),
        )  # fmt: skip
        return third.read_bytes()


def _ends(graph: Any) -> list[str]:
    """Names of the first convolution and of the last one on the way to each output."""
    convolutions = [n for n in graph.node if n.op_type in ("Conv", "ConvTranspose")]
    made = {name: n for n in graph.node for name in n.output}
    ends = {convolutions[0].name} if convolutions else set()
    for output in graph.output:
        todo, seen = [output.name], set[str]()
        while todo:
            node = made.get(todo.pop())
            if node is None or node.name in seen:
                continue
            seen.add(node.name)
            if node in convolutions:
                ends.add(node.name)
            else:
                todo += list(node.input)
    return sorted(ends)
