"""Statistics of every channel and of its one-step change, kept in the archive and brought up to date by what changed.

For each time of the archive the group `statistics/KIND` holds the moments of the field and of the change since the time
before, and the digest of the content that they were taken of. A period's statistics are these moments merged. After
an append only new times are read; after a rewrite or a rollback those whose digest in the ledger differs: their old
moments are subtracted, the new ones merged. No old data is read again, and both are exact to rounding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from dataclasses import field as default
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.errors import BadInput
from eoflow.prepare.moments import PARTS, Moments
from eoflow.prepare.normalize import check_transforms, transform
from eoflow.prepare.reading import blocks, read_block
from eoflow.prepare.splits import exact
from eoflow.prepare.stattable import Change, Table, fingerprint, snapshot_group
from eoflow.schema import FieldSchema
from eoflow.times import Period

if TYPE_CHECKING:
    from eoflow.archive import Archive

Progress = Callable[[int, int, str], None]
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class Statistics:
    """Moments of the fields and of their one-step change over a period, channel by channel.

    channels: labels; variables: the variable of each; field, tendency: moments (channel,) in units of the
    (transformed) field. times: how many times hold data. fingerprint: of the times and the content that went in.
    snapshot: of the archive then.
    """

    channels: tuple[str, ...]
    variables: tuple[str, ...]
    field: Moments
    tendency: Moments
    period: Period
    times: int
    fingerprint: str
    snapshot: str
    area_weighted: bool = False
    transforms: Mapping[str, str] = default(default_factory=dict)

    @property
    def hash(self) -> str:
        """16 hex digits over what went in: content, period, weighting, transforms."""
        text = json.dumps(
            [self.fingerprint, exact(self.period), self.channels, self.area_weighted, sorted(self.transforms.items())]
        )
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def select(self, schema: FieldSchema) -> Statistics:
        """Those of a schema's channels, in its order. Raises BadInput for a channel that is not there."""
        labels = [c.label for c in schema.channels]
        missing = [c for c in labels if c not in self.channels]
        if missing:
            raise BadInput(f"no statistics of {', '.join(missing)}", todo=f"there are {', '.join(self.channels)}")
        at = np.array([self.channels.index(c) for c in labels])
        return Statistics(
            tuple(labels), tuple(c.name for c in schema.channels), self.field[at], self.tendency[at], self.period,
            self.times, self.fingerprint, self.snapshot, self.area_weighted,
            {k: v for k, v in self.transforms.items() if k in {c.name for c in schema.channels}},
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready summary: one row a channel."""
        rows = {}
        for i, label in enumerate(self.channels):
            f, t = self.field, self.tendency
            rows[label] = {
                "count": float(f.count[i]), "mean": float(f.mean[i]), "std": float(f.std[i]), "min": float(f.min[i]),
                "max": float(f.max[i]), "tendency_mean": float(t.mean[i]), "tendency_std": float(t.std[i]),
            }  # fmt: skip
        return {"period": str(self.period), "times": self.times, "area_weighted": self.area_weighted, "channels": rows}


def update(
    archive: Archive,
    period: str | Period,
    *,
    area_weighted: bool = False,
    transforms: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Statistics:
    """Statistics of a period, from what is stored and from what is new or changed since.

    area_weighted: weigh cells by their area (count is then a sum of weights, mean 1 a row); by default every cell
    counts the same, as in the published statistics of reanalyses. transforms: variable -> `sqrt` or `log`, applied
    before anything is summed. Reads in blocks on the Dask scheduler of the caller (threads by default). Raises
    BadInput for a period without data.
    """
    span = Period.parse(period)
    kind = _kind(area_weighted, transforms)
    while True:
        snapshot = archive.snapshot
        group = snapshot_group(archive, snapshot)
        schema = archive.schema
        chosen = check_transforms(transforms or {}, schema)
        table = Table.load(group, kind, schema)
        digests = table.digests
        inside = np.flatnonzero(span.contains(table.times) & (digests != 0))
        if inside.size == 0:
            raise BadInput(
                "the archive holds no data in the period",
                where=f"{archive.name}, {span}",
                todo=f"see eoflow gaps {archive.name}",
            )
        change = _recompute(table, group, schema, span, area_weighted, chosen, progress)
        if (change is None and table.has(span)) or table.save(archive, change, span):
            break  # else another process wrote statistics meanwhile: look again
    field_, tendency = table.summary(span)
    return Statistics(
        tuple(c.label for c in schema.channels), tuple(c.name for c in schema.channels), field_, tendency, span,
        int(inside.size), fingerprint(table.times[inside], digests[inside]), snapshot, area_weighted, chosen,
    )  # fmt: skip


def _kind(area_weighted: bool, transforms: Mapping[str, str] | None) -> str:
    parts = ["area" if area_weighted else "plain", *(f"{k}-{v}" for k, v in sorted((transforms or {}).items()))]
    return "_".join(parts)


def _recompute(
    table: Table, group: Any, schema: FieldSchema, span: Period, area_weighted: bool, transforms: Mapping[str, str],
    progress: Progress | None,
) -> Change | None:  # fmt: skip
    """Moments of the times in the period whose content is not what the table has; None if all is."""
    stale = np.flatnonzero(np.asarray(span.contains(table.times)) & (table.digests != table.seen))
    if stale.size == 0:
        return None
    follows = stale + 1  # their change since the time before involves the stale one
    rows = np.union1d(stale, follows[(follows < table.times.size)])
    rows = rows[np.isin(rows, stale) | (table.seen[rows] != 0)]
    pieces = blocks(rows, schema, table.time_chunk(group, schema))
    weights = schema.grid.area_weights()[:, None] if area_weighted else None
    kinds = [transforms.get(c.name) for c in schema.channels]
    moments = _compute(group, schema, pieces, weights, kinds, progress)
    return Change(rows, np.isin(rows, stale), moments)


def _compute(
    group: Any, schema: FieldSchema, pieces: list[tuple[int, int]], weights: Array | None, kinds: list[str | None],
    progress: Progress | None,
) -> Array:  # fmt: skip
    """One Dask task a piece; what comes back is a few numbers a time, so memory is that of the tasks in flight."""
    from dask import base
    from dask.delayed import delayed

    task = delayed(piece_moments, pure=False)
    out: list[Array] = []
    batch = 64  # pieces to one compute: progress is told between them
    for at in range(0, len(pieces), batch):
        todo = [task(group, schema, a, b, weights, kinds) for a, b in pieces[at : at + batch]]
        out += base.compute(*todo)  # type: ignore[no-untyped-call]
        if progress is not None:
            progress(min(at + batch, len(pieces)), len(pieces), "statistics")
    return np.concatenate(out, axis=2)


def piece_moments(
    group: Any, schema: FieldSchema, start: int, stop: int, weights: Array | None, kinds: list[str | None]
) -> Array:
    """(2, 5, n, C): moments over the grid of times start..stop, of the field and its change since the time before."""
    first = max(start - 1, 0)
    x = read_block(group, schema, first, stop)
    for i, kind in enumerate(kinds):
        if kind is not None:
            x[:, i] = transform(x[:, i], kind)
    n, channels = stop - start, x.shape[1]
    out = np.empty((2, len(PARTS), n, channels))
    for k in range(n):  # a time after the other: float64 copies of one field only
        at = start - first + k
        out[0, :, k] = Moments.of(x[at], axis=(-2, -1), weights=weights).to_array()
        if at == 0:
            out[1, :, k] = Moments.empty(channels).to_array()
        else:
            change = x[at].astype(np.float64) - x[at - 1]
            out[1, :, k] = Moments.of(change, axis=(-2, -1), weights=weights).to_array()
    return out
