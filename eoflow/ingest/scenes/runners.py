"""Who does the units: threads of this process, or the workers of a Dask cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.bands import SceneSchema
from eoflow.catalog_scenes import SceneEntry
from eoflow.ingest.scenes.work import Outcome, Unit, run, store

if TYPE_CHECKING:
    import icechunk

    from eoflow.sources.raster import RasterReader
    from eoflow.transaction import Transaction

Take = Callable[[Outcome, Any], None]


def local(
    units: Sequence[Unit], schema: SceneSchema, reader: RasterReader, tx: Transaction | None, take: Take,
    pool: ThreadPoolExecutor,
) -> None:  # fmt: skip
    """Do the units in the threads of `pool`; tx None: read and check only. Nothing goes on when this returns."""
    get, put = (None, None) if tx is None else store(tx.group, schema)
    if put is not None and get is not None:  # arrays are opened here: the threads only look them up
        warm = {u.tile: u for u in units}
        for unit in warm.values():
            tx.group[f"tiles/{unit.tile}"]  # type: ignore[union-attr]
    bad: set[str] = set()

    def one(unit: Unit) -> Outcome:
        if any(s.id in bad for s in unit.scenes):
            return Outcome(unit)  # the batch is done again without it
        out = run(unit, schema, reader, get, put)
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
        get, put = store(zarr.open_group(fork.store, mode="r+"), schema)
    return run(unit, schema, _reader(entry_json, cache, now), get, put), fork
