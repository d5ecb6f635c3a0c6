"""The patch index: which windows at which times are samples, of which split, with what in them. A small immutable Zarr.

    tile    (sample,) number of the tile          split   (sample,) 1 train, 2 valid, 3 test
    y, x    (sample,) first row and column        weight  (sample,) by class balance, mean 1 over training
    times   (sample, date) ns since 1970, of the inputs, oldest first
    target  (sample,) ns since 1970 of the target date, or the smallest int64
    valid   (sample,) least usable fraction of its dates (of the target where there is one)
    cloud   (sample,) most cloud and shadow in an input date
    classes (sample, class) pixels of each label class, or of each quality class where there are no labels

A window of a tile smaller than the patch begins at 0 and is padded when it is read; fractions are of real pixels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from eoflow.bands import BandSpec
from eoflow.catalog_patches import PatchRecipe
from eoflow.errors import BadInput
from eoflow.prepare.scenes import reading
from eoflow.prepare.scenes.reading import CubeLike, Tile
from eoflow.prepare.scenes.select import Chosen, Fractions, choose
from eoflow.prepare.scenes.splits import CODES, NAMES, Division, divide
from eoflow.prepare.scenes.windows import Counter, Layout
from eoflow.quality import Quality
from eoflow.tiling import Grid
from eoflow.times import NS, parse_duration

Array = np.ndarray[Any, np.dtype[Any]]
Progress = Callable[[int, int, str], None]
COLUMNS = ("tile", "y", "x", "times", "target", "valid", "cloud", "classes", "split", "weight")
FORMAT = 1
BATCH = 64
HEAVIEST = 20.0
"""No sample weighs more than this by class balance."""


@dataclass(frozen=True, eq=False)
class PatchIndex:
    """See the module. tiles, grids: by tile number. dropped: samples (or windows) left out, by reason. skipped: tiles
    without a sample, and why. division: how it was divided (Division.to_dict)."""

    tile: Array
    y: Array
    x: Array
    times: Array
    target: Array
    valid: Array
    cloud: Array
    classes: Array
    split: Array
    weight: Array
    tiles: tuple[str, ...]
    grids: tuple[Grid, ...]
    patch: int
    class_names: tuple[str, ...]
    division: Mapping[str, Any]
    dataset: str = ""
    snapshot: str = ""
    fingerprint: str = ""
    dropped: Mapping[str, int] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.tile.size)

    def __getitem__(self, at: Array) -> PatchIndex:
        """The chosen samples."""
        return replace(self, **{name: getattr(self, name)[at] for name in COLUMNS})

    def of(self, split: str) -> Array:
        """Numbers of the samples of `train`, `valid` or `test`."""
        return np.flatnonzero(self.split == CODES[split])

    @property
    def gap(self) -> np.timedelta64 | None:
        """See Division."""
        text = self.division["gap"]
        return None if text is None else parse_duration(text)

    @property
    def first(self) -> Array:
        """(S,) datetime64[ns], the earliest time of each sample."""
        return np.fmin(self.times[:, 0], self.target)

    @property
    def last(self) -> Array:
        """(S,) datetime64[ns], the latest time of each sample."""
        return np.fmax(self.times[:, -1], self.target)

    @property
    def hash(self) -> str:
        """16 hex digits over the samples and their split."""
        h = hashlib.sha256(json.dumps([self.tiles, self.patch, dict(self.division)], sort_keys=True).encode())
        for name in COLUMNS:
            h.update(np.ascontiguousarray(getattr(self, name)).tobytes())
        return h.hexdigest()[:16]

    def text(self) -> str:
        """For a person."""
        counts = ", ".join(f"{self.of(n).size} {n}" for n in NAMES)
        lines = [f"{len(self)} samples of {self.patch} x {self.patch} pixels on {len(self.tiles)} tiles: {counts}"]
        lines += [f"  left out: {n} {why}" for why, n in self.dropped.items() if n]
        lines += [f"  no sample in {name}: {why}" for name, why in list(self.skipped.items())[:10]]
        return "\n".join(lines)

    def save(self, path: Path) -> None:
        """Write beside and rename: a Zarr that xarray opens."""
        import zarr

        from eoflow.prepare.build import sync_files

        partial = path.with_name(f"{path.name}.partial")
        group = zarr.open_group(str(partial), mode="w", zarr_format=3)
        self.write(group)
        sync_files(partial)
        partial.rename(path)

    def write(self, group: Any) -> None:
        """Into a Zarr group."""
        for name in COLUMNS:
            values = getattr(self, name)
            dims = ("sample",) if values.ndim == 1 else ("sample", "date" if name == "times" else "class")
            time = values.dtype.kind == "M"
            attrs = {"units": "nanoseconds since 1970-01-01", "calendar": "proleptic_gregorian"} if time else {}
            values = values.astype(NS).astype("i8") if time else values
            a = group.create_array(
                name, shape=values.shape, chunks=tuple(max(1, n) for n in values.shape), dtype=values.dtype,
                dimension_names=dims, attributes=attrs,
            )  # fmt: skip
            if values.size:
                a[...] = values
        rest = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in (*COLUMNS, "grids")}
        rest["grids"] = [[g.crs, list(g.transform), list(g.shape)] for g in self.grids]
        group.attrs.update({"title": "patch index of eoflow", "eoflow_index": FORMAT, "index": json.dumps(rest)})

    @classmethod
    def load(cls, path: Path | Any) -> PatchIndex:
        """From where `save` or `write` put it. Raises BadInput."""
        import zarr

        try:
            group = zarr.open_group(str(path), mode="r", zarr_format=3) if isinstance(path, (str, Path)) else path
            rest = json.loads(str(group.attrs["index"]))
        except (FileNotFoundError, KeyError, ValueError):
            raise BadInput("there is no patch index", where=str(path), todo="eoflow prepare") from None
        arrays: dict[str, Any] = {n: np.asarray(group[n][...]) for n in COLUMNS}  # type: ignore[index]
        arrays |= {n: arrays[n].astype(NS) for n in ("times", "target")}
        rest["grids"] = tuple(Grid(c, tuple(t), tuple(s)) for c, t, s in rest["grids"])
        rest |= {k: tuple(rest[k]) for k in ("tiles", "class_names")}
        return cls(**arrays, **rest)


def build_index(
    cube: CubeLike, recipe: PatchRecipe, keep: Mapping[str, Any] | None = None, as_of: str | None = None,
    dataset: str = "", progress: Progress | None = None,
) -> tuple[PatchIndex, Division]:  # fmt: skip
    """The samples of a cube by a recipe, from its quality layer (and labels): bands are not read.

    Every (tile, time) is one Dask task that reads whole chunks, so memory is that of the tasks in flight. keep: an
    earlier division (see splits.divide). Raises BadInput where nothing is left.
    """
    snapshot = cube.snapshot if as_of is None else as_of
    tiles = [t for t in reading.tiles(cube, as_of) if t.stored.size]
    if not tiles:
        raise BadInput("the cube holds no scene", where=dataset or None, todo=f"eoflow ingest {dataset}")
    recipe.inputs(cube.schema.names)
    label = _label_table(recipe, cube.schema.band(recipe.labels.band)) if recipe.labels else None
    if recipe.labels and recipe.labels.ground:
        cube.schema.band(recipe.labels.ground)
    division = divide(recipe, tiles, keep)
    counted = _count(tiles, recipe, label, progress)
    parts: list[dict[str, Array]] = []
    dropped = {"windows in a buffer between splits": 0, "across two periods": 0, "without a labelled pixel": 0}
    skipped: dict[str, str] = {}
    for number, tile in enumerate(tiles):
        dropped["windows in a buffer between splits"] += int((division.windows[tile.name] == 0).sum())
        part = _samples(number, tile, recipe, division, *counted[tile.name], dropped)
        if part["tile"].size:
            parts.append(part)
        else:
            skipped[tile.name] = _why(tile, recipe, division, counted[tile.name][0])
    if not parts:
        first = next(iter(skipped.items()), ("", ""))
        raise BadInput("no window makes a sample", where=f"{first[0]}: {first[1]}",
                       todo="lower min_valid, raise max_cloud, or use smaller patches")  # fmt: skip
    columns: dict[str, Any] = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
    names = [str(c) for c in recipe.labels.classes] if recipe.labels else [q.name.lower() for q in Quality]
    index = PatchIndex(
        **columns, weight=_weights(columns, recipe), tiles=tuple(t.name for t in tiles),
        grids=tuple(t.grid for t in tiles), patch=recipe.patch, class_names=tuple(names), division=division.to_dict(),
        dataset=dataset, snapshot=snapshot, fingerprint=reading.fingerprint(tiles), dropped=dropped, skipped=skipped,
    )  # fmt: skip
    wanted = [n for n, f in zip(NAMES, recipe.split.fractions, strict=True) if f > 0]
    for name in wanted if division.periods is None else [n for n, _ in division.periods.items()]:
        if not index.of(name).size:
            raise BadInput(f"no sample is left for '{name}'", where=index.text(),
                           todo="use other blocks or periods, smaller patches, or set split.fractions")  # fmt: skip
    return index, division


def _label_table(recipe: PatchRecipe, band: BandSpec) -> Array:
    """(65536,) class number of each stored label by its low 16 bits, -1 elsewhere."""
    assert recipe.labels is not None
    dtype = np.dtype(band.dtype)
    if dtype.kind not in "iu" or dtype.itemsize > 2:
        raise BadInput(f"labels are {dtype}, and must be integers of 8 or 16 bits", where=f"band {band.name}",
                       todo="write dtype: uint8 for the band in the catalog entry")  # fmt: skip
    table = np.full(65536, -1, np.int16)
    for number, value in enumerate(recipe.labels.classes):
        if band.nodata is None or value != band.nodata:
            table[value & 0xFFFF] = number
    return table


def count_slot(tile: Tile, slot: int, layout: Layout, name: str, table: Array) -> Array:
    """(W, classes) counts of one time of a layer, read in strips of whole chunks."""
    counter = Counter(layout, table)
    for a, b in tile.strips(4 << 20):
        counter.add(a, as_codes(reading.read(tile.group, name, slot, slice(a, b))))
    return counter.windows()


def as_codes(values: Array) -> Array:
    """8 and 16 bit integers as uint16 by their bits, sign extended."""
    return values.astype(np.int16).view(np.uint16) if values.dtype.kind == "i" else values.astype(np.uint16)


def _count(
    tiles: list[Tile], recipe: PatchRecipe, label: Array | None, progress: Progress | None
) -> dict[str, tuple[Array, Array | None]]:
    """Of each tile: counts of quality classes, and of label classes, (stored times, W, class) each."""
    from dask import base
    from dask.delayed import delayed

    task = delayed(count_slot, pure=False)
    quality = np.full(256, -1, np.int16)
    quality[[int(q) for q in Quality]] = [int(q) for q in Quality]
    layers = [("quality", quality)] + ([(recipe.labels.band, label)] if recipe.labels and label is not None else [])
    todo = [(t, int(slot), name, table) for t in tiles for name, table in layers for slot in t.stored]
    done: list[Array] = []
    for at in range(0, len(todo), BATCH):
        some = [
            task(t, slot, Layout(t.grid.shape, recipe.patch, recipe.step), name, table)
            for t, slot, name, table in todo[at : at + BATCH]
        ]
        done += [r.astype(np.int32) for r in base.compute(*some)]  # type: ignore[no-untyped-call]
        if progress is not None:
            progress(min(at + BATCH, len(todo)), len(todo), "patches")
    out: dict[str, tuple[Array, Array | None]] = {}
    at = 0
    for t in tiles:
        n = t.stored.size
        out[t.name] = (np.stack(done[at : at + n]), np.stack(done[at + n : at + 2 * n]) if label is not None else None)
        at += n * len(layers)
    return out


def _samples(
    number: int, tile: Tile, recipe: PatchRecipe, division: Division, quality: Array, labels: Array | None,
    dropped: dict[str, int],
) -> dict[str, Array]:  # fmt: skip
    layout = Layout(tile.grid.shape, recipe.patch, recipe.step)
    times = tile.times[tile.stored]
    have = Fractions.of(quality, layout.pixels, recipe)
    found = choose(recipe, times, have, division.allowed(tile.name, times))
    classes = (quality if labels is None else labels)[found.labelled, found.window]
    if labels is not None:
        some = classes.sum(axis=1) > 0
        dropped["without a labelled pixel"] += int((~some).sum())
        found, classes = found[some], classes[some]
    stamps = times[found.dates]
    target = np.where(found.target >= 0, times[found.target], np.datetime64("NaT"))
    code = division.codes(tile.name, found.window, np.fmin(stamps[:, 0], target), np.fmax(stamps[:, -1], target))
    dropped["across two periods"] += int((code == 0).sum())
    ok = code > 0
    found, stamps, target, classes, code = found[ok], stamps[ok], target[ok], classes[ok], code[ok]
    y, x = layout.origins
    return {
        "tile": np.full(found.window.size, number, np.int32), "y": y[found.window].astype(np.int32),
        "x": x[found.window].astype(np.int32), "times": stamps.astype(NS), "target": target.astype(NS),
        "valid": _extreme(have.valid, found, np.min, target=True), "cloud": _extreme(have.cloud, found, np.max),
        "classes": classes.astype(np.int32), "split": code.astype(np.int8),
    }  # fmt: skip


def _extreme(share: Array, found: Chosen, extreme: Any, target: bool = False) -> Array:
    dates = extreme(share[found.dates, found.window[:, None]], axis=1, initial=1.0 if extreme is np.min else 0.0)
    if target:
        dates = np.where(found.target >= 0, share[found.target, found.window], dates)
    return np.asarray(dates, np.float32)


def _why(tile: Tile, recipe: PatchRecipe, division: Division, quality: Array) -> str:
    """Why a tile gives no sample."""
    pixels = Layout(tile.grid.shape, recipe.patch, recipe.step).pixels
    have = Fractions.of(quality, pixels, recipe)
    if not (division.windows[tile.name] > 0).any():
        return "every window lies in a buffer between splits"
    return (
        f"at best {have.valid.max():.0%} of a window is usable (min_valid {recipe.min_valid:.0%}), and"
        f" {have.cloud.min():.0%} cloud (max_cloud {recipe.max_cloud:.0%}), at {tile.stored.size} times"
    )


def _weights(columns: Mapping[str, Array], recipe: PatchRecipe) -> Array:
    """(S,) mean over the pixels of a sample of 1 / frequency of the pixel's class in training; mean 1 over training."""
    train = columns["split"] == CODES["train"]
    n = train.size
    if recipe.balance == "none" or not train.any():
        return np.ones(n, np.float32)
    counts = columns["classes"].astype(np.float64)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    frequency = share[train].mean(axis=0)
    raw = (share / np.where(frequency > 0, frequency, np.inf)).sum(axis=1)
    raw = np.clip(raw / raw[train].mean(), 1 / HEAVIEST, HEAVIEST)
    return (raw / raw[train].mean()).astype(np.float32)
