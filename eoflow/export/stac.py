"""A STAC 1.1 item of an export: geometry in degrees, times, projection, bands with their radiometry, checksums.

pystac carries the schemas of the core specification, so an item is validated against those without a network; those
of the extensions it does not carry: `item.validate()` fetches them.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow import __version__
from eoflow.export.cog import CogBand
from eoflow.export.footprint import outline
from eoflow.tiling import Grid

if TYPE_CHECKING:
    import pystac

PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
RASTER = "https://stac-extensions.github.io/raster/v2.0.0/schema.json"
EO = "https://stac-extensions.github.io/eo/v2.0.0/schema.json"
PROCESSING = "https://stac-extensions.github.io/processing/v1.2.0/schema.json"
FILE = "https://stac-extensions.github.io/file/v2.1.0/schema.json"
COG = "image/tiff; application=geotiff; profile=cloud-optimized"
MEDIA = {".tif": COG, ".tiff": COG, ".nc": "application/netcdf", ".zarr": "application/vnd.zarr; version=3"}
COMMON_NAMES = frozenset(
    {
        "pan", "coastal", "blue", "green", "green05", "yellow", "red", "rededge", "rededge071", "rededge075",
        "rededge078", "nir", "nir08", "nir09", "cirrus", "swir16", "swir22", "lwir", "lwir11", "lwir12",
    }
)  # fmt: skip
"""Names that the EO extension knows; others are left out of the item."""


@dataclass(frozen=True)
class Exported:
    """One file of an export. key: the asset's; roles: of STAC (data, ...)."""

    key: str
    path: Path
    bands: tuple[CogBand, ...]
    roles: tuple[str, ...] = ("data",)


def checksum(path: Path) -> str:
    """SHA-256 of a file as a multihash, as the file extension wants it."""
    digest = hashlib.sha256()
    with path.open("rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return "1220" + digest.hexdigest()


def make_item(
    id: str, grid: Grid, times: tuple[np.datetime64, np.datetime64], files: Sequence[Exported], item_path: Path,
    provenance: dict[str, str], lineage: str,
) -> pystac.Item:  # fmt: skip
    """The item of some files on one grid; asset hrefs are relative to `item_path`. Raises BadInput without a CRS."""
    import pystac

    geometry, bbox = outline(grid)
    start, end = (_when(t) for t in times)
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    properties: dict[str, Any] = {
        "created": _text(now), **_projection(grid), "processing:software": {"eoflow": __version__},
        "processing:lineage": lineage, "gsd": round(_metres(grid), 6),
    }  # fmt: skip
    if level := provenance.get("level"):
        properties["processing:level"] = level
    if sensor := provenance.get("sensor"):
        properties["constellation" if sensor.startswith("sentinel") else "platform"] = sensor
    properties |= {f"eoflow:{k}": v for k, v in provenance.items() if k not in ("level", "sensor")}
    if start != end:
        properties |= {"start_datetime": _text(start), "end_datetime": _text(end)}
    item = pystac.Item(id, geometry, list(bbox), start if start == end else None, properties)
    for file in files:
        item.add_asset(file.key, _asset(file, item_path, grid))
    item.stac_extensions = _extensions(item)
    item.set_self_href(str(item_path))
    return item


def _asset(file: Exported, item_path: Path, grid: Grid) -> pystac.Asset:
    import pystac

    extra: dict[str, Any] = {"bands": [_band(b, grid) for b in file.bands]}
    if file.path.is_file():
        extra |= {"file:size": file.path.stat().st_size, "file:checksum": checksum(file.path)}
    href = f"./{file.path.relative_to(item_path.parent).as_posix()}"
    names = ", ".join(b.name for b in file.bands)
    return pystac.Asset(
        href, title=names, media_type=MEDIA.get(file.path.suffix), roles=list(file.roles), extra_fields=extra
    )  # fmt: skip


def _band(band: CogBand, grid: Grid) -> dict[str, Any]:
    out: dict[str, Any] = {"name": band.name, "data_type": band.dtype}
    if band.long_name:
        out["description"] = band.long_name
    if band.nodata is not None:
        out["nodata"] = "nan" if np.isnan(band.nodata) else band.nodata
    if band.units:
        out["unit"] = band.units
    if (band.scale, band.offset) != (1.0, 0.0):
        out |= {"raster:scale": band.scale, "raster:offset": band.offset}
    out["raster:spatial_resolution"] = round(_metres(grid), 6)
    if band.common_name in COMMON_NAMES:
        out["eo:common_name"] = band.common_name
    if band.wavelength:
        out["eo:center_wavelength"] = band.wavelength
    return out


def _projection(grid: Grid) -> dict[str, Any]:
    from pyproj import CRS

    a, b, c, d, e, f = grid.transform
    height, width = grid.shape
    xs, ys = [c, c + a * width + b * height], [f, f + d * width + e * height]
    crs = CRS.from_user_input(grid.crs)
    authority = crs.to_authority(min_confidence=100)
    code: dict[str, Any] = {"proj:code": ":".join(authority) if authority else None}
    if not authority:
        code["proj:wkt2"] = crs.to_wkt("WKT2_2019")
    return code | {
        "proj:shape": list(grid.shape), "proj:transform": [a, b, c, d, e, f],
        "proj:bbox": [min(xs), min(ys), max(xs), max(ys)],
    }  # fmt: skip


def _metres(grid: Grid) -> float:
    """Pixel size in metres; of degrees: at the equator."""
    from pyproj import CRS

    crs = CRS.from_user_input(grid.crs)
    size = grid.resolution[1]
    return size * 111_319.49 if crs.is_geographic else size * float(crs.axis_info[0].unit_conversion_factor or 1)


def _extensions(item: pystac.Item) -> list[str]:
    """The extensions whose fields the item uses."""
    text = json.dumps({"p": item.properties, "a": {k: a.to_dict() for k, a in item.assets.items()}})
    used = {PROJECTION: '"proj:', RASTER: '"raster:', EO: '"eo:', PROCESSING: '"processing:', FILE: '"file:'}
    return [uri for uri, prefix in used.items() if prefix in text]


def _when(time: np.datetime64) -> dt.datetime:
    whole = int(time.astype("datetime64[us]").astype("i8"))
    return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=whole)


def _text(time: dt.datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")
