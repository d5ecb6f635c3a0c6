"""Sentinel-2 products as the Copernicus data space ships them: SAFE folders (or their zip), Level-1C and Level-2A.

Radiometry comes from the product's own metadata (quantification value and offset of each band), then from its
processing baseline, never from the sensing date. Products Specification Document, S2-PDGS-TAS-DI-PSD.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar
from xml.etree.ElementTree import Element

import numpy as np

from eoflow.catalog import SourceRef
from eoflow.catalog_scenes import SceneEntry, SceneSchedule
from eoflow.errors import BadInput
from eoflow.sources import xmlfile
from eoflow.sources.base import Area, AssetCorrupt, AssetError, AssetMissing, SourceContext
from eoflow.sources.bundle import Bundle, open_bundle
from eoflow.sources.products import ProductSource, box_of, entry_from, newest, said, wanted_bands
from eoflow.sources.radiometry import Pair, known, sentinel2_pair
from eoflow.sources.scene import QUALITY, RasterBand, Scene
from eoflow.sources.xmlfile import text_of
from eoflow.times import parse_time

NAME = re.compile(r"(S2[A-D])_MSI(L1C|L2A)_(\d{8}T\d{6})_N(\d{4})_R(\d{3})_T(\w{5})_(\d{8}T\d{6})")
IMAGE = re.compile(
    r"GRANULE/(?P<granule>[^/]+)/IMG_DATA/(?:R\d0m/)?[^/]*_(?P<band>B\d\d|B8A|SCL|AOT|WVP|TCI)(?:_(?P<m>\d0)m)?\.(?:jp2|tif)"
)
MASK = re.compile(r"GRANULE/(?P<granule>[^/]+)/QI_DATA/(?P<name>[^/]+?)(?:_(?P<m>\d0)m)?\.(?:jp2|tif)")
BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
"""In the order of the band ids of the metadata."""
NATIVE = {"B02": 10, "B03": 10, "B04": 10, "B08": 10, "B01": 60, "B09": 60, "B10": 60}
"""Metres; 20 for the others."""
RESOLUTIONS = (10, 20, 60)


@dataclass(frozen=True)
class Product:
    """What MTD_MSIL1C.xml or MTD_MSIL2A.xml says. offsets: DN of each band, where stated. start: sensing, UTC."""

    name: str
    level: str
    baseline: str | None
    generated: str
    start: str
    platform: str | None
    quantification: float
    offsets: dict[str, float]
    nodata: float
    saturated: float | None
    box: Area | None
    properties: dict[str, Any]

    def pair(self, band: str, where: str) -> Pair:
        """(scale, offset) of a band. Raises BadInput where neither offset nor baseline is known."""
        stated = self.offsets.get(band)
        return sentinel2_pair(
            self.baseline, self.level, stated=stated, quantification=self.quantification, where=f"{where}, band {band}"
        )


def read_product(bundle: Bundle) -> Product:
    """The product's metadata. Raises AssetMissing (no XML) or AssetCorrupt (which element is wrong)."""
    names = [n for n in bundle.names if re.fullmatch(r"MTD_MSIL(1C|2A)\.xml", n)]
    if not names:
        old = any(re.fullmatch(r"S2._OPER_MTD_SAF.*\.xml", n) for n in bundle.names)
        raise AssetMissing(
            "an old SAFE (before December 2016): its layout is not read"
            if old
            else "no MTD_MSIL1C.xml or MTD_MSIL2A.xml: not a whole Sentinel-2 SAFE",
            where=bundle.root,
            todo="fetch the product again, as reprocessed in Collection 1" if old else "fetch the product again",
        )
    where = bundle.href(names[0])
    root = xmlfile.parse(bundle.read(names[0]), where)
    level = names[0][7:10]
    tag = "BOA" if level == "L2A" else "RADIO"
    quantification = _number(root, "BOA_QUANTIFICATION_VALUE" if level == "L2A" else "QUANTIFICATION_VALUE", where)
    special = {text_of(e, "SPECIAL_VALUE_TEXT"): text_of(e, "SPECIAL_VALUE_INDEX") for e in root.iter("Special_Values")}
    uri = (text_of(root, "PRODUCT_URI") or PurePosixPath(bundle.root).name).removesuffix(".SAFE")
    return Product(
        name=uri,
        level=level,
        baseline=text_of(root, "PROCESSING_BASELINE"),
        generated=text_of(root, "GENERATION_TIME") or "",
        start=_required(root, "PRODUCT_START_TIME", where),
        platform=text_of(root, "SPACECRAFT_NAME"),
        quantification=quantification,
        offsets=_offsets(root, f"{tag}_ADD_OFFSET", where),
        nodata=float(special.get("NODATA") or 0),
        saturated=float(special["SATURATED"] or 65535) if "SATURATED" in special else None,
        box=_footprint(root),
        properties={
            "product": uri,
            "relative_orbit": text_of(root, "SENSING_ORBIT_NUMBER"),
            "orbit_direction": text_of(root, "SENSING_ORBIT_DIRECTION"),
            "cloud_cover": _float(text_of(root, "Cloud_Coverage_Assessment")),
        },
    )


