"""Bare files as scenes: which files belong together, which band is which, in what units, with what mask and date.

What is known of a file stands in its name, header and pixels, as for `eoflow ingest`; what the evidence does not settle
is an error with the line to write. A georeference is not needed here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from eoflow.bands import BandSpec, SceneSchema
from eoflow.catalog_scenes import BandEntry
from eoflow.errors import BadInput
from eoflow.predict_images.pictures import picture_reader
from eoflow.sources import geotiff_names as gn
from eoflow.sources.base import AssetError
from eoflow.sources.complex_pixels import NUMPY, PARTS
from eoflow.sources.geotiff_evidence import sample
from eoflow.sources.infer_geotiff import complete, look
from eoflow.sources.infer_scenes import merged, text_units
from eoflow.sources.plausible import check_backscatter, check_sample
from eoflow.sources.radiometry import cube_band
from eoflow.sources.raster import Header, RasterReader, fill_in
from eoflow.sources.scene import RasterBand
from eoflow.tiling import Grid

SUFFIXES = (".tif", ".tiff", ".jp2", ".png", ".bmp", ".jpg", ".jpeg", NUMPY)
PICTURES = (".png", ".bmp", ".jpg", ".jpeg")
HAND = re.compile(r"[_-]?(?P<kind>S1|S2)Hand$", re.IGNORECASE)
SENSOR = re.compile(r"(?<![A-Za-z0-9])(?P<kind>S1|S2)(?![A-Za-z0-9])", re.IGNORECASE)
PHOTOGRAPH = {"red", "green", "blue", "nir", "alpha"}
FOR_ALL = ("units", "scale", "offset", "nodata")
LINE = "write  --bands VV,VH --set units=dB  (names of the bands in their order in the file, and their units)"


@dataclass(frozen=True)
class Shot:
    """One scene of files. name: what its outputs are called. bands, specs: by name, in the files' order.

    mask: the provider's mask, rule: how it is read. grid: of the finest band, crs "" where it has none. header: of the
    first file. notes: what was concluded, with the evidence.
    """

    name: str
    path: str
    bands: dict[str, RasterBand]
    specs: tuple[BandSpec, ...]
    grid: Grid
    header: Header
    time: np.datetime64 | None = None
    sensor: str = "unknown"
    level: str = "unknown"
    mask: RasterBand | None = None
    rule: str = "none"
    notes: tuple[str, ...] = ()

    @property
    def schema(self) -> SceneSchema:
        """The bands as a schema."""
        return SceneSchema(bands=self.specs, sensor=self.sensor, level=self.level, tiles="", quality="")


@dataclass
class _Group:
    """Files of one scene. singles: band word -> file with that band; stacks: files with several bands."""

    name: str
    singles: dict[str, str] = field(default_factory=dict)
    stacks: list[str] = field(default_factory=list)
    mask: tuple[str, str] | None = None


def shots(
    paths: Sequence[str | Path], *, said: Mapping[str, Any] | None = None, bands: Sequence[str] | None = None,
    masks: Sequence[str | Path] = (), reader: RasterReader | None = None, together: bool = True,
) -> list[Shot]:  # fmt: skip
    """The scenes of some files, in the order given.

    said: keys of a catalog entry (sensor, level, units, scale, offset, nodata, bands.B04.units, ...). bands: names of
    the bands of each file, in order. masks: one a scene, in the same order (SCL and QA_PIXEL are known by their names,
    others are 0 where it is clear). together: S1 and S2 files of one place and one name are one scene. Raises BadInput
    naming the file, what is not known and what to write.
    """
    reader = reader or picture_reader()
    told = text_units(said or {})
    files = _files(paths)
    try:
        headers = {f: reader.header(f) for f in files}
        groups = _groups(files, headers, bands is not None, together)
        _add_masks(groups, [str(Path(m).absolute()) for m in masks], reader)
        facts = _describe(groups, headers, told, bands, reader)
        return [_shot(g, facts, headers, reader) for g in groups]
    except AssetError as e:
        raise BadInput(e.what, where=e.where, todo=e.todo or "give a readable file") from e


def _files(paths: Sequence[str | Path]) -> list[str]:
    out: list[str] = []
    for text in paths:
        place = Path(text).absolute()
        if place.suffix.upper() == ".SAFE":
            raise BadInput("a SAFE product is a scene with metadata, not an image file", where=str(text),
                           todo=f"eoflow ingest {text} --as NAME, then the verb on NAME")  # fmt: skip
        if place.is_dir():
            inside = sorted(p for p in place.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
            if not inside:
                raise BadInput("no image in this folder", where=str(text), todo=f"images end in {', '.join(SUFFIXES)}")
            out += [str(p) for p in inside]
            continue
        if not place.is_file():
            raise BadInput("there is no such file", where=str(text), todo="check the path")
        if place.suffix.lower() not in SUFFIXES:
            raise BadInput(f"a file that ends in '{place.suffix}' is no image", where=str(text),
                           todo=f"give {', '.join(SUFFIXES)}")  # fmt: skip
        out.append(str(place))
    if not out:
        raise BadInput("no files were given")
    return list(dict.fromkeys(out))


# -- files of one scene ------------------------------------------------------------------------------------------------


def _groups(files: Sequence[str], headers: Mapping[str, Header], named: bool, together: bool) -> list[_Group]:
    """Files by scene: single bands by the band in their names, S1 and S2 of one name together, the rest alone."""
    out: dict[tuple[str, str], _Group] = {}
    for f in files:
        stem, parent = PurePath(f).stem, str(PurePath(f).parent)
        words = [m["band"] for m in gn.BAND.finditer(stem)] if headers[f].count == 1 else []
        if words:
            key = gn.squeeze(re.sub(rf"(?<![A-Za-z0-9]){re.escape(words[-1])}(?![A-Za-z0-9])", "", stem))
            group = out.setdefault((parent, key), _Group(key or stem))
            if words[-1].lower() in gn.MASKS:
                group.mask = (f, gn.MASKS[words[-1].lower()])
            elif words[-1] in group.singles:
                both = f"{group.singles[words[-1]]}, {f}"
                raise BadInput(f"two files hold band {words[-1]} of one scene", where=both)
            else:
                group.singles[words[-1]] = f
            continue
        hand = HAND.search(stem) if together else None
        key = gn.squeeze(HAND.sub("", stem)) if hand else stem
        # chips lie in folders S1/ and S2/: their common name is what counts
        group = out.setdefault(("", key) if hand else (parent, stem), _Group(stem))
        if group.stacks:
            group.name = key
        group.stacks.append(f)
    return _whole_scenes(out, named)


def _whole_scenes(found: dict[tuple[str, str], _Group], named: bool) -> list[_Group]:
    """A mask without a scene belongs to the file of its name; a lone band file is called by its own stem."""
    alone = [k for k, g in found.items() if g.mask and not g.singles and not g.stacks]
    for key in alone:
        mask = found.pop(key).mask
        owner = found.get(key) or next((g for (p, n), g in found.items() if n == key[1]), None)
        if owner is None:
            raise BadInput("a mask without its scene", where=mask[0] if mask else None, todo="give the scene too")
        owner.mask = mask
    for group in found.values():
        if len(group.singles) == 1 and not group.stacks:
            group.name = PurePath(next(iter(group.singles.values()))).stem
    groups = list(found.values())
    names = [g.name for g in groups]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        folders = {id(g): PurePath((g.stacks or list(g.singles.values()))[0]).parent.name for g in groups}
        for g in groups:
            if names.count(g.name) > 1:
                g.name = f"{folders[id(g)]}_{g.name}"
    return groups


def _add_masks(groups: list[_Group], masks: Sequence[str], reader: RasterReader) -> None:
    if not masks:
        return
    missing = next((m for m in masks if not Path(m).is_file()), None)
    if missing:
        raise BadInput("there is no such mask", where=missing)
    if len(masks) != len(groups):
        raise BadInput(f"{len(masks)} masks for {len(groups)} scenes", todo="give one mask a scene, in the same order")
    for group, mask in zip(groups, masks, strict=True):
        word = gn.token(PurePath(mask).stem, list(gn.MASKS))
        reader.header(mask)
        group.mask = (mask, gn.MASKS[word.lower()] if word else "cloud_mask")


# -- bands -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Kind:
    """What files of one kind have in common. bands: name -> keys of BandEntry (index, or source_name of the file)."""

    bands: dict[str, dict[str, Any]]
    sensor: str
    level: str
    notes: tuple[str, ...]


def _describe(
    groups: Sequence[_Group], headers: Mapping[str, Header], said: dict[str, Any], bands: Sequence[str] | None,
    reader: RasterReader,
) -> dict[str, _Kind]:  # fmt: skip
    """File -> what its kind is. Files of one kind are looked at together: one convention holds for all of them."""
    kinds: dict[Any, list[str]] = {}
    for g in groups:
        for f in g.stacks:
            hand = HAND.search(PurePath(f).stem)
            word = hand["kind"].upper() if hand else ""
            kinds.setdefault((word, headers[f].count, headers[f].dtype, headers[f].descriptions), []).append(f)
        if g.singles:
            kinds.setdefault(("singles", tuple(sorted(g.singles))), []).extend(g.singles.values())
    out: dict[str, _Kind] = {}
    for key, files in kinds.items():
        some = {f: headers[f] for f in files}
        single = key[0] == "singles"
        found = _kind(some, said, None if single else bands, "" if single else key[0], reader)
        out |= dict.fromkeys(files, found)
    return out


def _kind(
    headers: dict[str, Header], said: dict[str, Any], bands: Sequence[str] | None, hand: str, reader: RasterReader
) -> _Kind:
    path, first = next(iter(headers.items()))
    notes: list[str] = []
    said = dict(said)
    for_all = {k: said.pop(k) for k in FOR_ALL if k in said}
    baseline = said.pop("baseline", None)
    sensor, level = str(said.get("sensor", "unknown")), str(said.get("level", "unknown"))
    found: dict[str, dict[str, Any]]
    if bands is not None:
        if len(bands) != first.count:
            raise BadInput(f"{len(bands)} names for the {first.count} bands of the file", where=path,
                           todo="--bands names every band of a file, in order")  # fmt: skip
        found = {b: {"index": i} for i, b in enumerate(bands, 1)}
        if sensor == "unknown" and {b.upper() for b in bands} <= {"VV", "VH", "HH", "HV"}:
            sensor = "sentinel-1"
    elif hand == "S1" and first.count == 2 and first.dtype.startswith("float"):
        found, sensor = {"VV": {"index": 1}, "VH": {"index": 2}}, "sentinel-1"
        for_all.setdefault("units", "dB")
        notes.append("Named like the Sentinel-1 chips of Sen1Floods11: bands VV and VH in dB.")
    elif first.descriptions == PARTS:
        found = {b: {"index": i} for i, b in enumerate(PARTS, 1)}
    elif _is_picture(headers, sensor):
        found = _picture(first, path)
    else:
        if hand == "S2":
            said = {"sensor": "sentinel-2", "level": "L1C", **said}
        described = look(headers, {}, said)
        found, sensor, level = described.bands, described.sensor, described.level
        notes += described.notes
        if sensor == "unknown" and all(re.fullmatch(r"b\d+", b) for b in found) and "bands" not in said:
            raise BadInput(f"which bands the {first.count} band{'s' * (first.count > 1)} of the file are is not known",
                           where=path, todo=f"{LINE}, or  --sensor sentinel-2 --set level=L1C")  # fmt: skip
    stated = {k: v for k, v in {"dtype": first.dtype, "nodata": first.nodata}.items() if v is not None and v == v}
    stated |= {"units": "1"} if tuple(found) == PARTS else {}  # of the product; the phase needs none
    found = {b: merged({**stated, **keys}, for_all) for b, keys in found.items()}
    found = {b: merged(keys, dict((said.get("bands") or {}).get(b) or {})) for b, keys in found.items()}
    if bands is not None or _is_picture(headers, sensor) or (sensor == "unknown" and set(found) <= PHOTOGRAPH):
        found = _colours(found, first, for_all)
    raw = {"sensor": sensor, "level": level, "bands": found}
    kind = _Kind(complete(raw, headers, reader, baseline, notes), sensor, level, tuple(notes))
    _check(kind, headers, reader)
    return kind


def _is_picture(headers: Mapping[str, Header], sensor: str) -> bool:
    """Bytes in one, three or four bands without a sensor: a photograph."""
    return sensor == "unknown" and all(
        h.dtype == "uint8" and (h.count in (3, 4) or (h.count in (1, 2) and PurePath(f).suffix.lower() in PICTURES))
        and not any(gn.BAND.search(d or "") for d in h.descriptions)
        for f, h in headers.items()
    )  # fmt: skip


def _picture(header: Header, path: str) -> dict[str, dict[str, Any]]:
    """Bands of a photograph: red, green, blue (a fourth band of a picture is its transparency), or one of grey."""
    if header.count in (1, 2):
        return {"grey": {"index": 1}}
    if header.count == 4 and PurePath(path).suffix.lower() not in PICTURES:
        raise BadInput("which bands the 4 bands of the file are is not known", where=path,
                       todo="write  --bands red,green,blue,nir  or  --bands red,green,blue,alpha")  # fmt: skip
    return {b: {"index": i} for i, b in enumerate(("red", "green", "blue"), 1)}


def _colours(bands: dict[str, dict[str, Any]], header: Header, for_all: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Bytes without any word of their units are brightness from 0 to 1."""
    out = {}
    for name, keys in bands.items():
        if name == "alpha":
            continue
        more: dict[str, Any] = {}
        if header.dtype == "uint8" and not {"units", "scale"} & (keys.keys() | for_all.keys()) and header.scale is None:
            more = {"units": "1", "scale": 1 / 255, "offset": 0.0}
        out[name] = {**keys, **more}
    return out


