"""One piece of work: a window of a time step of a tile is read, harmonised, checked, mosaicked and written."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow import cube_layout as lay
from eoflow import quality as ql
from eoflow.bands import BandSpec, SceneSchema
from eoflow.catalog_scenes import QualityEntry, TileScheme
from eoflow.errors import EoflowError
from eoflow.ingest.scenes.writing import Layers, fractions, reduced, valid_pixels
from eoflow.quality import Quality
from eoflow.sources.base import AssetCorrupt
from eoflow.sources.radiometry import SATURATED_S2, harmonise, same_nodata
from eoflow.sources.scene import QUALITY, SATURATION, Grid, RasterBand, Scene
from eoflow.tiling import same_crs

if TYPE_CHECKING:
    import zarr

    from eoflow.sources.raster import RasterReader

Array = np.ndarray[Any, Any]
SAMPLE = 16
"""Every n-th row and column of a window is kept for the check of units."""


@dataclass(frozen=True)
class Unit:
    """A window (rows, columns) of the step `step` (its index in the batch). first: number of the first scene in the
    layer `scene`. base: begin with what is stored at `slot`."""

    step: int
    tile: str
    slot: int
    grid: Grid
    rows: slice
    columns: slice
    chunk: tuple[int, int]
    factors: tuple[int, ...]
    scenes: tuple[Scene, ...]
    first: int = 1
    base: bool = False


@dataclass
class Part:
    """What a scene gave to a window: digest (a part of the sum over all), valid pixels, some stored values by band."""

    digest: int = 0
    valid: int = 0
    sample: dict[str, Array] = field(default_factory=dict)


@dataclass
class Outcome:
    """What became of a unit. coarse: its overviews. errors: (scene id, error); then nothing was written."""

    unit: Unit
    parts: dict[str, Part] = field(default_factory=dict)
    coarse: dict[int, dict[str, Array]] = field(default_factory=dict)
    fractions: Array | None = None
    nbytes: int = 0
    errors: list[tuple[str, EoflowError]] = field(default_factory=list)


Values = Callable[[Scene, Grid], dict[str, Array]]
Put = Callable[[Unit, Layers], None]
Get = Callable[[Unit], dict[str, Array]]


def run(unit: Unit, schema: SceneSchema, values_of: Values, get: Get | None, put: Put | None) -> Outcome:
    """Do a unit. values_of: reads a scene on a window (`read`); get: the stored layers of the unit's window; put:
    writes the layers (None: read and check only)."""
    out = Outcome(unit)
    grid = unit.grid.window(unit.rows, unit.columns)
    layers = get(unit) if unit.base and get is not None else None
    done = valid_pixels(schema, layers) if layers is not None else None
    for k, scene in enumerate(unit.scenes, unit.first):
        covers = _covers(scene, schema, grid)
        if covers is not None and not covers.any():
            out.parts[scene.id] = Part()
            continue
        try:
            values = values_of(scene, grid)
        except EoflowError as e:
            out.errors.append((scene.id, e))
            continue
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as e:
            out.errors.append((scene.id, AssetCorrupt(f"{type(e).__name__}: {e}", where=_where(scene, unit))))
            continue
        values[lay.SCENE] = np.full(grid.shape, k, "u1") if covers is None else np.where(covers, k, 0).astype("u1")
        valid = valid_pixels(schema, values)
        out.parts[scene.id] = _part(unit, schema, values, valid)
        _finish_quality(values, valid, covers)
        if layers is None and covers is None and len(unit.scenes) == 1:
            layers, done = values, valid
            continue
        layers = empty(schema, grid.shape) if layers is None else layers
        done = _fill(layers, values, valid, done)
    if out.errors:
        return out
    layers = empty(schema, grid.shape) if layers is None else layers
    out.coarse = reduced(schema, layers, unit.factors)
    out.fractions = fractions(np.zeros(grid.shape, bool) if done is None else done, unit.chunk)
    out.nbytes = sum(v.nbytes for v in layers.values())
    if put is not None:
        put(unit, layers)
    return out


def empty(schema: SceneSchema, shape: tuple[int, int]) -> dict[str, Array]:
    """Layers (y, x) that hold nothing."""
    layers = {b.name: np.full(shape, b.fill, b.dtype) for b in schema.bands}
    return layers | {lay.QUALITY: np.zeros(shape, "u1"), lay.SCENE: np.zeros(shape, "u1")}


def _fill(layers: dict[str, Array], values: Layers, valid: Array, done: Array | None) -> Array:
    """First wins: pixels without a value so far are taken from `values`; returns where there is one now."""
    take = valid if done is None else valid & ~done
    only_seen = (values[lay.SCENE] > 0) & (layers[lay.SCENE] == 0) & ~take
    for name, target in layers.items():
        np.copyto(target, values[name], where=take)
    for name in (lay.QUALITY, lay.SCENE):  # covered, and without a value: nodata, by the first that covers it
        np.copyto(layers[name], values[name], where=only_seen)
    return take if done is None else done | take


def _finish_quality(values: dict[str, Array], valid: Array, covers: Array | None) -> None:
    quality = values[lay.QUALITY]
    if not valid.all():
        quality[~valid] = int(Quality.NODATA)
    if covers is not None:
        quality[~covers] = int(Quality.MISSING)


# -- reading ---------------------------------------------------------------------------------------------------------


def read(scene: Scene, schema: SceneSchema, grid: Grid, reader: RasterReader) -> dict[str, Array]:
    """The bands of a scene on `grid` as the cube stores them, and its quality. Raises AssetError."""
    how = TileScheme.model_validate_json(schema.tiles).resampling
    wanted = {b.name: _with_nodata(scene.bands[b.name], b) for b in schema.bands}
    raw = reader.read_bands(wanted, grid, how)
    out: dict[str, Array] = {}
    for spec in schema.bands:
        band = wanted[spec.name]
        where = f"{scene.id}, band {spec.name}"
        mine = (spec.scale if band.scale is None else band.scale, spec.offset if band.offset is None else band.offset)
        kept = float(SATURATED_S2) if schema.sensor == "sentinel-2" else None
        values = same_nodata(raw.pop(spec.name), band.nodata, spec.nodata, where)
        values = harmonise(
            values, mine, (spec.scale, spec.offset), spec.nodata, spec.dtype, saturated=kept, where=where
        )
        check_range(values, spec, where, grid)
        out[spec.name] = values
    out[lay.QUALITY] = _saturated(_quality(scene, schema, grid, reader), scene, schema, grid, reader, out)
    return out


def _saturated(
    quality: Array, scene: Scene, schema: SceneSchema, grid: Grid, reader: RasterReader, values: Layers
) -> Array:  # fmt: skip
    """SATURATED where the source says so: bits of Landsat's QA_RADSAT, the number that Sentinel-2 writes for it."""
    bits = scene.bands.get(SATURATION)
    if bits is not None:
        numbers = tuple(int(m[1]) for n in schema.names if (m := re.fullmatch(r"SR_B(\d)", n)))
        where = ql.from_qa_radsat(reader.read(bits, grid, "nearest"), numbers or tuple(range(1, 8)))
        quality = ql.saturated(quality, where)
    if schema.sensor == "sentinel-2":
        for spec in schema.bands:
            full = spec.dtype == "uint16" and spec.nodata != SATURATED_S2
            if full and values[spec.name].max(initial=0) == SATURATED_S2:
                quality = ql.saturated(quality, values[spec.name] == SATURATED_S2)
    return quality


