"""The stored side of the statistics: moments of every time, and of periods, in the archive's group `statistics/KIND`.

time      (time,) int64 seconds since 1970    seen  (time,) uint64 digest of the content the moments are of, 0: none yet
moments   (time, of, part, channel) float64   of: field, change; part: count, mean, m2, min, max
attributes: channels, revision, periods (summaries, always the moments of `moments` merged over the period)
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.prepare.moments import PARTS, Moments
from eoflow.prepare.splits import exact
from eoflow.schema import FieldSchema
from eoflow.times import NS, Period

if TYPE_CHECKING:
    import zarr

    from eoflow.archive import Archive

GROUP = "statistics"
CHUNK = 256
Array = np.ndarray[Any, np.dtype[Any]]
Pair = tuple[Moments, Moments]


def snapshot_group(archive: Archive, snapshot: str) -> zarr.Group:
    """The read-only root group of any snapshot id, also of one that the history does not show."""
    import zarr

    return zarr.open_group(archive.repo.readonly_session(snapshot_id=snapshot).store, mode="r")


def content_digests(group: zarr.Group) -> Array:
    """(time,) uint64: the ledger's digest of the content at each time of the archive's axis, 0 where it holds none."""
    from eoflow.ingest.ledger import Ledger

    ledger = Ledger.read(group)
    return np.where(
        np.isin(axis(group), ledger.times[ledger.stored()]), ledger.digest_at(axis(group)), np.uint64(0)
    ).astype(np.uint64)


def axis(group: zarr.Group) -> Array:
    """(time,) datetime64[ns] time axis of a root group."""
    return np.asarray(group["time"][:]).astype("datetime64[s]").astype(NS)  # type: ignore[union-attr,index]


def fingerprint(times: Array, digests: Array) -> str:
    """16 hex digits over times and their content."""
    h = hashlib.sha256(np.ascontiguousarray(times.astype(NS).astype("<i8")).tobytes())
    h.update(np.ascontiguousarray(digests.astype("<u8")).tobytes())
    return h.hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Change:
    """New moments (2, 5, n, C) of rows (n,) of the time axis; `fresh` (n,): the row's own content was read anew."""

    rows: Array
    fresh: Array
    moments: Array


