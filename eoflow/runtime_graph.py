"""Image networks as ONNX graphs, and the sessions that run them."""

from __future__ import annotations

import copy
import io
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from eoflow.models.images import ImageModel

Sample = tuple[Any, ...]
"""images (B, T, C, H, W), usable (B, T, H, W) or None; of a network that asks for days also `times` and `when`."""
OPSET = 17
_EXPORT = threading.Lock()  # torch's tracer has global state


class _Named(nn.Module):
    """Inputs and outputs as tuples, in the order of their names."""

    def __init__(self, model: nn.Module, inputs: Sequence[str]) -> None:
        super().__init__()
        self.model, self.inputs, self.names = model, list(inputs), list[str]()

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        run = self.model.network if getattr(self.model, "staged", False) else self.model
        found = run(**dict(zip(self.inputs, given, strict=True)))  # type: ignore[operator]
        self.names = list(found)
        return tuple(found.values())


def stage_inputs(model: ImageModel, sample: Sample) -> dict[str, Tensor]:
    """What the exported part of a network takes, by name; samples along the first axis of each."""
    images, usable = sample[:2]
    if model.staged:
        with torch.inference_mode():
            given: dict[str, Tensor] = model.before(*sample)  # type: ignore[operator]
            return given
    return {
        "images": images,
        "usable": torch.ones_like(images[:, :, 0], dtype=torch.bool) if usable is None else usable,
    }


def export(model: ImageModel, dates: int, channels: int | None = None) -> bytes:
    """The network as an ONNX graph of one window of any size: images (1, T, C, H, W), usable (1, T, H, W), or what
    `before` gives where it has stages. channels: C, where not those of its signature."""
    side = 2 * model.multiple * max(1, -(-48 // model.multiple))
    given = stage_inputs(model, random_sample(model, (dates, channels or model.signature.channels, side, side), 0))
    named = _Named(copy.deepcopy(model).eval(), list(given)).eval()
    buffer = io.BytesIO()
    inputs = tuple(x.clone() for x in given.values())  # of inference mode, in which nothing can be traced
    with _EXPORT, _quiet(), warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")  # of the tracer, about sizes in Python; what comes out is compared with torch
        outputs = named(*inputs)
        sizes = {
            name: {x.ndim - 2: "rows", x.ndim - 1: "columns"}
            for name, x in [*given.items(), *zip(named.names, outputs, strict=True)]
            if x.shape[-2:] == (side, side)
        }
        torch.onnx.export(
            named, inputs, buffer, input_names=list(given), output_names=named.names,  # type: ignore[arg-type]
            dynamic_axes=sizes, opset_version=OPSET, dynamo=False,
        )  # fmt: skip
    return buffer.getvalue()


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints the whole graph to the standard output where it does not know an operator."""
    log = torch._C._jit_onnx_log
    torch._C._jit_onnx_log = lambda *_: None
    try:
        yield
    finally:
        torch._C._jit_onnx_log = log


def session(graph: bytes, threads: int | None = None) -> Any:
    """ONNX Runtime on the CPU. Its threads sleep while they wait: readers and writers work beside them."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 4  # what fails is raised, and said once
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def run(known: Any, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Outputs of a session for what the exported part takes; what it does not use is not in its graph."""
    names = [o.name for o in known.get_outputs()]
    told = known.run(names, {i.name: given[i.name].contiguous().numpy() for i in known.get_inputs()})
    return dict(zip(names, map(torch.from_numpy, told), strict=True))


def finished(
    model: ImageModel, given: dict[str, Tensor], told: dict[str, Tensor], size: tuple[int, int]
) -> dict[str, Tensor]:
    """What the network gives, of what its exported part says; size: (H, W) of the images."""
    if not model.staged:
        return told
    with torch.inference_mode():
        found: dict[str, Tensor] = model.after(given, told, size)  # type: ignore[operator]
    return found


def random_sample(model: ImageModel, shape: Sequence[int], seed: int) -> Sample:
    """One window (T, C, H, W) of normal images; some pixels are usable on no date, and some on all. Days where asked
    for, five apart, the wanted one being that of a date."""
    dates, channels, rows, columns = shape
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(1, dates, channels, rows, columns, generator=generator)
    usable = torch.rand(1, dates, rows, columns, generator=generator) > 0.2
    usable[..., : rows // 4, : columns // 4] = False
    usable[..., -(rows // 4) :, :] = True
    if not model.needs_times:
        return images, usable
    days = 5.0 * torch.arange(dates, dtype=torch.float64)
    return images, usable, days[None], days[dates // 2 :][:1]
