from __future__ import annotations

import dask
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eoflow.errors import BadInput
from eoflow.prepare import statistics, stattable
from eoflow.prepare.moments import PARTS, Moments
from eoflow.prepare.normalize import stack
from eoflow.prepare.reading import blocks
from eoflow.prepare.statistics import update
from eoflow.times import Period


def expected(ds, schema, weights=None):
    """Plain numpy over the whole arrays: (field, change) moments."""
    x = stack(ds, schema).astype(np.float64)
    w = None if weights is None else weights[:, None]
    return Moments.of(x, axis=(0, 2, 3), weights=w), Moments.of(np.diff(x, axis=0), axis=(0, 2, 3), weights=w)


def agree(stats, pair, rtol=1e-6):
    for mine, right in zip((stats.field, stats.tendency), pair, strict=True):
        for part in PARTS:
            a, b = getattr(mine, part), getattr(right, part)
            np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6 * np.abs(right.std).max(), err_msg=part)


@pytest.fixture
def reads(monkeypatch):
    """Which (start, stop) blocks were read."""
    seen = []
    real = statistics.piece_moments

    def spy(group, schema, start, stop, *rest):
        seen.append((start, stop))
        return real(group, schema, start, stop, *rest)

    monkeypatch.setattr(statistics, "piece_moments", spy)
    return seen


def test_against_numpy(make_archive, world):
    ds = world(50)
    archive = make_archive(ds)
    stats = update(archive, "2001-01-01/2001-01-09T18")
    part = ds.sel(time=slice("2001-01-01", "2001-01-09T18"))
    agree(stats, expected(part, archive.schema))
    assert stats.channels == ("z500", "z850", "msl")
    assert stats.times == part.sizes["time"] == 36
    np.testing.assert_allclose(stats.field.std[2], part.msl.values.astype("f8").std(), rtol=1e-9)


def test_area_weights_and_transforms(make_archive, world):
    ds = world(20)
    ds["tp"] = abs(ds["msl"] - 101325).assign_attrs(units="m") * 1e-5
    archive = make_archive(ds)
    stats = update(archive, "2001", area_weighted=True)
    agree(stats, expected(ds, archive.schema, archive.schema.grid.area_weights()))
    rooted = update(archive, "2001", transforms={"tp": "sqrt"})
    i = rooted.channels.index("tp")
    np.testing.assert_allclose(rooted.field.mean[i], np.sqrt(ds.tp.values.astype("f8")).mean(), rtol=1e-5)
    np.testing.assert_allclose(rooted.field.mean[rooted.channels.index("msl")], ds.msl.values.astype("f8").mean())
    with pytest.raises(BadInput, match="did you mean 'sqrt'"):
        update(archive, "2001", transforms={"tp": "sqr"})


def test_a_period_that_ends_at_midnight_ends_there(make_archive, world, put):
    ds = world(30)
    archive = make_archive(ds)
    span = Period(np.datetime64("2001-01-02", "ns"), np.datetime64("2001-01-05T00:00", "ns"))
    update(archive, span)
    ds["z"][5] += 10.0
    put(archive, ds.isel(time=[5]))
    agree(update(archive, span), expected(ds.sel(time=slice(span.start, span.end)), archive.schema))


def test_append_reads_only_new_times(make_archive, world, put, reads):
    ds = world(60)
    archive = make_archive(ds.isel(time=slice(0, 40)))
    update(archive, "2001")
    assert reads == [(0, 40)]
    reads.clear()
    assert update(archive, "2001").times == 40
    assert reads == []
    put(archive, ds.isel(time=slice(40, 60)))
    stats = update(archive, "2001")
    assert reads == [(40, 60)]
    agree(stats, expected(ds, archive.schema))


def test_rewrite_subtracts_the_old_values(make_archive, world, put, reads):
    ds = world(60)
    archive = make_archive(ds)
    before = update(archive, "2001")
    reads.clear()
    changed = ds.copy(deep=True)
    changed["z"][7] += 9000.0  # carries the maximum away with it when it is put right again
    put(archive, changed.isel(time=[7]))
    stats = update(archive, "2001")
    assert reads == [(7, 9)]
    agree(stats, expected(changed, archive.schema))
    put(archive, ds.isel(time=[7]))
    agree(update(archive, "2001"), expected(ds, archive.schema))
    assert update(archive, "2001").hash == before.hash


