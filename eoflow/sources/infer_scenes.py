"""A catalog entry of scenes from the files themselves: which driver reads them, and what that driver learns of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eoflow import catalog
from eoflow.catalog_scenes import SceneEntry
from eoflow.errors import BadInput
from eoflow.sources.base import AssetError
from eoflow.sources.files import expand
from eoflow.sources.geotiff_tiles import SUFFIXES
from eoflow.workspace import check_name

SAFE = re.compile(r"S2[ABCD]_MSIL(1C|2A)_\d{8}T\d{6}_.*\.(SAFE|zip)$|\.SAFE$|(^|/)MTD_MSIL(1C|2A)\.xml$", re.IGNORECASE)
LANDSAT = re.compile(r"^L[COTE]0\d_L2S[PR]_\d{6}_\d{8}_\d{8}_\d{2}_(T1|T2|RT)_\w+\.(tif|json|xml|txt)$", re.IGNORECASE)
DIGITAL = (".png", ".jpg", ".jpeg")


def is_scenes(files: Sequence[str | Path]) -> bool:
    """Whether paths given by hand are rasters or scene products (and not NetCDF, GRIB or Zarr)."""
    given = [str(f) for f in files]
    if not given or any("://" in f for f in given):
        return False
    return all(_driver(p) is not None for p in _found(given))


def driver_of(path: str) -> str:
    """`safe`, `landsat` or `geotiff`: what reads a file or folder. Raises BadInput for what none reads."""
    found = _driver(path)
    if found is None:
        raise BadInput(
            "this is no raster file or scene that is read" if Path(path).exists() else "there is no such file",
            where=path, todo=f"give {', '.join(SUFFIXES)} files, a SAFE, a Landsat scene, or a folder of them",
        )  # fmt: skip
    return found


def _driver(path: str) -> str | None:
    p = Path(path)
    if SAFE.search(path.rstrip("/")):
        return "safe"
    if LANDSAT.match(p.name):
        return "landsat"
    if p.is_dir():
        if p.suffix == ".zarr" or (p / "zarr.json").exists() or (p / ".zgroup").exists():
            return None
        names = sorted(f.name for f in p.iterdir())
        if any(SAFE.search(n) for n in names):
            return "safe"
        if any(LANDSAT.match(n) for n in names):
            return "landsat"
        return "geotiff" if any(f.suffix.lower() in SUFFIXES for f in p.rglob("*")) else None
    return "geotiff" if p.suffix.lower() in (*SUFFIXES, *DIGITAL) else None


def infer_scene_entry(
    name: str, files: Sequence[str | Path] | str | Path, now: np.datetime64,
    overrides: Mapping[str, Any] | None = None, existing: SceneEntry | None = None,
) -> SceneEntry:  # fmt: skip
    """The entry that reads `files` (paths, folders, patterns), from their names, headers and some of their pixels.

    overrides: keys of the entry, nested, that win over what was found: {"sensor": "sentinel-2", "bands": {"B04":
    {"units": "1"}}, "source": {"args": {"pattern": ...}}}; for rasters also, short, `time`, `pattern` and `tile_by` (as
    source.args), `baseline` (of Sentinel-2), and `units`, `scale`, `offset`, `nodata` for every band. existing: the
    entry of that name: its choices stay, the paths are joined and the schedule is widened.

    Every header is opened and checked: raises BadInput, naming file, band and what to write, for all that cannot be
    ingested as it is.
    """
    check_name(name, "dataset name")
    given = [str(f) for f in ([files] if isinstance(files, str | Path) else files)]
    paths = _found(given)
    if not paths:
        raise BadInput(
            f"no file matches {', '.join(map(repr, given))}" if given else "no files were given",
            todo=f"eoflow ingest FILE... --as {name}",
        )
    drivers = {p: driver_of(p) for p in paths}
    kinds = sorted(set(drivers.values()))
    if len(kinds) > 1:
        raise BadInput(
            f"the files are of several kinds: {', '.join(kinds)}", where=next(iter(drivers)),
            todo="ingest each kind as a dataset of its own",
        )  # fmt: skip
    if existing is not None and existing.source.driver != kinds[0]:
        raise BadInput(
            f"dataset '{name}' is read from {existing.source.driver}, these files are {kinds[0]}", where=paths[0],
            todo="ingest them under another name with --as",
        )  # fmt: skip
    try:
        entry = _product(name, paths, kinds[0], overrides or {}) if kinds[0] != "geotiff" else None
        if entry is None:
            from eoflow.sources.infer_geotiff import infer_geotiff

            entry = infer_geotiff(name, paths, now, overrides or {}, existing)
    except AssetError as e:  # what a schedule would record as a bad asset is, in files given by hand, bad input
        raise BadInput(e.what, where=e.where, todo=e.todo or "give a readable file; nothing was changed") from e
    return entry if existing is None else widened(existing, entry)


def _found(given: Sequence[str]) -> list[str]:
    """Absolute paths; the bands of a Landsat scene stand for their folder's metadata, MTD_MSI*.xml for its SAFE."""
    out: list[str] = []
    for text in given:
        found = expand([text])
        if not found:
            raise BadInput(f"no file matches '{text}'", todo="check the pattern")
        for p in found:
            part = LANDSAT.match(Path(p).name) and p.lower().endswith((".tif", ".txt"))
            metadata = SAFE.search(p) and p.lower().endswith(".xml")
            out.append(str(Path(p).parent) if part or metadata else p)
    return list(dict.fromkeys(out))


