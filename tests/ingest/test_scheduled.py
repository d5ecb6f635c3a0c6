"""A catalog dataset: incremental, lenient, with a ledger that explains every time."""

from __future__ import annotations

import numpy as np
import pytest
from eoflow_test_ingest import START, STEP, truth, when

from eoflow.archive import Archive
from eoflow.errors import Failure
from eoflow.ingest import blocks, plan
from eoflow.ingest.ledger import Ledger, Status
from eoflow.ingest.run import backfill, gaps, ingest


def stored(workspace, name="mem"):
    archive = Archive.load(workspace, name)
    return archive, archive.open(chunks=None)


def check_values(workspace, steps, version=0):
    _, ds = stored(workspace)
    for name, expected in truth(np.asarray(steps), version).items():
        got = ds[name].sel(time=START + np.asarray(steps) * STEP).values
        np.testing.assert_array_equal(got, expected)


def test_incremental(workspace, entry, world):
    r = ingest("mem", workspace=workspace, now=when(9))
    assert (r.new, r.failed, r.absent, r.partial) == (10, 0, 0, 0)
    check_values(workspace, range(10))
    world.opened.clear()
    r = ingest("mem", workspace=workspace, now=when(19))
    assert r.new == 10
    assert "a0" not in world.opened  # it goes on from where it stopped
    check_values(workspace, range(20))
    assert ingest("mem", workspace=workspace, now=when(19)).changed is False
    _, ds = stored(workspace)
    assert ds.attrs["license"] == "CC0-1.0"
    assert ds.msl.attrs["units"] == "Pa"
    np.testing.assert_array_equal(ds.lsm.values, np.eye(4, 5))


def test_faults_are_recorded_and_the_rest_goes_on(workspace, entry, world):
    world.missing, world.corrupt, world.unlisted = {"a4"}, {"a8"}, {"a12"}
    r = ingest("mem", workspace=workspace, now=when(23))
    assert (r.new, r.failed, r.absent) == (12, 4, 8)
    check_values(workspace, [*range(4), *range(16, 24)])
    archive, ds = stored(workspace)
    assert np.isnan(ds.msl.isel(time=slice(4, 16))).all()
    assert ds.sizes["time"] == 24  # gaps stay on the axis
    ledger = Ledger.load(archive)
    assert [int(s) for s in ledger.status[[0, 4, 8, 12, 16]]] == [1, 3, 4, 3, 1]
    assert ledger.reason[8] == "the checksum does not fit"
    assert ledger.asset[8] == "a8"
    g = gaps("mem", workspace, now=when(23))
    assert [(x.count, x.status) for x in g.ranges] == [
        (4, Status.ABSENT_AT_SOURCE),
        (4, Status.FAILED),
        (4, Status.ABSENT_AT_SOURCE),
    ]
    assert g.fraction == pytest.approx(12 / 24)
    world.missing, world.corrupt, world.unlisted = set(), set(), {"a12"}
    r = backfill("mem", workspace=workspace, now=when(23))
    assert (r.new, r.absent) == (8, 4)
    check_values(workspace, [*range(12), *range(16, 24)])


def test_one_unreadable_chunk_costs_its_times_only(workspace, entry, world):
    def damage(ds):
        def fail(block, block_info=None):
            first = block_info[0]["array-location"][0][0] if block_info else -1
            if first >= 2:
                raise OSError("bad block")
            return block

        ds["z"] = ds["z"].copy(data=ds["z"].data.map_blocks(fail, dtype="f4", meta=np.empty((0, 0, 0, 0), "f4")))
        return ds

    world.edit["a4"] = damage
    r = ingest("mem", workspace=workspace, now=when(11))
    assert (r.new, r.failed) == (10, 2)
    check_values(workspace, [*range(6), *range(8, 12)])


def test_partial_assets(workspace, entry, world):
    world.edit["a4"] = lambda ds: ds.drop_vars("msl")
    world.edit["a8"] = lambda ds: ds.sel(level=[850.0])
    r = ingest("mem", workspace=workspace, now=when(11))
    assert (r.new, r.partial) == (12, 8)
    archive, ds = stored(workspace)
    assert np.isnan(ds.msl[4:8]).all()
    np.testing.assert_array_equal(ds.z.values[4:8], truth(range(4, 8))["z"])
    assert np.isnan(ds.z[8:12].sel(level=500.0)).all()
    np.testing.assert_array_equal(ds.z.sel(level=850.0).values[8:12], truth(range(8, 12))["z"][:, 1])
    ledger = Ledger.load(archive)
    assert ledger.reason[4] == "missing: msl"
    assert ledger.reason[8] == "missing: z500"
    assert gaps("mem", workspace, now=when(11)).count(Status.PARTIAL) == 8
    world.edit.clear()
    assert backfill("mem", workspace=workspace, now=when(11)).rewritten == 8
    check_values(workspace, range(12))