class Table:
    """One KIND of statistics, aligned with the archive's time axis as of one snapshot."""

    def __init__(self, kind: str, schema: FieldSchema, times: Array, digests: Array) -> None:
        self.kind, self.times, self.digests = kind, times, digests
        self.channels = [c.label for c in schema.channels]
        self.seen = np.zeros(times.size, np.uint64)
        self.moments = _empty(times.size, len(self.channels))
        self.summaries: dict[str, Pair] = {}
        self.revision = 0

    @classmethod
    def load(cls, group: zarr.Group, kind: str, schema: FieldSchema) -> Table:
        """What is stored; empty where there is nothing, or it is of other channels."""
        times = axis(group)
        table = cls(kind, schema, times, content_digests(group))
        path = f"{GROUP}/{kind}"
        if path not in group:
            return table
        stored: Any = group[path]
        attrs = stored.attrs.asdict()
        table.revision = int(attrs["revision"])
        if attrs["channels"] != table.channels:
            return table
        theirs = axis(stored)
        _, mine, there = np.intersect1d(times, theirs, assume_unique=True, return_indices=True)
        table.seen[mine] = stored["seen"][:][there]
        known = np.moveaxis(stored["moments"][:], 0, 2)[:, :, there]
        written = ~np.isnan(known[:, :1])
        table.moments[:, :, mine] = np.where(written, known, table.moments[:, :, mine])
        # A summary holds whatever the table held: it stays right only while none of its times left the axis.
        if mine.size == theirs.size:
            table.summaries = {k: _from_json(v) for k, v in attrs["periods"].items()}
        return table

    def has(self, span: Period) -> bool:
        """Whether the period has a summary."""
        return exact(span) in self.summaries

    def summary(self, span: Period) -> Pair:
        """(field, change) moments (channel,) of a period."""
        return self.summaries[exact(span)]

    @staticmethod
    def time_chunk(group: zarr.Group, schema: FieldSchema) -> int:
        """The longest stored chunk along time."""
        arrays: list[Any] = [group[v.name] for v in schema.variables]
        return max(int((a.shards or a.chunks)[0]) for a in arrays)

    def apply(self, change: Change) -> None:
        """Put new moments in; every summary loses the old ones and gains the new ones."""
        rows, old = change.rows, self.moments[:, :, change.rows]
        self.moments[:, :, rows] = change.moments
        self.seen[rows[change.fresh]] = self.digests[rows[change.fresh]]
        for key, pair in self.summaries.items():
            masks = self._members(Period.parse(key))
            new_pair = []
            for of, (total, mask) in enumerate(zip(pair, masks, strict=True)):
                touched = mask[rows]
                left = total.subtract(Moments.from_array(old[of][:, touched]).over())
                total = left.merge(Moments.from_array(change.moments[of][:, touched]).over())
                new_pair.append(_known_extremes(total, self.moments[of][:, mask]))
            self.summaries[key] = (new_pair[0], new_pair[1])

    def summarise(self, span: Period) -> None:
        """Make the summary of a period from the rows."""
        field, change = (
            Moments.from_array(self.moments[of][:, mask]).over() for of, mask in enumerate(self._members(span))
        )
        self.summaries[exact(span)] = (field, change)

    def _members(self, span: Period) -> tuple[Array, Array]:
        """Rows whose field, and rows whose change since the time before, belong to the period."""
        inside = np.asarray(span.contains(self.times))
        return inside, inside & np.r_[False, inside[:-1]]

    def save(self, archive: Archive, change: Change | None, span: Period) -> bool:
        """Apply the change, add the period, store both in one commit; False if someone else wrote this kind
        meanwhile."""
        if change is not None:
            self.apply(change)
        if not self.has(span):
            self.summarise(span)
        with archive.writing():
            path = f"{GROUP}/{self.kind}"
            now: Any = snapshot_group(archive, archive.snapshot)
            if (int(now[path].attrs["revision"]) if path in now else 0) != self.revision:
                return False
            with archive.transaction(f"statistics of {span}", {"what": "statistics"}, hidden=True) as tx:
                self._write(tx.group, path, change)
        self.revision += 1
        return True

    def _write(self, root: zarr.Group, path: str, change: Change | None) -> None:
        seconds = self.times.astype("datetime64[s]").astype("i8")
        stored: Any = root.get(path)
        whole = (
            stored is None
            or stored.attrs["channels"] != self.channels
            or not np.array_equal(stored["time"][:], seconds[: stored["time"].shape[0]])
        )
        if whole:
            stored = root.create_group(path, overwrite=True)
            shape = (self.times.size, *self.moments.shape[:2], len(self.channels))
            stored.create_array(
                "time",
                shape=shape[:1],
                chunks=(16384,),
                dtype="i8",
                dimension_names=("time",),
                attributes={"units": "seconds since 1970-01-01", "calendar": "proleptic_gregorian"},
            )
            stored.create_array("seen", shape=shape[:1], chunks=(16384,), dtype="u8", dimension_names=("time",))
            stored.create_array("moments", shape=shape, chunks=(CHUNK, *shape[1:]), dtype="f8", fill_value=np.nan,
                                dimension_names=("time", "of", "part", "channel"))  # fmt: skip
            touched = np.flatnonzero(self.seen)
        else:
            for name in ("time", "seen", "moments"):
                stored[name].resize((self.times.size, *stored[name].shape[1:]))
            touched = change.rows if change is not None else np.empty(0, int)
        stored["time"][:], stored["seen"][:] = seconds, self.seen
        for chunk in np.unique(touched // CHUNK):
            part = slice(int(chunk) * CHUNK, min((int(chunk) + 1) * CHUNK, self.times.size))
            stored["moments"][part] = np.moveaxis(self.moments[:, :, part], 2, 0)
        stored.attrs.update(
            {
                "channels": self.channels, "revision": self.revision + 1, "of": ["field", "change"],
                "part": list(PARTS),
                "periods": {k: _to_json(v) for k, v in self.summaries.items()},
            }
        )  # fmt: skip


def _empty(times: int, channels: int) -> Array:
    return np.stack([Moments.empty((times, channels)).to_array()] * 2)


def _known_extremes(total: Moments, rows: Array) -> Moments:
    """Extremes that a subtraction lost, from the rows (5, n, C) that are left."""
    if not (np.isnan(total.min).any() or np.isnan(total.max).any()):
        return total
    every = Moments.from_array(rows).over()
    return Moments(total.count, total.mean, total.m2, every.min, every.max)


def _to_json(pair: Pair) -> list[Any]:
    return [[[v if np.isfinite(v) else None for v in part] for part in m.to_array().tolist()] for m in pair]


def _from_json(data: list[Any]) -> Pair:
    blank = {"min": np.inf, "max": -np.inf}
    a, b = (
        Moments(
            *(np.array([blank.get(p, 0.0) if v is None else v for v in part]) for p, part in zip(PARTS, m, strict=True))
        )
        for m in data
    )
    return a, b


__all__ = ["Change", "Table", "content_digests", "fingerprint", "snapshot_group"]
