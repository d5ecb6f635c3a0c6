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
from eoflow.catalog_scenes import SceneEntry
from eoflow.cube import Cube
from eoflow.errors import BadInput, EoflowError
from eoflow.ingest import memory, retry, workers
from eoflow.ingest.report import IngestReport, Progress
from eoflow.ingest.scenes import notes, runners
from eoflow.ingest.scenes.ledger import SceneLedger
from eoflow.ingest.scenes.plan import Batch, Step, Steps
from eoflow.ingest.scenes.work import Outcome, Unit
from eoflow.ingest.scenes.writing import Overviews
from eoflow.sources.base import AssetCorrupt
from eoflow.sources.radiometry import check_sample
from eoflow.sources.raster import RasterReader
from eoflow.sources.scene import Grid, Scene, SceneSource
from eoflow.tiling import chunk_shape, windows
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
class Done:
    """What became of the steps of a batch: totals by (step index, scene id), and the fractions of each step."""

    digest: dict[tuple[int, str], int] = field(default_factory=dict)
    valid: dict[tuple[int, str], int] = field(default_factory=dict)
    samples: dict[tuple[str, str], list[Array]] = field(default_factory=dict)
    fractions: dict[int, Array] = field(default_factory=dict)
    errors: dict[str, EoflowError] = field(default_factory=dict)
    nbytes: int = 0