def _product(name: str, paths: list[str], driver: str, overrides: Mapping[str, Any]) -> SceneEntry:
    """The entry of a SAFE or Landsat source, with the overrides merged in."""
    if driver == "safe":
        from eoflow.sources.safe import entry_of
    else:
        from eoflow.sources.landsat import entry_of
    entry = entry_of(name, paths)
    raw = merged(entry.model_dump(mode="json", exclude_defaults=True), text_units(overrides))
    raw["source"]["driver"] = driver
    return catalog.validate(raw, SceneEntry, f"dataset {name}")


def merged(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Two nested mappings as one; what `more` says wins, None takes a key out."""
    out = dict(base)
    for key, value in more.items():
        if isinstance(value, Mapping):
            old = out.get(key)
            out[key] = merged(old if isinstance(old, Mapping) else {}, value)
        elif value is None:
            out.pop(key, None)
        else:
            out[key] = value
    return out


def text_units(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides with `units: 1`, as YAML reads it, as the text "1" that is meant."""
    out: dict[str, Any] = {}
    for key, value in overrides.items():
        if isinstance(value, Mapping):
            out[key] = text_units(value)
        else:
            out[key] = str(value) if key == "units" and isinstance(value, int | float) else value
    return out


def _times(args: Mapping[str, Any]) -> dict[str, Any]:
    """Path -> time of undated files, from a time for all paths or from a mapping."""
    time = args.get("time")
    return dict(time) if isinstance(time, Mapping) else {} if time is None else dict.fromkeys(args["paths"], time)


def widened(existing: SceneEntry, found: SceneEntry) -> SceneEntry:
    """The existing entry with the paths of `found` added and its schedule widened to hold them."""
    old, new = existing.source.args, found.source.args
    paths = [*([old["paths"]] if isinstance(old["paths"], str) else old["paths"]), *new["paths"]]
    # a folder given again, or a file of a folder that is listed, adds nothing
    kept: list[str] = []
    for p in dict.fromkeys(paths):
        if not any(p.startswith(k.rstrip("/") + "/") for k in kept):
            kept.append(p)
    args = {**old, "paths": kept}
    if new.get("time") is not None and new["time"] != old.get("time"):
        args["time"] = {**_times(old), **_times(new)}
    source = existing.source.model_copy(update={"args": args})
    a, b = existing.schedule, found.schedule
    end = None if a.end is None or b.end is None else max(a.end, b.end)
    schedule = a.model_copy(update={"start": min(a.start, b.start), "end": end})
    return existing.model_copy(update={"source": source, "schedule": schedule})
