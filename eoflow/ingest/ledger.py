"""The ledger: what is known of each expected time. It lies in the archive (group `ledger`) and changes in the same
commit as the fields, so it can never say more or less than what is stored.

Its time axis is the schedule from the first to the last time that was ever tried; it may reach beyond the axis of the
fields (a newest time that failed). A time off this axis was never tried.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.archive import MAIN, TIME_UNITS, Archive
from eoflow.times import NS, Cadence

if TYPE_CHECKING:
    import zarr

    from eoflow.transaction import Transaction

Array = np.ndarray[Any, Any]
GROUP = "ledger"
CHUNK = 8192


class Status(IntEnum):
    """State of one expected time (the CF flag values of `ledger/status`)."""

    NEVER_TRIED = 0
    PRESENT = 1
    PARTIAL = 2
    ABSENT_AT_SOURCE = 3
    FAILED = 4

    @property
    def word(self) -> str:
        """For tables: `absent at source`."""
        return self.name.lower().replace("_", " ")


_COLUMNS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "status": (
        "uint8", 0,
        {
            "long_name": "what is known of this time", "standard_name": "status_flag",
            "flag_values": [int(s) for s in Status], "flag_meanings": " ".join(s.name.lower() for s in Status),
        },
    ),
    "reason": ("string", "", {"long_name": "why the time is not fully present"}),
    "asset": ("string", "", {"long_name": "asset of the source that the time came from"}),
    "digest": ("uint64", 0, {"long_name": "digest of the stored values of all fields"}),
    "nan_fraction": ("float32", np.nan, {"long_name": "fraction of NaN in all fields", "units": "1"}),
    "ingested_at": ("int64", 0, {"long_name": "when the status was set", "units": TIME_UNITS, "calendar": "standard"}),
}  # fmt: skip


@dataclass
class Ledger:
    """The ledger in memory; every array (T,) along `times` (datetime64[ns]).

    status: Status values. reason, asset: text. digest: uint64 over the stored values, 0 where nothing is stored.
    nan_fraction: 0..1. ingested_at: seconds since 1970. ranges: per channel label (`z500`) [min, max, rms] of all
    that was ever stored, for the check of units.
    """

    times: Array
    status: Array
    reason: Array
    asset: Array
    digest: Array
    nan_fraction: Array
    ingested_at: Array
    ranges: dict[str, list[float]] = field(default_factory=dict)

    @classmethod
    def empty(cls, times: Array | None = None) -> Ledger:
        """Nothing tried yet on the given axis."""
        times = np.empty(0, NS) if times is None else times.astype(NS)
        columns: dict[str, Any] = {
            name: np.full(times.size, fill, dtype=object if kind == "string" else kind)
            for name, (kind, fill, _) in _COLUMNS.items()
        }
        return cls(times=times, **columns)

    @classmethod
    def load(cls, archive: Archive, as_of: str | None = None, branch: str = MAIN) -> Ledger:
        """The ledger of the newest state, of `as_of`, or of a branch. Empty if there is none yet."""
        return cls.read(archive.zarr_group(as_of, branch))

    @classmethod
    def read(cls, root: zarr.Group) -> Ledger:
        """From an open root group."""
        if GROUP not in root:
            return cls.empty()
        g: Any = root[GROUP]
        columns: dict[str, Any] = {
            n: np.asarray(g[n][:], dtype=object if k == "string" else k) for n, (k, _, _) in _COLUMNS.items()
        }
        times = np.asarray(g["time"][:]).astype("datetime64[s]").astype(NS)
        return cls(times=times, **columns, ranges=json.loads(str(g.attrs.get("ranges", "{}"))))

    def write(self, tx: Transaction) -> None:
        """Store the whole ledger in a transaction (a few bytes a time, compressed)."""
        g: Any = tx.group.require_group(GROUP)
        g.attrs["ranges"] = json.dumps(self.ranges)
        time_attrs = {"standard_name": "time", "axis": "T", "units": TIME_UNITS, "calendar": "proleptic_gregorian"}
        values = {"time": ("int64", 0, time_attrs, self.times.astype("datetime64[s]").astype("i8"))}
        values |= {n: (k, fill, attrs, getattr(self, n)) for n, (k, fill, attrs) in _COLUMNS.items()}
        for name, (kind, fill, attrs, data) in values.items():
            if name not in g:
                g.create_array(
                    name, shape=data.shape, chunks=(CHUNK,), dtype=kind, fill_value=fill, dimension_names=("time",),
                    attributes=attrs,
                )  # fmt: skip
            elif g[name].shape != data.shape:
                g[name].resize(data.shape)
            if data.size:
                g[name][:] = data

    def cover(self, times: Array, cadence: Cadence) -> Ledger:
        """The same ledger on an axis that also holds `times`."""
        if times.size == 0 or (self.times.size and np.isin(times, self.times).all()):
            return self
        both = np.concatenate([self.times, times.astype(NS)])
        out = Ledger.empty(cadence.axis(both.min(), both.max()))
        where = np.searchsorted(out.times, self.times)
        for name in _COLUMNS:
            getattr(out, name)[where] = getattr(self, name)
        out.ranges = self.ranges
        return out

    def at(self, times: Array) -> Array:
        """Positions of `times`, -1 where one is not on the axis."""
        if self.times.size == 0:
            return np.full(times.size, -1)
        i = np.clip(np.searchsorted(self.times, times), 0, self.times.size - 1)
        return np.where(self.times[i] == times, i, -1)

    def status_at(self, times: Array) -> Array:
        """Status (T,) of any times; NEVER_TRIED off the axis."""
        i = self.at(times)
        return np.where(i >= 0, self.status[i] if self.times.size else 0, int(Status.NEVER_TRIED))

    def digest_at(self, times: Array) -> Array:
        """uint64 (T,) digests of any times; 0 where nothing is stored."""
        i = self.at(times)
        return np.where(i >= 0, self.digest[i] if self.times.size else np.uint64(0), np.uint64(0))

    def mark(
        self, times: Array, status: Status | Array, *, reason: Any = "", asset: Any = "", now: np.datetime64,
        digest: Any = 0, nan_fraction: Any = np.nan,
    ) -> None:  # fmt: skip
        """Set the state of times that lie on the axis (`cover` them first). Scalars or arrays (T,)."""
        i = self.at(times)
        self.status[i] = status
        self.reason[i] = reason
        self.asset[i] = asset
        self.digest[i] = digest
        self.nan_fraction[i] = nan_fraction
        self.ingested_at[i] = now.astype("datetime64[s]").astype("i8")

    def note_range(self, label: str, low: float, high: float, rms: float, weight: float) -> None:
        """Widen the known range of a channel; `rms` is a running mean with `weight` (0..1) for the new value."""
        old = self.ranges.get(label)
        if old is None:
            self.ranges[label] = [low, high, rms]
        else:
            self.ranges[label] = [min(old[0], low), max(old[1], high), old[2] + weight * (rms - old[2])]

    def stored(self) -> Array:
        """bool (T,): times with fields in the archive."""
        return np.isin(self.status, (int(Status.PRESENT), int(Status.PARTIAL)))
