"""Blocks: the pieces of work of an ingest. One block is read, checked, digested and written in one pass over memory.

A block is some fields at some times, aligned with the chunks of the archive, so that no two blocks touch the same
chunk and each can be done by any thread or Dask worker.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.errors import EoflowError
from eoflow.ingest import checks, retry
from eoflow.layout import MIB, field_shape
from eoflow.schema import FieldSchema, VariableSpec
from eoflow.sources.base import Asset, AssetCorrupt, AssetMissing, AssetTransient

if TYPE_CHECKING:
    import xarray as xr

Array = np.ndarray[Any, Any]
BLOCK_BYTES = 48 * MIB
"""At most; larger blocks gain nothing, and memory that malloc cannot reuse costs page faults."""
WHOLE = slice(None)


@dataclass(frozen=True)
class Piece:
    """What one asset gives to a block: `rows` of its time axis go to the positions `at` of the block's times.

    missing: labels of the channels that it does not have, as its header said.
    """

    asset: Asset
    rows: Array
    at: Array
    missing: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Part:
    """Part of a variable: whole horizontal fields, some members and levels (chunk-aligned)."""

    spec: VariableSpec
    shape: tuple[int, ...]
    member: slice = field(default_factory=lambda: WHOLE)
    level: slice = field(default_factory=lambda: WHOLE)

    @property
    def labels(self) -> list[str]:
        """Channel labels of the levels in this part."""
        return [c.label for c in self.spec.channels][self.level if self.spec.levels is not None else WHOLE]

    @property
    def step_bytes(self) -> int:
        """Bytes of one time."""
        return 4 * int(np.prod(self.shape))

    @property
    def where(self) -> tuple[slice, ...]:
        """Index into the stored array after the time."""
        out = [self.member] if len(self.shape) - (self.spec.levels is not None) == 3 else []
        return tuple(out + ([self.level] if self.spec.levels is not None else []))


@dataclass(frozen=True)
class Block:
    """`index`: positions on the archive's time axis (B,), increasing; `times` datetime64[ns] (B,)."""

    index: Array
    times: Array
    parts: tuple[Part, ...]
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Judge:
    """What fields are held against. masks: per channel label the NaN mask (latitude, longitude), where it is fixed."""

    limits: dict[str, tuple[float, float]] = field(default_factory=dict)
    max_nan: float = 0.0
    masks: dict[str, Array] = field(default_factory=dict)


@dataclass
class Outcome:
    """What became of a block, per time (B,): digest (a part of the sum over all parts), NaN and value counts.

    ranges: (asset id, channel) -> [min, max, rms, number of fields].
    """

    index: Array
    digest: Array
    nans: Array
    values: Array
    problems: list[checks.Problem] = field(default_factory=list)
    ranges: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    nbytes: int = 0


def parts_of(schema: FieldSchema, chunks: dict[str, tuple[int, ...]], limit: int = BLOCK_BYTES) -> list[Part]:
    """Cut the variables into parts of at most `limit` bytes a time chunk, where their chunks allow it."""
    out: list[Part] = []
    for spec in schema.variables:
        shape, chunk = field_shape(spec, schema), chunks[spec.name]
        outer, levels = len(shape) - 2, spec.levels is not None
        whole = Part(spec, shape)
        if chunk[0] * whole.step_bytes <= limit or outer == 0:
            out.append(whole)
            continue
        cuts = [list(_slices(n, c)) for n, c in zip(shape[:outer], chunk[1 : 1 + outer], strict=True)]
        members = cuts[0] if schema.members is not None else [WHOLE]
        for m in members:
            for lev in cuts[-1] if levels else [WHOLE]:
                sizes = [s.stop - s.start for s in (m, lev) if s != WHOLE]
                out.append(Part(spec, (*sizes, *shape[outer:]), m, lev))
    return out


def _slices(n: int, step: int) -> Iterator[slice]:
    for i in range(0, n, step):
        yield slice(i, min(i + step, n))


