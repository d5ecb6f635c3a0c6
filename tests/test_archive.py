from __future__ import annotations

import math
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from eoflow.archive import Archive
from eoflow.catalog import DatasetEntry
from eoflow.errors import BadInput
from eoflow.schema import FieldSchema, LatLonGrid, VariableSpec
from eoflow.workspace import Workspace

GRID = LatLonGrid(latitude=(50.0, 40.0, 30.0), longitude=(0.0, 10.0, 20.0, 30.0))
SCHEMA = FieldSchema(
    variables=(
        VariableSpec(name="z", units="m2 s-2", standard_name="geopotential", levels=(500.0, 850.0)),
        VariableSpec(name="msl", units="Pa", standard_name="air_pressure_at_mean_sea_level"),
    ),
    grid=GRID,
    step="1d",
    static=(VariableSpec(name="orog", units="m"),),
)
STATIC = xr.Dataset({"orog": (("latitude", "longitude"), np.arange(12.0).reshape(3, 4), {"units": "m"})})
ENTRY = DatasetEntry.model_validate(
    {
        "name": "d",
        "title": "Test",
        "source": {"driver": "x"},
        "schedule": {"start": "2001-01-01", "cadence": "1d", "end": "2002"},
    }
)


def day(n):
    return np.datetime64("2001-01-01", "ns") + np.timedelta64(int(n), "D")


def block(values):
    return np.asarray(values, "f4")[:, None, None] + np.arange(12, dtype="f4").reshape(1, 3, 4)


def write(archive, first, values, message="write", branch="main"):
    with archive.transaction(message, {"what": "ingest"}, branch) as tx:
        tx.extend(day(first), day(first + len(values) - 1))
        at = int(np.searchsorted(tx.times, day(first)))
        tx.write("msl", at, block(values))
        tx.write("z", at, block(values)[:, None] * 2, level=slice(1, 2))
    return tx.snapshot


@pytest.fixture
def archive(workspace):
    return Archive.create(workspace, ENTRY, SCHEMA, STATIC)


def test_opens_in_xarray_with_cf(archive):
    write(archive, 3, [1, 2])
    lines = archive.open_lines()
    assert len(lines) == 2
    ds = archive.open()
    assert ds.msl.chunks is not None
    assert archive.open(chunks=None).msl.chunks is None
    assert list(ds.msl.dims) == ["time", "latitude", "longitude"]
    assert ds.time.dtype == "datetime64[ns]"
    np.testing.assert_array_equal(ds.time.values, [day(3), day(4)])
    assert ds.time.attrs["standard_name"] == "time"
    assert ds.level.attrs["units"] == "hPa"
    assert ds.latitude.attrs["units"] == "degrees_north"
    assert ds.z.attrs == {"units": "m2 s-2", "standard_name": "geopotential"}
    assert ds.attrs["Conventions"].startswith("CF-1.")
    assert ds.attrs["eoflow_schema_hash"] == SCHEMA.hash
    np.testing.assert_array_equal(ds.orog.values, STATIC.orog.values)
    np.testing.assert_array_equal(ds.msl.values, block([1, 2]))
    assert np.isnan(ds.z.sel(level=500.0)).all()
    assert archive.zarr_group()["msl"].metadata.dimension_names == ("time", "latitude", "longitude")
    assert archive.schema == SCHEMA
    assert archive.entry == ENTRY


def test_the_printed_lines_work(archive, tmp_path):
    import subprocess
    import sys

    write(archive, 0, [5])
    code = "; ".join(archive.open_lines()) + "; print(float(ds.msl[0, 0, 1]))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert out.stdout.strip().splitlines()[-1] == "6.0"


def test_gaps_stay_on_the_axis_and_front_extension_moves_the_rest(archive):
    write(archive, 10, [1, 2, 3])
    write(archive, 4, [7])
    write(archive, 20, [9])
    np.testing.assert_array_equal(archive.times, [day(n) for n in range(4, 21)])
    ds = archive.open()
    expected = np.full(17, np.nan)
    expected[[0, 6, 7, 8, 16]] = [7, 1, 2, 3, 9]
    np.testing.assert_array_equal(ds.msl.values[:, 0, 0], expected)
    np.testing.assert_array_equal(ds.z.sel(level=850.0).values[:, 0, 0], expected * 2)


def test_front_extension_in_small_blocks(archive, monkeypatch):
    monkeypatch.setattr("eoflow.transaction.SHIFT_BLOCK", 200)
    with archive.transaction("rechunk") as tx:  # chunks of two times, so that the shift crosses many
        attrs = dict(tx.group["msl"].attrs)
        del tx.group["msl"]
        tx.group.create_array(
            "msl",
            shape=(0, 3, 4),
            chunks=(2, 3, 4),
            dtype="f4",
            fill_value=np.nan,
            attributes=attrs,
            dimension_names=("time", "latitude", "longitude"),
        )
    for first, count in ((50, 11), (47, 2), (30, 1), (29, 1)):
        write(archive, first, [first * 100 + i for i in range(count)])
    got = archive.open().msl.values[:, 0, 0]
    expected = np.full(32, np.nan)
    for first, count in ((50, 11), (47, 2), (30, 1), (29, 1)):
        expected[first - 29 : first - 29 + count] = [first * 100 + i for i in range(count)]
    np.testing.assert_array_equal(got, expected)


