"""Landsat Collection 2 Level-2 scenes as the USGS ships them: a folder of GeoTIFFs with MTL.json, MTL.xml or STAC item.

Scale and offset come from the Level-2 groups of the MTL file (the Level-1 groups beside them describe other files).
USGS LSDS-1618 (Landsat 8-9), LSDS-1619 (Landsat 4-7).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar
from xml.etree.ElementTree import Element

import numpy as np

from eoflow.catalog import SourceRef
from eoflow.catalog_scenes import SceneEntry, SceneSchedule
from eoflow.errors import BadInput
from eoflow.sources import xmlfile
from eoflow.sources.base import Area, AssetCorrupt, AssetMissing
from eoflow.sources.bundle import Bundle, open_bundle
from eoflow.sources.products import ProductSource, box_of, entry_from, said, wanted_bands
from eoflow.sources.radiometry import Pair, known, same_pair
from eoflow.sources.scene import QUALITY, SATURATION, RasterBand, Scene
from eoflow.times import parse_time

NAME = re.compile(r"(L[COTE]0(\d))_(L2S[PR])_(\d{6})_(\d{8})_(\d{8})_(\d{2})_(T1|T2|RT)")
FILE = re.compile(rf"({NAME.pattern})_(\w+)\.(tif|json|xml)", re.IGNORECASE)
Groups = dict[str, dict[str, str]]


class LandsatSource(ProductSource):
    """`source: {driver: landsat, args: {paths: [FOLDER or MTL.json or _stac.json, ...]}}`."""

    WHAT: ClassVar[str] = "Landsat scene"

    def products_at(self, path: str) -> list[str]:
        """One metadata file of each product in a folder; whatever else is given, itself."""
        if not Path(path).is_dir():
            return [path]
        best: dict[str, tuple[int, str]] = {}
        for f in Path(path).iterdir():
            m = FILE.fullmatch(f.name)
            if m is not None and m[11].lower() in ("json", "xml"):
                kinds = ("mtl.json", "mtl.xml")
                kind = f"{m[10]}.{m[11]}".lower()
                rank = kinds.index(kind) if kind in kinds else len(kinds)
                best[m[1]] = min(best.get(m[1], (9, "")), (rank, str(f)))
        return [f for _, f in sorted(best.values())] or [path]

    def open(self, path: str) -> Bundle:
        """The files beside a metadata file that belong to its scene, or all files of a folder."""
        p = PurePosixPath(path)
        if Path(path).is_dir():
            return open_bundle(path, deep=False)
        m = NAME.search(p.name)
        if m is None or p.suffix.lower() not in (".json", ".xml", ".tif"):
            raise BadInput(
                "not a file of a Landsat Collection 2 Level-2 scene", where=path,
                todo="give its folder, its MTL.json or its STAC item; unpack a .tar first",
            )  # fmt: skip
        whole = open_bundle(str(p.parent), deep=False)
        if p.name not in whole.names:
            raise AssetMissing("there is no such file", where=path, todo="check the path")
        return Bundle(whole.root, tuple(n for n in whole.names if n.startswith(m[0])))

    def guess(self, path: str) -> Scene | None:
        """The scene that a name tells of: its day, at noon."""
        m = NAME.search(path)
        if m is None:
            return None
        noon = parse_time(f"{m[5][:4]}-{m[5][4:6]}-{m[5][6:]}T12:00")
        return Scene(id=_id(m), time=noon, tile=m[4], bands={}, platform=f"landsat-{m[2]}", level=m[3])

    def scenes_of(self, bundle: Bundle) -> list[Scene]:
        """One scene for each product in the folder."""
        products: dict[str, dict[str, str]] = {}
        for n in bundle.names:
            m = FILE.fullmatch(n)
            if m is not None:
                products.setdefault(m[1], {})[f"{m[10]}.{m[11]}".lower()] = n
        products = {k: v for k, v in products.items() if any(f.endswith((".json", ".xml")) for f in v)}
        if not products:
            raise AssetMissing(
                "no MTL.json, MTL.xml or _stac.json of a Landsat Collection 2 Level-2 scene",
                where=bundle.root,
                todo="fetch the metadata beside the bands (unpack a .tar first); Level-1 and Collection 1 are not read",
            )
        return [self._scene(bundle, product, files) for product, files in sorted(products.items())]

    def _scene(self, bundle: Bundle, product: str, files: dict[str, str]) -> Scene:
        m = NAME.fullmatch(product)
        assert m is not None
        mtl = files.get("mtl.json") or files.get("mtl.xml")
        if mtl is not None:
            meta = read_mtl(bundle.read(mtl), bundle.href(mtl))
        else:
            stac = next((f for k, f in sorted(files.items()) if k.endswith("stac.json")), None)
            if stac is None:
                raise AssetMissing(f"no metadata of {product}", where=bundle.root, todo="fetch its MTL.json")
            meta = read_stac(bundle, stac)
        if meta.product != product:
            raise AssetCorrupt(
                f"the metadata are of {meta.product}, the file is named {product}", where=meta.where,
                todo="fetch the product again",
            )  # fmt: skip
        convention = known(f"landsat-{m[2]}", m[3])
        if convention is None:
            raise AssetCorrupt(f"Landsat {m[2]} {m[3]} is not known", where=meta.where)
        tifs = {k[:-4].upper(): f for k, f in files.items() if k.endswith(".tif")}
        present = [b for b in convention.bands if b in tifs]
        bands = {}
        for name, own in wanted_bands(self.entry, m[3], present).items():
            standard = convention.bands[own]
            scale, offset = self._pair(meta, name, own)
            bands[name] = RasterBand(
                bundle.href(tifs[own]), units=standard.units, scale=scale, offset=offset, nodata=standard.nodata,
                etag=bundle.stamp() or None,
            )  # fmt: skip
        mask = self.entry.quality.source_name
        if self.entry.quality.rule != "none" and mask is not None and mask.upper() in tifs:
            # 1 is bit 0, fill, alone: a pixel outside of the raster must not read as 0, which is clear
            fill = 1.0 if self.entry.quality.rule == "qa_pixel" else None
            bands[QUALITY] = RasterBand(
                bundle.href(tifs[mask.upper()]), index=self.entry.quality.index or 1, nodata=fill,
                etag=bundle.stamp() or None,
            )  # fmt: skip
        bits = self.entry.quality.saturation
        if QUALITY in bands and bits is not None and bits.upper() in tifs:
            bands[SATURATION] = RasterBand(bundle.href(tifs[bits.upper()]), etag=bundle.stamp() or None)
        return Scene(
            id=_id(m),
            time=meta.time,
            tile=m[4],
            bands=bands,
            bbox=meta.box,
            platform=f"landsat-{m[2]}",
            level=m[3],
            baseline=m[7],
            version=f"{m[6]} {m[8]}",
            href=meta.where,
            properties={
                "product": product, "tier": m[8], "collection": m[7], "present": sorted(tifs), **meta.properties,
            },
        )  # fmt: skip

    def _pair(self, meta: Meta, name: str, own: str) -> Pair:
        """The metadata's own, which must be the published one unless the entry says otherwise for the band."""
        standard = _standard(meta.product, own)
        found = meta.pairs.get(own, standard)
        entry = (self.entry.bands or {}).get(name)
        told = entry is not None and entry.scale is not None and entry.offset is not None
        if not same_pair(found, standard) and not told:
            raise AssetCorrupt(
                f"band {own}: the metadata say scale {found[0]:g} and offset {found[1]:g}, Collection 2 Level-2 has "
                f"{standard[0]:g} and {standard[1]:g}",
                where=meta.where,
                todo="if the metadata are right, write in the catalog entry  "
                f"bands: {{{name}: {{scale: {found[0]:g}, offset: {found[1]:g}}}}}",
            )
        return found


