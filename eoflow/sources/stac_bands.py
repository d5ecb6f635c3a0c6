"""An asset of a STAC item -> a raster band: projection, data type, nodata, scale and offset, as the item states them.

STAC 1.0 (`raster:bands`, `proj:epsg`), 1.1 (`bands`, `raster:*`, `proj:code`) and the 1.0 betas are read, whether or
not the item declares the extensions.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from eoflow.errors import BadInput
from eoflow.sources import radiometry
from eoflow.sources.scene import Grid, RasterBand

if TYPE_CHECKING:
    from eoflow.catalog_scenes import BandEntry, SceneEntry

Json = dict[str, Any]
UNIT_NAMES = {
    "1": "1", "reflectance": "1", "linear": "1", "unitless": "1", "db": "dB", "decibel": "dB", "k": "K", "kelvin": "K",
    "m": "m", "metre": "m", "meter": "m", "degree": "degree", "degrees": "degree", "dn": "DN",
}  # fmt: skip
"""Spellings of STAC `unit` (lower case) -> units of the catalog."""
REFLECTANCE = frozenset({
    "coastal", "blue", "green", "red", "rededge", "rededge1", "rededge2", "rededge3", "rededge071", "rededge075",
    "rededge078", "nir", "nir08", "nir09", "cirrus", "swir16", "swir22",
    *(f"b{n:02d}" for n in range(1, 13)), "b8a",
})  # fmt: skip
"""Names (lower case) of the reflectance bands of Sentinel-2, the provider's and the common ones."""


class Contradiction(Exception):
    """An item says two things that cannot both be true; the scene is not used."""