def test_rollback_and_front_extension(make_archive, world, put):
    ds = world(60)
    archive = make_archive(ds.isel(time=slice(20, 40)))
    first = archive.history()[0].id
    update(archive, "2001")
    put(archive, ds)
    agree(update(archive, "2001"), expected(ds, archive.schema))
    archive.rollback(first)
    agree(update(archive, "2001"), expected(ds.isel(time=slice(20, 40)), archive.schema))


def test_gaps_and_periods_count_only_inside_pairs(make_archive, world):
    ds = world(40)
    archive = make_archive(ds, skip=(5, 6, 20))
    stats = update(archive, "2001-01-03/2001-01-06T18")
    inside = np.flatnonzero(
        (ds.time.values >= np.datetime64("2001-01-03")) & (ds.time.values < np.datetime64("2001-01-07"))
    )
    holed = ds.copy(deep=True)
    for name in ("z", "msl"):
        holed[name][[5, 6, 20]] = np.nan
    agree(stats, expected(holed.isel(time=inside), archive.schema))
    assert stats.times == inside.size - 1
    # a wider period afterwards: the summary that is already there stays right
    agree(update(archive, "2001"), expected(holed, archive.schema))
    agree(update(archive, "2001-01-03/2001-01-06T18"), expected(holed.isel(time=inside), archive.schema))
    with pytest.raises(BadInput, match="no data"):
        update(archive, "1990")


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**31))
def test_any_history_of_writes_ends_at_the_statistics_of_what_is_stored(make_archive, world, put, tmp_path, seed):
    rng = np.random.default_rng(seed)
    ds = world(24, ny=3, nx=4, seed=seed)
    have = int(rng.integers(4, 12))
    archive = make_archive(
        ds.isel(time=slice(0, have)), name=f"w{seed}-{rng.integers(1 << 30)}-{len(list(tmp_path.rglob('*')))}"
    )
    periods = ["2001", "2001-01-01T12/2001-01-03"]
    for _ in range(3):
        if rng.random() < 0.5 and have < 24:
            more = min(24, have + int(rng.integers(1, 8)))
            put(archive, ds.isel(time=slice(have, more)))
            have = more
        else:
            i = int(rng.integers(have))
            ds = ds.copy(deep=True)
            ds["z"][i] += rng.normal() * 1000
            put(archive, ds.isel(time=[i]))
        update(archive, periods[int(rng.integers(2))])
    now = ds.isel(time=slice(0, have))
    agree(update(archive, "2001"), expected(now, archive.schema))
    agree(update(archive, periods[1]), expected(now.sel(time=slice("2001-01-01T12", "2001-01-03")), archive.schema))


def test_memory_is_a_block_not_the_archive(make_archive, world, monkeypatch):
    ds = world(200)
    archive = make_archive(ds)
    sizes = []
    real = statistics.read_block

    def spy(group, schema, start, stop):
        sizes.append(stop - start)
        return real(group, schema, start, stop)

    monkeypatch.setattr(statistics, "read_block", spy)
    monkeypatch.setattr(stattable.Table, "time_chunk", staticmethod(lambda group, schema: 8))
    monkeypatch.setattr(statistics, "blocks", lambda rows, schema, align: blocks(rows, schema, align, 16 * 4 * 3 * 60))
    with dask.config.set(scheduler="threads", num_workers=2):
        stats = update(archive, "2001")
    assert max(sizes) <= 17
    assert len(sizes) >= 12
    agree(stats, expected(ds, archive.schema))


def test_statistics_do_not_show_in_the_history_but_in_the_store(make_archive, world):
    archive = make_archive(world(10))
    commits = [c.id for c in archive.history()]
    update(archive, "2001")
    assert [c.id for c in archive.history()] == commits
    opened = archive.open(group="statistics/plain")
    assert opened.moments.dims == ("time", "of", "part", "channel")
    assert opened.attrs["channels"] == ["z500", "z850", "msl"]


def test_another_writer_of_statistics_is_not_lost(make_archive, world, monkeypatch):
    ds = world(30)
    archive = make_archive(ds)
    real = stattable.Table.save
    inner = []

    def save(self, archive_, change, span):
        if not inner:
            inner.append(1)
            update(archive_, "2001-01-02/2001-01-03")
        return real(self, archive_, change, span)

    monkeypatch.setattr(stattable.Table, "save", save)
    agree(update(archive, "2001"), expected(ds, archive.schema))
    part = ds.sel(time=slice("2001-01-02", "2001-01-03"))
    agree(update(archive, "2001-01-02/2001-01-03"), expected(part, archive.schema))
