"""Runs a network over a scene window by window: reads ahead, computes in batches, writes behind, only the cores.

One process reads in threads while the network computes; on Dask each task is a group of windows. The result is the
same: a window's value depends on nothing but the plan and its own pixels.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.errors import BadInput
from eoflow.export.publish import refuse_existing
from eoflow.windows import geotiff
from eoflow.windows.plan import Array, Box, Job, Plan, Window
from eoflow.windows.sinks import ArraySink, Layer, Partial, Sink
from eoflow.windows.sources import Input, Source, load

if TYPE_CHECKING:
    from eoflow.tiling import Grid

Outputs = dict[str, Array]
Progress = Callable[[float, float, str], None]
READERS = 2
"""Threads that read ahead while the network computes."""
UNITS_A_TASK = 4
"""Batches in one Dask task."""


@dataclass(frozen=True)
class Network:
    """What is run. f: a torch module or any callable, (B, C, h, w) or (B, T, C, h, w) float32 tensor -> (B, K, h, w)
    or a dict of such. decode: {name: (K, h, w) float32} of one window -> {layer: (K, h, w)}, for example classes of
    probabilities; by default the names are the layers'. batch: windows a call. device: where the tensors go.
    channels_last: give the network its bands side by side in memory, which convolutions on a CPU run much faster with.
    """

    f: Callable[..., Any]
    decode: Callable[[Outputs], Outputs] | None = None
    batch: int = 4
    device: str | None = None
    channels_last: bool = True


@dataclass
class WindowReport:
    """Windows of this run: computed, skipped because all their pixels are nodata; jobs that were done before."""

    jobs: int
    resumed: int = 0
    windows: int = 0
    skipped: int = 0
    seconds: float = 0.0
    network_seconds: float = 0.0
    files: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return dict(self.__dict__)


def declared(f: Any, halo: int | None, multiple: int | None) -> tuple[int, int]:
    """(halo, multiple) as given, else as the network declares: attributes `halo` or `receptive_field` (pixels across)
    and `multiple`, of its signature or itself. Raises BadInput where no halo is known."""
    for place in (getattr(f, "signature", None), f):
        if halo is None and getattr(place, "halo", None) is not None:
            halo = int(place.halo)  # type: ignore[union-attr]
        if halo is None and getattr(place, "receptive_field", None) is not None:
            halo = int(place.receptive_field) // 2  # type: ignore[union-attr]
        if multiple is None and getattr(place, "multiple", None) is not None:
            multiple = int(place.multiple)  # type: ignore[union-attr]
    if halo is None:
        raise BadInput(
            "nothing says how many pixels of context this network needs",
            todo="give halo (half its receptive field), or let its signature declare receptive_field",
        )
    return halo, multiple or 1


def run(
    network: Network, source: Source, sinks: Sequence[Sink], plan: Plan, how: Input | None = None, *,
    done: Array | None = None, mark: Callable[[int], None] | None = None, client: Any | None = None,
    progress: Progress | None = None,
) -> WindowReport:  # fmt: skip
    """Run `network` over `source` and write every layer. done: jobs to leave out; mark: told of each job when written.

    client: a Dask client; network, source and sinks must then be picklable, and sinks must write to shared storage.
    Raises BadInput if the network changes the size of a window or gives no output for a layer.
    """
    started = time.monotonic()
    how = how if how is not None else Input()
    if tuple(source.shape) != plan.shape:
        raise BadInput(f"the plan is of {plan.shape}, the scene of {source.shape}")
    todo = work(plan, network.batch, done)
    total = sum(len(batch) for unit in todo for batch in unit)
    report = WindowReport(jobs=len(plan), resumed=0 if done is None else int(done.sum()))
    wrote = mark if mark is not None else _forget
    results = (
        _one_process(network, source, sinks, plan, how, todo, wrote)
        if client is None
        else _cluster(network, source, sinks, plan, how, todo, wrote, client)
    )
    for finished in results:
        report.windows += finished.windows
        report.skipped += finished.skipped
        report.network_seconds += finished.network_seconds
        if progress is not None:
            progress(report.windows + report.skipped, total, "windows")
    report.seconds = time.monotonic() - started
    return report


def infer(
    network: Network, source: Source, dest: str | Path, layers: Sequence[Layer], plan: Plan,
    how: Input | None = None, *, identity: str = "", grid: Grid | None = None, attrs: dict[str, Any] | None = None,
    overwrite: bool = False, client: Any | None = None, progress: Progress | None = None,
) -> WindowReport:  # fmt: skip
    """`run` into `dest` (.zarr, or .tif: a COG a layer), which appears when it is whole; a killed run goes on.

    identity: hash of what is computed from what (checkpoint, inputs); an unfinished store of another identity is
    thrown away. grid: where the pixels lie; attrs: provenance (tags of a COG). The first layer of a .tif goes into
    `dest`, the others into DEST_LAYER.tif. Raises BadInput, before any work, if `dest` exists.
    """
    dest = Path(dest).absolute()
    refuse_existing(dest, overwrite)
    store = Partial(dest, layers, plan, identity=identity, grid=grid, attrs=attrs)
    tiff = dest.suffix in geotiff.SUFFIXES
    if tiff:
        geotiff.refuse(store, overwrite)
    report = run(
        network, source, store.sinks, plan, how, done=store.done(), mark=store.mark, client=client, progress=progress
    )
    report.files = [str(p) for p in (geotiff.publish_cogs(store, overwrite) if tiff else [store.publish(overwrite)])]
    return report


def whole(network: Network, source: Source, layers: Sequence[Layer], plan: Plan, how: Input | None = None) -> Outputs:
    """`run` into memory: {layer: (K, rows, columns)}."""
    sinks = [ArraySink(layer, plan.shape) for layer in layers]
    run(network, source, sinks, plan, how)
    return {s.layer.name: s.values for s in sinks}


# -- one process -------------------------------------------------------------------------------------------------------


def _forget(job: int) -> None:
    """Nobody keeps a list of what is done."""


@dataclass
class _Finished:
    windows: int = 0
    skipped: int = 0
    network_seconds: float = 0.0


Loaded = tuple[Array, Array | None] | None
Batch = list[tuple[Job, Window]]


Unit = list[Batch]
"""Batches that belong together: one batch of windows that own their cores, or all batches of a blended job."""


def work(plan: Plan, size: int, done: Array | None = None) -> list[Unit]:
    """What is left to do. Batches are cut from the whole plan, whatever is done of it: a network may round otherwise
    in a batch of another size, and a run that was taken up must give the same bytes."""

    def cut(windows: list[tuple[Job, Window]]) -> Unit:
        windows.sort(key=lambda p: p[1].read.shape)  # stable: those of one shape stay in order
        groups = [list(g) for _, g in groupby(windows, key=lambda p: p[1].read.shape)]
        return [g[i : i + size] for g in groups for i in range(0, len(g), size)]

    if plan.overlap:
        units = [cut([(job, w) for w in job.windows]) for job in plan.jobs()]
    else:
        units = [[batch] for batch in cut([(job, w) for job in plan.jobs() for w in job.windows])]
    return [u for u in units if done is None or not all(done[job.index] for batch in u for job, _ in batch)]


def _one_process(
    network: Network, source: Source, sinks: Sequence[Sink], plan: Plan, how: Input, todo: Sequence[Unit],
    wrote: Callable[[int], None],
) -> Iterator[_Finished]:  # fmt: skip
    f = _ready(network)
    desk = _Desk(sinks, plan, network.decode, wrote)
    with ThreadPoolExecutor(READERS, "read") as readers, ThreadPoolExecutor(1, "write") as writer:
        ahead: deque[list[tuple[Job, Window, Future[Loaded]]]] = deque()
        behind: deque[Future[None]] = deque()
        batches = (batch for unit in todo for batch in unit)

        def read_ahead() -> None:
            for batch in islice(batches, max(0, 2 - len(ahead))):
                ahead.append([(j, w, readers.submit(load, source, plan, w, how)) for j, w in batch])

        try:
            read_ahead()
            while ahead:
                found = [(job, window, future.result()) for job, window, future in ahead.popleft()]
                read_ahead()
                part = _Finished(windows=sum(x is not None for *_, x in found))
                part.skipped = len(found) - part.windows
                at = time.monotonic()
                outputs = _call(f, network, [x[0] for *_, x in found if x is not None], plan)
                part.network_seconds = time.monotonic() - at
                each = iter(range(part.windows))
                for job, window, loaded in found:
                    values = None
                    if loaded is not None:
                        k = next(each)
                        values = ({n: a[k] for n, a in outputs.items()}, loaded[1])
                    behind.append(writer.submit(desk.take, job, window, values))
                while len(behind) > 2 * network.batch:
                    behind.popleft().result()
                yield part
            for future in behind:
                future.result()
        except BaseException:  # what is computed already is still written: the next run need not do it again
            readers.shutdown(wait=False, cancel_futures=True)
            raise


def _ready(network: Network) -> Callable[..., Any]:
    """The callable, as a module in evaluation mode on its device."""
    import torch

    f = network.f
    if isinstance(f, torch.nn.Module):
        f = f.to(network.device) if network.device else f
        f = f.to(memory_format=torch.channels_last) if network.channels_last else f  # type: ignore[call-overload]
        return f.eval()
    return f


def _call(f: Callable[..., Any], network: Network, inputs: list[Array], plan: Plan) -> Outputs:
    """Stack, run, and bring back: {name: (B, K, h, w) float32}."""
    import torch

    if not inputs:
        return {}
    with torch.inference_mode():
        if network.channels_last and inputs[0].ndim == 3:
            (c, h, w), count = inputs[0].shape, len(inputs)
            stack = np.empty((count, h, w, c), np.float32)
            for k, one in enumerate(inputs):
                stack[k] = one.transpose(1, 2, 0)
            x = torch.from_numpy(stack).permute(0, 3, 1, 2)
        else:
            x = torch.from_numpy(np.stack(inputs))
        found = f(x.to(network.device) if network.device else x)
        found = found if isinstance(found, dict) else {"output": found}
        out = {n: torch.as_tensor(t).float().cpu().numpy() for n, t in found.items()}
    for name, a in out.items():
        if a.ndim == 3:
            out[name] = a = a[:, None]
        if a.shape[0] != len(inputs) or a.shape[-2:] != inputs[0].shape[-2:]:
            raise BadInput(
                f"the network made {a.shape} of a window of {(len(inputs), *inputs[0].shape)}",
                where=f"output '{name}'", todo=f"it must keep the size of windows of a multiple of {plan.multiple}",
            )  # fmt: skip
    return out


class _Desk:
    """Where outputs of windows become boxes of layers; used from the one writing thread."""

    def __init__(
        self, sinks: Sequence[Sink], plan: Plan, decode: Callable[[Outputs], Outputs] | None,
        wrote: Callable[[int], None],
    ) -> None:  # fmt: skip
        self.sinks, self.plan, self.decode, self.wrote = sinks, plan, decode, wrote
        self.open: dict[int, _Blend] = {}

    def take(self, job: Job, window: Window, values: tuple[Outputs, Array | None] | None) -> None:
        """One window (None: nothing but nodata)."""
        if not self.plan.overlap:
            if values is None:
                self.write(job.core, {}, None)
            else:
                at = (slice(None), *window.core.within(window.read))
                self.write(job.core, {n: a[at] for n, a in values[0].items()}, values[1])
            self.wrote(job.index)
            return
        blend = self.open.setdefault(job.index, _Blend(job))
        blend.add(self.plan, window, values)
        if not blend.left:
            self.write(job.core, *self.open.pop(job.index).result())
            self.wrote(job.index)

    def write(self, box: Box, outputs: Outputs, valid: Array | None) -> None:
        """Decode and hand to each sink."""
        if outputs and self.decode is not None:
            outputs = self.decode(outputs)
        for sink in self.sinks:
            layer = sink.layer
            if not outputs:
                sink.write(box, np.full((len(layer.bands), *box.shape), layer.fill, layer.dtype))
                continue
            name = layer.name if layer.name in outputs or len(outputs) > 1 else next(iter(outputs))
            if name not in outputs:
                raise BadInput(f"the network gives no '{name}'", todo=f"it gives {', '.join(outputs)}")
            if outputs[name].shape != (len(layer.bands), *box.shape):
                raise BadInput(
                    f"output '{name}' has {outputs[name].shape[0]} bands, the layer {len(layer.bands)}",
                    where=", ".join(layer.bands), todo="name as many bands as the network gives",
                )  # fmt: skip
            sink.write(box, layer.cast(outputs[name], valid))


class _Blend:
    """Weighted sums over a job's core."""

    def __init__(self, job: Job) -> None:
        self.core, self.left = job.core, len(job.windows)
        self.sums: Outputs = {}
        self.weights = np.zeros(job.core.shape, np.float32)
        self.valid = np.zeros(job.core.shape, bool)

    def add(self, plan: Plan, window: Window, values: tuple[Outputs, Array | None] | None) -> None:
        """Add what one window says of the core."""
        self.left -= 1
        if values is None:
            return
        outputs, valid = values
        part = window.support.meet(self.core)
        here, there = part.within(self.core), part.within(window.support)
        weight = plan.weight(window)[there]
        for name, a in outputs.items():
            if name not in self.sums:
                self.sums[name] = np.zeros((a.shape[0], *self.core.shape), np.float32)
            self.sums[name][(slice(None), *here)] += weight * a[(slice(None), *part.within(window.read))]
        self.weights[here] += weight
        self.valid[here] |= True if valid is None else valid[there]

    def result(self) -> tuple[Outputs, Array]:
        """(outputs, valid) of the core."""
        safe = np.where(self.weights > 0, self.weights, 1)
        return {n: s / safe for n, s in self.sums.items()}, self.valid


