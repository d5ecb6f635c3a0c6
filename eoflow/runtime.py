"""Image networks at full speed on a CPU: exported to ONNX Runtime where it is installed, otherwise folded in torch.

    quick = fast(checkpoint.model, identity=checkpoint.hash, folder=workspace.path / "cache" / "runtime")
    outputs = quick(images, usable)          # as model(images, usable), to 1e-4

Kinds
    onnx    ONNX Runtime (`pip install eoflow[fast]`): one graph for all sizes that are multiples of the network's; a
            size is used after it gave what torch gives on random images, and goes through torch where it did not. Each
            window by itself, a thread a window where there are as many: its values do not depend on its neighbours in
            the batch.
    int8    the same with 8-bit convolutions, calibrated on windows of the user's own. Not equal: `Fast.loss` says by
            how much the outputs differ on those windows. Never chosen by itself.
    eager   torch with bands side by side in memory and batch norms folded into the convolutions.
    bf16    torch with bfloat16 layers, two to three times as fast on processors that multiply them (AMX, AVX512-BF16).
            Not equal either: `Fast.loss` says by how much, where windows are given to measure it on. Only if asked for.
    auto    onnx where it can be had, otherwise eager. `Fast.note` says why.

A network must not branch on the values of its input: the graph is a trace.
"""

from __future__ import annotations

import copy
import hashlib
import os
import tempfile
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from eoflow.errors import BadInput
from eoflow.models.images import ImageModel

Kind = Literal["auto", "onnx", "int8", "bf16", "eager"]
KINDS: tuple[str, ...] = ("auto", "onnx", "int8", "bf16", "eager")
Sample = tuple[Tensor, Tensor | None]
TOLERANCE = 1e-4
"""Largest difference from torch, as a part of the largest output (at least of 1)."""
FORMAT = "2"  # of the graphs on disk
OPSET = 17
_EXPORT = threading.Lock()  # torch's tracer has global state


class Fast:
    """A network of `fast`: (B, T, C, H, W) float32 and (B, T, H, W) bool or None -> {name: (B, K, H, W)}, on the CPU.

    Safe to call from several threads. Pickles as the network and how it is run: a worker builds its own session, from
    the folder if it can see it. kind: what runs it. note: why not something faster, or "". loss: of int8, mean and
    largest absolute difference of each output (of probabilities, where it is `logits`) on the calibration windows.
    signature, halo, multiple: the network's.
    """

    def __init__(
        self, model: ImageModel, kind: str, note: str, *, identity: str, folder: Path | None, threads: int | None
    ) -> None:
        self.model, self.kind, self.note = model, kind, note
        self.identity, self.folder, self.threads = identity, folder, threads
        self.loss: dict[str, dict[str, float]] = {}
        self._int8: bytes | None = None
        self._prepare()

    def _prepare(self) -> None:
        self._lock = threading.RLock()
        self._graphs: dict[tuple[int, ...], bytes] = {}
        self._torch: nn.Module | None = None
        self._sessions: dict[tuple[int, ...], Any] = {}
        self._good: dict[tuple[int, ...], bool] = {}

    def __getstate__(self) -> dict[str, Any]:
        own = ("_lock", "_graphs", "_torch", "_sessions", "_good")
        return {k: v for k, v in self.__dict__.items() if k not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._prepare()

    @property
    def signature(self) -> Any:
        """The network's shapes."""
        return self.model.signature

    @property
    def halo(self) -> int:
        """Pixels around a window that the network needs."""
        return self.model.halo

    @property
    def multiple(self) -> int:
        """Sizes the network takes without padding."""
        return self.model.multiple

    def __call__(self, images: Tensor, usable: Tensor | None = None) -> dict[str, Tensor]:
        """See the class."""
        if self.kind in ("eager", "bf16") or not self.ready(images.shape[1:]):
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=self.kind == "bf16"):
                found: dict[str, Tensor] = self._eager()(images, usable)
            return {name: x.float() for name, x in found.items()}
        each = list(zip(images, [None] * len(images) if usable is None else usable, strict=True))
        threads = self.threads or torch.get_num_threads()
        if len(each) < threads or threads == 1:
            parts = [self._run(*one) for one in each]
        else:  # windows beside each other, a thread each: nobody waits for anybody within a layer
            with ThreadPoolExecutor(threads) as pool:
                parts = list(pool.map(lambda one: self._run(one[0], one[1], 1), each))
        return {name: torch.cat([p[name] for p in parts]) for name in parts[0]}

    def ready(self, shape: Sequence[int]) -> bool:
        """Build what images (T, C, H, W) need, and say whether the runtime gives what torch gives for this shape."""
        key = tuple(int(n) for n in shape)
        with self._lock:
            if key not in self._good:
                whole = key[2] % self.model.multiple == key[3] % self.model.multiple == 0
                self._good[key] = whole and self._check(key)  # a trace pads as its example was padded: not at all
            return self._good[key]

    # -- torch ---------------------------------------------------------------------------------------------------------

    def _eager(self) -> nn.Module:
        if self._torch is None:
            plain = getattr(self.model, "needs_times", False)  # made of pointwise layers: another layout slows it
            self._torch = self.model if plain else folded(self.model)
        return self._torch

    # -- ONNX Runtime --------------------------------------------------------------------------------------------------

    def _run(self, images: Tensor, usable: Tensor | None, threads: int | None = None) -> dict[str, Tensor]:
        """One window, without its batch axis."""
        seen = torch.ones_like(images[:, 0], dtype=torch.bool) if usable is None else usable
        session = self._session(tuple(images.shape[:2]), threads or self.threads or torch.get_num_threads())
        names = [o.name for o in session.get_outputs()]
        feed = {"images": _array(images), "usable": _array(seen)}
        return dict(zip(names, map(torch.from_numpy, session.run(names, feed)), strict=True))

    def _session(self, shape: tuple[int, ...], threads: int) -> Any:
        """For dates and channels, and so many threads."""
        key = (*shape, threads)
        with self._lock:
            if key not in self._sessions:
                if self._int8 is None and shape not in self._graphs:
                    self._graphs[shape] = self._graph(shape)
                self._sessions[key] = session(self._int8 or self._graphs[shape], threads)
            return self._sessions[key]

    def _check(self, shape: tuple[int, ...]) -> bool:
        """Two random windows of this shape through both; of int8 only that it runs and keeps its shapes."""
        try:
            for images, usable in (_random(shape, seed) for seed in (0, 1)):
                with torch.inference_mode():
                    wanted = self.model(images, usable)
                found = self._run(images[0], usable[0])
                worst = max(_relative(found[name], wanted[name]) for name in wanted)
                if worst > TOLERANCE and self.kind != "int8":
                    self.note = (
                        f"windows of {shape[2]} x {shape[3]} run in torch: the exported graph differs by {worst:.1e}"
                    )
                    return False
        except Exception as e:  # an operator that the exporter or the runtime does not know, under many names
            self.note = f"windows of {shape[2]} x {shape[3]} run in torch: {type(e).__name__}, {str(e).splitlines()[0]}"
            return False
        return True

    def _graph(self, shape: tuple[int, ...]) -> bytes:
        """From the folder, else exported."""
        file = self._file(shape)
        if file is not None and file.is_file():
            return file.read_bytes()
        graph = export(self.model, shape[0])
        if file is not None:
            _write(file, graph)
        return graph

    def _file(self, shape: tuple[int, ...]) -> Path | None:
        if self.folder is None or not self.identity:
            return None
        text = "/".join(map(str, (FORMAT, self.identity, torch.__version__, *shape)))
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.onnx"


