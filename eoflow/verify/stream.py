"""Reading forecasts and truth in bounded memory: blocks of initial times against a rolling window of valid times.

Every forecast block is read once and every truth field once (once per lead block where members and leads are too
many to fit); the next block is read while the present one is worked on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoflow.schema import Channel
from eoflow.verify.align import Alignment, Cube, Group
from eoflow.verify.climatology import Lookup
from eoflow.verify.metrics import Metric, MomentMetric
from eoflow.verify.moments import F32, F64, NAMES, Moments, Reference, worker_pool

_GENERIC_BYTES = 64 * 1024**2  # of forecasts handed to one call of a plug-in's `cases`

_BLOCK_BYTES = 24 * 1024**2


@dataclass
class GroupStats:
    """What is kept of the fields of a group: (N, L, C, ...) float64, NaN where there was no such case.

    coverage (V, C): fraction of the area weight that each truth field has.
    """

    channels: list[Channel]
    moments: dict[str, F64]
    generic: dict[tuple[str, str], F64]
    coverage: F64

    def stats(self, model: str, metric: Metric, channel: int) -> F64:
        """(N, L, K) statistics of a metric."""
        if isinstance(metric, MomentMetric):
            return metric.of(Moments(self.moments[model][:, :, channel]))
        return self.generic[model, metric.name][:, :, channel]


@dataclass(frozen=True)
class _Block:
    inits: slice
    leads: slice


class _Window:
    """Truth and climatology of the valid times lo..hi of a group: (C, T, P) float32, reused as it rolls."""

    def __init__(self, alignment: Alignment, group: Group, climatology: Lookup | None, weights: F64) -> None:
        self.a, self.group, self.climatology, self.weights = alignment, group, climatology, weights
        self.lo = self.hi = 0
        cells = alignment.grid.shape[0] * alignment.grid.shape[1]
        self.truth: F32 = np.empty((len(group.channels), 0, cells), np.float32)
        self.clim: F32 | None = None if climatology is None else self.truth.copy()
        self.references: list[Reference] = []

    def move(self, lo: int, hi: int) -> None:
        """Hold the needed times lo..hi; only those not held yet are read."""
        keep_lo, keep_hi = max(lo, self.lo), min(hi, self.hi)
        parts = [(lo, hi)] if keep_lo >= keep_hi else [(lo, keep_lo), (keep_hi, hi)]
        shape = (self.truth.shape[0], hi - lo, self.truth.shape[2])
        truth = np.empty(shape, np.float32)
        clim = None if self.clim is None else np.empty(shape, np.float32)
        if keep_lo < keep_hi:
            old = slice(keep_lo - self.lo, keep_hi - self.lo)
            truth[:, keep_lo - lo : keep_hi - lo] = self.truth[:, old]
            if clim is not None and self.clim is not None:
                clim[:, keep_lo - lo : keep_hi - lo] = self.clim[:, old]
        for start, stop in parts:
            if start < stop:
                self._read(truth[:, start - lo : stop - lo], start, stop)
                if clim is not None:
                    self._read_climatology(clim[:, start - lo : stop - lo], start, stop)
        self.truth, self.clim, self.lo, self.hi = truth, clim, lo, hi
        self.references = [
            Reference(truth[c], None if clim is None else clim[c], self.weights) for c in range(len(truth))
        ]

    def _read(self, out: F32, start: int, stop: int) -> None:
        rows = self.a.truth_rows[start:stop]
        there = rows >= 0
        out[:] = np.nan
        if not there.any():
            return
        da = self.a.truth[self.group.variable]
        if self.group.dim is not None:
            da = _pick(da, self.group.dim, self.group.levels or ())
        wanted = rows[there]
        first, last = int(wanted[0]), int(wanted[-1]) + 1
        if last - first <= 2 * wanted.size:  # one slice reads chunks in order; what is too much is dropped at once
            values = _values(da.isel(time=slice(first, last)), ("time",), self.group.dim)[wanted - first]
        else:
            values = _values(da.isel(time=wanted), ("time",), self.group.dim)
        out[:, there] = values.reshape(wanted.size, out.shape[0], -1).swapaxes(0, 1)

    def _read_climatology(self, out: F32, start: int, stop: int) -> None:
        assert self.climatology is not None
        times = self.a.needed[start:stop]
        for c, channel in enumerate(self.group.channels):
            out[c] = np.asarray(self.climatology(times, channel), np.float32).reshape(len(times), -1)


def _pick(da: Any, dim: str, levels: Sequence[float]) -> Any:
    """Select levels by value; nothing is done where all are wanted (a lazy array stays one slice)."""
    held = [float(x) for x in da[dim].values]
    at = [held.index(lev) for lev in levels]
    return da if at == list(range(len(held))) else da.isel({dim: at})


def _values(da: Any, leading: tuple[str, ...], dim: str | None) -> F32:
    order = (*leading, *(() if dim is None else (dim,)), "latitude", "longitude")
    return np.asarray(da.transpose(*order).values, np.float32)


def split(alignment: Alignment, group: Group, budget: int, climatology: bool) -> list[Group]:
    """Cut the levels of a group so that window and blocks fit into `budget` bytes."""
    if group.levels is None:
        return [group]
    per_level = 4 * _cells(alignment) * (_span(alignment) * (4 if climatology else 2) + 2 * len(alignment.leads))
    many = max(1, min(len(group.levels), int(budget / per_level)))
    return [
        Group(group.variable, group.units, group.dim, group.levels[i : i + many])
        for i in range(0, len(group.levels), many)
    ]


def _cells(alignment: Alignment) -> int:
    return alignment.grid.shape[0] * alignment.grid.shape[1]


def _span(alignment: Alignment) -> int:
    """Valid times of one initial time, first to last lead."""
    return int((alignment.valid[:, -1] - alignment.valid[:, 0]).max()) + 1


def _blocks(alignment: Alignment, group: Group, members: int, budget: int) -> list[_Block]:
    """Blocks of (initial times, leads): small enough that reading and computing overlap; two are held at once."""
    field_bytes = 4 * _cells(alignment) * len(group.channels) * members
    fields = max(1, min(budget // 8, _BLOCK_BYTES) // field_bytes)
    leads = min(len(alignment.leads), fields)
    inits = max(1, fields // leads)
    chunk = _init_chunk(alignment, group)
    if inits > chunk:
        inits -= inits % chunk
    return [
        _Block(slice(i, min(i + inits, len(alignment.inits))), slice(k, min(k + leads, len(alignment.leads))))
        for k in range(0, len(alignment.leads), leads)
        for i in range(0, len(alignment.inits), inits)
    ]


def _init_chunk(alignment: Alignment, group: Group) -> int:
    """Initial times in one stored chunk, the largest of the models."""
    sizes = [1]
    for cube in alignment.cubes.values():
        if group.variable in cube.ds:
            da = cube.ds[group.variable]
            stored = da.encoding.get("preferred_chunks") or {}
            sizes.append(int(stored.get("init_time", 1) or 1))
    return max(sizes)


def stream(
    alignment: Alignment, group: Group, metrics: Sequence[Metric], climatology: Lookup | None, budget: int
) -> GroupStats:
    """Read a group once and keep the statistics of its cases."""
    grid = alignment.grid
    weights = np.repeat(grid.area_weights()[:, None], grid.shape[1], axis=1)
    generic = [m for m in metrics if not isinstance(m, MomentMetric)]
    cubes = [c for c in alignment.cubes.values() if group.variable in c.ds.data_vars]
    n, nl, nc = len(alignment.inits), len(alignment.leads), len(group.channels)
    out = GroupStats(
        group.channels,
        {c.name: np.full((n, nl, nc, len(NAMES)), np.nan) for c in cubes},
        {},
        np.zeros((len(alignment.needed), nc)),
    )
    window = _Window(alignment, group, climatology, weights.ravel())
    blocks = _blocks(alignment, group, max((c.members or 1 for c in cubes), default=1), budget)
    with ThreadPoolExecutor(1, thread_name_prefix="eoflow-read") as reader, worker_pool() as pool:
        for block, cube, leads, levels, field in _read_ahead(reader, alignment, group, cubes, blocks):
            index = alignment.valid[block.inits, block.leads]
            lo, hi = int(index.min()), int(index.max()) + 1
            if (lo, hi) != (window.lo, window.hi):
                window.move(lo, hi)
                out.coverage[lo:hi] = np.stack([r.coverage for r in window.references], axis=1)
            rows = alignment.valid[block.inits][:, leads] - lo
            mean = field.mean(axis=2, dtype=np.float32) if cube.members else field
            for position, c in enumerate(levels):
                moments = window.references[c].moments(mean[:, :, position], rows, pool)
                out.moments[cube.name][block.inits, leads, c] = moments.values
                for metric in generic:
                    members = field[:, :, :, position] if cube.members else field[:, :, None, position]
                    x = members if metric.ensemble else mean[:, :, position]
                    k = _generic(metric, x, window, c, rows, weights)
                    store = out.generic.setdefault((cube.name, metric.name), np.full((n, nl, nc, k.shape[-1]), np.nan))
                    store[block.inits, leads, c] = k
    return out


def _generic(metric: Metric, x: F32, window: _Window, channel: int, rows: NDArray[np.intp], weights: F64) -> F64:
    """Statistics of a plug-in metric for forecasts (I, L, [M,] P), a bounded number of cases a call."""
    ni, nl = x.shape[:2]
    shape = weights.shape
    flat, index = x.reshape(ni * nl, *x.shape[2:-1], *shape), rows.ravel()
    step = max(1, _GENERIC_BYTES // (flat[0].nbytes + 1))
    parts = []
    for i in range(0, ni * nl, step):
        at = index[i : i + step]
        truth = window.truth[channel, at].reshape(-1, *shape)
        clim = None if window.clim is None else window.clim[channel, at].reshape(-1, *shape)
        parts.append(np.asarray(metric.cases(flat[i : i + step], truth, clim, weights), np.float64))
    stats = np.concatenate(parts)
    return stats.reshape(ni, nl, -1)


def _read_ahead(
    reader: ThreadPoolExecutor, alignment: Alignment, group: Group, cubes: Sequence[Cube], blocks: Sequence[_Block]
) -> Iterator[tuple[_Block, Cube, slice, list[int], F32]]:
    """Yield (block, cube, its leads within all leads, its channels, (I, L, [M,] C, P) fields), one read ahead."""
    jobs = []
    for block in blocks:
        for cube in cubes:
            for leads, own in _lead_runs(alignment, cube, block):
                jobs.append((block, cube, leads, own))
    ahead = reader.submit(_load, alignment, group, *jobs[0][:2], jobs[0][3]) if jobs else None
    for i, (block, cube, leads, _) in enumerate(jobs):
        assert ahead is not None
        levels, field = ahead.result()
        if i + 1 < len(jobs):
            ahead = reader.submit(_load, alignment, group, *jobs[i + 1][:2], jobs[i + 1][3])
        if levels:
            yield block, cube, leads, levels, field


def _lead_runs(alignment: Alignment, cube: Cube, block: _Block) -> list[tuple[slice, slice]]:
    """The cube's leads inside a block as runs that are neighbours on both axes: (on all leads, on the cube's own)."""
    pairs = []
    for k in range(block.leads.start, block.leads.stop):
        own = np.flatnonzero(cube.leads == alignment.leads[k])
        if own.size:
            pairs.append((k, int(own[0])))
    runs: list[list[tuple[int, int]]] = []
    for pair in pairs:
        if runs and pair == (runs[-1][-1][0] + 1, runs[-1][-1][1] + 1):
            runs[-1].append(pair)
        else:
            runs.append([pair])
    return [(slice(r[0][0], r[-1][0] + 1), slice(r[0][1], r[-1][1] + 1)) for r in runs]


def _load(alignment: Alignment, group: Group, block: _Block, cube: Cube, leads: slice) -> tuple[list[int], F32]:
    """The cube's fields of a block and which of the group's channels they are."""
    da = cube.ds[group.variable]
    levels = [0]
    if group.dim is not None:
        held = {float(x) for x in cube.ds[group.dim].values}
        levels = [i for i, lev in enumerate(group.levels or ()) if lev in held]
        da = _pick(da, group.dim, [(group.levels or ())[i] for i in levels])
    if not levels:
        return [], np.empty(0, np.float32)
    rows = np.searchsorted(cube.inits, alignment.inits[block.inits])
    contiguous = rows[-1] - rows[0] == rows.size - 1
    da = da.isel(init_time=slice(int(rows[0]), int(rows[-1]) + 1) if contiguous else rows, lead_time=leads)
    leading = ("init_time", "lead_time", *(("member",) if cube.members else ()))
    values = _values(da, leading, group.dim)
    return levels, values.reshape(*values.shape[: len(leading)], len(levels), -1)
