"""Killed at random moments: the store opens with whole commits only, and the next run ends as an undisturbed one."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from eoflow import catalog
from eoflow.archive import Archive
from eoflow.catalog import DatasetEntry
from eoflow.errors import BadInput
from eoflow.ingest.ledger import Ledger, Status
from eoflow.ingest.run import ingest
from eoflow.workspace import Workspace

SHAPE = (400, 24, 32)
RUN = """
import sys, json
from eoflow import layout
from eoflow.ingest import plan
layout.MIN_CHUNK, plan.BATCH_BYTES = 40_000, 100_000  # many small batches
print("ready", flush=True)
sys.stdin.readline()
from eoflow.ingest.run import ingest
from eoflow.workspace import Workspace
root, name, files, now = json.loads(sys.argv[1])
ingest(name, files, workspace=Workspace(root), now=now)
"""


def written(root: str) -> int:
    """Bytes in the repositories: the clock by which moments are chosen."""
    total = 0
    for folder, _, names in os.walk(Path(root) / "archives"):
        for n in names:
            with contextlib.suppress(FileNotFoundError):
                total += (Path(folder) / n).stat().st_size
    return total


def run(root: str, name: str, files: list[str], now: str, kill_at: int | None) -> bool:
    """Ingest in another process, killed once `kill_at` bytes have been written; whether it was killed."""
    args = json.dumps([root, name, files, now])
    with subprocess.Popen(
        [sys.executable, "-c", RUN, args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as p:
        assert p.stdout.readline().strip() == "ready"
        p.stdin.write("\n")
        p.stdin.flush()
        killed = False
        while p.poll() is None:
            if kill_at is not None and not killed and written(root) >= kill_at:
                p.send_signal(signal.SIGKILL)
                killed = True
            time.sleep(0.004)  # only so that looking does not starve the writer
        assert killed or p.returncode == 0
        return killed


def whole(root: str, name: str, expected: dict[str, np.ndarray]) -> int:
    """Every time that the ledger calls present has exactly its values, every other one none; returns how many."""
    try:
        archive = Archive.load(Workspace(root), name)
    except BadInput:
        return 0
    ledger = Ledger.load(archive)
    ds = archive.open(chunks=None)
    present = ledger.status_at(ds.time.values) == int(Status.PRESENT)
    for variable, values in expected.items():
        got = ds[variable].values
        n = got.shape[0]
        np.testing.assert_array_equal(got[present], values[:n][present])
        assert np.isnan(got[~present]).all()
    assert present.sum() == (ledger.status == int(Status.PRESENT)).sum()
    return int(present.sum())


def same(a: str, b: str, name: str) -> None:
    """The two archives hold the same arrays, and ledgers that differ in nothing but the clock."""
    one, two = (Archive.load(Workspace(r), name) for r in (a, b))
    for group in (None, "ledger"):
        first, second = (x.open(group=group, chunks=None).load() for x in (one, two))
        skip = [v for v in ("ingested_at",) if v in first]
        xr.testing.assert_equal(first.drop_vars(skip), second.drop_vars(skip))


def fields() -> xr.Dataset:
    rng = np.random.default_rng(5)
    msl = rng.normal(101000, 500, SHAPE).astype("f4")
    return xr.Dataset(
        {
            "msl": (
                ("time", "latitude", "longitude"),
                msl,
                {"units": "Pa", "standard_name": "air_pressure_at_mean_sea_level"},
            )
        },
        coords={
            "time": np.datetime64("2001-01-01", "ns") + np.arange(SHAPE[0]) * np.timedelta64(1, "D"),
            "latitude": np.linspace(60, 30, SHAPE[1]),
            "longitude": np.linspace(0, 40, SHAPE[2]),
        },
    )


@pytest.mark.slow
def test_files_by_hand(tmp_path):
    ds = fields()
    msl = ds["msl"].values
    old, new = str(tmp_path / "old.nc"), str(tmp_path / "new.nc")
    ds.isel(time=slice(100, 200)).to_netcdf(old, engine="h5netcdf")
    ds.to_netcdf(new, engine="h5netcdf")  # earlier, the same and later times
    quiet, hurt = str(tmp_path / "quiet"), str(tmp_path / "hurt")
    for root in (quiet, hurt):
        ingest("d", [old], workspace=Workspace(root), now="2020-01-01")
    start = written(quiet)
    run(quiet, "d", [new], "2020-01-01", None)
    size = written(quiet) - start
    kills, random_ = 0, random.Random(3)
    before = Archive.load(Workspace(hurt), "d").snapshot
    for _ in range(3):
        kills += run(hurt, "d", [new], "2020-01-01", written(hurt) + int(size * random_.uniform(0.02, 0.3)))
        archive = Archive.load(Workspace(hurt), "d")
        if archive.snapshot == before:  # nothing of it can be seen until everything is in
            np.testing.assert_array_equal(archive.open(chunks=None).msl.values, msl[100:200])
    assert kills >= 2
    run(hurt, "d", [new], "2020-01-01", None)
    assert whole(hurt, "d", {"msl": msl}) == SHAPE[0]
    same(quiet, hurt, "d")
    assert Archive.load(Workspace(hurt), "d").staging_branches() == []


@pytest.mark.slow
def test_catalog_dataset(tmp_path):
    ds = fields()
    files = []
    for i in range(0, SHAPE[0], 20):
        files.append(str(tmp_path / f"part{i:03d}.nc"))
        ds.isel(time=slice(i, i + 20)).to_netcdf(files[-1], engine="h5netcdf")
    Path(files[7]).write_bytes(Path(files[7]).read_bytes()[:20000])  # one bad asset must not change the outcome
    entry = DatasetEntry.model_validate(
        {
            "name": "p",
            "title": "Parts",
            "source": {"driver": "netcdf", "args": {"paths": files}},
            "schedule": {"start": "2001-01-01", "cadence": "1d", "end": "2002-02-04"},
        }
    )
    quiet, hurt = str(tmp_path / "quiet"), str(tmp_path / "hurt")
    for root in (quiet, hurt):
        catalog.save_dataset(entry, Workspace(root))
    run(quiet, "p", [], "2020-01-01", None)
    expected = {"msl": ds["msl"].values}
    assert whole(quiet, "p", expected) == SHAPE[0] - 20
    size, random_ = written(quiet), random.Random(4)
    kills, last = 0, 0
    for _ in range(3):
        kills += run(hurt, "p", [], "2020-01-01", written(hurt) + int(size * random_.uniform(0.05, 0.3)))
        count = whole(hurt, "p", expected)
        assert count >= last  # what is committed stays
        last = count
    assert kills >= 2
    run(hurt, "p", [], "2020-01-01", None)
    assert whole(hurt, "p", expected) == SHAPE[0] - 20
    same(quiet, hurt, "p")