def multiplies_bfloat16() -> bool:
    """Whether this processor does (torch has no public name for it); elsewhere bfloat16 is slower than float32."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def fast(
    model: ImageModel, *, kind: Kind = "auto", identity: str = "", folder: str | Path | None = None,
    calibration: Iterable[Sample] | None = None, threads: int | None = None,
) -> Fast:  # fmt: skip
    """`model` (in evaluation mode from here on) as something that is called like it and gives the same, sooner.

    identity, folder: hash of the weights and options (a checkpoint's), and where graphs are kept under it; without
    both nothing is kept. calibration: some windows (images, usable) as the network will see them, 30 or more: int8 is
    set by them, and the loss of int8 and bf16 measured on them.
    threads: of ONNX Runtime; None: as many as torch uses. Raises BadInput for a kind that cannot be had.
    """
    if kind not in KINDS:
        raise BadInput(f"no runtime '{kind}'", todo=f"choose from {', '.join(KINDS)}")
    model.eval()
    note, chosen = "", str(kind)
    if model.closed_form or not any(True for _ in model.parameters()):
        chosen, note = "eager", "a model without weights runs as it is"
    elif getattr(model, "needs_times", False) and kind != "bf16":
        chosen, note = "eager", "a network that is told the times of its dates runs in torch"
    elif kind == "bf16":
        if not multiplies_bfloat16():
            raise BadInput("this processor does not multiply in bfloat16: it would be slower than float32",
                           todo="EOFLOW_RUNTIME=auto")  # fmt: skip
    elif kind != "eager":
        missing = [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]
        if missing:
            note = f"not installed: {', '.join(missing)}; pip install 'eoflow[fast]' makes networks two times faster"
            if kind != "auto":
                raise BadInput(f"the runtime '{kind}' is {note}")
        chosen = "eager" if missing else "onnx" if kind == "auto" else kind
    place = None if folder is None else Path(folder)
    windows = list(calibration or ())
    if chosen != "int8":
        quick = Fast(model, chosen, note, identity=identity, folder=place, threads=threads)
        quick.loss = _loss(quick, windows) if chosen == "bf16" else {}
        return quick
    from eoflow.runtime_int8 import quantise

    if not windows:
        raise BadInput(
            "int8 needs windows to calibrate on", todo="give calibration=[(images, usable), ...], 30 or more"
        )
    quick = Fast(model, chosen, note, identity=identity, folder=place, threads=threads)
    try:
        graph = export(model, windows[0][0].shape[1])
    except Exception as e:  # an operator that the exporter does not know, under many names
        why = f"{type(e).__name__}, {str(e).splitlines()[0]}"
        raise BadInput(f"this network cannot be exported: {why}", todo="EOFLOW_RUNTIME=auto or bf16") from e
    quick._int8 = quantise(graph, windows)
    quick.loss = _loss(quick, windows)
    return quick


# -- in torch ----------------------------------------------------------------------------------------------------------


def folded(model: nn.Module) -> nn.Module:
    """A copy for prediction: batch norms inside the convolutions before them, weights laid out channels last."""
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    quick = copy.deepcopy(model).eval()
    for block in quick.modules():
        if not isinstance(block, nn.Sequential) or type(block).forward is not nn.Sequential.forward:
            continue
        for i in range(len(block) - 1):
            conv, norm = block[i], block[i + 1]
            if not isinstance(conv, nn.Conv2d | nn.ConvTranspose2d) or not isinstance(norm, nn.BatchNorm2d):
                continue
            if norm.running_mean is not None and not conv._forward_hooks and not norm._forward_hooks:
                block[i] = fuse_conv_bn_eval(conv, norm, transpose=isinstance(conv, nn.ConvTranspose2d))
                block[i + 1] = nn.Identity()
    quick.requires_grad_(False)
    return quick.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


# -- as a graph --------------------------------------------------------------------------------------------------------


class _Named(nn.Module):
    """Outputs as a tuple, in the order of their names."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.names = model, list[str]()

    def forward(self, images: Tensor, usable: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        found = self.model(images, usable)
        self.names = list(found)
        return tuple(found.values())


def export(model: ImageModel, dates: int) -> bytes:
    """The network as an ONNX graph of one window of any size: images (1, T, C, H, W), usable (1, T, H, W)."""
    import io

    side = 2 * model.multiple * max(1, -(-48 // model.multiple))
    shape = (dates, model.signature.channels, side, side)
    images, usable = _random(shape, 0)
    named = _Named(copy.deepcopy(model).eval()).eval()
    buffer = io.BytesIO()
    sizes = {"images": {3: "rows", 4: "columns"}, "usable": {2: "rows", 3: "columns"}}
    with _EXPORT, _quiet(), warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")  # of the tracer, about sizes in Python; what comes out is compared with torch
        named(images, usable)
        torch.onnx.export(
            named, (images, usable), buffer, input_names=list(sizes), output_names=named.names,  # type: ignore[arg-type]
            dynamic_axes={**sizes, **{n: {2: "rows", 3: "columns"} for n in named.names}},
            opset_version=OPSET, dynamo=False,
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


def _array(x: Tensor) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(x[None].detach().numpy())


def _random(shape: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor]:
    """One window of normal images; some pixels are usable on no date, and some on all."""
    dates, channels, rows, columns = shape
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(1, dates, channels, rows, columns, generator=generator)
    usable = torch.rand(1, dates, rows, columns, generator=generator) > 0.2
    usable[..., : rows // 4, : columns // 4] = False
    usable[..., -(rows // 4) :, :] = True
    return images, usable


def _relative(found: Tensor, wanted: Tensor) -> float:
    """Largest difference as a part of the largest value (at least 1); infinite where one is NaN and the other not."""
    if found.shape != wanted.shape or not torch.equal(found.isnan(), wanted.isnan()):
        return float("inf")
    known = ~wanted.isnan()
    scale = max(1.0, float(wanted[known].abs().max())) if bool(known.any()) else 1.0
    return float((found - wanted)[known].abs().max()) / scale if bool(known.any()) else 0.0


def _loss(quick: Fast, windows: list[Sample]) -> dict[str, dict[str, float]]:
    """Mean and largest difference from torch over the windows, of probabilities where an output is called logits."""
    total: dict[str, list[Tensor]] = {}
    for images, usable in windows:
        with torch.inference_mode():
            wanted = quick.model(images, usable)
        found = quick(images, usable)
        for name, value in wanted.items():
            a, b = found[name], value
            if name == "logits":
                a, b = (t.sigmoid() if t.shape[1] == 1 else t.softmax(1) for t in (a, b))
            total.setdefault(name, []).append((a - b).abs().flatten())
    return {n: {"mean": float(torch.cat(d).mean()), "max": float(torch.cat(d).max())} for n, d in total.items()}


def _write(file: Path, data: bytes) -> None:
    """Beside, then renamed: another process may read it, or write the same. A full disk costs only the cache."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=".tmp-")
        with os.fdopen(handle, "wb") as f:
            f.write(data)
        Path(name).replace(file)
    except OSError:
        pass