def test_times_off_the_step_are_refused(archive):
    write(archive, 0, [1])
    before = archive.snapshot
    with pytest.raises(BadInput, match="whole number of steps"), archive.transaction("x") as tx:
        tx.extend(day(0) - np.timedelta64(1, "h"), day(3))
    assert archive.snapshot == before


def test_a_transaction_that_fails_changes_nothing(archive):
    before = write(archive, 0, [1, 2])
    with pytest.raises(RuntimeError), archive.transaction("x") as tx:  # noqa: PT012
        tx.extend(day(0), day(9))
        tx.write("msl", 0, block([8, 8]))
        raise RuntimeError
    assert archive.snapshot == before
    np.testing.assert_array_equal(archive.open().msl.values, block([1, 2]))


def test_readers_keep_their_snapshot(archive):
    write(archive, 0, [1, 2])
    reader = archive.open()
    write(archive, 0, [5, 5, 5])
    np.testing.assert_array_equal(reader.msl.values, block([1, 2]))
    np.testing.assert_array_equal(archive.open().msl.values, block([5, 5, 5]))


def test_history_rollback_as_of(archive):
    ids = [write(archive, 0, [1]), write(archive, 1, [2]), write(archive, 2, [3])]
    assert [c.id for c in archive.history()][:3] == ids[::-1]
    assert [c.message for c in archive.history()] == ["write"] * 3 + ["create d"]
    with archive.transaction("a step", hidden=True) as tx:
        tx.group.attrs["x"] = 1
    assert len(archive.history()) == 4
    note = archive.rollback(ids[0][:7].lower())
    assert archive.times.size == 1
    assert archive.snapshot == note
    top = archive.history()[0]
    assert (top.message, top.details["to"]) == (f"rollback to {ids[0]}", ids[0])
    assert {c.id: c.current for c in archive.history()}[ids[2]] is False
    for i, snapshot in enumerate(ids):
        assert archive.open(as_of=snapshot).sizes["time"] == i + 1
    newest = write(archive, 1, [9])
    assert archive.open().msl.values[1, 0, 0] == 9
    archive.rollback(ids[2])  # forward again, to what had been rolled back
    np.testing.assert_array_equal(archive.open().msl.values[:, 0, 0], [1, 2, 3])
    assert archive.open(as_of=newest).sizes["time"] == 2
    assert archive.staging_branches() == []
    archive.vacuum()  # nothing that the history names may be lost
    for c in archive.history():
        archive.open(as_of=c.id).load()
    with pytest.raises(BadInput, match="is at"):
        archive.rollback(archive.snapshot)


def test_as_of_a_time(archive):
    first = write(archive, 0, [1])
    between = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
    after = [write(archive, 1, [2])]
    assert archive.resolve("2200-01-01") == after[0]
    assert archive.resolve(between) == first
    assert archive.open(as_of=between[:10]).sizes["time"] == 2  # a day means its end
    with pytest.raises(BadInput, match="held nothing"):
        archive.open(as_of="2001-01-01")
    with pytest.raises(BadInput, match="neither a snapshot"):
        archive.open(as_of="ZZZZZZZ")
    times = [c.time for c in archive.history()]
    assert times == sorted(times, reverse=True)


def test_hidden_branches_are_published_whole(archive):
    base = write(archive, 0, [1])
    branch = archive.branch_off("work")
    write(archive, 1, [2], branch=branch)
    write(archive, 2, [3], branch=branch)
    assert archive.times.size == 1
    archive.publish(branch, expected=base)
    assert archive.times.size == 3
    with pytest.raises(BadInput):
        Archive.create(archive.workspace, ENTRY, SCHEMA, STATIC)


def test_publish_refuses_when_main_has_moved(archive):
    from eoflow.archive import Conflict

    base = write(archive, 0, [1])
    branch = archive.branch_off("work")
    write(archive, 1, [2], branch=branch)
    write(archive, 0, [4])
    with pytest.raises(Conflict):
        archive.publish(branch, expected=base)
    np.testing.assert_array_equal(archive.open().msl.values, block([4]))


def test_a_second_writer_gets_a_conflict(archive):
    """What an object store does, where no lock protects: the commit is conditional."""
    from eoflow.archive import Conflict
    from eoflow.transaction import Transaction

    write(archive, 0, [1])
    one, two = Transaction(archive, "main"), Transaction(archive, "main")
    for tx, value in ((one, 5), (two, 6)):
        tx.write("msl", 0, block([value]))
    one.commit("one", {})
    with pytest.raises(Conflict):
        two.commit("two", {})
    np.testing.assert_array_equal(archive.open().msl.values, block([5]))


