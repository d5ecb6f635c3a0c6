"""One batch of an ingest of scenes: its windows are read and written, and everything is committed at once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow import cube_layout as lay
from eoflow.archive import MAIN, STAGING, Archive, Conflict
from eoflow.bands import SceneSchema
from eoflow.catalog_scenes import SceneEntry, TileScheme
from eoflow.cube import Cube
from eoflow.errors import BadInput, EoflowError
from eoflow.ingest import memory, retry, workers
from eoflow.ingest.report import IngestReport, Progress
from eoflow.ingest.scenes import notes, runners
from eoflow.ingest.scenes.collect import Collector, Done
from eoflow.ingest.scenes.ledger import SceneLedger
from eoflow.ingest.scenes.plan import Batch, Step, Steps
from eoflow.ingest.scenes.tiles import Cut, blocks_of
from eoflow.ingest.scenes.work import Unit
from eoflow.sources.base import AssetCorrupt
from eoflow.sources.raster import RasterReader
from eoflow.sources.raster_open import environment
from eoflow.sources.scene import Scene, SceneSource
from eoflow.tiling import Window, chunk_shape, overview_factors, windows
from eoflow.times import iso

if TYPE_CHECKING:
    from eoflow.transaction import Transaction

Array = np.ndarray[Any, Any]
CONFLICT_TRIES = 3
HEADER_THREADS = 4
"""Scenes whose headers are read at the same time; a source may ask for several files of each at once."""


class _BadScenes(Exception):
    """Scenes that turned out bad while their batch was written: the batch is done again without them."""

    def __init__(self, errors: dict[str, EoflowError]) -> None:
        self.errors = errors


@dataclass
class SceneJob:
    """Archive, entry and source of one ingest of scenes, and the branch that it writes to.

    planned: (scene id, tile, time) of everything the listing wants; it goes into the ledger with the first commit.
    cut: what was left out of scenes that reach beyond their tile. upcoming (set by whoever calls `commit`): the steps
    that come after this batch, as far as they are known.
    """

    archive: Archive
    entry: SceneEntry
    source: SceneSource
    now: np.datetime64
    cache: str
    report: IngestReport
    progress: Progress
    strict: bool = False
    branch: str = MAIN
    total: float = 0.0
    done: float = 0.0
    planned: dict[tuple[str, str], np.datetime64] = field(default_factory=dict)
    cut: Cut = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.steps = Steps(self.entry, SceneLedger())
        # the source's own, where it has one: a file that it opened for the header is still open for the pixels
        self.reader: RasterReader = getattr(self.source, "reader", None) or RasterReader(self.source.readable)
        self.client = workers.client()
        # kept from batch to batch: PROJ opens its database anew in each thread
        self.header_threads = ThreadPoolExecutor(HEADER_THREADS, "eoflow-headers")
        self.unit_threads = ThreadPoolExecutor(workers.threads(), "eoflow-units")
        self.ahead = runners.Ahead(self.unit_threads, self.reader, workers.threads())
        self.upcoming: Callable[[], Sequence[Step]] = tuple
        self._layouts: dict[str, tuple[tuple[int, int], tuple[int, ...]]] = {}

    def close(self) -> None:
        """End the threads and close their files."""
        self.header_threads.shutdown()
        self.ahead.clear()
        self.unit_threads.shutdown(cancel_futures=True)
        self.reader.close()

    @property
    def cube(self) -> Cube:
        """The cube on the branch that is written."""
        return Cube(self.archive, self.branch)

    def header(self, scene: Scene) -> Scene:
        """The scene with its bands filled in; transient errors are tried again. Raises EoflowError."""
        try:
            with environment():
                return retry.call(lambda: self.source.header(scene))
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as e:
            raise AssetCorrupt(f"{type(e).__name__}: {e}", where=scene.id) from e

    def pixel_bytes(self, schema: SceneSchema) -> int:
        """Bytes of one pixel of a tile, all layers."""
        return sum(np.dtype(b.dtype).itemsize for b in schema.bands) + 2

    # -- one batch, one commit -------------------------------------------------------------------------------------

    def commit(self, batch: Batch, message: str, hidden: bool = False) -> None:
        """Write the steps of a batch and note the scenes that could not be used.

        strict: any problem raises BadInput and nothing is changed. Raises Conflict where another writer was faster.
        """
        start = self.done
        while batch.steps or batch.tried:
            try:
                self._committed(batch, message, hidden)
                self.report.new += batch.new
                self.report.rewritten += batch.again
                self.report.nbytes += batch.nbytes
                notes.report_tried(self.report, batch)
                break
            except _BadScenes as bad:
                self.done = start
                if self.strict:
                    raise refusal(next(iter(bad.errors.values())), len(bad.errors)) from None
                batch = notes.without(batch, bad.errors)
        memory.release()

    def _committed(self, batch: Batch, message: str, hidden: bool) -> None:
        for attempt in range(CONFLICT_TRIES):
            try:
                if self.client is None:
                    self._here(batch, message, hidden)
                else:
                    self._on_cluster(batch, message, hidden)
                return
            except Conflict:
                self._layouts.clear()
                if attempt == CONFLICT_TRIES - 1:
                    raise

    def _here(self, batch: Batch, message: str, hidden: bool) -> None:
        if not batch.steps and not notes.news(SceneLedger.load(self.archive, branch=self.branch), self, batch):
            return
        self._read_ahead(batch.steps)  # while room is made
        with self.archive.transaction(message, {"what": "ingest"}, self.branch, hidden) as tx:
            slots = self._make_room(tx, batch)
            self._write(tx, batch, slots)
        self.report.commits += 1

    def _read_ahead(self, steps: Sequence[Step]) -> None:
        """Begin to read the first windows of steps: nothing of the cube is needed for that."""
        if self.client is not None or not steps:
            return
        schema = SceneSchema.model_validate_json(self.archive.attrs(branch=self.branch)["eoflow_schema"])
        pixel = self.pixel_bytes(schema)
        wanted = ((s, step.grid.window(*w)) for step in steps for w in self._windows(step, pixel) for s in step.scenes)
        self.ahead.start(schema, wanted)

    def _on_cluster(self, batch: Batch, message: str, hidden: bool) -> None:
        """As a transaction, in two steps on a staging branch: a session can only be forked while it is clean."""
        own, base = self.branch, self.archive.tip(self.branch)
        if not batch.steps:
            self._here(batch, message, hidden)
            return
        if own == MAIN:
            self.archive.drop(f"{STAGING}cluster")
            self.branch = self.archive.branch_off("cluster", base)
        try:
            with self.archive.transaction(f"make room: {message}", {"what": "extend"}, self.branch, True) as tx:
                slots = self._make_room(tx, batch)
            with self.archive.transaction(message, {"what": "ingest"}, self.branch, hidden) as tx:
                self._write(tx, batch, slots)
            if own == MAIN:
                self.archive.publish(self.branch, expected=base)
        finally:
            if own == MAIN:
                self.archive.drop(self.branch)
            self.branch = own
        self.report.commits += 1

    def _make_room(self, tx: Transaction, batch: Batch) -> dict[tuple[str, int], int]:
        """New tiles, and slots of all times of the batch, failed ones included; returns the slot of each."""
        schema = SceneSchema.model_validate_json(str(tx.group.attrs["eoflow_schema"]))
        wanted: dict[str, set[int]] = {}
        first: dict[str, Step] = {}
        for step in batch.steps:
            first.setdefault(step.tile, step)
            wanted.setdefault(step.tile, set()).add(step.time)
        notes.slots_of_tried(self, tx, batch, wanted)
        slots: dict[tuple[str, int], int] = {}
        for tile, times in wanted.items():
            axis = np.array(sorted(times), "datetime64[us]")
            if lay.path(tile) not in tx.group:
                lay.add_tile(tx, tile, first[tile].grid, self._layout(first[tile], tx.group)[0], schema, axis)
            for time, slot in zip(sorted(times), lay.place(tx, tile, axis), strict=True):
                slots[tile, time] = int(slot)
        return slots

    def _write(self, tx: Transaction, batch: Batch, slots: dict[tuple[str, int], int]) -> None:
        schema = SceneSchema.model_validate_json(str(tx.group.attrs["eoflow_schema"]))
        ledger = SceneLedger.read(tx.group)
        done = self.work(tx, schema, batch.steps, slots) if batch.steps else Done()
        while done.errors:
            done = self._without_bad(tx, schema, batch, slots, done)
        self._read_ahead(self.upcoming())  # while this is committed
        batch.nbytes = sum(done.nbytes.values())
        text = " ".join([tx.snapshot, *(f"{s.tile}/{s.time}" for s in batch.steps)])
        token = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
        notes.record(self, tx, schema, ledger, batch, slots, done, token)
        if tx.group.attrs.get("eoflow_entry") != self.entry.model_dump_json() and not self.strict:
            lay.set_attributes(tx, self.entry, schema)

    def _without_bad(
        self, tx: Transaction, schema: SceneSchema, batch: Batch, slots: dict[tuple[str, int], int], done: Done
    ) -> Done:  # fmt: skip
        """Take the bad scenes out of a batch that is written but for them; only the steps they were in are done again.

        Raises _BadScenes where that does not go: something stored was overwritten, or nothing is left.
        """
        rest = notes.without(batch, done.errors)
        kept = {id(s) for s in rest.steps}
        lost = [s for s in batch.steps if id(s) not in kept]
        if self.strict or self.client is not None or not rest.steps or any(s.stored or s.base for s in lost):
            raise _BadScenes(done.errors)
        for step in lost:
            lay.clear(tx, step.tile, schema, slots[step.key])
        now = {id(s): i for i, s in enumerate(rest.steps)}
        old = {i: now[id(s)] for i, s in enumerate(batch.steps) if id(s) in now}
        again = [i for i in range(len(rest.steps)) if i not in old.values()]
        out = self.work(tx, schema, [rest.steps[i] for i in again], slots) if again else Done()
        errors, both = out.errors, Done()
        both.put(done, old)
        both.put(out, dict(enumerate(again)))
        both.errors = errors
        batch.steps, batch.tried, batch.gone = rest.steps, rest.tried, rest.gone
        return both

    # -- windows -----------------------------------------------------------------------------------------------------

    def _layout(self, step: Step, root: Any = None) -> tuple[tuple[int, int], tuple[int, ...]]:
        """Chunk and overviews of a step's tile, as they are or will be. root: the open cube, if there is one."""
        if step.tile not in self._layouts:
            root = self.archive.zarr_group(None, self.branch) if root is None else root
            if lay.path(step.tile) in root:
                attrs = root[lay.path(step.tile)].attrs
                chunk, factors = attrs["eoflow_chunk"], attrs["eoflow_overviews"]
            else:
                schema = SceneSchema.model_validate_json(str(root.attrs["eoflow_schema"]))
                begun = TileScheme.model_validate_json(schema.tiles)
                chunk = chunk_shape(step.grid.shape, blocks_of(step.scenes[0], step.grid), begun)
                factors = overview_factors(step.grid.shape, begun)
            self._layouts[step.tile] = (int(chunk[0]), int(chunk[1])), tuple(int(f) for f in factors)
        return self._layouts[step.tile]

    def _windows(self, step: Step, pixel: int, root: Any = None) -> list[Window]:
        blocks = blocks_of(step.scenes[0], step.grid)
        return windows(step.grid.shape, self._layout(step, root)[0], blocks, pixel, workers.block_bytes())

    def units(
        self, schema: SceneSchema, steps: Sequence[Step], slots: dict[tuple[str, int], int], root: Any
    ) -> list[Unit]:
        """The windows of all steps, in order."""
        out: list[Unit] = []
        for i, step in enumerate(steps):
            chunk, factors = self._layout(step, root)
            slot = slots[step.key]
            first = 1
            if step.base:
                text = str(root[f"{lay.path(step.tile)}/{lay.ITEMS}"][slot])
                first = 1 + (len(notes.loads(text)) if text else 0)
            scenes = tuple(replace(s, properties={}) for s in step.scenes)
            for rows, columns in self._windows(step, self.pixel_bytes(schema), root):
                out.append(
                    Unit(i, step.tile, slot, step.grid, rows, columns, chunk, factors, scenes, first, step.base)
                )  # fmt: skip
        return out

    def work(
        self, tx: Transaction | None, schema: SceneSchema, steps: Sequence[Step], slots: dict[tuple[str, int], int],
        root: Any = None,
    ) -> Done:  # fmt: skip
        """Read, check and (with a transaction) write the windows of the steps."""
        units = self.units(schema, steps, slots, tx.group if tx is not None else root)
        session = tx.session if tx is not None and self.client is not None else None
        share = {i: len(s.targets) / max(1, sum(u.step == i for u in units)) for i, s in enumerate(steps)}

        def opened(root: Any, tile: str, factor: int) -> dict[str, Any]:
            if tx is not None and self.client is None:
                return lay.opened(tx, tile, schema, factor)
            return lay.arrays_of(root, tile, schema, factor)

        def told(unit: Unit) -> None:
            step = steps[unit.step]
            self.done += share[unit.step]
            day = iso(np.datetime64(step.time, "us"))[:10]
            self.progress(min(self.done, self.total), self.total, f"{step.tile} {day}")

        collector = Collector(steps, opened, told)
        if self.client is None:
            runners.local(units, schema, self.reader, tx, collector.take, self.unit_threads, self.ahead)
        else:
            runners.cluster(units, schema, self.entry, self.cache, self.now, session, self.client, collector.take)
        collector.done.check_samples(schema)
        return collector.done


def refusal(error: EoflowError, count: int = 1) -> BadInput:
    """The error for input given by hand."""
    more = f" (and {count - 1} more such scenes)" if count > 1 else ""
    todo = error.todo or "correct the file; nothing was changed"
    return BadInput(error.what + more, where=error.where, todo=todo)