def _with_nodata(band: RasterBand, spec: BandSpec) -> RasterBand:
    from dataclasses import replace

    return band if band.nodata is not None or spec.nodata is None else replace(band, nodata=spec.nodata)


def check_range(values: Array, spec: BandSpec, where: str, grid: Grid) -> None:
    """Raise AssetCorrupt for a value outside the physical limits that the catalog entry states."""
    if spec.valid_range is None:
        return
    a, b = sorted((limit - spec.offset) / spec.scale for limit in spec.valid_range)
    slack = 1e-6 * max(abs(a), abs(b))
    wrong = (values < a - slack) | (values > b + slack)
    if spec.nodata is not None:
        wrong &= values != spec.fill
    if wrong.any():
        row, column = (int(i) for i in np.argwhere(wrong)[0])
        value = float(values[row, column]) * spec.scale + spec.offset
        raise AssetCorrupt(
            f"{int(wrong.sum())} values outside {spec.valid_range[0]:g} to {spec.valid_range[1]:g} {spec.units}, "
            f"the first {value:g}",
            where=f"{where}, x {grid.x()[column]:g}, y {grid.y()[row]:g}",
            todo="correct the file, or `valid_range` in the entry",
        )  # fmt: skip


def _quality(scene: Scene, schema: SceneSchema, grid: Grid, reader: RasterReader) -> Array:
    """The provider's mask as Quality, uint8; CLEAR everywhere for the rule `none`."""
    rule = QualityEntry.model_validate_json(schema.quality)
    if rule.rule == "none":
        return np.full(grid.shape, int(Quality.CLEAR), "u1")
    band = scene.bands.get(QUALITY)
    if band is None:
        raise AssetCorrupt("the scene has no mask", where=scene.id, todo="correct `quality` in the catalog entry")
    mask = reader.read(band, grid, "nearest")
    if rule.rule == "scl":
        out = ql.from_scl(mask)
    elif rule.rule == "qa_pixel":
        out = ql.from_qa_pixel(mask)
    elif rule.rule == "cloud_mask":
        out = ql.from_cloud_mask(mask, band.nodata)
    else:
        assert rule.threshold is not None
        out = ql.from_cloud_probability(mask, rule.threshold, band.nodata)
    inside = None if band.grid is None else inside_of(band.grid, grid)
    if inside is not None:
        out[~inside] = int(Quality.NODATA)
    return out


