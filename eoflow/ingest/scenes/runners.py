"""Who does the units: threads of this process, or the workers of a Dask cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow import cube_layout as lay
from eoflow.bands import SceneSchema
from eoflow.catalog_scenes import SceneEntry
from eoflow.ingest.scenes.work import Outcome, Unit, read, run, store
from eoflow.sources.raster_open import environment
from eoflow.sources.scene import Grid, Scene

if TYPE_CHECKING:
    import icechunk

    from eoflow.sources.raster import RasterReader
    from eoflow.transaction import Transaction

Array = np.ndarray[Any, Any]
Take = Callable[[Outcome, Any], None]


class Ahead:
    """Windows that are read before their batch is begun: while the one before it is committed, and room is made.

    At most `count`, as many as threads work: together they hold no more than the threads do in the middle of a batch.
    """

    def __init__(self, pool: ThreadPoolExecutor, reader: RasterReader, count: int) -> None:
        self.pool, self.reader, self.count = pool, reader, count
        self._futures: dict[tuple[str, Grid], Future[dict[str, Array]]] = {}

    def start(self, schema: SceneSchema, wanted: Iterable[tuple[Scene, Grid]]) -> None:
        """Begin with the first (scene, window); what was begun for others is forgotten where it would be too many."""
        some = list(islice(wanted, self.count))
        others = [key for key in self._futures if key not in {(s.id, grid) for s, grid in some}]
        for key in others[max(0, self.count - len(some)) :]:
            self._futures.pop(key).cancel()
        for scene, grid in some:
            if (scene.id, grid) not in self._futures:
                self._futures[scene.id, grid] = self.pool.submit(self._read, schema, scene, grid)

    def _read(self, schema: SceneSchema, scene: Scene, grid: Grid) -> dict[str, Array]:
        with environment():
            return read(scene, schema, grid, self.reader)

    def take(self, scene: Scene, grid: Grid) -> dict[str, Array] | None:
        """What was read (waits for it; raises what reading raised); None: nothing was begun."""
        future = self._futures.pop((scene.id, grid), None)
        return None if future is None or future.cancel() else future.result()

    def clear(self) -> None:
        """Forget all."""
        for future in self._futures.values():
            future.cancel()
        self._futures.clear()


def local(
    units: Sequence[Unit], schema: SceneSchema, reader: RasterReader, tx: Transaction | None, take: Take,
    pool: ThreadPoolExecutor, ahead: Ahead,
) -> None:  # fmt: skip
    """Do the units in the threads of `pool`; tx None: read and check only. Nothing goes on when this returns, but what
    is read ahead."""
    get = put = None
    if tx is not None:  # arrays are opened here: the threads only look them up
        arrays = {tile: lay.opened(tx, tile, schema) for tile in {u.tile for u in units}}
        get, put = store(arrays.__getitem__)
    bad: set[str] = set()

    def values(scene: Scene, grid: Grid) -> dict[str, Array]:
        found = ahead.take(scene, grid)
        return read(scene, schema, grid, reader) if found is None else found

    def one(unit: Unit) -> Outcome:
        if any(s.id in bad for s in unit.scenes):
            return Outcome(unit)  # the batch is done again without it
        with environment():
            out = run(unit, schema, values, get, put)
        bad.update(scene for scene, _ in out.errors)
        return out

    futures = [pool.submit(one, u) for u in units]
    try:
        for f in as_completed(futures):
            take(f.result(), None if tx is None else tx.group)
    finally:
        for f in futures:
            f.cancel()
        wait(futures)


def cluster(
    units: Sequence[Unit], schema: SceneSchema, entry: SceneEntry, cache: str, now: np.datetime64,
    session: icechunk.Session | None, client: Any, take: Take,
) -> None:  # fmt: skip
    """Do the units on Dask workers. What travels: the unit (scenes and positions) and a fork of the session.

    The session must have no changes yet; the forks are merged into it, and the overviews through one of our own.
    """
    import zarr
    from distributed import as_completed as completed

    mine = None if session is None else session.fork()
    root = None if mine is None else zarr.open_group(mine.store, mode="r+")
    fork = None if session is None else session.fork()
    args = (schema.model_dump_json(), entry.model_dump_json(), cache, now)
    futures = [client.submit(_remote, u, *args, fork, pure=False) for u in units]
    forks: list[Any] = [] if mine is None else [mine]
    try:
        for f in completed(list(futures)):  # type: ignore[no-untyped-call]
            outcome, theirs = f.result()
            f.release()
            take(outcome, root)
            if theirs is not None:
                forks.append(theirs)
    except BaseException:
        client.cancel(futures)
        raise
    if session is not None:
        session.merge(*forks)


@lru_cache(maxsize=4)
def _reader(entry_json: str, cache: str, now: np.datetime64) -> RasterReader:
    from eoflow.ingest.scenes.sources import open_source
    from eoflow.sources.raster import RasterReader

    entry = SceneEntry.model_validate_json(entry_json)
    return RasterReader(open_source(entry, Path(cache), now).readable)


def _remote(
    unit: Unit, schema_json: str, entry_json: str, cache: str, now: np.datetime64, fork: icechunk.ForkSession | None
) -> tuple[Outcome, icechunk.ForkSession | None]:
    """One unit on a worker: reads its own scenes, writes through its own fork."""
    import zarr

    schema = SceneSchema.model_validate_json(schema_json)
    get = put = None
    if fork is not None:
        fork = fork.fork()  # workers that are threads of one process share the object they were sent
        root = zarr.open_group(fork.store, mode="r+")
        get, put = store(lambda tile: lay.arrays_of(root, tile, schema))
    reader = _reader(entry_json, cache, now)
    return run(unit, schema, lambda scene, grid: read(scene, schema, grid, reader), get, put), fork
