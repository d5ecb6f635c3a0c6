"""The stored side of the statistics of a cube: the group `statistics/KIND` of its repository.

tile       (slot,) number in the attribute `tiles`        time    (slot,) int64 nanoseconds since 1970
seen       (slot,) uint64 digest of the content           region  (slot,) uint64 digest of the windows that counted
moments    (slot, part, band) float64                     histogram  (band, bin) int64, of all slots together
attributes: tiles, bands, revision, snapshot (in which every slot has the content that was counted)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from eoflow.bands import BandSpec
from eoflow.catalog_patches import PatchRecipe
from eoflow.prepare.moments import PARTS
from eoflow.prepare.scenes import histograms
from eoflow.prepare.scenes.reading import CubeLike, Tile

if TYPE_CHECKING:
    import zarr

    from eoflow.archive import Archive
    from eoflow.prepare.scenes.statistics import Slot

Array = np.ndarray[Any, np.dtype[Any]]
Key = tuple[str, int]
GROUP = "statistics"


@dataclass(frozen=True, eq=False)
class Kept:
    """What is stored of one kind. rows: (tile, time) -> (seen, region, moments (5, band)), in slot order."""

    kind: str
    bands: tuple[str, ...]
    rows: dict[Key, tuple[int, int, Array]]
    counts: Array
    revision: int = 0
    snapshot: str = ""


class Store(Protocol):
    """Where statistics are kept."""

    def load(self, kind: str) -> Kept | None:
        """What is there, None for nothing."""
        ...

    def save(self, kept: Kept, snapshot: str) -> bool:
        """Replace it; False where somebody else wrote this kind since `kept.revision`."""
        ...


@dataclass(frozen=True, eq=False)
class InArchive:
    """Statistics in the repository of the cube, in one commit that the history does not show."""

    archive: Archive

    def load(self, kind: str) -> Kept | None:
        """See Store."""
        root = self._root()
        path = f"{GROUP}/{kind}"
        return read(root[path], kind) if path in root else None

    def save(self, kept: Kept, snapshot: str) -> bool:
        """See Store."""
        with self.archive.writing():
            found = self.load(kept.kind)
            if (found.revision if found else 0) != kept.revision:
                return False
            with self.archive.transaction("statistics of bands", {"what": "statistics"}, hidden=True) as tx:
                write(tx.group, kept, snapshot)
        return True

    def _root(self) -> zarr.Group:
        import zarr

        return zarr.open_group(self.archive.repo.readonly_session("main").store, mode="r")


def read(group: Any, kind: str) -> Kept:
    """From a group."""
    attrs = group.attrs.asdict()
    arrays = {n: np.asarray(group[n][...]) for n in ("tile", "time", "seen", "region", "moments", "histogram")}
    columns = [arrays[n] for n in ("tile", "time", "seen", "region", "moments")]
    rows = {
        (attrs["tiles"][int(t)], int(time)): (int(seen), int(region), m)
        for t, time, seen, region, m in zip(*columns, strict=True)
    }
    return Kept(kind, tuple(attrs["bands"]), rows, arrays["histogram"], int(attrs["revision"]), attrs["snapshot"])


def write(root: Any, kept: Kept, snapshot: str) -> None:
    """Into `statistics/KIND` of a root group."""
    group = root.create_group(f"{GROUP}/{kept.kind}", overwrite=True)
    tiles = sorted({tile for tile, _ in kept.rows})
    number = {name: i for i, name in enumerate(tiles)}
    moments = np.array([m for _, _, m in kept.rows.values()]).reshape(-1, len(PARTS), len(kept.bands))
    arrays: dict[str, tuple[Any, str, tuple[str, ...]]] = {
        "tile": ([number[t] for t, _ in kept.rows], "i4", ("slot",)),
        "time": ([time for _, time in kept.rows], "i8", ("slot",)),
        "seen": ([seen for seen, _, _ in kept.rows.values()], "u8", ("slot",)),
        "region": ([region for _, region, _ in kept.rows.values()], "u8", ("slot",)),
        "moments": (moments, "f8", ("slot", "part", "band")),
        "histogram": (kept.counts, "i8", ("band", "bin")),
    }
    for name, (values, dtype, dims) in arrays.items():
        a = np.asarray(values, dtype)
        chunks = tuple(max(1, n) for n in a.shape) if name != "histogram" else (1, histograms.BINS)
        out = group.create_array(name, shape=a.shape, chunks=chunks, dtype=dtype, dimension_names=dims)
        if a.size:
            out[...] = a
    group.attrs.update(
        {"tiles": tiles, "bands": list(kept.bands), "part": list(PARTS), "revision": kept.revision + 1,
         "snapshot": snapshot}
    )  # fmt: skip


def merged(
    cube: CubeLike, slots: list[Slot], kind: str, bands: tuple[BandSpec, ...], recipe: PatchRecipe,
    transforms: Mapping[str, str], store: Store | None, progress: Callable[[int, int, str], None] | None,
) -> tuple[Array, Array, Kept | None]:  # fmt: skip
    """Moments (slot, 5, band), histogram (band, 65536) of the slots, and what to save (None: nothing changed)."""
    from eoflow.prepare.scenes.statistics import compute

    names = tuple(b.name for b in bands)
    kept = store.load(kind) if store is not None else None
    old = kept if kept is not None and kept.bands == names else None
    wanted = {s.key: s for s in slots}
    same = {
        k for k, (seen, region, _) in (old.rows if old else {}).items()
        if k in wanted and (wanted[k].seen, wanted[k].region_hash) == (seen, region)
    }  # fmt: skip
    gone = [k for k in (old.rows if old else {}) if k not in same]
    lost = _counts_of(cube, old, gone, slots, bands, recipe, transforms) if old else None
    if old is None or lost is None:
        same, base = set(), np.zeros((len(bands), histograms.BINS), np.int64)
    else:
        base = old.counts - lost
    fresh = [s for s in slots if s.key not in same]
    if old is not None and not fresh and not gone:
        return _stack(old.rows, slots, bands), old.counts, None
    rows, counts = compute(fresh, bands, recipe, transforms, progress)
    new = {s.key: (s.seen, s.region_hash, m) for s, m in zip(fresh, rows, strict=True)}
    all_rows = {s.key: new[s.key] if s.key in new else old.rows[s.key] for s in slots}  # type: ignore[union-attr]
    done = Kept(kind, names, all_rows, base + counts, kept.revision if kept else 0)
    return _stack(all_rows, slots, bands), done.counts, done if store is not None else None


def _stack(rows: dict[Key, tuple[int, int, Array]], slots: list[Slot], bands: tuple[BandSpec, ...]) -> Array:
    return np.array([rows[s.key][2] for s in slots]).reshape(-1, len(PARTS), len(bands))


def _counts_of(
    cube: CubeLike, old: Kept, gone: list[Key], slots: list[Slot], bands: tuple[BandSpec, ...], recipe: PatchRecipe,
    transforms: Mapping[str, str],
) -> Array | None:  # fmt: skip
    """Histogram of slots as they were counted, read from the old snapshot; None where that cannot be had any more."""
    from eoflow.prepare.scenes.statistics import Slot, compute

    regions = {s.tile.name: (s.region_hash, s.region) for s in slots}
    then: list[Slot] = []
    tiles: dict[str, Tile] = {}
    for name, time in gone:
        seen, region, _ = old.rows[(name, time)]
        if name not in regions or regions[name][0] != region:
            return None  # other windows counted then, and which ones is not kept
        try:
            tile = tiles.setdefault(name, Tile.load(cube, name, old.snapshot))
        except Exception:  # the snapshot has expired, whatever the store says about it
            return None
        at = np.flatnonzero(tile.times.astype("i8") == time)
        if at.size != 1 or int(tile.digests[at[0]]) != seen:
            return None
        then.append(Slot(tile, int(at[0]), regions[name][1], seen, region))
    return compute(then, bands, recipe, transforms)[1]