def number(value: Any) -> float | None:
    """A number of JSON; STAC writes "nan", "inf" and "-inf" as text."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def fields_of(asset: Json, index: int) -> Json:
    """What the item says of band `index` (from 1) of an asset, by the names of `raster:bands`.

    Keys (if stated): nodata, data_type, unit, scale, offset, name, common_name.
    """
    out: Json = {}
    # `raster:spatial_resolution` and its like are written with and without prefix, on the asset and on each band
    for level in (
        asset,
        _nth(asset, "eo:bands", index),
        _nth(asset, "bands", index),
        _nth(asset, "raster:bands", index),
    ):
        for key in ("nodata", "data_type", "unit", "scale", "offset"):
            value = level.get(f"raster:{key}", level.get(key))
            if value is not None:
                out[key] = value
        for key in ("name", "common_name"):
            value = level.get(f"eo:{key}", level.get(key))
            if value is not None and level is not asset:
                out[key] = value
    return out


def _nth(asset: Json, key: str, index: int) -> Json:
    bands = asset.get(key)
    if isinstance(bands, list) and 0 < index <= len(bands) and isinstance(bands[index - 1], dict):
        return bands[index - 1]
    return {}


def grid_of(asset: Json, properties: Json) -> Grid | None:
    """The pixel grid that an item states for an asset, or None where it does not (wholly) say."""

    def get(key: str) -> Any:
        value = asset.get(f"proj:{key}")
        return properties.get(f"proj:{key}") if value is None else value

    crs, shape, transform = (
        crs_of(get("code"), get("epsg"), get("wkt2"), get("projjson")),
        get("shape"),
        get("transform"),
    )
    if crs is None or not _numbers(shape, (2,)) or min(shape) < 1:
        return None
    rows, columns = int(shape[0]), int(shape[1])
    if _numbers(transform, (6, 9)):
        if len(transform) == 9 and [float(x) for x in transform[6:]] != [0, 0, 1]:
            return None
        a, b, c, d, e, f = (float(x) for x in transform[:6])
    elif _numbers(get("bbox"), (4,)):
        west, south, east, north = (float(x) for x in get("bbox"))
        a, b, c, d, e, f = (east - west) / columns, 0.0, west, 0.0, (south - north) / rows, north
    else:
        return None
    return None if a * e - b * d == 0 else Grid(crs, (a, b, c, d, e, f), (rows, columns))


def _numbers(value: Any, lengths: tuple[int, ...]) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) in lengths
        and all(isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in value)
    )


def crs_of(code: Any, epsg: Any, wkt2: Any, projjson: Any) -> str | None:
    """The first of `proj:code`, `proj:epsg`, `proj:wkt2`, `proj:projjson` that names a CRS, as text; else None."""
    if isinstance(code, str) and re.fullmatch(r"EPSG:\d+", code, re.IGNORECASE):
        return code.upper()
    if isinstance(epsg, int) and not isinstance(epsg, bool):
        return f"EPSG:{epsg}"
    for text in (code, wkt2, projjson):
        if not text:
            continue
        from pyproj import CRS
        from pyproj.exceptions import CRSError

        try:
            found = CRS.from_user_input(text)
        except CRSError:
            continue
        number_ = found.to_epsg()
        return f"EPSG:{number_}" if number_ else found.to_wkt()
    return None


def raster_band(
    href: str,
    asset: Json,
    properties: Json,
    entry: SceneEntry,
    name: str,
    band: BandEntry,
    baseline: str | None,
    where: str,
) -> RasterBand:
    """The band as the item describes it; what the item leaves open is None.

    Raises Contradiction (this scene), or BadInput where a Sentinel-2 item does not tell its offset.
    """
    index = band.index or 1
    said = fields_of(asset, index)
    scale, offset = number(said.get("scale")), number(said.get("offset"))
    if is_sentinel2_reflectance(entry, name, band, said):
        scale, offset = sentinel2_pair(properties, scale, offset, entry.level, baseline, where)
    elif scale is not None or offset is not None:
        scale, offset = 1.0 if scale is None else scale, offset or 0.0
    unit = said.get("unit")
    return RasterBand(
        href=href, index=index, dtype=str(said["data_type"]) if said.get("data_type") not in (None, "other") else None,
        nodata=number(said.get("nodata")), scale=scale, offset=offset,
        units=UNIT_NAMES.get(str(unit).strip().lower()) if unit else None, grid=grid_of(asset, properties),
    )  # fmt: skip


def is_sentinel2_reflectance(entry: SceneEntry, name: str, band: BandEntry, said: Json) -> bool:
    """Whether a band has the offset of the processing baseline (SCL, AOT and WVP have not)."""
    found = radiometry.known(entry.sensor, entry.level)
    if found is None or found.sensor != "sentinel-2":
        return False
    names = (name, band.source_name, band.common_name, said.get("name"), said.get("common_name"))
    return any(str(n).lower() in REFLECTANCE for n in names if n)


def sentinel2_pair(
    properties: Json, scale: float | None, offset: float | None, level: str, baseline: str | None, where: str
) -> radiometry.Pair:
    """(scale, offset) of a Sentinel-2 reflectance band.

    `boa_offset_applied` (Earth Search has subtracted it from the pixels) wins over everything: its items state -0.1
    all the same. Before baseline 04.00 there was no offset, whatever a template states. The sensing date is no signal.
    """
    flag = properties.get("earthsearch:boa_offset_applied", properties.get("sentinel:boa_offset_applied"))
    if scale is not None and not 0 < scale < 1:  # "scale: 1" is a template that says nothing
        scale = offset = None
    stated = None if offset is None or scale is None else offset / scale
    try:
        old = baseline is not None and (1, 0) <= radiometry.parse_baseline(baseline) < radiometry.OFFSET_SINCE
    except BadInput:
        baseline, old = None, False
    if old and stated and flag is None:
        raise Contradiction(
            f"the item states an offset of {offset:g}, and processing baseline {baseline}, which has none"
        )
    if old:
        stated = 0.0
    elif flag is False and stated == 0.0 and baseline is not None:
        stated = None  # "not applied" and "none stated": the baseline tells
    try:
        return radiometry.sentinel2_pair(
            baseline, level, stated=stated, quantification=1 / (scale or 1e-4), applied=flag is True, where=where
        )
    except BadInput as e:
        raise BadInput(
            e.what, where=where,
            todo="if you know with which baseline they were made, write in the catalog entry"
            "  source: args: baseline: '04.00'  (used for items that do not say)",
        ) from None  # fmt: skip
