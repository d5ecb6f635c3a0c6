"""Who does the blocks: threads of this process, or the workers of a Dask cluster."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow import chunks
from eoflow.catalog import DatasetEntry
from eoflow.config import settings
from eoflow.ingest import retry
from eoflow.ingest.blocks import BLOCK_BYTES, Block, Judge, Outcome, Part, run
from eoflow.layout import MIB
from eoflow.sources.base import Asset, Source

if TYPE_CHECKING:
    import icechunk
    import xarray as xr

    from eoflow.transaction import Transaction

Array = np.ndarray[Any, Any]
MANY_RUNS = 4


def block_bytes() -> int:
    """Bytes of one block: each of the threads may hold a block, its copy in other types and its encoded chunks."""
    return int(min(BLOCK_BYTES, max(4 * MIB, settings().memory_mb * MIB // (6 * threads()))))


def threads() -> int:
    """Threads that work on blocks: one more than cores reads while the others encode, as far as the memory goes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 2)
    return max(1, min(cores + 1, 8, settings().memory_mb // 128))


class Opener:
    """Opens assets once and keeps the lazy datasets until they are dropped. Safe to use from several threads."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._open: dict[str, xr.Dataset] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()

    def __call__(self, asset: Asset) -> xr.Dataset:
        """The dataset of an asset; transient errors are tried again."""
        with self._guard:
            lock = self._locks.setdefault(asset.id, threading.Lock())
        with lock:
            if asset.id not in self._open:
                self._open[asset.id] = retry.call(lambda: self.source.open(asset))
            return self._open[asset.id]

    def keep(self, ids: set[str]) -> None:
        """Close all but these."""
        with self._guard:
            for gone in [i for i in self._open if i not in ids]:
                self._open.pop(gone).close()
                self._locks.pop(gone, None)


def writer(array_of: Callable[[str], Any]) -> Callable[[Part, Array, Array], None]:
    """A function (part, index, values) that writes values at positions `index` of the stored arrays' time axis."""

    def write(part: Part, index: Array, values: Array) -> None:
        a, rest = array_of(part.spec.name), part.where
        cuts = [0, *(np.flatnonzero(np.diff(index) != 1) + 1).tolist(), index.size]
        if len(cuts) - 1 > MANY_RUNS:  # scattered times: one read and one write instead of one of each a run
            first, last = int(index[0]), int(index[-1]) + 1
            whole = np.array(a[(slice(first, last), *rest)])
            whole[index - first] = values
            a[(slice(first, last), *rest)] = whole
            return
        for i, j in pairwise(cuts):
            chunks.write(a, (slice(int(index[i]), int(index[j - 1]) + 1), *rest), values[i:j])

    return write


Done = Callable[[Outcome, Block], None]


def local(
    blocks: Sequence[Block], get: Callable[[Asset], xr.Dataset], judge: Judge, tx: Transaction | None, done: Done
) -> list[Outcome]:
    """Do the blocks in threads of this process; tx None: read and judge only."""
    write = None if tx is None else writer(tx.array)
    if tx is not None:
        for block in blocks:
            for part in block.parts:
                tx.array(part.spec.name)  # opened here: the threads only look them up
    out: list[Outcome] = []
    with ThreadPoolExecutor(threads()) as pool:
        futures = {pool.submit(run, b, get, judge, write): b for b in blocks}
        try:
            for f in as_completed(futures):
                out.append(f.result())
                done(out[-1], futures[f])
        except BaseException:
            for f in futures:
                f.cancel()
            raise
    return out


def client() -> Any | None:
    """The Dask client to use: the one that is active in this process, else one for `settings().dask`, else None."""
    if "distributed" in sys.modules:
        import distributed

        try:
            return distributed.get_client()
        except ValueError:
            pass
    address = settings().dask
    if not address:
        return None
    import distributed

    return distributed.Client(address)  # type: ignore[no-untyped-call]


def cluster(
    blocks: Sequence[Block], entry: DatasetEntry, cache: str, now: np.datetime64, judge: Judge,
    session: icechunk.Session | None, dask_client: Any, done: Done,
) -> list[Outcome]:  # fmt: skip
    """Do the blocks on Dask workers. What travels: the block (ids and positions) and a fork of the session.

    The session must have no changes yet; the forks are merged into it.
    """
    from distributed import as_completed as completed

    fork = None if session is None else session.fork()
    text = entry.model_dump_json()
    futures = {dask_client.submit(_remote, b, text, cache, now, judge, fork, pure=False): b for b in blocks}
    out, forks = [], []
    try:
        for f in completed(list(futures)):  # type: ignore[no-untyped-call]
            outcome, theirs = f.result()
            out.append(outcome)
            forks.append(theirs)
            done(outcome, futures[f])
    except BaseException:
        dask_client.cancel(list(futures))
        raise
    if session is not None and forks:
        session.merge(*forks)
    return out


def _remote(
    block: Block, entry_json: str, cache: str, now: np.datetime64, judge: Judge, fork: icechunk.ForkSession | None
) -> tuple[Outcome, icechunk.ForkSession | None]:
    """One block on a worker: opens its own assets, writes through its own fork."""
    from pathlib import Path

    import zarr

    from eoflow.sources.base import SourceContext, create

    entry = DatasetEntry.model_validate_json(entry_json)
    opener = Opener(create(entry, SourceContext(Path(cache), now)))
    write = None
    if fork is not None:
        fork = fork.fork()  # workers that are threads of one process share the object they were sent
        group = zarr.open_group(fork.store, mode="r+")
        arrays: dict[str, Any] = {}
        for part in block.parts:
            stored: Any = group[part.spec.name]
            arrays[part.spec.name] = stored.with_config({"write_empty_chunks": True})
        write = writer(arrays.__getitem__)
    try:
        return run(block, opener, judge, write), fork
    finally:
        opener.keep(set())
