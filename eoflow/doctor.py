"""`eoflow doctor`: does this installation work, and is the workspace sound?"""

from __future__ import annotations

import importlib
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any, Literal

from eoflow import __version__, catalog, registry
from eoflow.errors import EoflowError
from eoflow.workspace import Workspace

# pyproj before eccodes: the other way round PROJ misses its database
CORE = (
    "numpy", "pyproj", "rasterio", "xarray", "zarr", "icechunk", "dask", "torch", "lightning", "safetensors", "zarrs",
)  # fmt: skip
OPTIONAL = {"prefect": "flows", "eccodes": "grib", "pystac": "stac"}
LOW_DISK_GIB = 5


@dataclass(frozen=True)
class Finding:
    """One line of the examination."""

    level: Literal["ok", "note", "broken"]
    what: str
    todo: str = ""

    def line(self) -> str:
        """For a person."""
        return f"{self.level:<6} {self.what}" + (f"\n       to do: {self.todo}" if self.todo else "")


def examine(ws: Workspace) -> list[Finding]:
    """Everything that can be checked without a network."""
    found = [Finding("ok", f"eoflow {__version__} on Python {sys.version.split()[0]}")]
    found += [_imports(name, None) for name in CORE]
    found += [_imports(name, extra) for name, extra in OPTIONAL.items()]
    found += _rasters() + _pins() + _registries() + _catalogs(ws) + _devices() + _workspace(ws)
    return found


def _imports(name: str, extra: str | None) -> Finding:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        if extra:
            return Finding("note", f"{name} is not installed", f'only for its verbs: pip install "eoflow[{extra}]"')
        return Finding("broken", f"{name} is not installed", "pip install eoflow")
    except Exception as e:
        return Finding("broken", f"{name} does not import: {type(e).__name__}: {e}", "reinstall it")
    return Finding("ok", f"{name} {version(name)}")


def _rasters() -> list[Finding]:
    """The GDAL drivers that scenes are read and written with, and a transformation that needs PROJ's database."""
    try:
        import rasterio
        from pyproj import Transformer

        lon, _ = Transformer.from_crs("EPSG:32632", "EPSG:4326", always_xy=True).transform(500_000.0, 5_000_000.0)
        with rasterio.Env() as env:
            missing = [d for d in ("GTiff", "COG", "JP2OpenJPEG", "PNG") if d not in env.drivers()]
    except Exception as e:
        todo = "unset PROJ_LIB, PROJ_DATA and GDAL_DATA of another installation, or reinstall rasterio and pyproj"
        return [Finding("broken", f"rasters cannot be read: {type(e).__name__}: {e}", todo)]
    if missing or abs(lon - 9.0) > 1e-6:
        what = f"GDAL lacks {', '.join(missing)}" if missing else f"PROJ puts a meridian of 9 degrees at {lon:g}"
        return [Finding("broken", what, "pip install --force-reinstall rasterio pyproj")]
    return [Finding("ok", f"GDAL {rasterio.__gdal_version__} reads GeoTIFF, COG, JPEG 2000; PROJ finds its database")]


def _pins() -> list[Finding]:
    """Installed versions against the requirements, whose upper bounds stand for combinations that break at run time."""
    from packaging.requirements import Requirement

    out = []
    try:
        lines = requires("eoflow") or []
    except PackageNotFoundError:
        return [Finding("note", "eoflow runs from a folder and is not installed", "pip install -e .")]
    for line in lines:
        requirement = Requirement(line)
        try:
            have = version(requirement.name)
        except PackageNotFoundError:
            continue
        if have not in requirement.specifier:
            out.append(Finding("broken", f"{requirement.name} {have} does not satisfy '{requirement.specifier}'",
                               f'pip install "{requirement.name}{requirement.specifier}"'))  # fmt: skip
    return out or [Finding("ok", "installed versions satisfy every requirement")]


def _registries() -> list[Finding]:
    out = []
    for kind in ("models", "sources", "tasks", "metrics"):
        for name in registry.names(kind):  # type: ignore[arg-type]
            try:
                registry.load(kind, name)  # type: ignore[arg-type]
            except EoflowError as e:
                out.append(Finding("broken", f"{kind}: {e.what}", e.todo or ""))
    return out or [Finding("ok", "every registered source, model, task and metric loads")]


def _catalogs(ws: Workspace) -> list[Finding]:
    out, count = [], 0
    for kind, read in (("datasets", catalog.entry), ("models", catalog.recipe)):
        for name in catalog.names(kind, ws):  # type: ignore[arg-type]
            count += 1
            try:
                read(name, ws)
            except EoflowError as e:
                out.append(Finding("broken", f"catalog entry {name}: {e.what}", e.todo or ""))
    return out or [Finding("ok" if count else "broken", f"{count} catalog entries are valid")]


def _devices() -> list[Finding]:
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} threads, no GPU"
    return [Finding("ok", f"torch computes on {device}")]


def _workspace(ws: Workspace) -> list[Finding]:
    out = []
    try:
        ws.write_text("ok", "cache", "doctor")
        if ws.is_local:
            ws.path("cache", "doctor").unlink()
            free = shutil.disk_usage(ws.root).free / 2**30
            level: Literal["ok", "note"] = "note" if free < LOW_DISK_GIB else "ok"
            out.append(Finding(level, f"workspace {ws.root} can be written, {free:.0f} GiB free"))
        else:
            out.append(Finding("ok", f"workspace {ws.root} can be written"))
    except Exception as e:
        return [
            Finding(
                "broken", f"workspace {ws.root} cannot be written: {type(e).__name__}: {e}", "give another --workspace"
            )
        ]
    return out + [_archive(ws, name) for name in ws.names("archives")]


def _archive(ws: Workspace, name: str) -> Finding:
    """Whether an archive, of fields or of scenes, opens."""
    from eoflow.archive import Archive

    try:
        archive = Archive.load(ws, name)
        if archive.kind != "scenes":
            return Finding("ok", f"archive {name}: {len(archive.times)} times, snapshot {archive.snapshot}")
        from eoflow.cube import Cube

        cube = Cube(archive)
        steps, layers = {tile: cube.times(tile).size for tile in cube.tiles()}, (*cube.schema.names, "quality")
        wrong = [t for t in steps if any(_length(cube.group(t)[n]) != steps[t] for n in layers)]
        if wrong:
            return Finding("broken", f"archive {name}: the layers of tile {wrong[0]} have other lengths than its times",
                           f"eoflow history {name}; eoflow rollback {name} SNAPSHOT")  # fmt: skip
        size = f"{len(steps)} tiles, {sum(steps.values())} time steps"
        return Finding("ok", f"archive {name}: {size}, snapshot {archive.snapshot}")
    except Exception as e:
        return Finding("broken", f"archive {name}: {type(e).__name__}: {e}", f"eoflow history {name}")


def _length(array: Any) -> int:
    return int(array.shape[0])
