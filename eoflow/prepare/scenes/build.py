"""Writing a prepared set of patches: every window and date once, pre-shuffled, beside and then renamed into place.

The cube is read in its own order, a row of windows at a time; each patch goes to its place in the shuffled set. A
killed run leaves `KEY.partial`, which no reader opens; the next run of the same key goes on with the (tile, time)s that
are missing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eoflow import __version__
from eoflow.bands import BandSpec
from eoflow.catalog_patches import PatchRecipe
from eoflow.prepare.build import drop_others, sync_files
from eoflow.prepare.scenes import reading
from eoflow.prepare.scenes.normalize import BandNormalizer
from eoflow.prepare.scenes.patches import PatchIndex
from eoflow.prepare.scenes.reading import CubeLike, Tile
from eoflow.prepare.scenes.shards import Shards, rows_of_shard
from eoflow.prepare.scenes.windows import padded
from eoflow.quality import Quality

Array = np.ndarray[Any, np.dtype[Any]]
Progress = Callable[[int, int, str], None]
FORMAT = "patches-1"
IGNORE = -1
"""Label of a pixel that has none of the classes."""
BATCH = 16


@dataclass(frozen=True, eq=False)
class Rows:
    """Every (tile, y, x, time) that a sample needs, once, in stored order. samples, targets: rows of each sample
    (S, date) and (S,), -1 without a target. The dates of a window lie side by side."""

    tile: Array
    y: Array
    x: Array
    time: Array
    samples: Array
    targets: Array

    @classmethod
    def of(cls, index: PatchIndex, seed: int) -> Rows:
        """Windows in an order drawn by the seed, times of a window increasing."""
        n, dates = index.times.shape
        time = np.concatenate([index.times.astype("i8"), index.target.astype("i8")[:, None]], axis=1)
        place = np.stack([index.tile, index.y, index.x], axis=1).astype("i8")
        windows, which = np.unique(place, axis=0, return_inverse=True)
        rank = np.random.default_rng([seed, 1]).permutation(len(windows))[which.ravel()]
        key = np.stack([np.repeat(rank, dates + 1), time.ravel(), np.repeat(which.ravel(), dates + 1)], axis=1)
        used = np.repeat(~np.isnat(index.target)[:, None], dates + 1, axis=1)
        used[:, :dates] = True
        distinct, inverse = np.unique(key[used.ravel()], axis=0, return_inverse=True)
        rows = np.full((n, dates + 1), -1, np.int64)
        rows[used] = inverse.ravel()
        where = windows[distinct[:, 2]]
        return cls(where[:, 0], where[:, 1], where[:, 2], distinct[:, 1], rows[:, :dates], rows[:, dates])

    def __len__(self) -> int:
        return int(self.tile.size)


def stored_dtype(bands: tuple[BandSpec, ...]) -> np.dtype[Any]:
    """One type that holds the stored values of all bands: theirs if it is one of at most 16 bits, else float32."""
    common = np.result_type(*(np.dtype(b.dtype) for b in bands))
    return common if common.kind in "iu" and common.itemsize <= 2 else np.dtype("f4")


def write(
    target: Path, cube: CubeLike, recipe: PatchRecipe, index: PatchIndex, normalizer: BandNormalizer, key: str,
    provenance: dict[str, Any], as_of: str | None = None, progress: Progress | None = None,
) -> None:  # fmt: skip
    """Write the set of an index to `target`. Dask-parallel, one task a (tile, time); nothing is visible before the end.

    as_of: the snapshot that the index was made of; it is read whatever is committed meanwhile.
    """
    import zarr
    from dask import base
    from dask.delayed import delayed

    schema = cube.schema
    names = tuple(dict.fromkeys((*recipe.inputs(schema.names), *recipe.targets)))
    bands = tuple(schema.band(n) for n in names)
    rows = Rows.of(index, recipe.split.seed)
    partial = target.with_name(f"{key}.partial")
    drop_others(target.parent, keep=partial)
    arrays = _arrays(partial, rows, recipe, bands)
    tiles = {i: Tile.load(cube, name, as_of) for i, name in enumerate(index.tiles)}
    todo, place = [], rows.tile * len(np.unique(rows.time)) + np.unique(rows.time, return_inverse=True)[1].ravel()
    for _, at in _grouped(place):
        part = partial / "parts" / f"{rows.tile[at[0]]}-{rows.time[at[0]]}"
        if not part.exists():
            todo.append((tiles[int(rows.tile[at[0]])], at, part))
    task = delayed(write_slot, pure=False)
    for k in range(0, len(todo), BATCH):
        base.compute(*[task(arrays, t, rows, at, recipe, bands, part) for t, at, part in todo[k : k + BATCH]])  # type: ignore[no-untyped-call]
        if progress is not None:
            progress(min(k + BATCH, len(todo)), len(todo), "training set")
    for shards in arrays.values():
        shards.close()
    shutil.rmtree(partial / "parts")
    group = zarr.open_group(str(partial), mode="r+", zarr_format=3)
    index.write(group.require_group("index"))
    _tables(group, rows)
    group.attrs.update(
        {
            "title": "prepared patches of eoflow: stored values of bands, quality and labels",
            "eoflow_format": FORMAT,
            "eoflow_schema": schema.model_dump_json(), "eoflow_schema_hash": schema.hash,
            "recipe": recipe.model_dump_json(), "channels": list(names),
            "normalizer": json.dumps(normalizer.to_dict()), "items": _items(rows, tiles, index),
            "key": key, "provenance": {**provenance, "eoflow": __version__},
        }
    )  # fmt: skip
    sync_files(partial)
    partial.rename(target)


def _grouped(keys: Array) -> list[tuple[int, Array]]:
    """Key -> where it stands, for each distinct key."""
    order = np.argsort(keys, kind="stable")
    cuts = np.flatnonzero(np.diff(keys[order])) + 1
    return [(int(keys[part[0]]), part) for part in np.split(order, cuts)]


def _arrays(partial: Path, rows: Rows, recipe: PatchRecipe, bands: tuple[BandSpec, ...]) -> dict[str, Shards]:
    """The empty arrays, or those that a killed run left."""
    import zarr

    if (partial / "parts").is_dir():
        group = zarr.open_group(str(partial), mode="r", zarr_format=3)
        names = ["data", "quality", *(["labels"] if recipe.labels else []), *(["ground"] if _ground(recipe) else [])]
        return {n: Shards(group[n], partial / n) for n in names}
    shutil.rmtree(partial, ignore_errors=True)
    n, p = len(rows), recipe.patch
    group = zarr.open_group(str(partial), mode="w", zarr_format=3)
    dtype = stored_dtype(bands)
    per_shard = rows_of_shard(p * p * len(bands) * dtype.itemsize, n)
    meaning = {"long_name": "quality of the pixel; nodata where a band has no value, missing in the padding"}
    out = {
        "data": Shards.create(group, partial, "data", (n, len(bands), p, p), dtype,
                              ("row", "channel", "y", "x"), {"long_name": "stored values"}, per_shard),
        "quality": Shards.create(group, partial, "quality", (n, p, p), "u1", ("row", "y", "x"), meaning, per_shard),
    }  # fmt: skip
    if recipe.labels:
        about = {"long_name": f"number of the class; {IGNORE}: none", "classes": list(recipe.labels.classes)}
        out["labels"] = Shards.create(group, partial, "labels", (n, p, p), "i2", ("row", "y", "x"), about, per_shard)
    if _ground(recipe):
        about = {"long_name": f"class of the ground; {IGNORE}: none"}
        out["ground"] = Shards.create(group, partial, "ground", (n, p, p), "i2", ("row", "y", "x"), about, per_shard)
    (partial / "parts").mkdir()
    return out


def _ground(recipe: PatchRecipe) -> str | None:
    return recipe.labels.ground if recipe.labels else None


def write_slot(
    arrays: dict[str, Shards], tile: Tile, rows: Rows, at: Array, recipe: PatchRecipe, bands: tuple[BandSpec, ...],
    part: Path,
) -> None:  # fmt: skip
    """Read one time of a tile and put its patches (rows `at`) in their places; then leave a file that says so."""
    slot = int(np.flatnonzero(tile.times.astype("i8") == rows.time[at[0]])[0])
    for _, some in _grouped(rows.y[at]):
        some = at[some][np.argsort(rows.x[at[some]], kind="stable")]
        cuts = np.flatnonzero(np.diff(rows.x[some]) > 2 * recipe.patch) + 1
        for run in np.split(some, cuts):
            _put_run(arrays, tile, slot, rows, run, recipe, bands)
    part.touch()


def _put_run(
    arrays: dict[str, Shards], tile: Tile, slot: int, rows: Rows, run: Array, recipe: PatchRecipe,
    bands: tuple[BandSpec, ...],
) -> None:  # fmt: skip
    """Patches side by side: read the strip that holds them, a band at a time, and cut it."""
    p, y, x0 = recipe.patch, int(rows.y[run[0]]), int(rows.x[run[0]])
    where = slice(y, y + p), slice(x0, int(rows.x[run[-1]]) + p)
    left = rows.x[run] - x0

    def cut(strip: Array, fill: Any) -> Array:
        return np.stack([padded(strip[:, a : a + p], p, fill) for a in left])

    data = np.empty((run.size, len(bands), p, p), arrays["data"].dtype)
    void = np.zeros((run.size, p, p), bool)
    for i, band in enumerate(bands):
        strip = reading.read(tile.group, band.name, slot, *where)
        data[:, i] = cut(strip, 0)
        if strip.dtype.kind == "f":
            void |= cut(~np.isfinite(strip), False)
        if band.nodata is not None and not np.isnan(band.nodata):
            void |= cut(strip == band.fill, False)
    quality = cut(reading.read(tile.group, "quality", slot, *where), int(Quality.MISSING))
    quality[void & (quality != int(Quality.MISSING))] = int(Quality.NODATA)
    arrays["data"].put(run, data)
    arrays["quality"].put(run, quality)
    if recipe.labels is not None:
        stored = cut(reading.read(tile.group, recipe.labels.band, slot, *where).astype(np.int32), np.iinfo("i4").min)
        labels = np.full(stored.shape, IGNORE, np.int16)
        for number, value in enumerate(recipe.labels.classes):
            labels[stored == value] = number
        arrays["labels"].put(run, labels)
    ground = _ground(recipe)
    if ground is not None:
        stored = cut(reading.read(tile.group, ground, slot, *where).astype(np.int32), IGNORE)
        arrays["ground"].put(run, np.where((stored < 0) | (stored == 255), IGNORE, stored).astype(np.int16))


def _tables(group: Any, rows: Rows) -> None:
    """Rows of each sample, and where each row comes from."""
    tables: dict[str, tuple[Array, tuple[str, ...]]] = {
        "rows": (rows.samples, ("sample", "date")), "target_row": (rows.targets, ("sample",)),
        "row_tile": (rows.tile.astype("i4"), ("row",)), "row_time": (rows.time, ("row",)),
        "row_y": (rows.y.astype("i4"), ("row",)), "row_x": (rows.x.astype("i4"), ("row",)),
    }  # fmt: skip
    for name, (values, dims) in tables.items():
        group.create_array(name, data=values, chunks=tuple(max(1, n) for n in values.shape), dimension_names=dims)


def _items(rows: Rows, tiles: dict[int, Tile], index: PatchIndex) -> dict[str, dict[str, list[str]]]:
    """tile -> time (ns since 1970) -> ids of the scenes that it was made of."""
    out: dict[str, dict[str, list[str]]] = {}
    for number, time in sorted(set(zip(rows.tile.tolist(), rows.time.tolist(), strict=True))):
        tile = tiles[number]
        slot = int(np.flatnonzero(tile.times.astype("i8") == time)[0])
        ids = [str(item.get("id", "")) for item in json.loads(tile.items[slot] or "[]")]
        out.setdefault(index.tiles[number], {})[str(time)] = ids
    return out
