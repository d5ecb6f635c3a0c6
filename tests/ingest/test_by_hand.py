"""Files given by hand: all or nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from eoflow_test_ingest import START, STEP, contents, refuse, truth

import eoflow
from eoflow import catalog
from eoflow.archive import MAIN, Archive
from eoflow.errors import Failure
from eoflow.ingest import plan
from eoflow.ingest.by_hand import _Rounds
from eoflow.ingest.job import Job
from eoflow.ingest.ledger import Ledger, Status


def values(workspace, steps, version=0):
    ds = Archive.load(workspace, "mine").open(chunks=None)
    for name, expected in truth(np.asarray(steps), version).items():
        np.testing.assert_array_equal(ds[name].sel(time=START + np.asarray(steps) * STEP).values, expected)
    return ds


def test_append_prepend_skip(workspace, write_nc):
    a, b, c = write_nc("a.nc", range(20, 40)), write_nc("b.nc", range(40, 60)), write_nc("c.nc", range(8, 25))
    r = eoflow.ingest("mine", [a], workspace=workspace)
    assert (r.new, r.skipped) == (20, 0)
    assert eoflow.ingest("mine", [a], workspace=workspace).to_dict()["skipped"] == 20
    assert (eoflow.ingest("mine", [a, b], workspace=workspace)).new == 20
    r = eoflow.ingest("mine", [c], workspace=workspace)  # earlier times, and some that are there
    assert (r.new, r.skipped) == (12, 5)
    ds = values(workspace, range(8, 60))
    assert ds.sizes["time"] == 52
    entry = catalog.dataset("mine", workspace)
    assert entry.schedule.start == "2000-01-03"
    assert len(entry.source.args["paths"]) == 3
    archive = Archive.load(workspace, "mine")
    assert archive.staging_branches() == []
    assert [c.message for c in archive.history()] == ["ingest 1 file", "ingest 2 files", "ingest 1 file"]
    assert archive.entry == entry


def test_a_hole_between_files_is_a_gap(workspace, write_nc):
    eoflow.ingest("mine", [write_nc("a.nc", range(4)), write_nc("b.nc", [8, 9, 11, 12])], workspace=workspace)
    g = eoflow.gaps("mine", workspace)
    assert [(x.count, x.status) for x in g.ranges] == [(4, Status.NEVER_TRIED), (1, Status.ABSENT_AT_SOURCE)]
    assert g.expected == 13
    assert g.to_dict()["present"] == 8


def test_files_that_overlap_must_agree(workspace, write_nc):
    a, b, c = write_nc("a.nc", range(10)), write_nc("b.nc", range(6, 16)), write_nc("c.nc", range(6, 16), version=1)
    r = eoflow.ingest("mine", [a, b], workspace=workspace)
    assert (r.new, r.skipped) == (16, 4)
    values(workspace, range(16))
    before = contents(workspace)
    refuse(lambda: eoflow.ingest("other", [a, c], workspace=workspace), "c.nc", "msl", "2000-01-02T12:00")
    assert contents(workspace) == before


def test_corrected_files(workspace, write_nc):
    eoflow.ingest("mine", [write_nc("a.nc", range(20))], workspace=workspace)
    before, corrected = contents(workspace), write_nc("b.nc", range(10, 30), version=1)
    refuse(
        lambda: eoflow.ingest("mine", [corrected], workspace=workspace), "other values", "--rewrite", "2000-01-03T12:00"
    )
    assert contents(workspace) == before
    r = eoflow.ingest("mine", [corrected], workspace=workspace, rewrite=True)
    assert (r.new, r.rewritten, r.skipped) == (10, 10, 0)
    values(workspace, range(10))
    values(workspace, range(10, 30), version=1)


def _edit_values(f):
    def edit(ds):
        f(ds)
        return ds

    return edit


def _hpa(ds):
    ds["msl"].values[:] /= 100


BAD = {
    "shuffled": (lambda ds: ds.isel(time=[0, 2, 1, 3]), ("not in order", "bad.nc")),
    "duplicated": (lambda ds: ds.isel(time=[0, 1, 1, 2]), ("more than once", "2000-01-06T06:00")),
    "off schedule": (
        lambda ds: ds.assign_coords(time=ds.time + np.timedelta64(1, "h")),
        ("schedule", "2000-01-06T01:00"),
    ),
    "other grid": (lambda ds: ds.isel(longitude=slice(0, 4)), ("grid", "4 x 5", "4 x 4")),
    "shifted grid": (lambda ds: ds.assign_coords(longitude=ds.longitude + 2.5), ("grid", "lon 0..40", "lon 2.5..42.5")),
    "missing variable": (lambda ds: ds.drop_vars("msl"), ("msl",)),
    "other levels": (lambda ds: ds.sel(level=[500.0]), ("z", "850")),
    "all NaN": (
        _edit_values(lambda ds: ds["z"].values.__setitem__((2, 1), np.nan)),
        ("all values are NaN", "z850", "2000-01-06T12:00"),
    ),
    "some NaN": (
        _edit_values(lambda ds: ds["msl"].values.__setitem__((3, 1, 1), np.nan)),
        ("NaN", "variable msl", "2000-01-06T18:00"),
    ),
    "infinite": (
        _edit_values(lambda ds: ds["msl"].values.__setitem__((3, 1, 1), np.inf)),
        ("infinite", "variable msl"),
    ),
    "hPa called Pa": (_edit_values(_hpa), ("variable msl", "bad.nc")),
    "hPa called nothing": (lambda ds: _no_units(ds), ("msl", "units")),
    "kilometres": (lambda ds: _relabel(ds), ("msl",)),
}


def _no_units(ds):
    _hpa(ds)
    del ds["msl"].attrs["units"]
    return ds


def _relabel(ds):
    ds["msl"].attrs["units"] = "km"
    return ds


@pytest.mark.parametrize("kind", list(BAD))
def test_bad_input_changes_nothing(workspace, write_nc, kind):
    eoflow.ingest("mine", [write_nc("good.nc", range(20))], workspace=workspace)
    before, entry = contents(workspace), catalog.dataset("mine", workspace)
    edit, words = BAD[kind]
    bad = write_nc("bad.nc", range(20, 24), edit=edit)
    refuse(lambda: eoflow.ingest("mine", [bad], workspace=workspace), *words)
    assert {k: v for k, v in contents(workspace).items() if k in before} == before
    assert set(contents(workspace)) == set(before)
    assert catalog.dataset("mine", workspace) == entry


def test_a_good_file_beside_a_bad_one_does_not_get_in(workspace, write_nc, monkeypatch):
    """Also when the bad one is found only after the good one has been staged."""
    monkeypatch.setattr(plan, "BATCH_ASSETS", 1)
    eoflow.ingest("mine", [write_nc("first.nc", range(20))], workspace=workspace)
    before = contents(workspace)
    good, bad = write_nc("good.nc", range(20, 24)), write_nc("bad.nc", range(24, 28), edit=BAD["all NaN"][0])
    refuse(lambda: eoflow.ingest("mine", [good, bad], workspace=workspace), "bad.nc")
    assert contents(workspace) == before
    assert eoflow.ingest("mine", [good], workspace=workspace).new == 4


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "absent"])
def test_unreadable_files_leave_no_trace(workspace, write_nc, tmp_path, damage):
    path = write_nc("x.nc", range(40))
    with open(path, "rb+") as f:
        if damage == "truncated":
            f.truncate(Path(path).stat().st_size * 2 // 3)
        elif damage in ("empty", "text"):
            f.truncate(0)
            f.write(b"<html>not found</html>" if damage == "text" else b"")
    if damage == "absent":
        Path(path).unlink()
    refuse(lambda: eoflow.ingest("mine", [path], workspace=workspace), "x.nc")
    assert contents(workspace) == {}
    assert workspace.names("archives") == []
    assert "mine" not in catalog.names("datasets", workspace)


def test_units_are_converted_when_given(workspace, write_nc):
    def hpa(ds):
        _hpa(ds)
        ds["msl"].attrs["units"] = "hPa"
        return ds

    eoflow.ingest("mine", [write_nc("a.nc", range(10))], workspace=workspace)
    eoflow.ingest("mine", [write_nc("b.nc", range(10, 20), edit=hpa)], workspace=workspace)
    ds = Archive.load(workspace, "mine").open()
    np.testing.assert_allclose(ds.msl.values, truth(range(20))["msl"], rtol=2e-7)


def test_flipped_latitude_and_order_of_dims_mean_nothing(workspace, write_nc):
    eoflow.ingest("mine", [write_nc("a.nc", range(10))], workspace=workspace)
    turned = write_nc(
        "b.nc", range(10, 20), edit=lambda ds: ds.isel(latitude=slice(None, None, -1)).transpose(..., "time")
    )
    eoflow.ingest("mine", [turned], workspace=workspace)
    values(workspace, range(20))


def test_fixed_nan_mask(workspace, write_nc):
    def land(ds, extra=False):
        ds["msl"].values[:, 0, :2] = np.nan
        if extra:
            ds["msl"].values[1, 2, 2] = np.nan
        return ds

    eoflow.ingest("mine", [write_nc("a.nc", range(10), edit=land)], workspace=workspace)
    entry = catalog.dataset("mine", workspace)
    assert entry.checks.static_nan_mask
    assert eoflow.ingest("mine", [write_nc("b.nc", range(10, 14), edit=land)], workspace=workspace).new == 4
    more = write_nc("c.nc", range(14, 18), edit=lambda ds: land(ds, extra=True))
    refuse(
        lambda: eoflow.ingest("mine", [more], workspace=workspace), "other places", "variable msl", "2000-01-04T18:00"
    )


def test_a_run_that_died_is_resumed(workspace, write_nc, monkeypatch):
    """The process stops between two batches; the same command goes on with the rest only."""
    monkeypatch.setattr(plan, "BATCH_BYTES", 1)
    monkeypatch.setattr("eoflow.layout.MIN_CHUNK", 2000)
    a, b = write_nc("a.nc", range(30)), write_nc("b.nc", range(30, 90))
    eoflow.ingest("mine", [a], workspace=workspace)
    snapshot = Archive.load(workspace, "mine").snapshot
    real, batches = Job.commit, []

    def dies(self, *args, **kwargs):
        if len(batches) == 2:
            raise KeyboardInterrupt
        batches.append(args[0].times.size)
        real(self, *args, **kwargs)

    monkeypatch.setattr(Job, "commit", dies)
    with pytest.raises(KeyboardInterrupt):
        eoflow.ingest("mine", [b], workspace=workspace)
    archive = Archive.load(workspace, "mine")
    assert archive.snapshot == snapshot
    assert len(archive.staging_branches()) == 1
    values(workspace, range(30))
    rest = []
    monkeypatch.setattr(Job, "commit", lambda self, *a, **k: (rest.append(a[0].times.size), real(self, *a, **k)))
    r = eoflow.ingest("mine", [b], workspace=workspace)
    assert r.new == 60
    assert sum(rest) == 60 - sum(batches)
    values(workspace, range(90))
    assert archive.staging_branches() == []


def test_a_staged_run_of_other_files_is_dropped(workspace, write_nc, monkeypatch):
    a, b, c = write_nc("a.nc", range(10)), write_nc("b.nc", range(10, 20)), write_nc("c.nc", range(10, 20), version=1)
    eoflow.ingest("mine", [a], workspace=workspace)
    monkeypatch.setattr(_Rounds, "agree", None)
    monkeypatch.setattr("eoflow.ingest.by_hand._publish", _raise_interrupt)
    with pytest.raises(KeyboardInterrupt):
        eoflow.ingest("mine", [b], workspace=workspace)
    assert Archive.load(workspace, "mine").staging_branches()
    monkeypatch.undo()
    assert eoflow.ingest("mine", [c], workspace=workspace).new == 10
    values(workspace, range(10, 20), version=1)
    assert Archive.load(workspace, "mine").staging_branches() == []


def _raise_interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def test_first_ingest_that_died_is_no_archive(workspace, write_nc, monkeypatch):
    a = write_nc("a.nc", range(10))
    monkeypatch.setattr("eoflow.ingest.by_hand._publish", _raise_interrupt)
    with pytest.raises(KeyboardInterrupt):
        eoflow.ingest("mine", [a], workspace=workspace)
    refuse(lambda: Archive.load(workspace, "mine"), "has no archive")
    monkeypatch.undo()
    assert eoflow.ingest("mine", [a], workspace=workspace).new == 10
    values(workspace, range(10))


def test_period_of_files(workspace, write_nc):
    r = eoflow.ingest("mine", [write_nc("a.nc", range(40))], workspace=workspace, period="2000-01-03/2000-01-04")
    assert r.new == 8
    values(workspace, range(8, 16))


def test_a_shipped_name_is_shadowed(workspace, write_nc):
    name = catalog.names("datasets")[0]
    eoflow.ingest(name, [write_nc("a.nc", range(4))], workspace=workspace)
    assert catalog.dataset(name, workspace).source.driver == "netcdf"


def test_ledger_of_files(workspace, write_nc):
    path = write_nc("a.nc", range(10))
    eoflow.ingest("mine", [path], workspace=workspace, now="2020-05-05")
    archive = Archive.load(workspace, "mine")
    ledger = Ledger.load(archive, branch=MAIN)
    assert set(ledger.status) == {1}
    assert set(ledger.asset) == {path}
    assert np.unique(ledger.digest).size == 10
    assert str(archive.open(group="ledger").ingested_at.values[0])[:10] == "2020-05-05"
    low, high, _ = ledger.ranges["msl"]
    expected = truth(range(10))["msl"]
    assert (low, high) == (pytest.approx(expected.min()), pytest.approx(expected.max()))


def test_rollback_and_as_of(workspace, write_nc):
    eoflow.ingest("mine", [write_nc("a.nc", range(10))], workspace=workspace)
    first = eoflow.history("mine", workspace)[0].id
    eoflow.ingest("mine", [write_nc("b.nc", range(10, 20))], workspace=workspace)
    second = eoflow.history("mine", workspace)[0].id
    eoflow.rollback("mine", first[:8], workspace)
    archive = Archive.load(workspace, "mine")
    assert archive.times.size == 10
    assert eoflow.gaps("mine", workspace).count(Status.PRESENT) == 10
    assert archive.open(as_of=second).sizes["time"] == 20  # what was rolled back can still be opened
    assert eoflow.ingest("mine", [write_nc("c.nc", range(10, 14), version=1)], workspace=workspace).new == 4
    refuse(lambda: eoflow.rollback("mine", "nonsense", workspace), "neither a snapshot")
    with pytest.raises(Failure):
        archive.remove()