def _required(root: Element, tag: str, where: str) -> str:
    text = text_of(root, tag)
    if text is None:
        raise AssetCorrupt(f"the metadata have no {tag}", where=where, todo="fetch the product again")
    return text


def _number(root: Element, tag: str, where: str) -> float:
    text = _required(root, tag, where)
    try:
        return float(text)
    except ValueError:
        raise AssetCorrupt(f"{tag} is '{text}', not a number", where=where, todo="fetch the product again") from None


def _float(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _offsets(root: Element, tag: str, where: str) -> dict[str, float]:
    """DN offset of each band. The metadata number the bands; Spectral_Information has their names."""
    names = dict(enumerate(BANDS))
    for e in root.iter("Spectral_Information"):
        number, band = e.get("bandId", ""), e.get("physicalBand", "")
        if number.isdigit() and re.fullmatch(r"B\d{1,2}|B8A", band):
            names[int(number)] = band if band == "B8A" else f"B{int(band[1:]):02d}"
    out = {}
    for e in root.iter(tag):
        number, text = e.get("band_id", ""), (e.text or "").strip()
        try:
            out[names[int(number)]] = float(text)
        except (ValueError, KeyError):
            raise AssetCorrupt(f"{tag} of band '{number}' is '{text}'", where=where, todo="fetch it again") from None
    return out


def _footprint(root: Element) -> Area | None:
    """From EXT_POS_LIST: latitude, longitude, latitude, ... of a closed ring."""
    try:
        values = [float(v) for v in (text_of(root, "EXT_POS_LIST") or "").split()]
    except ValueError:
        return None
    return box_of(values[1::2], values[::2])


def products_in(path: str) -> list[str]:
    """The products (folders, zips) in a folder of products, by their names; the path itself if it is one."""
    if NAME.search(PurePosixPath(path).name) or not Path(path).is_dir():
        return [path]
    return sorted(str(f) for f in Path(path).iterdir() if NAME.search(f.name)) or [path]


def open_safe(path: str) -> Bundle:
    """The files of a product; one of its metadata files stands for its folder. Raises as `open_bundle`."""
    p = PurePosixPath(path)
    return open_bundle(str(p.parent) if re.fullmatch(r"MTD_MSIL(1C|2A)\.xml|manifest\.safe", p.name) else path)


class SafeSource(ProductSource):
    """`source: {driver: safe, args: {paths: [PRODUCT.SAFE, ...], resolution: 10 | 20 | 60}}`.

    Each band is taken in the finest resolution that the product has of it, or in `resolution` alone.
    """

    ARGS: ClassVar[tuple[str, ...]] = ("paths", "resolution")
    WHAT: ClassVar[str] = "SAFE product"

    def __init__(self, entry: SceneEntry, context: SourceContext) -> None:
        super().__init__(entry, context)
        self.resolution: int | None = entry.source.args.get("resolution")
        if self.resolution not in (None, *RESOLUTIONS):
            raise BadInput(
                f"resolution {self.resolution}",
                where=f"dataset {entry.name}, source.args",
                todo="10, 20 or 60 (metres)",
            )

    def products_at(self, path: str) -> list[str]:
        """A folder of products is those in it; a product is itself."""
        return products_in(path)

    def open(self, path: str) -> Bundle:
        """The product at a path; one of its metadata files stands for its folder."""
        return open_safe(path)

    def guess(self, path: str) -> Scene | None:
        """The scene that the name of a folder or zip tells of."""
        m = NAME.search(path)
        if m is None:
            return None
        return Scene(
            id=_id(m),
            time=_name_time(m[3]),
            tile=m[6],
            bands={},
            platform=f"sentinel-2{m[1][2].lower()}",
            level=m[2],
            baseline=f"{m[4][:2]}.{m[4][2:]}",
        )

    def scenes_of(self, bundle: Bundle) -> list[Scene]:
        """One scene for each granule (tile); products since 2016 have one."""
        product = read_product(bundle)
        if product.level != self.entry.level.upper():
            raise AssetCorrupt(
                f"the product is Level-{product.level[1:]}, the dataset {self.entry.level}", where=bundle.root,
                todo=f"make a dataset with  level: {product.level}",
            )  # fmt: skip
        granules = sorted({n.split("/")[1] for n in bundle.names if re.fullmatch(r"GRANULE/[^/]+/MTD_TL\.xml", n)})
        if not granules:
            raise AssetMissing("no GRANULE/*/MTD_TL.xml", where=bundle.root, todo="fetch the product again")
        return [self._scene(bundle, product, g, len(granules) == 1) for g in granules]

    def select(self, scenes: Sequence[Scene]) -> list[Scene]:
        """The last version of each acquisition, both parts where two datastrips share a tile."""
        return newest(split_datastrips(scenes))

    def asked(self) -> str:
        """The resolution that was asked for."""
        return "" if self.resolution is None else f" at {self.resolution} m"

    def _scene(self, bundle: Bundle, product: Product, granule: str, only: bool) -> Scene:
        where = bundle.href(f"GRANULE/{granule}/MTD_TL.xml")
        root = xmlfile.parse(bundle.read(f"GRANULE/{granule}/MTD_TL.xml"), where)
        tile = re.search(r"_T(\d{2}[A-Z]{3})_", _required(root, "TILE_ID", where))
        if tile is None:
            raise AssetCorrupt("TILE_ID names no tile", where=where, todo="fetch the product again")
        try:
            time = parse_time(text_of(root, "SENSING_TIME") or product.start)
        except BadInput as e:
            raise AssetCorrupt(f"SENSING_TIME: {e.what}", where=where, todo="fetch the product again") from e
        m = NAME.search(product.name)
        files, bands = self._files(bundle, granule), {}
        for name, own in wanted_bands(self.entry, product.level, [b for b in BANDS if b in files]).items():
            scale, offset = self._pair(product, name, own, bundle.root)
            bands[name] = RasterBand(
                bundle.href(files[own]), units="1", scale=scale, offset=offset, nodata=product.nodata,
                etag=bundle.stamp() or None,
            )  # fmt: skip
        mask = self._mask(bundle, granule)
        if mask is not None:
            bands[QUALITY] = RasterBand(
                bundle.href(mask), index=self.entry.quality.index or 1, etag=bundle.stamp() or None
            )
        strip = re.search(r"_S(\d{8}T\d{6})", text_of(root, "DATASTRIP_ID") or "")
        return Scene(
            id=_id(m) if m and only else f"{product.name}_T{tile[1]}",
            time=time,
            tile=tile[1],
            bands=bands,
            bbox=product.box if only else None,
            platform=None if product.platform is None else product.platform.lower(),
            level=product.level,
            baseline=product.baseline,
            version=f"{product.baseline or ''} {product.generated}".strip(),
            href=bundle.root,
            properties={
                **{k: v for k, v in product.properties.items() if v is not None},
                "datastrip": strip[1] if strip else None,
                "saturated": product.saturated,
                "crs": text_of(root, "HORIZONTAL_CS_CODE"),
                "present": sorted(files),
            },
        )

    def _pair(self, product: Product, name: str, own: str, where: str) -> Pair:
        """The scene's own; where its metadata do not tell, what the entry says of the band."""
        try:
            return product.pair(own, where)
        except BadInput as e:
            said = (self.entry.bands or {}).get(name)
            if said is not None and said.scale is not None and said.offset is not None:
                return said.scale, said.offset
            raise AssetCorrupt(e.what, where=e.where, todo=e.todo) from e

    def _files(self, bundle: Bundle, granule: str) -> dict[str, str]:
        """Band -> file: at `resolution`, else the finest one."""
        found: dict[str, dict[int, str]] = {}
        for n in bundle.names:
            m = IMAGE.fullmatch(n)
            if m is not None and m["granule"] == granule:
                metres = int(m["m"]) if m["m"] else NATIVE.get(m["band"], 20)
                found.setdefault(m["band"], {})[metres] = n
        if self.resolution is not None:
            return {b: by[self.resolution] for b, by in found.items() if self.resolution in by}
        return {b: by[min(by)] for b, by in found.items()}

    def _mask(self, bundle: Bundle, granule: str) -> str | None:
        """The file of the provider's mask: at `resolution` if there is one, else the finest."""
        name = self.entry.quality.source_name
        if self.entry.quality.rule == "none" or name is None:
            return None
        found: dict[int, str] = {}
        for n in bundle.names:
            m, q = IMAGE.fullmatch(n), MASK.fullmatch(n)
            if m is not None and m["granule"] == granule and m["band"] == name:
                found[int(m["m"] or 20)] = n
            elif q is not None and q["granule"] == granule and name in (q["name"], f"{q['name']}_{q['m']}m"):
                found[int(q["m"] or 60)] = n
        return None if not found else found.get(self.resolution or 0, found[min(found)])

    def header(self, scene: Scene) -> Scene:
        """As `ProductSource.header`; also the CRS of every raster must be the one of the metadata."""
        from eoflow.sources.raster import same_crs

        filled = super().header(scene)
        crs = filled.properties.get("crs")
        for name, band in filled.bands.items():
            if crs and band.grid is not None and not same_crs(crs, band.grid.crs):
                raise AssetCorrupt(
                    f"band {name} lies in {band.grid.crs[:40]}, the metadata say {crs}", where=band.href,
                    todo="fetch the product again",
                )  # fmt: skip
        return filled


def _id(m: re.Match[str]) -> str:
    """Platform, level, datatake, orbit and tile: the same for every processing of one acquisition."""
    return f"{m[1]}_MSI{m[2]}_{m[3]}_R{m[5]}_T{m[6]}"


def _name_time(text: str) -> Any:
    return parse_time(f"{text[:4]}-{text[4:6]}-{text[6:8]}T{text[9:11]}:{text[11:13]}:{text[13:15]}")


def entry_of(name: str, paths: Sequence[str]) -> SceneEntry:
    """A catalog entry for SAFE products at `paths` (folders, zips, patterns), all of one level. Raises BadInput."""
    from eoflow.sources.files import expand

    levels: set[str] = set()
    for path in [p for given in expand(list(paths)) for p in products_in(given)]:
        m = re.search(r"_MSI(L1C|L2A)", PurePosixPath(path).name)
        levels.add(m[1] if m else _level_inside(path))
    if len(levels) > 1:
        raise BadInput(
            f"products of levels {' and '.join(sorted(levels))} in one dataset", where=", ".join(paths),
            todo="ingest each level as a dataset of its own",
        )  # fmt: skip
    level = levels.pop() if levels else "L2A"
    convention = known("sentinel-2", level)
    assert convention is not None
    draft = SceneEntry(
        name=name, title=f"Sentinel-2 {level}", licence=convention.licence, source=SourceRef(driver="safe"),
        sensor="sentinel-2", level=level, quality=convention.quality, schedule=SceneSchedule(start="2015-06-23"),
    )  # fmt: skip
    found, scenes = entry_from(name, paths, "safe", SafeSource, draft)
    return found.model_copy(update={"title": f"Sentinel-2 {level}, {said([s.tile for s in scenes])}"})


def _level_inside(path: str) -> str:
    try:
        return read_product(open_safe(path)).level
    except AssetError as e:
        raise BadInput(e.what, where=e.where, todo=e.todo) from e


def split_datastrips(scenes: Sequence[Scene]) -> list[Scene]:
    """Where two datastrips hold two parts of a tile, the later part gets an id of its own, so that both are kept.

    A reprocessed datastrip begins at the same second or so; another one, minutes later.
    """
    first: dict[str, np.datetime64] = {}
    begin = {}
    for i, s in enumerate(scenes):
        strip = s.properties.get("datastrip")
        if strip:
            begin[i] = _name_time(strip)
            first[s.id] = min(first.get(s.id, begin[i]), begin[i])
    out = []
    for i, s in enumerate(scenes):
        later = i in begin and begin[i] - first[s.id] > np.timedelta64(60, "s")
        out.append(replace(s, id=f"{s.id}_S{s.properties['datastrip']}") if later else s)
    return out
