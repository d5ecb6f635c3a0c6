"""What loose rasters are: bands, product, radiometry, tiles and times, learnt from names, headers and pixels.

Nothing is guessed silently: what was concluded stands in the entry's notes with its evidence, and what the evidence
does not settle is an error that says what to write.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np

from eoflow import catalog
from eoflow.catalog_scenes import SceneEntry
from eoflow.errors import BadInput
from eoflow.sources import geotiff_names as gn
from eoflow.sources.base import SourceContext
from eoflow.sources.geotiff import GeotiffSource
from eoflow.sources.geotiff_evidence import check_values, s2_pair
from eoflow.sources.geotiff_tiles import bands_in, files_of, how_to_say
from eoflow.sources.infer_scenes import merged, text_units
from eoflow.sources.radiometry import known, unit_of
from eoflow.sources.raster import Header, RasterReader
from eoflow.sources.scene import Scene

S2_NAME = re.compile(r"(?<![A-Za-z0-9])(s2[abcd]?|sentinel-?_?2[abcd]?|S2[ABCD]_MSIL..)(?![A-Za-z0-9])", re.IGNORECASE)
POLARISATIONS = ("VV", "VH", "HH", "HV")
S2_L1C = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
ARGS = ("time", "pattern", "tile_by")
FOR_ALL = ("units", "scale", "offset", "nodata")


@dataclass
class Found:
    """What was learnt so far. bands: name -> keys of BandEntry. headers: of the first band of every file."""

    headers: dict[str, Header]
    bands: dict[str, dict[str, Any]]
    sensor: str
    level: str
    quality: dict[str, Any]
    notes: list[str]


def infer_geotiff(
    name: str, paths: Sequence[str], now: np.datetime64, overrides: Mapping[str, Any], existing: SceneEntry | None
) -> SceneEntry:
    """The entry of driver `geotiff`; as `infer_scene_entry`."""
    said = text_units(overrides)
    args = {**(existing.source.args if existing else {}), **dict(said.pop("source", {}) or {}).get("args", {})}
    args |= {k: said.pop(k) for k in ARGS if k in said}
    args = {k: v.isoformat() if hasattr(v, "isoformat") else v for k, v in args.items()}
    args["paths"] = list(paths)
    reader = RasterReader()
    for_all = {k: said.pop(k) for k in FOR_ALL if k in said}
    if existing is not None:
        raw = merged(existing.model_dump(exclude_defaults=True), said)
        raw["bands"] = {b: merged(keys, for_all) for b, keys in (raw.get("bands") or {}).items()} or None
        entry = _entry(name, {**raw, "source": {"driver": "geotiff", "args": args}})
        checked(entry, now, reader)
        return _scheduled(entry, now)
    headers = {f: reader.header(f) for f in _files(paths)}
    baseline = said.pop("baseline", None)
    found = look(headers, args, said)
    if len({h.count for h in headers.values()}) == 1 and next(iter(headers.values())).count > 1:
        args["count"] = next(iter(headers.values())).count
    dated = [gn.time_of(f) is not None for f in headers] if args.get("pattern") is None else [True]
    args.setdefault("tile_by", "footprint" if all(dated) else "name")
    more = [b for b, keys in (said.get("bands") or {}).items() if keys is not None and b not in found.bands]
    bands = {b: merged(found.bands.get(b, {}), for_all) for b in (*found.bands, *more)}
    raw = {
        "name": name, "title": _title(found, paths), "sensor": found.sensor, "level": found.level,
        "source": {"driver": "geotiff", "args": args}, "bands": bands, "quality": found.quality, "group_by": "time",
        "schedule": {"start": "1950-01-01"},
    }  # fmt: skip
    if product := known(found.sensor, found.level):
        raw["licence"] = product.licence
    raw = merged(raw, said)
    raw["bands"] = complete(raw, headers, reader, baseline, found.notes)
    if found.notes and "notes" not in said:
        raw["notes"] = " ".join(found.notes)
    entry = _entry(name, raw)
    checked(entry, now, reader)
    return _scheduled(entry, now)


def _entry(name: str, raw: dict[str, Any]) -> SceneEntry:
    return catalog.validate(raw, SceneEntry, f"dataset {name}")


def _files(paths: Sequence[str]) -> list[str]:
    files = files_of(paths)
    if not files:
        raise BadInput("no raster file in it", where=", ".join(paths), todo="give .tif, .tiff or .jp2 files")
    return files


# --- bands and product ---------------------------------------------------------------------------------------------


def look(headers: dict[str, Header], args: dict[str, Any], said: Mapping[str, Any]) -> Found:
    """Bands, sensor, level and mask, from names and headers. Raises BadInput where the files do not fit together."""
    counts = {h.count for h in headers.values()}
    first_path, first = next(iter(headers.items()))
    tokens = _tokens(headers, args) if counts == {1} else []
    masks = [t for t in tokens if t.lower() in gn.MASKS]
    quality = {"rule": gn.MASKS[masks[0].lower()], "source_name": masks[0]} if masks else {}
    if tokens:
        names = [t for t in tokens if t not in masks]
        bands: dict[str, dict[str, Any]] = {_band_name(t): {"source_name": t} for t in names}
    else:
        _require_one_kind(headers)
        described = bands_in(first.descriptions)
        bands = {b: e.model_dump(exclude_defaults=True) for b, e in described.items()}
    sensor, level, notes = _product(headers, list(bands), tokens, said)
    if sensor.lower().startswith("sentinel-2") and not tokens:
        bands = _sentinel2_bands(bands, first, first_path, notes)
    elif not tokens and list(bands) == ["b1"] and sensor.startswith("sentinel-1"):
        raise BadInput(
            "which polarisation the band is, is not known", where=first_path, todo="write --set bands.VV.index=1"
        )
    for b, keys in bands.items():
        mine = [h for f, h in headers.items() if not tokens or gn.token(PurePath(f).stem, [keys["source_name"]])]
        keys |= _stated(mine, b, first_path)
    return Found(headers, bands, sensor, level, quality, notes)


def _tokens(headers: dict[str, Header], args: dict[str, Any]) -> list[str]:
    """Words in the names that tell the files of one scene apart, in the usual order of bands; none for other sets."""
    if args.get("pattern") and "band" in (pattern := gn.compile_pattern(args["pattern"])).groupindex:  # type: ignore[union-attr]
        found = [m["band"] for f in headers if (m := pattern.search(f)) and m["band"]]  # type: ignore[union-attr]
        return sorted(set(found), key=_order)
    named: dict[str, list[str]] = {}
    scenes: dict[tuple[str, str], set[str]] = {}
    for f in headers:
        stem = PurePath(f).stem
        words = [m["band"] for m in gn.BAND.finditer(stem)]
        if not words:
            return []
        named.setdefault(words[-1], []).append(f)
        key = gn.squeeze(stem[: stem.rindex(words[-1])] + stem[stem.rindex(words[-1]) + len(words[-1]) :])
        scenes.setdefault((str(PurePath(f).parent), key), set()).add(words[-1])
    several = len(named) > 1 and any(len(bands) > 1 for bands in scenes.values())
    return sorted(named, key=_order) if several or (len(headers) == 1 and named) else []


def _order(token: str) -> tuple[int, str]:
    name = _band_name(token)
    return (S2_L1C.index(name), "") if name in S2_L1C else (99, name)


def _band_name(token: str) -> str:
    """`B4` -> `B04`; a polarisation in capitals; else as it is, with letters, digits and _ only."""
    if m := re.fullmatch(r"[Bb](\d)", token):
        return f"B0{m[1]}"
    name = re.sub(r"\W+", "_", token)
    if name.upper() in POLARISATIONS or re.fullmatch(r"b(\d\d|8a)", name, re.IGNORECASE):
        return name.upper()
    return name if re.match(r"[A-Za-z]", name) else f"b{name}"


def _require_one_kind(headers: dict[str, Header]) -> None:
    """The same number of bands, data type and descriptions in every file."""
    (path, first), *others = headers.items()
    for other, h in others:
        for what, a, b in (("bands", first.count, h.count), ("data type", first.dtype, h.dtype),
                           ("descriptions of bands", first.descriptions, h.descriptions)):  # fmt: skip
            if a != b:
                raise BadInput(
                    f"the files differ in {what}: {_short(a)} in {PurePath(path).name},"
                    f" {_short(b)} in {PurePath(other).name}", where=other,
                    todo="ingest files of one kind under one name",
                )  # fmt: skip


def _short(value: Any) -> str:
    return ", ".join(str(v) for v in value) if isinstance(value, tuple) else str(value)


def _product(
    headers: dict[str, Header], bands: list[str], tokens: list[str], said: Mapping[str, Any]
) -> tuple[str, str, list[str]]:
    """(sensor, level, what was assumed and why)."""
    notes: list[str] = []
    sensor, level = said.get("sensor"), said.get("level")
    names = {_band_name(b) for b in bands} if tokens or any(next(iter(headers.values())).descriptions) else set(bands)
    whole = all(np.dtype(h.dtype).kind in "iu" for h in headers.values())
    if sensor is None:
        texts = [PurePath(f).stem for f in headers]
        folder = PurePath(next(iter(headers))).parent.name
        by_name = all(S2_NAME.search(t) for t in texts) or S2_NAME.search(folder) is not None
        by_bands = names <= set(S2_L1C) and len(names) >= 12
        if whole and (by_bands or (by_name and (len(names) == 13 or names <= set(S2_L1C)))):
            sensor = "sentinel-2"
            why = "the bands are named so" if by_bands else "'s2' in the names"
            notes.append(f"Assumed: Sentinel-2 ({why}, {len(names)} bands, integers).")
        elif names and names <= set(POLARISATIONS):
            sensor = "sentinel-1"
            notes.append(f"Assumed: Sentinel-1 (bands {', '.join(sorted(names, reverse=True))}).")
    if level is None and sensor == "sentinel-2":
        texts = [PurePath(f).stem.upper() for f in headers]
        if len(names) == 13 or "B10" in names:
            level = "L1C"
            notes.append("Level L1C: band B10 is there, which L2A lacks.")
        elif all("MSIL2A" in t or "_L2A" in t for t in texts):
            level = "L2A"
        else:
            raise BadInput(
                "the processing level of these Sentinel-2 bands is not known", where=next(iter(headers)),
                todo="write --set level=L2A or --set level=L1C",
            )  # fmt: skip
    return str(sensor or "unknown"), str(level or "unknown"), notes


def _sentinel2_bands(
    bands: dict[str, dict[str, Any]], first: Header, path: str, notes: list[str]
) -> dict[str, dict[str, Any]]:
    """Bands of a multi-band Sentinel-2 file: by description, or in the satellite's order where all are there."""
    named = {_band_name(b): keys for b, keys in bands.items()}
    if any(first.descriptions) and set(named) <= set(S2_L1C):
        return named
    orders = {13: S2_L1C, 12: tuple(b for b in S2_L1C if b != "B10")}
    if first.count not in orders or any(first.descriptions):
        raise BadInput(
            f"which Sentinel-2 bands the {first.count} bands are, is not known", where=path,
            todo="write into each file which band is which (descriptions: rio edit-info, gdal_edit), or give one file"
            " a band with the band in its name",
        )  # fmt: skip
    notes.append(f"Bands in the order of the satellite: {', '.join(orders[first.count])}.")
    return {b: {"index": i} for i, b in enumerate(orders[first.count], 1)}