COMMON = ("coastal", "blue", "green", "yellow", "red", "rededge", "nir", "nir08", "nir09", "cirrus", "swir16", "swir22")


def _check(kind: _Kind, headers: Mapping[str, Header], reader: RasterReader) -> None:
    """Some pixels of each band against its units. Raises BadInput with the option to write."""
    for name, keys in kind.bands.items():
        if name in PARTS:
            continue  # any number, of either sign
        for path, header in list(headers.items())[:4]:
            if keys.get("index") is None and gn.token(PurePath(path).stem, [str(keys.get("source_name"))]) is None:
                continue
            index = int(keys.get("index") or 1)
            values = sample(reader, path, index, reader.header(path, index))
            try:
                if keys.get("units") is None:
                    check_backscatter(values * float(keys.get("scale") or 1), None, where=f"{path}, band {name}")
                    raise BadInput(f"band {name}: its units are not known", where=path, todo=LINE)
                band = fill_in(RasterBand(path, index), header)
                spec = cube_band(name, BandEntry(**keys), band, kind.sensor, kind.level, where=path)
                if spec.dtype != "uint8":
                    check_sample(values, spec, kind.sensor, where=path)
            except BadInput as e:
                pairs = re.findall(r"(units|scale|offset): (\"?[\w.\-]+\"?)", e.todo or "")
                options = [f"--set {k}={v}" for k, v in pairs]
                shown = f"write  {' '.join(options)}" if options and "one of" not in (e.todo or "") else None
                raise BadInput(e.what, where=e.where, todo=shown or e.todo) from None


