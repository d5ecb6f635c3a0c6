"""One ingest at work: opened assets in, whole commits out. Both modes (files by hand, catalog dataset) use it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow import layout as lay
from eoflow.archive import MAIN, STAGING, Archive
from eoflow.catalog import DatasetEntry
from eoflow.errors import BadInput, EoflowError
from eoflow.ingest import blocks as bl
from eoflow.ingest import checks, memory, plan, workers
from eoflow.ingest.batch import Batch, Opened, Todo, Values
from eoflow.ingest.ledger import Ledger, Status
from eoflow.ingest.report import IngestReport, Progress
from eoflow.schema import FieldSchema
from eoflow.sources.base import Asset, AssetMissing, Source
from eoflow.times import NS, Cadence, iso
from eoflow.transaction import set_attributes

if TYPE_CHECKING:
    from eoflow.transaction import Transaction

Array = np.ndarray[Any, Any]


class _BadTimes(Exception):
    def __init__(self, problems: list[checks.Problem]) -> None:
        self.problems = problems


@dataclass
class Job:
    """Archive, entry and source of one ingest, and the branch that it writes to."""

    archive: Archive
    entry: DatasetEntry
    source: Source
    now: np.datetime64
    cache: str
    report: IngestReport
    progress: Progress
    strict: bool = False
    branch: str = MAIN
    total: float = 0.0
    done: float = 0.0
    _masks: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.get = workers.Opener(self.source)
        self.client = workers.client()

    # -- headers ---------------------------------------------------------------------------------------------------

    @property
    def cadence(self) -> Cadence:
        """The step of the dataset."""
        return Cadence(self.entry.schedule.cadence)

    def schema_of(self, asset: Asset) -> FieldSchema:
        """The schema that an archive begun with this asset has; variables in the order of the entry."""
        ds = self.get(asset)
        schema = checks.canonical(FieldSchema.of(ds, str(self.cadence)))
        if not schema.variables:
            raise BadInput(
                "no gridded variable with a time dimension", where=asset.id, todo="check `eoflow datasets check`"
            )
        rank = {n: i for i, n in enumerate(self.entry.variables or {})}
        ordered = sorted(schema.variables, key=lambda v: rank.get(v.name, len(rank)))
        return schema.model_copy(update={"variables": tuple(ordered)})

    def open(self, asset: Asset, schema: FieldSchema) -> Opened:
        """Open an asset and compare its header with the schema. Raises EoflowError."""
        ds = self.get(asset)
        times = checks.time_axis(ds["time"].values, asset.id)
        missing = checks.header(ds, asset.id, schema, self.archive.name, self.strict)
        return Opened(asset, times, frozenset(missing))

    # -- passes over values ------------------------------------------------------------------------------------------

    def values(self, todo: Todo, schema: FieldSchema, index: Array, ledger: Ledger, tx: Transaction | None) -> Values:
        """Read, check and digest the times at positions `index`; with `tx`, write them, too."""
        chunks = self._chunks()
        judge = bl.Judge(
            checks.valid_ranges(self.entry, schema), self.entry.checks.max_nan_fraction, self._fixed_masks(todo, schema)
        )
        assets, missing = [o.asset for o in todo.opened], [o.missing for o in todo.opened]
        work = bl.plan(schema, chunks, index, todo.times, todo.giver, assets, missing, todo.rows, workers.block_bytes())
        per_step = sum(p.step_bytes for p in bl.parts_of(schema, chunks, 1 << 60))
        before = self.done

        def tell(out: bl.Outcome, block: bl.Block) -> None:
            self.done += block.index.size * sum(p.step_bytes for p in block.parts) / per_step
            self.progress(min(self.done, self.total), self.total, f"{iso(block.times[-1])}")

        if self.client is not None:
            session = tx.session if tx is not None else None
            outcomes = workers.cluster(work, self.entry, self.cache, self.now, judge, session, self.client, tell)
        else:
            outcomes = workers.local(work, self.get, judge, tx, tell)
        if tx is None:
            self.done = before
        return self._collect(outcomes, index, todo, ledger, schema)

    def _collect(
        self, outcomes: list[bl.Outcome], index: Array, todo: Todo, ledger: Ledger, schema: FieldSchema
    ) -> Values:
        digest, nans, values = np.zeros(index.size, np.uint64), np.zeros(index.size), np.zeros(index.size)
        problems: list[checks.Problem] = []
        for out in outcomes:
            at = np.searchsorted(index, out.index)
            digest[at] += out.digest
            nans[at] += out.nans
            values[at] += out.values
            problems += out.problems
        digest[digest == 0] = 1  # 0 means that nothing is stored
        suspicious, ranges = self._ranges(outcomes, todo, ledger, schema)
        problems = sorted(problems + suspicious, key=lambda p: (p.time, p.channel))
        return Values(digest, nans / np.maximum(values, 1), problems, ranges, sum(o.nbytes for o in outcomes))

    def _ranges(
        self, outcomes: list[bl.Outcome], todo: Todo, ledger: Ledger, schema: FieldSchema
    ) -> tuple[list[checks.Problem], dict[str, list[float]]]:
        """Compare each asset's range with what is stored and with the assets before it in time."""
        known = Ledger.empty()
        known.ranges = {k: list(v) for k, v in ledger.ranges.items()}
        found: dict[tuple[str, str], list[float]] = {}
        for out in outcomes:
            for key, (low, high, rms, n) in out.ranges.items():
                old = found.get(key, [low, high, rms, 0.0])
                found[key] = [min(old[0], low), max(old[1], high), max(old[2], rms), old[3] + n]
        problems: list[checks.Problem] = []
        channels = [(c.label, v.units) for v in schema.variables for c in v.channels]
        for g in dict.fromkeys(todo.giver.tolist()):
            asset = todo.opened[g].asset.id
            odd: list[checks.Problem] = []
            for label, units in channels:
                if (asset, label) not in found:
                    continue
                low, high, rms, n = found[asset, label]
                if label in known.ranges:
                    wrong = checks.units_look_wrong(label, units, low, high, rms, int(n), known.ranges[label])
                    if wrong:
                        odd += [
                            checks.Problem(asset, t, wrong[0], label, wrong[1]) for t in todo.times[todo.giver == g]
                        ]
            problems += odd
            if not odd:
                for label, _ in channels:
                    if (asset, label) in found:
                        low, high, rms, _ = found[asset, label]
                        known.note_range(label, low, high, rms, 0.1)
        return problems, known.ranges

    def _chunks(self) -> dict[str, tuple[int, ...]]:
        group: Any = self.archive.zarr_group(branch=self.branch)
        return {v.name: tuple(group[v.name].chunks) for v in self.archive.schema_of(self.branch).variables}

    def batches(self, times: Array, giver: Array) -> list[Array]:
        """Positions in `times` of each batch: chunk-aligned, bounded in bytes and in assets."""
        chunks, schema = self._chunks(), self.archive.schema_of(self.branch)
        axis = self.archive.times_of(self.branch)
        first = min(times[0], axis[0]) if axis.size else times[0]
        index = np.searchsorted(self.cadence.axis(first, times[-1]), times)
        per_step = sum(4 * int(np.prod(lay.field_shape(v, schema))) for v in schema.variables)
        return list(plan.batches(index, giver, max(c[0] for c in chunks.values()), per_step))

    def _fixed_masks(self, todo: Todo, schema: FieldSchema) -> dict[str, Array]:
        """NaN masks (latitude, longitude) by channel: of the first stored time, else of the first that can be read."""
        if not self.entry.checks.static_nan_mask:
            return {}
        if not self._masks:
            stored = Ledger.load(self.archive, branch=self.branch)
            at = np.flatnonzero(stored.status == int(Status.PRESENT))
            parts = bl.parts_of(schema, self._chunks(), 1 << 60)
            if at.size:
                group: Any = self.archive.zarr_group(branch=self.branch)
                i = int(np.searchsorted(self.archive.times_of(self.branch), stored.times[at[0]]))
                self._remember_masks(parts, [np.asarray(group[p.spec.name][i : i + 1]) for p in parts])
            else:
                for g, row in zip(todo.giver, todo.rows, strict=True):
                    try:
                        data = bl.read(self.get(todo.opened[g].asset), tuple(parts), np.array([row]))
                    except (EoflowError, OSError, ValueError, RuntimeError):
                        continue
                    self._remember_masks(parts, data)
                    break
        return self._masks

    def _remember_masks(self, parts: list[bl.Part], data: list[Array]) -> None:
        for part, values in zip(parts, data, strict=True):
            flat = values.reshape(-1, len(part.labels), *part.shape[-2:])
            for i, label in enumerate(part.labels):
                if not np.isnan(flat[0, i]).all():
                    self._masks[label] = np.isnan(flat[0, i])

    # -- one batch, one commit ---------------------------------------------------------------------------------------

    def commit(
        self, todo: Todo, absent: list[checks.Problem], failed: list[checks.Problem], message: str, hidden: bool
    ) -> None:
        """Write the times of a batch and what is known of those that cannot be written, in one commit.

        strict: any problem raises BadInput and nothing is changed. Raises Conflict where another writer was faster.
        """
        if not (todo.times.size or absent or failed):
            return
        batch = Batch(todo, list(absent), list(failed), message, hidden)
        while True:
            start = self.done
            try:
                (self._commit_here if self.client is None else self._commit_on_cluster)(batch)
            except _BadTimes as bad:
                self.done = start
                if self.strict:
                    raise refusal(bad.problems) from None
                batch = batch.without(bad.problems)
                continue
            batch.count(self.report)
            memory.release()
            return

    def _commit_here(self, batch: Batch) -> None:
        with self.archive.transaction(batch.message, {"what": "ingest"}, self.branch, batch.hidden) as tx:
            self._extend(tx, batch.todo)
            self._write(tx, batch)

    def _commit_on_cluster(self, batch: Batch) -> None:
        """As a transaction, in two steps on a staging branch: a session can only be forked while it is clean."""
        own, base = self.branch, self.archive.tip(self.branch)
        if own == MAIN:
            self.archive.drop(f"{STAGING}cluster")
            self.branch = self.archive.branch_off("cluster", base)
        try:
            if batch.todo.times.size:
                with self.archive.transaction(
                    f"make room: {batch.message}", {"what": "extend"}, self.branch, True
                ) as tx:
                    self._extend(tx, batch.todo)
            with self.archive.transaction(batch.message, {"what": "ingest"}, self.branch, batch.hidden) as tx:
                self._write(tx, batch)
            if own == MAIN:
                self.archive.publish(self.branch, expected=base)
        finally:
            if own == MAIN:
                self.archive.drop(self.branch)
            self.branch = own

    def _extend(self, tx: Transaction, todo: Todo) -> None:
        if todo.times.size:
            tx.extend(todo.times[0], todo.times[-1])

    def _write(self, tx: Transaction, batch: Batch) -> None:
        """Fields and ledger of a batch into a transaction."""
        todo, schema = batch.todo, tx.schema
        others = np.array([p.time for p in (*batch.absent, *batch.failed)], NS)
        ledger = Ledger.read(tx.group).cover(np.concatenate([todo.times, others]), self.cadence)
        before = ledger.status_at(todo.times)
        batch.again = int(np.isin(before, (int(Status.PRESENT), int(Status.PARTIAL))).sum())
        if todo.times.size:
            found = self.values(todo, schema, np.searchsorted(tx.times, todo.times), ledger, tx)
            if found.problems:
                raise _BadTimes(found.problems)
            batch.nbytes = found.nbytes
            self._mark_stored(ledger, todo, found)
        self._mark_others(ledger, batch.absent, Status.ABSENT_AT_SOURCE)
        self._mark_others(ledger, batch.failed, Status.FAILED)
        ledger.write(tx)
        if tx.group.attrs.get("eoflow_entry") != self.entry.model_dump_json() and not self.strict:
            set_attributes(tx, self.entry, schema)
        tx.details.update(batch.details())

    def _mark_stored(self, ledger: Ledger, todo: Todo, found: Values) -> None:
        ledger.ranges = found.ranges
        missing = [sorted(o.missing) for o in todo.opened]
        reasons = np.array([f"missing: {', '.join(m)}" if m else "" for m in missing], dtype=object)
        ids = np.array([o.asset.id for o in todo.opened], dtype=object)
        status = np.array([int(Status.PARTIAL if m else Status.PRESENT) for m in missing], np.uint8)
        ledger.mark(
            todo.times, status[todo.giver], reason=reasons[todo.giver], asset=ids[todo.giver], now=self.now,
            digest=found.digest, nan_fraction=found.nan_fraction,
        )  # fmt: skip

    def _mark_others(self, ledger: Ledger, problems: list[checks.Problem], status: Status) -> None:
        """Note why times are not there; what is stored stays as it is and keeps its line."""
        stored = set(ledger.times[ledger.stored()].tolist())
        for p in problems:
            if p.time.astype(NS).item() not in stored:
                ledger.mark(np.array([p.time], NS), status, reason=p.reason, asset=p.asset, now=self.now)


def refusal(problems: list[checks.Problem]) -> BadInput:
    """The error for input given by hand: the first problem in full, and how many more there are."""
    first = problems[0]
    more = f" (and {len(problems) - 1} more such problems)" if len(problems) > 1 else ""
    return BadInput(first.what + more, where=first.where, todo=first.todo or "correct the file; nothing was changed")


def open_problem(e: EoflowError | OSError, asset: Asset, times: Array) -> list[checks.Problem]:
    """The problems of an asset that could not be opened or whose header is wrong, one a time."""
    first = bl.problem_of(e, asset, times[0])
    return [
        checks.Problem(asset.id, t, first.what, todo=first.todo, absent=first.absent or isinstance(e, AssetMissing))
        for t in times
    ]