class Meta:
    """What the metadata say. pairs: (scale, offset) of each band, where stated."""

    def __init__(
        self, where: str, product: str, time: np.datetime64, box: Area | None, pairs: dict[str, Pair],
        properties: dict[str, Any],
    ) -> None:  # fmt: skip
        self.where, self.product, self.time, self.box = where, product, time, box
        self.pairs, self.properties = pairs, properties


def read_mtl(content: bytes, where: str) -> Meta:
    """MTL.json or MTL.xml. Raises AssetCorrupt that names the group and key."""
    groups = _groups(content, where)
    product = _get(groups, "PRODUCT_CONTENTS", "LANDSAT_PRODUCT_ID", where)
    day = _get(groups, "IMAGE_ATTRIBUTES", "DATE_ACQUIRED", where)
    clock = _get(groups, "IMAGE_ATTRIBUTES", "SCENE_CENTER_TIME", where).strip('"')
    pairs: dict[str, Pair] = {}
    for group, key, name in (
        ("LEVEL2_SURFACE_REFLECTANCE_PARAMETERS", "REFLECTANCE", "SR_B{}"),
        ("LEVEL2_SURFACE_TEMPERATURE_PARAMETERS", "TEMPERATURE", "{}"),
    ):
        for k in groups.get(group, {}):
            m = re.fullmatch(rf"{key}_MULT_BAND_(\w+)", k)
            if m is not None:
                scale = _float(_get(groups, group, k, where), k, where)
                add = f"{key}_ADD_BAND_{m[1]}"
                pairs[name.format(m[1])] = scale, _float(_get(groups, group, add, where), add, where)
    image = groups.get("IMAGE_ATTRIBUTES", {})
    return Meta(
        where, product, _time(f"{day}T{clock}", where), _corners(groups.get("PROJECTION_ATTRIBUTES", {})), pairs,
        {"cloud_cover": _maybe(image.get("CLOUD_COVER")), "sun_elevation": _maybe(image.get("SUN_ELEVATION")),
         "software": groups.get("LEVEL2_PROCESSING_RECORD", {}).get("PROCESSING_SOFTWARE_VERSION")},
    )  # fmt: skip


