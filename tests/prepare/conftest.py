from __future__ import annotations

import zlib

import numpy as np
import pytest
import xarray as xr

from eoflow.archive import Archive
from eoflow.catalog import DatasetEntry, Schedule, SourceRef
from eoflow.ingest.ledger import Ledger, Status
from eoflow.layout import dims
from eoflow.schema import FieldSchema


def make_world(times: int = 60, ny: int = 6, nx: int = 10, seed: int = 0, step: str = "6h", start: str = "2001-01-01"):
    """z on two levels, msl, and a static orog: red noise around a mean that is large against it."""
    rng = np.random.default_rng(seed)
    n = int(step.removesuffix("h"))
    time = np.datetime64(start, "ns") + np.arange(times) * np.timedelta64(n, "h").astype("timedelta64[ns]")
    x = rng.standard_normal((times, 3, ny, nx)).cumsum(axis=0) * 0.3
    lat = np.linspace(60, 20, ny)
    return xr.Dataset(
        {
            "z": (
                ("time", "level", "latitude", "longitude"),
                (54000 + 500 * x[:, :2]).astype("f4"),
                {"units": "m2 s-2"},
            ),
            "msl": (("time", "latitude", "longitude"), (101325 + 700 * x[:, 2]).astype("f4"), {"units": "Pa"}),
            "orog": (("latitude", "longitude"), rng.random((ny, nx)).astype("f4"), {"units": "m"}),
        },
        coords={"time": time, "level": [500.0, 850.0], "latitude": lat, "longitude": np.arange(nx) * 4.0 - 20},
    )


def store(archive: Archive, ds: xr.Dataset, skip: tuple[int, ...] = ()) -> str:
    """Store the dataset's times (all but `skip`) with their ledger, in one commit; also over what is there."""
    keep = [i for i in range(ds.sizes["time"]) if i not in skip]
    now = np.datetime64("2020-01-01", "ns")
    with archive.transaction("test", {}) as tx:
        tx.extend(ds.time.values[0], ds.time.values[-1])
        ledger = Ledger.read(tx.group).cover(tx.times, archive.cadence)
        first = int(np.searchsorted(tx.times, ds.time.values[0]))
        digests = np.ones(len(keep), np.uint64)
        for spec in archive.schema.variables:
            block = ds[spec.name].transpose(*dims(spec, archive.schema)).values.copy()
            block[list(skip)] = np.nan
            tx.write(spec.name, first, block)
            digests = np.array([zlib.crc32(block[i].tobytes(), int(d)) for i, d in zip(keep, digests, strict=True)])
        ledger.mark(ds.time.values[keep], Status.PRESENT, now=now, digest=digests.astype(np.uint64) + np.uint64(1))
        ledger.write(tx)
    return tx.snapshot


@pytest.fixture
def make_archive(workspace):
    """make_archive(ds, name=..., step=..., skip=...) -> an archive that holds the dataset."""

    def make(ds: xr.Dataset, name: str = "world", step: str = "6h", skip: tuple[int, ...] = (), **entry) -> Archive:
        described = DatasetEntry(
            name=name, title=name, source=SourceRef(driver="netcdf"),
            schedule=Schedule(start=str(ds.time.values[0])[:16], cadence=step, end=str(ds.time.values[-1])[:16]),
            **entry,
        )  # fmt: skip
        static = ds.drop_dims("time")
        archive = Archive.create(workspace, described, FieldSchema.of(ds, step), static)
        store(archive, ds, skip)
        return archive

    return make


@pytest.fixture
def world():
    """make_world: seeded fields."""
    return make_world


@pytest.fixture
def put():
    """store: write times into an archive."""
    return store