# -- Dask --------------------------------------------------------------------------------------------------------------


def _cluster(
    network: Network, source: Source, sinks: Sequence[Sink], plan: Plan, how: Input, todo: Sequence[Unit],
    wrote: Callable[[int], None], client: Any,
) -> Iterator[_Finished]:  # fmt: skip
    """Some units as one task; what comes back is which jobs are written."""
    from distributed import as_completed

    groups = [todo[i : i + UNITS_A_TASK] for i in range(0, len(todo), UNITS_A_TASK)]
    shared = client.scatter((network, source, tuple(sinks)), broadcast=True, hash=False)
    futures = [client.submit(_remote, shared, plan, how, g, pure=False) for g in groups]
    try:
        for future in as_completed(futures):  # type: ignore[no-untyped-call]
            jobs, finished = future.result()
            for job in jobs:
                wrote(job)
            yield finished
    except BaseException:
        client.cancel(futures)
        raise


def _remote(
    shared: tuple[Network, Source, tuple[Sink, ...]], plan: Plan, how: Input, todo: Sequence[Unit]
) -> tuple[list[int], _Finished]:
    """Some units on a worker."""
    jobs: list[int] = []
    total = _Finished()
    for part in _one_process(*shared, plan, how, todo, jobs.append):
        total.windows += part.windows
        total.skipped += part.skipped
        total.network_seconds += part.network_seconds
    return jobs, total
