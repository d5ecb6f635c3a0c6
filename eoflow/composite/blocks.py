"""The work of a composite: output chunks, each read, reduced and written by one thread or Dask task."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow import chunks
from eoflow.composite.methods import Reduced, reduce
from eoflow.config import settings
from eoflow.cube import Cube
from eoflow.ingest.workers import threads
from eoflow.quality import Quality, usable
from eoflow.tiling import Window
from eoflow.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Callable

DAY = np.timedelta64(86400 * 10**9, "ns")
CHUNKS_A_TASK = 4


@dataclass(frozen=True)
class Work:
    """The composite of one tile, or (windows given) a part of it. rows, columns: where the output lies in the tile."""

    folder: str
    tile: str
    rows: slice
    columns: slice
    steps: slice
    chunk: tuple[int, int]
    times: tuple[np.datetime64, ...]
    end: np.datetime64
    bands: tuple[str, ...]
    fills: tuple[float, ...]
    scales: tuple[float, ...]
    nodata: tuple[bool, ...]
    classes: tuple[Quality, ...]
    method: str
    windows: tuple[Window, ...] = ()

    def cut(self) -> list[Window]:
        """Whole chunks of the output."""
        height, width = self.rows.stop - self.rows.start, self.columns.stop - self.columns.start
        return [
            (slice(y, min(y + self.chunk[0], height)), slice(x, min(x + self.chunk[1], width)))
            for y in range(0, height, self.chunk[0])
            for x in range(0, width, self.chunk[1])
        ]


class Tile:
    """Open arrays of a tile and of its output."""

    def __init__(self, cube: Cube, snapshot: str, work: Work) -> None:
        import zarr

        self.work = work
        source: Any = cube.group(work.tile, snapshot)
        self.bands = [source[b] for b in work.bands]
        self.quality = source["quality"]
        output: Any = zarr.open_group(f"{work.folder}/tiles/{work.tile}", mode="r+", zarr_format=3)
        self.arrays: dict[str, Any] = {n: output[n] for n in (*work.bands, "count", "age", "source")}

    def do(self, window: Window) -> int:
        """One chunk of the output; returns how many of its pixels were never seen."""
        work, empty = self.work, 0
        done: list[Reduced] = []
        for rows in self._strips(window):
            one = self._reduce((rows, window[1]))
            empty += int((one.count == 0).sum())
            done.append(one)
        days = np.array([int((work.end - t) // DAY) for t in work.times] + [-1], np.int16)
        layers = {b: np.concatenate([r.bands[i] for r in done]) for i, b in enumerate(work.bands)}
        layers["count"] = np.concatenate([r.count for r in done])
        layers["source"] = np.concatenate([r.source for r in done])
        layers["age"] = days[np.concatenate([r.newest for r in done])]
        for name, values in layers.items():
            chunks.write(self.arrays[name], window, values)
        return empty

    def _strips(self, window: Window) -> Iterator[slice]:
        """Rows of a chunk in pieces whose observations fit the memory of one thread."""
        work, (rows, columns) = self.work, window
        row = len(work.times) * (columns.stop - columns.start) * (4 + sum(a.dtype.itemsize for a in self.bands))
        budget = settings().memory_mb * 2**20 // threads()
        step = max(1, min(rows.stop - rows.start, budget // row))
        for y in range(rows.start, rows.stop, step):
            yield slice(y, min(y + step, rows.stop))

    def _reduce(self, window: Window) -> Reduced:
        work = self.work
        there = tuple(
            slice(o.start + s.start, o.start + s.stop) for o, s in zip((work.rows, work.columns), window, strict=True)
        )  # fmt: skip
        good = usable(np.asarray(self.quality[(work.steps, *there)]), work.classes)
        steps = np.flatnonzero(good.any(axis=(1, 2)))  # scenes without a usable pixel here are not read
        good = good[steps]
        values = []
        for array, fill, has_nodata in zip(self.bands, work.fills, work.nodata, strict=True):
            stack = np.empty(good.shape, array.dtype)
            for k, step in enumerate(steps):
                stack[k] = array[(work.steps.start + int(step), *there)]
            if stack.dtype.kind == "f":
                good &= np.isfinite(stack)
            if has_nodata and not np.isnan(fill):
                good &= stack != fill
            values.append(stack)
        found = reduce(values, good, work.fills, work.scales, work.method)
        back = np.append(steps, -1).astype(np.int16)  # positions among the scenes read -> among those of the period
        return replace(found, source=back[found.source], newest=back[found.newest])


def local(
    cube: Cube, snapshot: str, works: Sequence[Work], progress: Callable[[float, float, str], None] | None
) -> dict[str, int]:
    """Every tile in threads of this process; returns the pixels never seen, by tile."""
    empty, done, total = {w.tile: 0 for w in works}, 0, sum(len(w.cut()) for w in works)
    with ThreadPoolExecutor(threads()) as pool:
        for work in works:
            tile = Tile(cube, snapshot, work)
            futures = [pool.submit(tile.do, window) for window in work.cut()]
            try:
                for future in as_completed(futures):
                    empty[work.tile] += future.result()
                    done += 1
                    if progress is not None:
                        progress(done, total, f"tile {work.tile}")
            except BaseException:
                for future in futures:
                    future.cancel()
                raise
    return empty


def cluster(
    root: str, name: str, snapshot: str, works: Sequence[Work], dask_client: Any,
    progress: Callable[[float, float, str], None] | None,
) -> dict[str, int]:  # fmt: skip
    """Every tile on Dask workers, some chunks a task."""
    from distributed import as_completed as completed

    tasks = [
        replace(w, windows=tuple(cut[i : i + CHUNKS_A_TASK]))
        for w in works
        for cut in [w.cut()]
        for i in range(0, len(cut), CHUNKS_A_TASK)
    ]
    futures = {dask_client.submit(_remote, root, name, snapshot, t, pure=False): t for t in tasks}
    empty = {w.tile: 0 for w in works}
    try:
        for done, future in enumerate(completed(list(futures)), 1):  # type: ignore[no-untyped-call]
            empty[futures[future].tile] += future.result()
            if progress is not None:
                progress(done, len(tasks), "tasks")
    except BaseException:
        dask_client.cancel(list(futures))
        raise
    return empty


def _remote(root: str, name: str, snapshot: str, work: Work) -> int:
    """Some chunks on a worker, which opens the cube itself."""
    tile = _opened(root, name, snapshot, replace(work, windows=()))
    return sum(tile.do(window) for window in work.windows)


_TILES: dict[tuple[str, str, str, str], Tile] = {}
_GUARD = threading.Lock()


def _opened(root: str, name: str, snapshot: str, work: Work) -> Tile:
    key = (root, name, snapshot, repr(work))
    with _GUARD:
        if key not in _TILES:
            _TILES.clear()
            _TILES[key] = Tile(Cube.load(Workspace(root), name), snapshot, work)
        return _TILES[key]