def groups_of(parts: list[Part], chunks: dict[str, tuple[int, ...]], limit: int) -> list[tuple[tuple[Part, ...], int]]:
    """Pack parts that are read together; with each pack the number of times of its blocks (chunk-aligned)."""
    packs: list[list[Part]] = []
    for p in parts:
        pack = [*packs[-1], p] if packs else [p]
        if packs and _steps(pack, chunks) * sum(q.step_bytes for q in pack) <= limit:
            packs[-1] = pack
        else:
            packs.append([p])
    out = []
    for pack in packs:
        steps = _steps(pack, chunks)
        out.append((tuple(pack), steps * max(1, limit // (steps * sum(q.step_bytes for q in pack)))))
    return out


def _steps(pack: list[Part], chunks: dict[str, tuple[int, ...]]) -> int:
    # time chunks are powers of two: the largest is a multiple of all
    return max(chunks[p.spec.name][0] for p in pack)


def plan(
    schema: FieldSchema, chunks: dict[str, tuple[int, ...]], index: Array, times: Array,
    giver: Array, assets: Sequence[Asset], missing: Sequence[frozenset[str]], rows: Array, limit: int = BLOCK_BYTES,
) -> list[Block]:  # fmt: skip
    """Blocks for the `times` at positions `index` of the archive's axis.

    giver (N,): which of `assets` gives each time; rows (N,): at which position of its time axis.
    missing: labels of the channels that each asset lacks.
    """
    out: list[Block] = []
    for parts, steps in groups_of(parts_of(schema, chunks, limit), chunks, limit):
        cut = np.flatnonzero(np.diff(index // steps)) + 1
        for mine in np.split(np.arange(index.size), cut):
            pieces = []
            for g in dict.fromkeys(giver[mine].tolist()):
                at = np.flatnonzero(giver[mine] == g)
                pieces.append(Piece(assets[g], rows[mine][at], at, missing[g]))
            out.append(Block(index[mine], times[mine], parts, tuple(pieces)))
    return out


# -- one block ------------------------------------------------------------------------------------------------------


def _rows(rows: Array) -> Any:
    return slice(int(rows[0]), int(rows[-1]) + 1) if np.all(np.diff(rows) == 1) else rows


def _lazy(ds: xr.Dataset, part: Part, rows: Array) -> tuple[Any, Array | None] | None:
    """The lazy array (t, *part.shape) of a part, and which of its levels it has (None: all); None: it has nothing."""
    spec = part.spec
    if spec.name not in ds.data_vars:
        return None
    da = ds[spec.name]
    vertical = [d for d in da.dims if d not in ("time", "member", "latitude", "longitude")]
    lead = ["time", *(["member"] if "member" in da.dims else [])]
    da = da.transpose(*lead, *vertical, "latitude", "longitude").isel(time=_rows(rows))
    if part.member != WHOLE:
        da = da.isel(member=part.member)
    have: Array | None = None
    if spec.levels is not None:
        positions = checks.level_positions(ds, spec)[part.level]
        have = positions >= 0
        if not have.any():
            return None
        da = da.isel({vertical[0]: _rows(positions[have])})
        have = None if have.all() else have
    elif vertical:
        da = da.isel({vertical[0]: 0})
    return (da.data if da.chunks is not None else da), have


def read(ds: xr.Dataset, parts: tuple[Part, ...], rows: Array) -> list[Array]:
    """float32 (t, [member,] [level,] latitude, longitude) for each part; NaN where the asset lacks a channel.

    All parts are read together, so an asset whose variables come out of one decoding is decoded once, and each piece
    goes straight to its place: there is never a second copy of the whole.
    """
    import dask.array as da

    out = [np.empty((rows.size, *p.shape), "f4") for p in parts]
    sources: list[Any] = []
    targets: list[Any] = []
    for part, target in zip(parts, out, strict=True):
        item = _lazy(ds, part, rows)
        if item is None or item[1] is not None:
            target.fill(np.nan)
        if item is None:
            continue
        data, have = item
        # levels that the asset lacks leave holes; those that it has come as one array in the archive's order
        shape = target.shape if have is None else (*target.shape[:-3], int(have.sum()), *target.shape[-2:])
        if tuple(data.shape) != shape:
            raise AssetCorrupt(f"{part.spec.name} has the shape {tuple(data.shape)}, expected {shape}")
        if have is not None:
            target[..., have, :, :] = np.asarray(
                data.compute(scheduler="synchronous") if hasattr(data, "dask") else data
            )
        elif hasattr(data, "dask"):
            sources.append(data)
            targets.append(target)
        else:
            target[...] = np.asarray(data)
    if sources:
        da.store(sources, targets, lock=False, scheduler="synchronous")
    return out


def gather(block: Block, get: Callable[[Asset], xr.Dataset]) -> tuple[list[Array], list[checks.Problem]]:
    """The values of a block from its assets, and the times that could not be read (NaN there)."""
    problems: list[checks.Problem] = []
    out: list[Array] = []
    for piece in block.pieces:
        if piece.at.size == block.index.size:  # one asset gives everything: no copy
            got, bad = _from_piece(block, piece, get)
            return (got or _blank(block)), bad
        out = out or _blank(block)
        got, bad = _from_piece(block, piece, get)
        problems += bad
        for whole, some in zip(out, got, strict=True) if got else ():
            whole[piece.at] = some
    return out, problems


def _blank(block: Block) -> list[Array]:
    return [np.full((block.index.size, *p.shape), np.nan, "f4") for p in block.parts]


def _from_piece(
    block: Block, piece: Piece, get: Callable[[Asset], xr.Dataset]
) -> tuple[list[Array] | None, list[checks.Problem]]:
    """The values of one asset's times; where reading fails, time by time: a damaged chunk costs its times only."""
    times = block.times[piece.at]
    try:
        return retry.call(lambda: read(get(piece.asset), block.parts, piece.rows)), []
    except Exception as e:
        problem = problem_of(e, piece.asset, times[0])
        if piece.rows.size == 1 or isinstance(e, (AssetTransient, AssetMissing)):
            return None, [replace(problem, time=t) for t in times]
    out = [np.full((times.size, *p.shape), np.nan, "f4") for p in block.parts]
    problems = []
    for i, row in enumerate(piece.rows):
        try:
            for whole, some in zip(out, read(get(piece.asset), block.parts, np.array([row])), strict=True):
                whole[i] = some[0]
        except Exception as e:
            problems.append(problem_of(e, piece.asset, times[i]))
    return out, problems


def problem_of(e: Exception, asset: Asset, time: np.datetime64) -> checks.Problem:
    """What to record; a program error is let through, it must not look like a bad file."""
    if isinstance(e, EoflowError):
        return checks.Problem(
            asset.id, time, e.what.split("\n")[0], todo=e.todo or "", absent=isinstance(e, AssetMissing)
        )
    if not isinstance(e, (OSError, ValueError, RuntimeError, EOFError, ArithmeticError, IndexError)):
        raise e
    missing = isinstance(e, FileNotFoundError)
    return checks.Problem(asset.id, time, f"cannot be read ({type(e).__name__}: {e})", absent=missing)


def run(
    block: Block, get: Callable[[Asset], xr.Dataset], judge: Judge, write: Callable[[Part, Array, Array], None] | None
) -> Outcome:
    """Read, check, digest and (unless `write` is None or something is wrong) write a block."""
    data, problems = gather(block, get)
    n = block.index.size
    out = Outcome(block.index, np.zeros(n, np.uint64), np.zeros(n, np.int64), np.zeros(n, np.int64), problems)
    owner = np.full(n, "", dtype=object)
    for piece in block.pieces:
        owner[piece.at] = piece.asset.id
    unread = np.isin(block.times, np.array([p.time for p in problems], block.times.dtype))
    for part, values in zip(block.parts, data, strict=True):
        _judge(part, values, block, judge, owner, unread, out)
        out.nbytes += values.nbytes
        if write is not None and not out.problems:
            write(part, block.index, values)
    return out


def _judge(part: Part, values: Array, block: Block, judge: Judge, owner: Array, unread: Array, out: Outcome) -> None:
    """Check one part of a block and add its digest and counts to the outcome."""
    n, labels = values.shape[0], part.labels
    flat = values.reshape(n, -1, len(labels), part.shape[-2] * part.shape[-1])
    low, high = flat.min(axis=-1), flat.max(axis=-1)
    nans = np.zeros(low.shape, np.int64)
    for t in np.unique(np.argwhere(~np.isfinite(low + high))[:, 0]):
        isnan = np.isnan(flat[t])
        nans[t] = isnan.sum(axis=-1)
        low[t], high[t] = np.fmin.reduce(flat[t], axis=-1), np.fmax.reduce(flat[t], axis=-1)  # these ignore NaN
        if not flat.flags.writeable:
            flat = flat.copy()
        flat[t][isnan] = np.nan  # one bit pattern for all NaN: equal values, equal digests
    low, high, count = np.fmin.reduce(low, axis=1), np.fmax.reduce(high, axis=1), nans.sum(axis=1)
    _hash(flat, labels, part, out.digest)
    out.nans += count.sum(axis=-1)
    out.values += flat[0].size
    missing = _missing(part, block)
    size = flat.shape[1] * flat.shape[3]
    limits = judge.limits.get(part.spec.name)
    max_nan = 1.0 - 0.5 / size if judge.masks else judge.max_nan  # a mask says it more exactly
    for t, i, what, todo in checks.fields(low, high, count, size, limits, max_nan):
        if unread[t] or (owner[t], labels[i]) in missing:
            continue
        out.problems.append(checks.Problem(str(owner[t]), block.times[t], what, labels[i], todo))
    for i, label in enumerate(labels):
        mask = judge.masks.get(label)
        if mask is not None:
            _mask(flat[:, :, i], mask.ravel(), label, block, owner, unread, out)
        _ranges(flat[:, :, i], low[:, i], high[:, i], label, block, out)


def _missing(part: Part, block: Block) -> set[tuple[str, str]]:
    """(asset id, channel) that the asset does not have, as its header said."""
    out: set[tuple[str, str]] = set()
    for piece in block.pieces:
        out |= {(piece.asset.id, label) for label in part.labels if label in piece.missing}
    return out


def _hash(flat: Array, labels: list[str], part: Part, digest: Array) -> None:
    """Add to `digest` (T,) uint64 a 64-bit hash of every field; a sum, so the order and cut of blocks do not matter.

    Two CRC-32C of half a field each, mixed with the channel's name: it finds corrected data, it is no signature.
    """
    from google_crc32c import value

    first = part.member.start or 0
    raw = np.ascontiguousarray(flat).view(np.uint8)
    half = raw.shape[-1] // 2
    for m in range(flat.shape[1]):
        for i, label in enumerate(labels):
            key = hashlib.blake2b(f"{label}/{first + m}".encode(), digest_size=8).digest()
            crc = np.array([[value(f[:half].tobytes()), value(f[half:].tobytes())] for f in raw[:, m, i]], np.uint64)
            digest += _mix((crc[:, 0] << np.uint64(32) | crc[:, 1]) ^ np.uint64(int.from_bytes(key, "little")))


def _mix(x: Array) -> Array:
    """The finaliser of splitmix64 (Steele et al., 2014): every input bit changes half of the output bits."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def _mask(fields: Array, mask: Array, label: str, block: Block, owner: Array, unread: Array, out: Outcome) -> None:
    missing = {p.asset.id for p in block.pieces if label in p.missing}
    for t in range(fields.shape[0]):
        if unread[t] or owner[t] in missing:
            continue
        wrong = int((np.isnan(fields[t]) != mask).sum())
        if wrong:
            what = f"NaN in other places than in the archive ({wrong} cells)"
            todo = "check the land or sea mask of the file, or set checks.static_nan_mask: false"
            out.problems.append(checks.Problem(str(owner[t]), block.times[t], what, label, todo))


def _ranges(fields: Array, low: Array, high: Array, label: str, block: Block, out: Outcome) -> None:
    """Range of each asset's fields; the rms is sampled from three of them."""
    for piece in block.pieces:
        ok = piece.at[np.isfinite(low[piece.at]) & np.isfinite(high[piece.at])]
        if ok.size:
            some = fields[ok[np.unique([0, ok.size // 2, ok.size - 1])]]
            rms = float(np.sqrt(np.nanmean(np.square(some, dtype="f8"))))
            out.ranges[piece.asset.id, label] = [float(low[ok].min()), float(high[ok].max()), rms, float(ok.size)]
