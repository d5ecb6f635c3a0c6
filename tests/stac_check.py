"""Validation of STAC items without a network: by the core schemas that pystac carries, and by the published field
tables of the extensions, whose schemas it does not carry."""

from __future__ import annotations

import re
from typing import Any


def wrong(item: dict[str, Any]) -> list[str]:
    """What the core specification has against an item; empty: nothing."""
    from jsonschema import Draft7Validator
    from pystac.validation.local_validator import get_local_schema_cache
    from referencing import Registry, Resource

    schemas = get_local_schema_cache()
    registry: Any = Registry().with_resources([(k, Resource.from_contents(v)) for k, v in schemas.items()])
    core = next(v for k, v in schemas.items() if k.endswith("/item-spec/json-schema/item.json"))
    found = Draft7Validator(core, registry=registry).iter_errors(item)
    return [f"{'/'.join(map(str, e.absolute_path))}: {e.message}" for e in found]


def _numbers(*lengths: int) -> Any:
    return lambda v: isinstance(v, list) and len(v) in lengths and all(_number(x) for x in v)


def _number(v: Any) -> bool:
    return isinstance(v, int | float) and not isinstance(v, bool)


def _text(v: Any) -> bool:
    return isinstance(v, str) and bool(v)


def _whole(v: Any) -> bool:
    return isinstance(v, int) and not isinstance(v, bool) and v >= 0


def _histogram(v: Any) -> bool:
    return isinstance(v, dict) and v.keys() == {"count", "min", "max", "buckets"}


EVERYWHERE = ("properties", "assets", "bands")
RULES: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {
    "proj": (
        "projection/v2.0.0", EVERYWHERE,
        {
            "code": lambda v: v is None or (isinstance(v, str) and re.fullmatch(r"[A-Za-z]+:[0-9A-Za-z]+", v)),
            "wkt2": lambda v: v is None or _text(v), "projjson": lambda v: v is None or isinstance(v, dict),
            "geometry": lambda v: isinstance(v, dict) and "coordinates" in v, "bbox": _numbers(4, 6),
            "centroid": lambda v: isinstance(v, dict) and -90 <= v["lat"] <= 90 and -180 <= v["lon"] <= 180,
            "shape": lambda v: _numbers(2)(v) and all(isinstance(n, int) for n in v), "transform": _numbers(6, 9),
        },
    ),
    "raster": (
        "raster/v2.0.0", ("assets", "bands"),
        {
            "sampling": lambda v: v in ("area", "point"), "bits_per_sample": _whole, "scale": _number,
            "offset": _number, "spatial_resolution": _number, "histogram": _histogram,
        },
    ),
    "eo": (
        "eo/v2.0.0", EVERYWHERE,
        {
            "cloud_cover": lambda v: _number(v) and 0 <= v <= 100, "snow_cover": lambda v: _number(v) and 0 <= v <= 100,
            "common_name": _text, "center_wavelength": _number, "full_width_half_max": _number,
            "solar_illumination": lambda v: _number(v) and v >= 0,
        },
    ),
    "processing": (
        "processing/v1.2.0", ("properties", "assets"),
        {
            "expression": lambda v: isinstance(v, dict) and v.keys() == {"format", "expression"}, "lineage": _text,
            "level": _text, "facility": _text, "datetime": _text, "version": _text,
            "software": lambda v: isinstance(v, dict) and all(_text(x) for x in v.values()),
        },
    ),
    "file": (
        "file/v2.1.0", ("assets",),
        {
            "byte_order": lambda v: v in ("big-endian", "little-endian"), "header_size": _whole, "size": _whole,
            "checksum": lambda v: isinstance(v, str) and re.fullmatch(r"[a-f0-9]+", v), "local_path": _text,
            "values": lambda v: isinstance(v, list),
        },
    ),
}  # fmt: skip
"""Prefix -> (extension, places where its fields may stand, field -> rule), from the published field tables. A field
with an extension's prefix that the extension does not have is an error there."""
COMMON = {
    "data_type": lambda v: v in {
        *(f"{k}{n}" for k in ("int", "uint") for n in (8, 16, 32, 64)), "float16", "float32", "float64", "cint16",
        "cint32", "cfloat32", "cfloat64", "other",
    },
    "nodata": lambda v: _number(v) or v in ("nan", "inf", "-inf"), "unit": _text, "name": _text, "description": _text,
    "gsd": lambda v: _number(v) and v > 0,
}  # fmt: skip
"""Of the common metadata of bands and items."""


def wrong_fields(item: dict[str, Any]) -> list[str]:
    """What is against the field rules of the extensions that eoflow uses; empty: nothing."""
    places = [("properties", "properties", item["properties"])]
    for key, asset in item["assets"].items():
        places.append((f"assets/{key}", "assets", asset))
        places += [(f"assets/{key}/bands/{i}", "bands", b) for i, b in enumerate(asset.get("bands", []))]
    said, used = [], set()
    for where, kind, fields in places:
        for name, value in fields.items():
            prefix, _, field = name.partition(":")
            if not field:
                if name in COMMON and not COMMON[name](value):
                    said.append(f"{where}/{name}: {value!r}")
                continue
            if prefix not in RULES:
                continue
            used.add(prefix)
            _, allowed, rules = RULES[prefix]
            if kind not in allowed or field not in rules or not rules[field](value):
                said.append(f"{where}/{name}: {value!r}")
    declared = {p for p, (uri, _, _) in RULES.items() if any(f"/{uri}/" in e for e in item["stac_extensions"])}
    said += [f"stac_extensions: {p} is {'used' if p in used else 'declared'} alone" for p in sorted(used ^ declared)]
    p = item["properties"]
    if {"proj:shape", "proj:transform", "proj:bbox"} <= p.keys():
        (rows, columns), t = p["proj:shape"], p["proj:transform"]
        corners = [(t[2] + t[0] * x + t[1] * y, t[5] + t[3] * x + t[4] * y) for x in (0, columns) for y in (0, rows)]
        xs, ys = zip(*corners, strict=True)
        if any(abs(a - b) > 1e-6 for a, b in zip(p["proj:bbox"], (min(xs), min(ys), max(xs), max(ys)), strict=True)):
            said.append("properties/proj:bbox: not the extent of shape and transform")
    return said