def _covers(scene: Scene, schema: SceneSchema, grid: Grid) -> Array | None:
    """bool (y, x): where the scene's raster lies; None: everywhere."""
    own = scene.bands[schema.bands[0].name].grid
    return None if own is None else inside_of(own, grid)


def inside_of(own: Grid, grid: Grid) -> Array | None:
    """bool (y, x): which pixel centres of `grid` lie in the raster `own`; None: all of them."""
    if same_crs(own.crs, grid.crs) and not (own.transform[1] or own.transform[3]):
        left, bottom, right, top = own.bounds
        slack = 1e-6 * grid.resolution[0]
        x, y = grid.x(), grid.y()
        columns = (x > left - slack) & (x < right + slack)
        rows = (y > bottom - slack) & (y < top + slack)
        return None if columns.all() and rows.all() else rows[:, None] & columns[None, :]
    from rasterio.features import geometry_mask

    shape = own.geobox.extent
    box = shape.boundingbox
    moved = shape.segmented(max(box[2] - box[0], box[3] - box[1]) / 64).to_crs(grid.crs)
    mask = geometry_mask([moved.geom], grid.shape, grid.geobox.affine, invert=True)
    return None if mask.all() else np.asarray(mask)


# -- what is remembered of a scene -----------------------------------------------------------------------------------


def _part(unit: Unit, schema: SceneSchema, values: Mapping[str, Array], valid: Array) -> Part:
    part = Part(valid=int(np.count_nonzero(valid)))
    for name in (*schema.names, lay.QUALITY):
        part.digest = (part.digest + _digest(values[name], name, unit)) & 0xFFFFFFFFFFFFFFFF
    part.sample = {n: values[n][::SAMPLE, ::SAMPLE][valid[::SAMPLE, ::SAMPLE]] for n in schema.names}
    return part


def _digest(values: Array, name: str, unit: Unit) -> int:
    """A 64-bit hash of each chunk, summed: the cut into windows does not matter. It finds corrected data, no more."""
    from google_crc32c import value

    (cy, cx), total = unit.chunk, 0
    for y in range(0, values.shape[0], cy):
        for x in range(0, values.shape[1], cx):
            raw = np.ascontiguousarray(values[y : y + cy, x : x + cx]).reshape(-1).view("u1")
            place = f"{name}/{(unit.rows.start + y) // cy}/{(unit.columns.start + x) // cx}"
            half = len(raw) // 2
            crc = f"{place}:{value(raw[:half]):08x}{value(raw[half:]):08x}"
            total += int.from_bytes(hashlib.blake2b(crc.encode(), digest_size=8).digest(), "little")
    return total & 0xFFFFFFFFFFFFFFFF


def _where(scene: Scene, unit: Unit) -> str:
    rows, columns = unit.rows, unit.columns
    return f"{scene.id}, tile {unit.tile}, rows {rows.start}-{rows.stop}, columns {columns.start}-{columns.stop}"


# -- the store -------------------------------------------------------------------------------------------------------


def store(of: Callable[[str], dict[str, zarr.Array]]) -> tuple[Get, Put]:
    """Functions that read and write windows of the tiles whose arrays `of` gives."""

    def get(unit: Unit) -> dict[str, Array]:
        return {n: np.array(a[unit.slot, unit.rows, unit.columns]) for n, a in of(unit.tile).items()}

    def put(unit: Unit, layers: Layers) -> None:
        lay.write(of(unit.tile), unit.slot, unit.rows, unit.columns, layers)

    return get, put
