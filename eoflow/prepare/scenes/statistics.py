"""Statistics of the bands of a cube over its training pixels, kept in the cube and brought up to date by what changed.

Only pixels in windows and times of the training split count, of usable quality and with a value. The group
`statistics/KIND` holds for each slot (tile, time) the moments and a digest of what they were taken of, and one
histogram a band for all slots. After an append only new slots are read; of a slot that was changed or taken away the
old content is read once more, from the snapshot that it was counted in, and subtracted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.bands import BandSpec
from eoflow.catalog_patches import PatchRecipe, digest
from eoflow.errors import BadInput
from eoflow.prepare.moments import PARTS, Moments
from eoflow.prepare.normalize import transform
from eoflow.prepare.scenes import histograms, reading
from eoflow.prepare.scenes.reading import CubeLike, Tile
from eoflow.prepare.scenes.splits import Division
from eoflow.prepare.scenes.windows import Layout

if TYPE_CHECKING:
    from eoflow.prepare.scenes.stored import Store

Array = np.ndarray[Any, np.dtype[Any]]
Progress = Callable[[int, int, str], None]
BATCH = 16


@dataclass(frozen=True, eq=False)
class BandStatistics:
    """Moments and histograms of bands. field: moments (band,) in (transformed) physical units. counts: (band, 65536).

    bands: how they are stored. transforms: band -> `db`. fingerprint: of the content that went in. snapshot: of the
    cube then. slots: how many (tile, time) were counted.
    """

    bands: tuple[BandSpec, ...]
    field: Moments
    counts: Array
    transforms: Mapping[str, str]
    slots: int
    fingerprint: str = ""
    snapshot: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Band names, in order."""
        return tuple(b.name for b in self.bands)

    @property
    def hash(self) -> str:
        """16 hex digits over what went in."""
        return digest([self.fingerprint, [b.model_dump(mode="json") for b in self.bands], dict(self.transforms)])

    def percentile(self, q: float) -> Array:
        """(band,) q-th percentile (0 to 100) in (transformed) physical units: exact for 8 and 16 bit integers."""
        tables = (histograms.physical(b, self.transforms.get(b.name)) for b in self.bands)
        return np.array([histograms.percentile(n, t, q) for n, t in zip(self.counts, tables, strict=True)])

    def merge(self, other: BandStatistics) -> BandStatistics:
        """Of both together. Raises BadInput where the bands differ."""
        if (self.bands, dict(self.transforms)) != (other.bands, dict(other.transforms)):
            raise BadInput("statistics of different bands cannot be merged",
                           where=f"{', '.join(self.names)} | {', '.join(other.names)}")  # fmt: skip
        return BandStatistics(
            self.bands, self.field.merge(other.field), self.counts + other.counts, self.transforms,
            self.slots + other.slots, digest(sorted([self.fingerprint, other.fingerprint])), self.snapshot,
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: one row a band."""
        low, high = self.percentile(2), self.percentile(98)
        rows = {
            b.name: {
                "units": "dB" if self.transforms.get(b.name) == "db" else b.units, "count": float(self.field.count[i]),
                "mean": float(self.field.mean[i]), "std": float(self.field.std[i]), "min": float(self.field.min[i]),
                "max": float(self.field.max[i]), "p2": float(low[i]), "p98": float(high[i]),
            }
            for i, b in enumerate(self.bands)
        }  # fmt: skip
        return {"slots": self.slots, "bands": rows, "snapshot": self.snapshot, "hash": self.hash}


@dataclass(frozen=True, eq=False)
class Slot:
    """One time of a tile that belongs to the training split. seen: digest of its content; region: of its windows."""

    tile: Tile
    index: int
    region: Array
    seen: int
    region_hash: int

    @property
    def key(self) -> tuple[str, int]:
        """Tile and nanoseconds since 1970."""
        return self.tile.name, int(self.tile.times[self.index].astype("i8"))


def slots_of(tiles: list[Tile], recipe: PatchRecipe, division: Division) -> list[Slot]:
    """Every stored (tile, time) that training may see, with the windows that it may see there."""
    out = []
    for tile in tiles:
        windows, times = division.training(tile.name, tile.times)
        region = Layout(tile.grid.shape, recipe.patch, recipe.step).coverage(np.flatnonzero(windows))
        h = int.from_bytes(hashlib.blake2b(np.packbits(region).tobytes() + repr(region.shape).encode(), digest_size=8)
                           .digest(), "little")  # fmt: skip
        if region.any():
            out += [Slot(tile, int(i), region, int(tile.digests[i]), h) for i in tile.stored if times[i]]
    return out


def compute(
    slots: list[Slot], bands: tuple[BandSpec, ...], recipe: PatchRecipe, transforms: Mapping[str, str],
    progress: Progress | None = None,
) -> tuple[Array, Array]:  # fmt: skip
    """Moments (slot, 5, band) and histogram (band, 65536) of all slots: one Dask task a slot, a few in flight."""
    from dask import base
    from dask.delayed import delayed

    task = delayed(slot_statistics, pure=False)
    counts = np.zeros((len(bands), histograms.BINS), np.int64)
    rows: list[Array] = []
    for at in range(0, len(slots), BATCH):
        todo = [task(s.tile, s.index, s.region, bands, recipe, dict(transforms)) for s in slots[at : at + BATCH]]
        for moments, histogram in base.compute(*todo):  # type: ignore[no-untyped-call]
            rows.append(moments)
            counts += histogram
        if progress is not None:
            progress(min(at + BATCH, len(slots)), len(slots), "statistics")
    return np.array(rows).reshape(-1, len(PARTS), len(bands)), counts


def slot_statistics(
    tile: Tile, index: int, region: Array, bands: tuple[BandSpec, ...], recipe: PatchRecipe,
    transforms: Mapping[str, str],
) -> tuple[Array, Array]:  # fmt: skip
    """(5, band) moments and (band, 65536) counts of one time of a tile, read in strips of whole chunks."""
    layout = Layout(tile.grid.shape, recipe.patch, recipe.step)
    ey, ex = layout.edges
    across = np.repeat(region, np.diff(ex), axis=1)
    use = np.zeros(256, bool)
    use[[int(c) for c in recipe.classes]] = True
    counts = np.zeros((len(bands), histograms.BINS), np.int64)
    found = [Moments.empty(())] * len(bands)
    for a, b in tile.strips(8 << 20):
        cell = np.searchsorted(ey, np.arange(a, b), side="right") - 1
        mask = across[cell]
        if not mask.any():
            continue
        mask = mask & use[reading.read(tile.group, "quality", index, slice(a, b))]
        for i, band in enumerate(bands):
            x = reading.read(tile.group, band.name, index, slice(a, b))[mask]
            if band.nodata is not None and not np.isnan(band.nodata):
                x = x[x != band.fill]
            if x.dtype.kind == "f":
                x = x[np.isfinite(x)]
            counts[i] += histograms.histogram(x)
            if not histograms.is_exact(band.dtype) and x.size:
                y = transform(x.astype(np.float64) * band.scale + band.offset, transforms.get(band.name))
                found[i] = found[i].merge(Moments.of(y, axis=0))
    for i, band in enumerate(bands):
        if histograms.is_exact(band.dtype):
            found[i] = histograms.moments(counts[i], histograms.physical(band, transforms.get(band.name)))
    return np.stack([m.to_array() for m in found], axis=1), counts


def update(
    cube: CubeLike, recipe: PatchRecipe, division: Division, store: Store | None = None, *,
    transforms: Mapping[str, str] | None = None, progress: Progress | None = None, as_of: str | None = None,
) -> BandStatistics:  # fmt: skip
    """Statistics of the recipe's bands (inputs, then targets) over the training split.

    store: where they are kept (see stored.Store); None computes them anew. transforms: band -> `db`, before anything
    is summed. Raises BadInput where no training pixel is usable.
    """
    from eoflow.prepare.scenes.stored import merged

    names = tuple(dict.fromkeys((*recipe.inputs(cube.schema.names), *recipe.targets)))
    bands = tuple(cube.schema.band(n) for n in names)
    chosen = {k: v for k, v in (transforms or {}).items() if k in names}
    while True:
        snapshot = cube.snapshot if as_of is None else as_of
        slots = slots_of(reading.tiles(cube, as_of), recipe, division)
        kind = kind_of(recipe, bands, chosen)
        rows, counts, current = merged(cube, slots, kind, bands, recipe, chosen, store, progress)
        if current is None or (store is not None and store.save(current, snapshot)):
            break  # else another process wrote them meanwhile: look again
    total = Moments.from_array(np.moveaxis(rows, 1, 0)).over() if len(rows) else Moments.empty(len(bands))
    empty = [b.name for b, n in zip(bands, total.count, strict=True) if n == 0]
    if empty:
        raise BadInput(f"no usable training pixel in {', '.join(empty)}",
                       where=f"quality classes {', '.join(recipe.usable)}, {len(slots)} times of tiles",
                       todo="allow more quality classes (usable), or ingest more scenes")  # fmt: skip
    identity = digest(sorted([*s.key, s.seen, s.region_hash] for s in slots))
    return BandStatistics(bands, total, counts, chosen, len(slots), identity, snapshot)


def kind_of(recipe: PatchRecipe, bands: tuple[BandSpec, ...], transforms: Mapping[str, str]) -> str:
    """Name of these statistics: a hash of bands, quality classes, transforms, windows and split."""
    split = recipe.split.model_dump(mode="json")
    return digest([[b.model_dump(mode="json") for b in bands], [int(c) for c in sorted(recipe.classes)],
                   dict(transforms), recipe.patch, recipe.step, split])  # fmt: skip