def test_missing_archives_say_what_to_do(workspace, archive):
    with pytest.raises(BadInput, match="eoflow ingest other") as e:
        Archive.load(workspace, "other")
    assert "archives of d" in str(e.value)
    assert not Path(workspace.url("archives", "other")).exists()  # looking makes no folder
    with pytest.raises(BadInput):
        Archive.load(workspace, "../d")


def test_few_files(archive):
    write(archive, 0, list(range(365)))
    chunks = list(Path(archive.workspace.url("archives", "d", "chunks")).iterdir())
    assert len(chunks) < 20


class ArchiveMachine(RuleBasedStateMachine):
    """The store against a dict of day -> value, and a list of what every snapshot held."""

    @initialize()
    def start(self):
        self.folder = tempfile.mkdtemp()
        self.archive = Archive.create(Workspace(self.folder), ENTRY, SCHEMA, STATIC)
        self.model: dict[int, float] = {}
        self.axis: tuple[int, int] | None = None
        self.states: dict[str, tuple[dict[int, float], tuple[int, int] | None]] = {}
        self.counter = 0.0

    def _write(self, first, count):
        values = []
        for i in range(count):
            self.counter += 1
            values.append(self.counter)
            self.model[first + i] = self.counter
        snapshot = write(self.archive, first, values)
        low, high = self.axis or (first, first)
        self.axis = (min(low, first), max(high, first + count - 1))
        self.states[snapshot] = (dict(self.model), self.axis)

    @rule(count=st.integers(1, 6), gap=st.integers(0, 4))
    def append(self, count, gap):
        self._write((self.axis[1] + 1 + gap) if self.axis else 100, count)

    @precondition(lambda self: self.axis)
    @rule(count=st.integers(1, 6), gap=st.integers(0, 4))
    def prepend(self, count, gap):
        self._write(self.axis[0] - gap - count, count)

    @precondition(lambda self: self.axis)
    @rule(data=st.data(), count=st.integers(1, 5))
    def rewrite_or_backfill(self, data, count):
        self._write(data.draw(st.integers(*self.axis)), count)

    @precondition(lambda self: self.axis)
    @rule(count=st.integers(1, 5))
    def fail(self, count):
        with pytest.raises(ZeroDivisionError), self.archive.transaction("x") as tx:  # noqa: PT012
            tx.extend(day(self.axis[0] - count), day(self.axis[1]))
            raise ZeroDivisionError

    @precondition(lambda self: len(self.states) > 1)
    @rule(data=st.data())
    def rollback(self, data):
        target = data.draw(st.sampled_from(sorted(s for s in self.states if s != self.archive.snapshot)))
        note = self.archive.rollback(target)
        model, self.axis = self.states[target]
        self.model = dict(model)
        self.states[note] = (dict(model), self.axis)

    @rule()
    def reopen(self):
        self.archive = Archive.load(Workspace(self.folder), "d")

    @rule()
    def vacuum(self):
        self.archive.vacuum()

    @precondition(lambda self: self.states)
    @rule(data=st.data())
    def time_travel(self, data):
        snapshot = data.draw(st.sampled_from(sorted(self.states)))
        self._compare(self.archive.open(as_of=snapshot, chunks=None), *self.states[snapshot])

    def _compare(self, ds, model, axis):
        days = range(axis[0], axis[1] + 1) if axis else range(0)
        np.testing.assert_array_equal(ds.time.values, np.array([day(n) for n in days], "datetime64[ns]"))
        expected = np.array([model.get(n, math.nan) for n in days], "f4")
        if days:
            np.testing.assert_array_equal(ds.msl.values, block(expected))
            np.testing.assert_array_equal(ds.z.values[:, 1], block(expected) * 2)
            assert np.isnan(ds.z.values[:, 0]).all()

    @invariant()
    def same_as_model(self):
        if hasattr(self, "archive"):
            self._compare(self.archive.open(chunks=None), self.model, self.axis)

    def teardown(self):
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder, ignore_errors=True)


TestArchiveMachine = ArchiveMachine.TestCase
TestArchiveMachine.settings = settings(
    max_examples=8, stateful_step_count=12, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def test_what_a_branch_points_to_is_on_the_disk_first(archive, monkeypatch):
    """A power cut between any two steps leaves the old state or the new one."""
    seen = []
    monkeypatch.setattr(Workspace, "sync", lambda self: seen.append(archive.tip()))
    before = archive.tip()
    with archive.transaction("change", {}) as tx:
        tx.group.attrs["note"] = "new"
    assert seen == [before, tx.snapshot], "synced before the branch moves, and after"
    assert archive.attrs()["note"] == "new"


def test_a_branch_that_moved_meanwhile_is_a_conflict(archive):
    from eoflow.archive import Conflict
    from eoflow.transaction import Transaction

    one, two = Transaction(archive, "main"), Transaction(archive, "main")
    one.group.attrs["note"] = "one"
    two.group.attrs["note"] = "two"
    one.commit("one", {})
    with pytest.raises(Conflict, match="another writer"):
        two.commit("two", {})
    assert archive.attrs()["note"] == "one"
