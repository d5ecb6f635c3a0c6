"""`eoflow doctor`: does this installation work, and is the workspace sound?"""

from __future__ import annotations

import importlib
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Literal

from eoflow import __version__, catalog, registry
from eoflow.errors import EoflowError
from eoflow.workspace import Workspace

CORE = ("numpy", "xarray", "zarr", "icechunk", "dask", "torch", "lightning", "safetensors", "zarrs")
OPTIONAL = {"prefect": "flows", "eccodes": "grib"}
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
    found += _pins() + _registries() + _catalogs(ws) + _devices() + _workspace(ws)
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
    for kind, read in (("datasets", catalog.dataset), ("models", catalog.recipe)):
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
    from eoflow.archive import Archive

    for name in ws.names("archives"):
        try:
            archive = Archive.load(ws, name)
            out.append(Finding("ok", f"archive {name}: {len(archive.times)} times, snapshot {archive.snapshot}"))
        except Exception as e:
            out.append(Finding("broken", f"archive {name}: {type(e).__name__}: {e}", f"eoflow history {name}"))
    return out