def read_stac(bundle: Bundle, name: str) -> Meta:
    """A STAC item beside its bands. Its hrefs must stay in the folder; remote ones mean the files beside it."""
    where = bundle.href(name)
    item = _json(bundle.read(name), where)
    assets = item.get("assets")
    for key, asset in (assets if isinstance(assets, dict) else {}).items():
        href = asset.get("href") if isinstance(asset, dict) else None
        if isinstance(href, str):
            _stays(href, f"{where}, asset {key}")
    properties = item.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    when = str(properties.get("datetime") or "")
    if "T" not in when:
        raise AssetCorrupt(
            f"the item has a day and no time of day ({when or 'no datetime'})", where=where,
            todo="put the scene's MTL.json or MTL.xml beside it",
        )  # fmt: skip
    box = item.get("bbox")
    known_box: Area | None = None
    if isinstance(box, list) and len(box) == 4 and all(isinstance(v, int | float) for v in box):
        known_box = (box[0], box[1], box[2], box[3])
    m = NAME.match(str(item.get("id", "")))
    return Meta(
        where, m[0] if m else str(item.get("id")), _time(when, where), known_box, {},
        {"cloud_cover": properties.get("eo:cloud_cover")},
    )  # fmt: skip


def _stays(href: str, where: str) -> None:
    scheme = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]*)://", href)
    if scheme is not None and scheme[1].lower() in ("http", "https", "s3"):
        return
    if scheme is not None or href.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", href):
        raise AssetCorrupt(
            f"the href '{href}' leaves the folder of the item", where=where, todo="write hrefs relative to the item"
        )


def _json(content: bytes, where: str) -> dict[str, Any]:
    try:
        raw = json.loads(content)
    except (ValueError, RecursionError) as e:
        raise AssetCorrupt(f"the JSON is damaged ({e})", where=where, todo="fetch it again") from None
    if not isinstance(raw, dict):
        raise AssetCorrupt("the JSON is not an object", where=where, todo="fetch it again")
    return raw


