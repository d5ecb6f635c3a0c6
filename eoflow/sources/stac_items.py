"""A STAC item -> a Scene: time, tile, footprint, version and bands; and which of two processings of one acquisition
is the newer. No address is opened."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.catalog_scenes import RESERVED, BandEntry
from eoflow.errors import BadInput
from eoflow.sources import radiometry
from eoflow.sources.base import Area
from eoflow.sources.hosts import Access, join
from eoflow.sources.scene import QUALITY, SATURATION, RasterBand, Scene
from eoflow.sources.stac_bands import Contradiction, Json, fields_of, raster_band
from eoflow.times import NS

if TYPE_CHECKING:
    from eoflow.catalog_scenes import SceneEntry

KEPT = (
    "collection", "eo:cloud_cover", "sat:relative_orbit", "sat:orbit_state", "s2:datastrip_id", "s2:product_uri",
    "sentinel:product_id", "landsat:scene_id", "landsat:collection_category", "view:sun_elevation", "view:sun_azimuth",
)  # fmt: skip
"""Properties of an item that a scene keeps."""
SAME_S = np.timedelta64(1_500_000_000, "ns")
"""Two items of one platform and tile that are nearer in time than this are one acquisition, processed twice."""
NOT_DATA = frozenset({"thumbnail", "overview", "metadata", "visual"})


class NoTime(ValueError):
    """An item that does not say when: it has no place on a time axis."""


def to_scene(item: Json, entry: SceneEntry, access: Access, base: str = "", baseline: str | None = None) -> Scene:
    """The scene of an item. base: where the item was found, for relative hrefs. baseline: of items that do not say.

    What is wrong with this item alone (an asset that it lacks, a contradiction) is kept in properties["problem"].
    Raises NoTime, or BadInput for an href that is not allowed or an unknown Sentinel-2 offset.
    """
    properties = {**dict(item.get("properties") or {}), "collection": item.get("collection")}
    ident = str(item.get("id") or "")
    assets = {k: a for k, a in dict(item.get("assets") or {}).items() if isinstance(a, dict) and a.get("href")}
    said = baseline_of(properties, ident) if entry.sensor.lower().startswith("sentinel-2") else None
    bands: dict[str, RasterBand] = {}
    problems: list[str] = []
    for name, (key, band) in wanted(entry, assets).items():
        found = find_asset(assets, key, name)
        where = f"item {ident}, asset '{found or key}'"
        if found is None:
            problems.append(f"it has no asset '{key}' (it has {', '.join(sorted(assets)) or 'none'})")
            continue
        try:
            href = access.without_secrets(join(base, str(assets[found]["href"])))
            access.check(href)
            bands[name] = raster_band(href, assets[found], properties, entry, name, band, said or baseline, where)
        except Contradiction as e:
            problems.append(f"asset '{found}': {e}")
        except BadInput as e:
            raise BadInput(
                e.what, where=where if e.where in (None, where) else f"{where}: {e.where}", todo=e.todo
            ) from None
    if not bands and not problems:
        problems.append(f"it has no raster asset (it has {', '.join(sorted(assets)) or 'none'})")
    kept = {k: properties[k] for k in KEPT if properties.get(k) is not None}
    if problems:
        kept["problem"] = "; ".join(problems)
    first = next((b.grid for b in bands.values() if b.grid is not None), None)
    return Scene(
        id=ident, time=time_of(properties), tile=tile_of(properties, ident, first), bands=bands, bbox=bbox_of(item),
        platform=str(properties.get("platform") or properties.get("eo:platform") or "").lower() or None,
        level=entry.level, baseline=said or (baseline if entry.sensor.lower().startswith("sentinel-2") else None),
        version=version_of(properties, said), href=self_href(item, base), properties=kept,
    )  # fmt: skip


def wanted(entry: SceneEntry, assets: Json) -> dict[str, tuple[str, BandEntry]]:
    """Band name -> (asset key, entry) of what is to be read; the mask under QUALITY."""
    if entry.bands is not None:
        out = {name: (band.source_name or name, band) for name, band in entry.bands.items()}
    else:
        masks = (entry.quality.source_name, entry.quality.saturation)
        out = {band_name(k): (k, BandEntry()) for k, a in assets.items() if k not in masks and is_data(a)}
    if entry.quality.rule != "none" and entry.quality.source_name is not None:
        out[QUALITY] = (entry.quality.source_name, BandEntry(index=entry.quality.index))
        if entry.quality.saturation in assets:
            out[SATURATION] = (str(entry.quality.saturation), BandEntry())
    return out


def is_data(asset: Json) -> bool:
    """Whether an asset is a raster of measurements (not a picture, a mask of its own kind or a text)."""
    roles = {str(r).lower() for r in asset.get("roles") or ()}
    kind = str(asset.get("type") or "").lower()
    if roles & NOT_DATA or len(asset.get("eo:bands") or asset.get("bands") or ()) > 1:
        return False
    return (not roles or bool(roles & {"data", "reflectance"})) and ("tiff" in kind or "jp2" in kind)


def band_name(key: str) -> str:
    """A band name that the catalog accepts, from an asset key."""
    name = re.sub(r"[^A-Za-z0-9_]", "_", re.sub(r"\.tiff?$", "", key, flags=re.IGNORECASE))
    return f"b_{name}" if not name[:1].isalpha() or name in RESERVED else name


def find_asset(assets: Json, key: str, name: str) -> str | None:
    """The asset called `key`, or the only one whose single band is called so, or has that common name; else None."""
    if key in assets:
        return key
    for field in ("name", "common_name"):
        for word in dict.fromkeys((key, name)):
            hits = [k for k, a in assets.items() if is_data(a) and fields_of(a, 1).get(field) == word]
            if len(hits) == 1:
                return hits[0]
    return None


def time_of(properties: Json) -> np.datetime64:
    """`datetime`, else `start_datetime`; datetime64[ns], UTC. Raises NoTime."""
    text = properties.get("datetime") or properties.get("start_datetime")
    try:
        when = datetime.fromisoformat(str(text))
    except ValueError:
        raise NoTime(f"its datetime is {text!r}") from None
    when = when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    return np.datetime64(when.replace(tzinfo=None), "us").astype(NS)


def baseline_of(properties: Json, ident: str) -> str | None:
    """Processing baseline of a Sentinel-2 item ("04.00"), from its properties or the N0400 of a product name."""
    for key in ("s2:processing_baseline", "sentinel:processing_baseline", "processing:baseline"):
        if properties.get(key):
            return str(properties[key])
    for text in (*(properties.get(k) for k in ("s2:product_uri", "sentinel:product_id", "s2:granule_id")), ident):
        m = re.search(r"_N(\d{2})\.?(\d{2})(?:_|\.|$)", str(text or ""))
        if m:
            return f"{m[1]}.{m[2]}"
    return None


def tile_of(properties: Json, ident: str, grid: Any) -> str:
    """The provider's tile: MGRS (`13SCV`), WRS-2 path and row (`008059`), else the corner of the first band's grid."""
    p = properties
    if p.get("s2:mgrs_tile"):
        return str(p["s2:mgrs_tile"]).removeprefix("T")
    code = re.fullmatch(r"(?:MGRS|WRS\d?)-(\w+)", str(p.get("grid:code") or ""))
    if code:
        return code[1]
    for family in ("mgrs", "sentinel"):
        zone, band, square = (p.get(f"{family}:{k}") for k in ("utm_zone", "latitude_band", "grid_square"))
        if zone and band and square:
            return f"{int(zone):02d}{band}{square}"
    path, row = p.get("landsat:wrs_path"), p.get("landsat:wrs_row")
    if path and row:
        return f"{int(path):03d}{int(row):03d}"
    for text in (p.get("s2:product_uri"), p.get("sentinel:product_id"), ident):
        m = re.search(r"_T(\d{2}[C-X][A-Z]{2})(?:_|\.|$)", str(text or ""))
        if m:
            return m[1]
    if grid is not None:
        crs = grid.crs.removeprefix("EPSG:") if grid.crs.startswith("EPSG:") else "crs"
        return re.sub(r"[^A-Za-z0-9_-]", "_", f"{crs}_{grid.transform[2]:.10g}_{grid.transform[5]:.10g}")
    return re.sub(r"[^A-Za-z0-9_-]", "_", ident) or "scene"


def bbox_of(item: Json) -> Area | None:
    """W, S, E, N in degrees; W > E across the antimeridian, also where the provider wrote -180..180 or three axes."""
    bbox = item.get("bbox")
    lons, lats = _corners(item.get("geometry"))
    if isinstance(bbox, list | tuple) and len(bbox) in (4, 6) and all(isinstance(x, int | float) for x in bbox):
        half = len(bbox) // 2
        west, south, east, north = (float(x) for x in (bbox[0], bbox[1], bbox[half], bbox[half + 1]))
    elif lons:
        west, south, east, north = min(lons), min(lats), max(lons), max(lats)
    else:
        return None
    positive, negative = [x for x in lons if x > 0], [x for x in lons if x < 0]
    if east - west > 180 and positive and negative:  # no scene is that wide: its footprint was cut, or jumps, at 180
        w, e = min(positive), max(negative)
        if 0 < (e - w) % 360 < 180:
            west, east = w, e
    return west, south, east, north


def _corners(geometry: Any) -> tuple[list[float], list[float]]:
    """Longitudes and latitudes of every vertex of a GeoJSON geometry."""
    lons: list[float] = []
    lats: list[float] = []
    stack: list[Any] = [geometry.get("coordinates")] if isinstance(geometry, dict) else []
    while stack:
        part = stack.pop()
        if isinstance(part, list | tuple) and len(part) >= 2 and all(isinstance(x, int | float) for x in part):
            lons.append(float(part[0]))
            lats.append(float(part[1]))
        elif isinstance(part, list | tuple):
            stack += part
    return lons, lats


def self_href(item: Json, base: str) -> str:
    """The address of the item itself, else where it was found."""
    for link in item.get("links") or ():
        if isinstance(link, dict) and link.get("rel") == "self" and link.get("href"):
            return str(link["href"])
    return base


# -- versions --------------------------------------------------------------------------------------------------------


def generated(properties: Json) -> str:
    """When the product was made, as sortable text, from its properties or the date in its name; "" if unknown."""
    if properties.get("s2:generation_time"):
        return re.sub(r"[^0-9]", "", str(properties["s2:generation_time"]))[:14]
    for key in ("s2:product_uri", "sentinel:product_id"):
        m = re.search(r"_(\d{8})T(\d{6})(?:\.SAFE)?$", str(properties.get(key) or ""))
        if m:
            return m[1] + m[2]
    return ""


def version_of(properties: Json, baseline: str | None) -> str:
    """What changes when the provider publishes the scene again; sorts: the newer processing is the larger."""
    try:
        major, minor = radiometry.parse_baseline(baseline) if baseline else (0, 0)
    except BadInput:
        major, minor = 0, 0
    parts = [f"{major:02d}.{minor:02d}" if baseline else "", generated(properties)]
    tier = {"RT": "0", "T2": "1", "T1": "2"}.get(str(properties.get("landsat:collection_category") or ""), "")
    return "|".join([*parts, tier, str(properties.get("updated") or ""), str(properties.get("created") or "")]).strip(
        "|"
    )


def newest(scenes: Iterable[Scene], note: Callable[[str], None]) -> list[Scene]:
    """Each acquisition once, in its newest processing; oldest first. `note` is told what was left out.

    One acquisition: same platform and tile, less than SAME_S apart, and the same datastrip where both name it (two
    datastrips of one pass are two parts of a tile).
    """
    groups: dict[tuple[str, str], list[Scene]] = {}
    for scene in scenes:
        groups.setdefault((scene.platform or "", scene.tile), []).append(scene)
    kept: list[Scene] = []
    for members in groups.values():
        clusters: list[list[Scene]] = []
        for scene in sorted(members, key=lambda s: (s.time, s.id)):
            for cluster in reversed(clusters):
                if scene.time - cluster[0].time > SAME_S:
                    continue
                if _strip(scene) == _strip(cluster[0]) or not (_strip(scene) and _strip(cluster[0])):
                    cluster.append(scene)
                    break
            else:
                clusters.append([scene])
        kept += [_latest(cluster, note) for cluster in clusters]
    return sorted(kept, key=lambda s: (s.time, s.id))


def _latest(cluster: list[Scene], note: Callable[[str], None]) -> Scene:
    *older, best = sorted(cluster, key=lambda s: (s.version, s.id))
    others = sorted({s.id for s in older} - {best.id})
    if not others:
        return best
    note(f"{best.id} is the newest processing of its acquisition; left out: {', '.join(others)}")
    return replace(best, properties={**best.properties, "supersedes": others})


def _strip(scene: Scene) -> str:
    """Start of sensing of the datastrip, which stays the same when it is processed again."""
    m = re.search(r"_S(\d{8}T\d{6})", str(scene.properties.get("s2:datastrip_id") or ""))
    return m[1] if m else ""
