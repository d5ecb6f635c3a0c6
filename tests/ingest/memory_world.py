from __future__ import annotations

import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from eoflow import catalog
from eoflow.catalog import DatasetEntry
from eoflow.errors import BadInput
from eoflow.ingest import retry
from eoflow.sources.base import Asset, AssetCorrupt, AssetMissing, AssetTransient
from eoflow.workspace import Workspace

START = np.datetime64("2000-01-01", "ns")
STEP = np.timedelta64(6, "h").astype("timedelta64[ns]")
LAT, LON, LEVELS = np.array([60.0, 50.0, 40.0, 30.0]), np.arange(0.0, 50.0, 10.0), np.array([500.0, 850.0])


def truth(steps: np.ndarray | range, version: int = 0) -> dict[str, np.ndarray]:
    """Fields that are a formula of the step, so that any stored value can be checked."""
    t = np.asarray(steps, "f8")[:, None, None]
    lat, lon = np.meshgrid(LAT, LON, indexing="ij")
    msl = 101000 + 500 * np.sin(0.1 * t) + 10 * lat + lon + 100 * version
    z = np.stack(
        [50000 + 300 * np.cos(0.07 * t) + 20 * lat, 14000 + 200 * np.cos(0.07 * t) + 9 * lon + 0 * lat], axis=1
    )
    return {"msl": msl.astype("f4"), "z": z.astype("f4")}


def field_set(steps: np.ndarray | range, version: int = 0) -> xr.Dataset:
    """The canonical dataset of some steps."""
    data = truth(steps, version)
    ds = xr.Dataset(
        {
            "msl": (
                ("time", "latitude", "longitude"),
                data["msl"],
                {"units": "Pa", "standard_name": "air_pressure_at_mean_sea_level"},
            ),
            "z": (
                ("time", "level", "latitude", "longitude"),
                data["z"],
                {"units": "m2 s-2", "standard_name": "geopotential"},
            ),
            "lsm": (("latitude", "longitude"), np.eye(4, 5, dtype="f4"), {"units": "1"}),
        },
        coords={"time": START + np.asarray(steps) * STEP, "level": LEVELS, "latitude": LAT, "longitude": LON},
    )
    ds["level"].attrs["units"] = "hPa"
    return ds


@dataclass
class World:
    """A provider in memory: assets of `per` steps each, and what is wrong with them."""

    per: int = 4
    steps: int = 100
    missing: set[str] = field(default_factory=set)
    corrupt: set[str] = field(default_factory=set)
    unlisted: set[str] = field(default_factory=set)
    transient: dict[str, int] = field(default_factory=dict)
    version: dict[str, int] = field(default_factory=dict)
    edit: dict[str, Callable[[xr.Dataset], xr.Dataset]] = field(default_factory=dict)
    opened: list[str] = field(default_factory=list)

    def source(self) -> type:
        world = self

        class MemorySource:
            def __init__(self, entry: Any, context: Any) -> None:
                self.now = context.now

            def plan(self, period: Any, area: Any = None) -> list[Asset]:
                out = []
                for i in range(0, world.steps, world.per):
                    times = START + np.arange(i, min(i + world.per, world.steps)) * STEP
                    times = times if period is None else times[period.contains(times)]
                    if times.size and f"a{i}" not in world.unlisted:
                        out.append(Asset(id=f"a{i}", times=times, args={"first": i}))
                return out

            def open(self, asset: Asset) -> xr.Dataset:
                world.opened.append(asset.id)
                if asset.id in world.missing:
                    raise AssetMissing("the provider does not have it")
                if world.transient.get(asset.id, 0) > 0:
                    world.transient[asset.id] -= 1
                    raise AssetTransient("the line is busy")
                first = asset.args["first"]
                steps = np.arange(first, first + world.per)
                ds = field_set(steps, world.version.get(asset.id, 0)).chunk({"time": 2})
                if asset.id in world.edit:
                    ds = world.edit[asset.id](ds)
                if asset.id in world.corrupt:
                    ds["z"] = ds["z"].copy(data=ds["z"].data.map_blocks(_broken, dtype="f4"))
                return ds

        return MemorySource


def _broken(block: np.ndarray) -> np.ndarray:
    if block.size > 0:
        raise AssetCorrupt("the checksum does not fit")
    return block


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """A provider, registered as the source `eoflow_memory_source:Source`; pauses between tries are left out."""
    w = World()
    module = types.ModuleType("eoflow_memory_source")
    module.Source = w.source()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "eoflow_memory_source", module)
    monkeypatch.setattr(retry, "sleep", lambda s: None)
    return w


@pytest.fixture
def entry(workspace: Workspace, world: World) -> DatasetEntry:
    """The catalog entry `mem` of that provider, saved in the workspace."""
    e = DatasetEntry.model_validate(
        {
            "name": "mem",
            "title": "In memory",
            "licence": "CC0-1.0",
            "source": {"driver": "eoflow_memory_source:Source"},
            "schedule": {"start": "2000-01-01", "cadence": "6h", "delay": "6h"},
        }
    )
    catalog.save_dataset(e, workspace)
    return e


def when(step: float) -> np.datetime64:
    """The moment at which `step` has just been published (6 h later)."""
    return START + np.timedelta64(int(step * 6), "h") + STEP


@pytest.fixture
def write_nc(tmp_path: Path) -> Callable[..., str]:
    """write_nc(name, steps, edit=f, version=0) -> path of a NetCDF file of those steps."""

    def write(name: str, steps: Any, edit: Callable[[xr.Dataset], xr.Dataset] | None = None, version: int = 0) -> str:
        ds = field_set(np.asarray(steps), version)
        ds = edit(ds) if edit else ds
        path = tmp_path / name
        ds.to_netcdf(path, engine="h5netcdf")
        return str(path)

    return write


def contents(workspace: Workspace) -> dict[str, bytes]:
    """Every file of archives and catalogs, byte for byte."""
    root = Path(workspace.root)
    return {
        str(p.relative_to(root)): p.read_bytes()
        for part in ("archives", "catalogs")
        for p in sorted((root / part).rglob("*"))
        if p.is_file()
    }


def refuse(call: Callable[[], Any], *words: str) -> BadInput:
    """The call raises BadInput whose message has all the words."""
    with pytest.raises(BadInput) as caught:
        call()
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert caught.value.exit_code == 2
    return caught.value