def test_transient_errors_are_tried_again(workspace, entry, world):
    world.transient = {"a0": 2, "a4": 99}
    r = ingest("mem", workspace=workspace, now=when(11))
    assert (r.new, r.failed) == (8, 4)
    assert world.opened.count("a0") >= 3
    assert r.problems[0].what == "the line is busy"


def test_bad_values_fail_and_are_named(workspace, entry, world):
    def holes(ds):
        ds = ds.load()
        ds["msl"][1, 2, 3] = np.nan
        ds["z"][2] = np.nan
        ds["msl"][3] = np.inf
        return ds

    world.edit["a4"] = holes
    r = ingest("mem", workspace=workspace, now=when(11))
    assert (r.new, r.failed) == (9, 3)
    text = "\n".join(p.reason for p in r.problems)
    for words in ("msl: 1 of 20 values are NaN", "z500: all values are NaN", "msl: infinite values"):
        assert words in text
    check_values(workspace, [*range(5), *range(8, 12)])


def test_units_that_look_wrong_are_refused(workspace, entry, world):
    ingest("mem", workspace=workspace, now=when(7))

    def hpa(ds):
        ds["msl"] = (ds["msl"] / 100).assign_attrs(ds["msl"].attrs)
        return ds

    world.edit["a8"] = hpa
    entry_ = entry.model_copy(update={"variables": None})
    assert entry_.variables is None
    r = ingest("mem", workspace=workspace, now=when(15))
    assert (r.new, r.failed) == (4, 4)
    assert any("msl" in p.channel for p in r.problems)
    check_values(workspace, [*range(8), *range(12, 16)])


def test_corrected_data_are_found_by_their_digest(workspace, entry, world):
    ingest("mem", workspace=workspace, now=when(19))
    world.version["a8"] = 1
    assert ingest("mem", workspace=workspace, now=when(19), period="2000-01-01/2000-01-05").changed is False
    r = ingest("mem", workspace=workspace, now=when(19), period="2000-01-01/2000-01-05", rewrite=True)
    assert (r.rewritten, r.new, r.skipped) == (4, 0, 16)
    check_values(workspace, [*range(8), *range(12, 20)])
    check_values(workspace, range(8, 12), version=1)


def test_a_failed_correction_keeps_the_old_values(workspace, entry, world):
    ingest("mem", workspace=workspace, now=when(11))
    world.version["a4"], world.corrupt = 1, {"a4"}
    r = ingest("mem", workspace=workspace, now=when(11), rewrite=True, period="2000-01")
    assert (r.rewritten, r.failed) == (0, 4)
    check_values(workspace, range(12))
    assert gaps("mem", workspace, now=when(11)).fraction == 1.0


def test_period_first_then_what_is_before_it(workspace, entry, world):
    ingest("mem", workspace=workspace, now=when(39), period="2000-01-05/2000-01-06")
    _archive, ds = stored(workspace)
    assert ds.sizes["time"] == 8
    r = ingest("mem", workspace=workspace, now=when(39), start="2000-01-02", end="2000-01-03")
    assert r.new == 8
    check_values(workspace, [*range(4, 12), *range(16, 24)])
    g = gaps("mem", workspace, now=when(39))
    assert (g.expected, g.count(Status.PRESENT), g.count(Status.NEVER_TRIED)) == (40, 16, 24)
    assert backfill("mem", workspace=workspace, now=when(39)).new == 4
    check_values(workspace, range(4, 24))


def test_commits_are_batches(workspace, entry, world, monkeypatch):
    monkeypatch.setattr(plan, "BATCH_ASSETS", 2)
    r = ingest("mem", workspace=workspace, now=when(23))
    assert (r.new, r.commits) == (24, 3)
    check_values(workspace, range(24))
    archive = Archive.load(workspace, "mem")
    sizes = [archive.open(as_of=c.id).sizes["time"] for c in archive.history()]
    assert sizes == [24, 16, 8, 0]


def test_small_blocks_and_large_ones_store_the_same(workspace, entry, world, monkeypatch):
    from eoflow.ingest import workers

    ingest("mem", workspace=workspace, now=when(39))
    digests = Ledger.load(Archive.load(workspace, "mem")).digest
    monkeypatch.setattr(workers, "block_bytes", lambda: 3000)
    assert ingest("mem", workspace=workspace, now=when(39), rewrite=True, period="2000").skipped == 40
    assert np.unique(digests).size == 40
    assert blocks.BLOCK_BYTES > 3000


def test_nothing_at_all_is_a_failure(workspace, entry, world):
    world.missing = {f"a{i}" for i in range(0, 100, 4)}
    with pytest.raises(Failure, match="nothing of 'mem' could be ingested"):
        ingest("mem", workspace=workspace, now=when(11))
    assert workspace.names("archives") == []


def test_other_grid_and_new_names(workspace, entry, world):
    ingest("mem", workspace=workspace, now=when(3))
    world.edit["a4"] = lambda ds: ds.isel(longitude=slice(0, 4))
    r = ingest("mem", workspace=workspace, now=when(11))
    assert (r.new, r.failed) == (4, 4)
    assert "do not describe the same fields" in r.problems[0].what