# -- scenes ------------------------------------------------------------------------------------------------------------


def _shot(group: _Group, facts: Mapping[str, _Kind], headers: Mapping[str, Header], reader: RasterReader) -> Shot:
    bands: dict[str, RasterBand] = {}
    specs: list[BandSpec] = []
    files = [*group.stacks, *group.singles.values()]
    kinds = [facts[f] for f in files]
    for f, kind in zip(files, kinds, strict=True):
        for name, keys in kind.bands.items():
            if keys.get("index") is None and group.singles.get(str(keys.get("source_name"))) != f:
                continue
            if name in bands:
                raise BadInput(f"two files of scene {group.name} hold band {name}", where=f)
            index = int(keys.get("index") or 1)
            band = fill_in(RasterBand(f, index, nodata=keys.get("nodata")), reader.header(f, index))
            spec = cube_band(name, BandEntry(**keys), band, kind.sensor, kind.level, where=f)
            if spec.common_name is None and name.lower() in COMMON:
                spec = spec.model_copy(update={"common_name": name.lower()})
            bands[name] = replace(band, nodata=spec.nodata)
            specs.append(spec)
    if not bands:
        raise BadInput("no band of the scene was found", where=files[0], todo=LINE)
    grids = [b.grid for b in bands.values() if b.grid is not None]
    grid = max(grids, key=lambda g: g.shape[0] * g.shape[1])
    mask = None
    if group.mask is not None:
        mask = fill_in(RasterBand(group.mask[0], 1), reader.header(group.mask[0]))
        if not grid.crs and mask.grid is not None and mask.grid.shape != grid.shape:
            raise BadInput(f"the mask has {mask.grid.shape} pixels, the scene {grid.shape}", where=group.mask[0])
    for band in bands.values():
        if not grid.crs and band.grid is not None and band.grid.shape != grid.shape:
            raise BadInput("files of one scene without georeference have different sizes", where=band.href)
    sensors = list(dict.fromkeys(k.sensor for k in kinds))
    levels = list(dict.fromkeys(k.level for k in kinds))
    return Shot(
        group.name, files[0], bands, tuple(specs), grid, headers[files[0]], time_of(files[0]), "+".join(sensors),
        "+".join(levels), mask, group.mask[1] if group.mask else "none",
        tuple(n for k in kinds for n in k.notes),
    )  # fmt: skip


def time_of(path: str) -> np.datetime64 | None:
    """The date in a file's name; None where there is none, or more than one."""
    try:
        return gn.time_of(PurePath(path).name)
    except BadInput:
        return None