def _groups(content: bytes, where: str) -> Groups:
    """MTL as group -> key -> text, from either form."""
    if content.lstrip().startswith(b"<"):
        root: Element = xmlfile.parse(content, where)
        return {g.tag: {e.tag: (e.text or "").strip() for e in g} for g in root}
    raw = _json(content, where).get("LANDSAT_METADATA_FILE")
    if not isinstance(raw, dict):
        raise AssetCorrupt("no LANDSAT_METADATA_FILE: not a Collection 2 MTL file", where=where, todo="fetch it again")
    return {g: {k: str(v) for k, v in keys.items()} for g, keys in raw.items() if isinstance(keys, dict)}


def _get(groups: Groups, group: str, key: str, where: str) -> str:
    value = groups.get(group, {}).get(key)
    if not value:
        raise AssetCorrupt(f"the metadata have no {group}/{key}", where=where, todo="fetch the product again")
    return value


def _float(text: str, key: str, where: str) -> float:
    value = _maybe(text)
    if value is None:
        raise AssetCorrupt(f"{key} is '{text}', not a number", where=where, todo="fetch the product again")
    return value


def _maybe(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else None
    except ValueError:
        return None
    return value if value is not None and np.isfinite(value) else None


def _time(text: str, where: str) -> np.datetime64:
    try:
        return parse_time(text)
    except BadInput as e:
        raise AssetCorrupt(f"the time of the scene: {e.what}", where=where, todo="fetch the product again") from e


def _corners(group: dict[str, str]) -> Area | None:
    keys = [f"CORNER_{c}_{{}}_PRODUCT" for c in ("UL", "UR", "LL", "LR")]
    lons, lats = ([_maybe(group.get(k.format(axis))) for k in keys] for axis in ("LON", "LAT"))
    if None in lons or None in lats:
        return None
    return box_of([v for v in lons if v is not None], [v for v in lats if v is not None])


def _standard(product: str, band: str) -> Pair:
    m = NAME.match(product)
    convention = known(f"landsat-{m[2]}", m[3]) if m else None
    assert convention is not None
    entry = convention.bands[band]
    assert entry.scale is not None
    assert entry.offset is not None
    return entry.scale, entry.offset


def _id(m: re.Match[str]) -> str:
    """Sensor, level, path and row, day and collection: the same for every processing of one acquisition."""
    return f"{m[1]}_{m[3]}_{m[4]}_{m[5]}_{m[7]}"


def entry_of(name: str, paths: Sequence[str]) -> SceneEntry:
    """A catalog entry for Landsat scenes at `paths` (folders, MTL or STAC files, patterns). Raises BadInput."""
    draft = SceneEntry(
        name=name, title="Landsat", source=SourceRef(driver="landsat"), sensor="landsat-8", level="L2SP",
        schedule=SceneSchedule(start="1982-07-16"),
    )  # fmt: skip
    found, scenes = entry_from(name, paths, "landsat", LandsatSource, draft)
    numbers = sorted({str(s.platform)[-1] for s in scenes})
    levels = sorted({str(s.level) for s in scenes})
    sensor, level = f"landsat-{'-'.join(numbers)}", levels[-1] if len(levels) == 1 else "L2SR"
    convention = known(sensor, level)
    if convention is None:
        raise BadInput(
            f"scenes of Landsat {' and '.join(numbers)} in one dataset: their band numbers mean different colours",
            where=", ".join(paths),
            todo="ingest 4 to 7 and 8 to 9 as datasets of their own, or give the bands common names in a catalog entry",
        )
    title = f"Landsat {', '.join(numbers)} Collection 2 Level-2, path/row {said([s.tile for s in scenes])}"
    return found.model_copy(
        update={"title": title, "sensor": sensor, "level": level, "quality": convention.quality,
                "licence": convention.licence}
    )  # fmt: skip
