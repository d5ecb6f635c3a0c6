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
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from eoflow.errors import BadInput
from eoflow.models.images import ImageModel
from eoflow.runtime_graph import Sample, export, finished, random_sample, run, session, stage_inputs
from eoflow.runtime_joins import joined_apart
from eoflow.runtime_phases import by_phases

Kind = Literal["auto", "onnx", "int8", "bf16", "eager"]
KINDS: tuple[str, ...] = ("auto", "onnx", "int8", "bf16", "eager")
TOLERANCE = 1e-4
"""Largest difference from torch, as a part of the largest output (at least of 1)."""
FORMAT = "4"  # of the graphs on disk


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

    def __call__(self, images: Tensor, usable: Tensor | None = None, *days: Tensor | None) -> dict[str, Tensor]:
        """See the class; days: `times` and `when`, for networks that ask for them."""
        if self.kind in ("eager", "bf16") or not self.ready(images.shape[1:]):
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=self.kind == "bf16"):
                found: dict[str, Tensor] = self._eager()(images, usable, *days)
            return {name: x.float() for name, x in found.items()}
        given = stage_inputs(self.model, (images, usable, *days))
        each = [{name: x[i : i + 1] for name, x in given.items()} for i in range(len(images))]
        threads, size = self.threads or torch.get_num_threads(), (images.shape[-2], images.shape[-1])
        session = self._session(tuple(images.shape[1:3]), threads if len(each) < threads else 1)
        if len(each) < threads or threads == 1:
            parts = [run(session, one) for one in each]
        else:  # windows beside each other, a thread each: nobody waits for anybody within a layer
            with ThreadPoolExecutor(threads) as pool:
                parts = list(pool.map(lambda one: run(session, one), each))
        return finished(self.model, given, {name: torch.cat([p[name] for p in parts]) for name in parts[0]}, size)

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
            pointwise = self.model.needs_times  # the attention of clouds-s2: another layout slows it
            self._torch = self.model if pointwise else folded(self.model)
        return self._torch

    # -- ONNX Runtime --------------------------------------------------------------------------------------------------

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
            for sample in (random_sample(self.model, shape, seed) for seed in (0, 1)):
                with torch.inference_mode():
                    wanted = self.model(*sample)
                given, known = stage_inputs(self.model, sample), self._session(shape[:2], self.threads or 1)
                found = finished(self.model, given, run(known, given), (shape[2], shape[3]))
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
        graph = joined_apart(by_phases(export(self.model, shape[0], shape[1])))
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


@contextmanager
def sixteen_bits() -> Iterator[None]:
    """Layers in bfloat16 where the processor multiplies that: three times as fast; float32 elsewhere."""
    with torch.autocast("cpu", torch.bfloat16, enabled=multiplies_bfloat16()):
        yield


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
    elif model.needs_times and not model.staged and kind != "bf16":
        chosen, note = "eager", "a network that is told the times of its dates, and has no stages, runs in torch"
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
        graph = export(model, *windows[0][0].shape[1:3])
    except Exception as e:  # an operator that the exporter does not know, under many names
        why = f"{type(e).__name__}, {str(e).splitlines()[0]}"
        raise BadInput(f"this network cannot be exported: {why}", todo="EOFLOW_RUNTIME=auto or bf16") from e
    quick._int8 = quantise(graph, [stage_inputs(model, sample) for sample in windows])
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


# -- equal?


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
    for sample in windows:
        with torch.inference_mode():
            wanted = quick.model(*sample)
        found = quick(*sample)
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