def _stated(headers: list[Header], band: str, path: str) -> dict[str, Any]:
    """dtype, units, scale, offset and nodata of a band, where its files agree on them."""
    dtypes = sorted({h.dtype for h in headers})
    if len(dtypes) > 1:
        raise BadInput(
            f"band {band} is {' and '.join(dtypes)}", where=path, todo="ingest files of one data type under one name"
        )
    out: dict[str, Any] = {"dtype": dtypes[0]}
    values: dict[str, list[Any]] = {
        "units": [unit_of(h.units) for h in headers], "scale": [h.scale for h in headers],
        "offset": [h.offset for h in headers], "nodata": [h.nodata for h in headers],
    }  # fmt: skip
    for key, seen in values.items():
        value = seen[0]
        if value is not None and all(v == value for v in seen):  # NaN is left out: it means nothing that is said
            out[key] = value
    return out


# --- radiometry ----------------------------------------------------------------------------------------------------


def complete(
    raw: dict[str, Any], headers: dict[str, Header], reader: RasterReader, baseline: Any, notes: list[str]
) -> dict[str, dict[str, Any]]:
    """The bands with units, scale and offset, from the published convention and the pixels; BadInput for the rest."""
    bands: dict[str, dict[str, Any]] = {b: dict(k or {}) for b, k in raw["bands"].items()}
    product = known(str(raw["sensor"]), str(raw["level"]))
    sentinel2 = str(raw["sensor"]).lower().startswith("sentinel-2")
    pair: tuple[float, float] | None = None
    for b, keys in bands.items():
        standard = product.bands.get(b) if product else None
        whole = np.dtype(keys.get("dtype", "uint16")).kind in "iu"
        if standard is not None and whole and standard.units is not None and (sentinel2 or standard.dtype != "float32"):
            keys.setdefault("units", standard.units)
            if sentinel2:
                keys.setdefault("scale", 1e-4)
                if "offset" not in keys:
                    pair = pair or s2_pair(headers, bands, str(raw["level"]), baseline, reader, notes)
                    keys |= {"scale": pair[0], "offset": pair[1]}
            elif not sentinel2:
                keys.setdefault("scale", standard.scale)
                keys.setdefault("offset", standard.offset)
            if standard.nodata is not None:
                keys.setdefault("nodata", standard.nodata)
        if not whole or keys.get("units") == "DN":
            keys.setdefault("scale", 1.0)
        if "scale" in keys:
            keys.setdefault("offset", 0.0)
        if "units" not in keys and str(raw["sensor"]).startswith("sentinel-1"):
            continue  # told with a look at the values, below
        lacks = [k for k in ("units", "scale", "offset") if k not in keys]
        if lacks:
            raise BadInput(
                f"band {b}: {', '.join(lacks)} unknown: the files do not say it", where=next(iter(headers)),
                todo=how_to_say(b, lacks),
            )  # fmt: skip
    return bands