@dataclass
class SceneJob:
    """Archive, entry and source of one ingest of scenes, and the branch that it writes to.

    planned: (scene id, tile, time) of everything the listing wants; it goes into the ledger with the first commit.
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

    def __post_init__(self) -> None:
        self.steps = Steps(self.entry, SceneLedger())
        self.reader = RasterReader(self.source.readable)
        self.client = workers.client()
        # kept from batch to batch: PROJ opens its database anew in each thread
        self.header_threads = ThreadPoolExecutor(HEADER_THREADS, "eoflow-headers")
        self.unit_threads = ThreadPoolExecutor(workers.threads(), "eoflow-units")

    def close(self) -> None:
        """End the threads and close their files."""
        self.header_threads.shutdown()
        self.unit_threads.shutdown()
        self.reader.close()

    @property
    def cube(self) -> Cube:
        """The cube on the branch that is written."""
        return Cube(self.archive, self.branch)

    def header(self, scene: Scene) -> Scene:
        """The scene with its bands filled in; transient errors are tried again. Raises EoflowError."""
        try:
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
                if attempt == CONFLICT_TRIES - 1:
                    raise

    def _here(self, batch: Batch, message: str, hidden: bool) -> None:
        if not batch.steps and not notes.news(SceneLedger.load(self.archive, branch=self.branch), self, batch):
            return
        with self.archive.transaction(message, {"what": "ingest"}, self.branch, hidden) as tx:
            slots = self._make_room(tx, batch)
            self._write(tx, batch, slots)
        self.report.commits += 1

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
        for step in batch.steps:
            if step.tile not in wanted and lay.path(step.tile) not in tx.group:
                blocks = blocks_of(step.scenes[0], step.grid)
                chunk = chunk_shape(step.grid.shape, blocks, self.entry.tiles)
                lay.add_tile(tx, step.tile, step.grid, chunk, schema)
            wanted.setdefault(step.tile, set()).add(step.time)
        notes.slots_of_tried(self, tx, batch, wanted)
        slots: dict[tuple[str, int], int] = {}
        for tile, times in wanted.items():
            axis = np.array(sorted(times), "datetime64[us]")
            for time, slot in zip(sorted(times), lay.place(tx, tile, axis), strict=True):
                slots[tile, time] = int(slot)
        return slots

    def _write(self, tx: Transaction, batch: Batch, slots: dict[tuple[str, int], int]) -> None:
        schema = SceneSchema.model_validate_json(str(tx.group.attrs["eoflow_schema"]))
        ledger = SceneLedger.read(tx.group)
        if batch.steps:
            done = self.work(tx, schema, batch.steps, slots)
            if done.errors:
                raise _BadScenes(done.errors)
            batch.nbytes = done.nbytes
        else:
            done = Done()
        text = " ".join([tx.snapshot, *(f"{s.tile}/{s.time}" for s in batch.steps)])
        token = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
        notes.record(self, tx, schema, ledger, batch, slots, done, token)
        if tx.group.attrs.get("eoflow_entry") != self.entry.model_dump_json() and not self.strict:
            lay.set_attributes(tx, self.entry, schema)

    # -- windows -----------------------------------------------------------------------------------------------------

    def units(
        self, schema: SceneSchema, steps: Sequence[Step], slots: dict[tuple[str, int], int], root: Any
    ) -> list[Unit]:
        """The windows of all steps, in order."""
        out: list[Unit] = []
        pixel = self.pixel_bytes(schema)
        groups: dict[str, Any] = {}
        for i, step in enumerate(steps):
            if step.tile not in groups:
                groups[step.tile] = root[lay.path(step.tile)]
            group = groups[step.tile]
            chunk = tuple(int(c) for c in group.attrs["eoflow_chunk"])
            factors = tuple(int(f) for f in group.attrs["eoflow_overviews"])
            slot = slots[step.key]
            first = 1
            if step.base:
                text = str(group[lay.ITEMS][slot])
                first = 1 + (len(notes.loads(text)) if text else 0)
            scenes = tuple(replace(s, properties={}) for s in step.scenes)
            blocks = blocks_of(step.scenes[0], step.grid)
            for rows, columns in windows(step.grid.shape, (chunk[0], chunk[1]), blocks, pixel, workers.block_bytes()):
                out.append(
                    Unit(
                        i, step.tile, slot, step.grid, rows, columns, (chunk[0], chunk[1]), factors, scenes, first,
                        step.base,
                    )
                )  # fmt: skip
        return out

    def work(
        self, tx: Transaction | None, schema: SceneSchema, steps: Sequence[Step], slots: dict[tuple[str, int], int],
        root: Any = None,
    ) -> Done:  # fmt: skip
        """Read, check and (with a transaction) write the windows of the steps."""
        units = self.units(schema, steps, slots, tx.group if tx is not None else root)
        done = Done()
        session = tx.session if tx is not None and self.client is not None else None
        take = self._collector(tx, schema, steps, slots, units, done)
        if self.client is None:
            runners.local(units, schema, self.reader, tx, take, self.unit_threads)
        else:
            runners.cluster(units, schema, self.entry, self.cache, self.now, session, self.client, take)
        for (scene, name), parts in done.samples.items():
            try:
                check_sample(np.concatenate(parts), schema.band(name), schema.sensor, where=scene)
            except BadInput as e:
                done.errors.setdefault(scene, e)
        return done

    def _collector(
        self, tx: Transaction | None, schema: SceneSchema, steps: Sequence[Step], slots: dict[tuple[str, int], int],
        units: Sequence[Unit], done: Done,
    ) -> Callable[[Outcome, Any], None]:  # fmt: skip
        """A function that takes outcomes one after the other (with the root group to write overviews to, or None)."""
        overviews: dict[int, Overviews] = {}
        share = {i: 1 / max(1, sum(u.step == i for u in units)) for i in range(len(steps))}

        arrays: dict[tuple[str, int], dict[str, Any]] = {}

        def opened(root: Any, tile: str, factor: int) -> dict[str, Any]:
            if (tile, factor) not in arrays:
                arrays[tile, factor] = lay.arrays_of(root, tile, schema, factor)
            return arrays[tile, factor]

        def take(out: Outcome, root: Any) -> None:
            unit, step = out.unit, steps[out.unit.step]
            for scene, error in out.errors:
                done.errors.setdefault(scene, error)
            for scene, part in out.parts.items():
                key = (unit.step, scene)
                done.digest[key] = (done.digest.get(key, 0) + part.digest) & 0xFFFFFFFFFFFFFFFF
                done.valid[key] = done.valid.get(key, 0) + part.valid
                for name, sample in part.sample.items():
                    done.samples.setdefault((scene, name), []).append(sample)
            done.nbytes += out.nbytes
            if out.fractions is not None:
                _paste(done.fractions, step.grid, unit, out.fractions)
            if out.coarse and root is not None:
                if unit.step not in overviews:
                    above = {f: opened(root, unit.tile, f) for f in unit.factors}
                    overviews[unit.step] = Overviews(step.grid.shape, above, unit.slot)
                overviews[unit.step].add(unit.rows, unit.columns, out.coarse)
            out.coarse = {}
            self.done += share[unit.step] * len(step.targets)
            self.progress(
                min(self.done, self.total), self.total, f"{step.tile} {iso(np.datetime64(step.time, 'us'))[:10]}"
            )

        return take


def _paste(into: dict[int, Array], grid: Grid, unit: Unit, part: Array) -> None:
    cy, cx = unit.chunk
    if unit.step not in into:
        into[unit.step] = np.zeros([-(-n // c) for n, c in zip(grid.shape, unit.chunk, strict=True)], "f4")
    y, x = unit.rows.start // cy, unit.columns.start // cx
    into[unit.step][y : y + part.shape[0], x : x + part.shape[1]] = part


def blocks_of(scene: Scene, grid: Grid) -> tuple[int, int] | None:
    """Blocks (y, x) of the scene's files in pixels of the tile: of the first band with its resolution."""
    for band in scene.bands.values():
        if band.grid is not None and band.blocks is not None and band.grid.resolution == grid.resolution:
            return band.blocks
    return None


def refusal(error: EoflowError, count: int = 1) -> BadInput:
    """The error for input given by hand."""
    more = f" (and {count - 1} more such scenes)" if count > 1 else ""
    todo = error.todo or "correct the file; nothing was changed"
    return BadInput(error.what + more, where=error.where, todo=todo)