def checked(entry: SceneEntry, now: np.datetime64, reader: RasterReader) -> list[Scene]:
    """Every scene of the entry with its header; strict. Also some pixels of each band against its units."""
    from pathlib import Path

    source = GeotiffSource(entry, SourceContext(Path(), now))
    without = {b: k for b, k in (entry.bands or {}).items() if k.units is None}
    if without:
        check_values(entry, source.plan(None), reader)  # says what the values look like
    scenes = [source.header(s) for s in source.plan(None)]
    late = [s for s in scenes if s.time > now + np.timedelta64(1, "D")]
    if late:
        raise BadInput(
            f"the time {str(late[0].time)[:19]} lies in the future", where=late[0].href,
            todo="correct the name, or say where the date stands with --set source.args.pattern=...",
        )  # fmt: skip
    check_values(entry, scenes, reader)
    return scenes


def _scheduled(entry: SceneEntry, now: np.datetime64) -> SceneEntry:
    from pathlib import Path

    scenes = GeotiffSource(entry, SourceContext(Path(), now)).plan(None)
    days = [str(s.time.astype("datetime64[D]")) for s in scenes]
    schedule = entry.schedule.model_copy(update={"start": min(days), "end": max(days)})
    return entry.model_copy(update={"schedule": schedule})


def _title(found: Found, paths: Sequence[str]) -> str:
    place = PurePath(paths[0])
    words = place.stem if len(paths) == 1 else place.parent.name or place.stem
    what = {"sentinel-1": "Sentinel-1", "sentinel-2": "Sentinel-2"}.get(found.sensor)
    return f"{what} {found.level}, {words}" if what and found.level != "unknown" else words
