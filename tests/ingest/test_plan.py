from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from eoflow.catalog import Schedule
from eoflow.ingest import plan
from eoflow.ingest.ledger import Ledger, Status
from eoflow.sources.base import Asset
from eoflow.times import Cadence, Period

DAILY = Schedule(start="2001-01-01", cadence="1d", delay="1d")


def day(n):
    return np.datetime64("2001-01-01", "ns") + np.asarray(n) * np.timedelta64(86400 * 10**9, "ns")


def a_ledger(**status):
    ledger = Ledger.empty().cover(day([0, 9]), Cadence("1d"))
    ledger.mark(day(range(10)), Status.PRESENT, now=day(20))
    for word, days in status.items():
        ledger.mark(day(days), Status[word.upper()], now=day(20))
    return ledger


def test_wanted():
    ledger, axis = a_ledger(failed=[3], partial=[4], absent_at_source=[9]), day(range(9))
    now = day(15)

    def days(**kw):
        return ((plan.wanted(DAILY, ledger, axis, now, **kw) - day(0)) // np.timedelta64(1, "D")).astype(int).tolist()

    assert days() == [9, 10, 11, 12, 13, 14]  # the delay of a day
    assert days(backfill=True) == [3, 4, 9]
    assert days(period=Period.parse("2001-01-02/2001-01-12")) == [3, 4, 9, 10, 11]
    assert days(period=Period.parse("2001-01-02/2001-01-06"), rewrite=True) == [1, 2, 3, 4, 5]
    assert len(days(rewrite=True)) == 15
    assert plan.wanted(DAILY, Ledger.empty(), day([])[:0], now).size == 15
    assert plan.wanted(DAILY, Ledger.empty(), day([])[:0], now, backfill=True).size == 0


def test_share():
    assets = [Asset("a", day([0, 1, 2])), Asset("b", day([2, 3])), Asset("unused", day([1])), Asset("c", day([7]))]
    s = plan.share(day([1, 2, 3, 5, 7]), assets)
    assert [a.id for a in s.assets] == ["a", "b", "c"]
    np.testing.assert_array_equal(s.giver, [0, 0, 1, -1, 2])
    np.testing.assert_array_equal(s.absent(), day([5]))


@settings(max_examples=30, deadline=None)
@given(
    index=st.lists(st.integers(0, 300), min_size=1, max_size=80, unique=True).map(sorted),
    steps=st.sampled_from([1, 4, 16, 64]),
    per=st.integers(1, 9),
    step_mib=st.integers(1, 100),
)
def test_batches_cover_everything_once(index, steps, per, step_mib):
    index = np.array(index)
    giver = index // per
    step_bytes = step_mib * 2**20
    cuts = list(plan.batches(index, giver, steps, step_bytes))
    np.testing.assert_array_equal(np.concatenate(cuts), np.arange(index.size))
    for cut in cuts:
        assert np.unique(giver[cut]).size <= plan.BATCH_ASSETS
        assert (index[cut[-1]] - index[cut[0]] + 1) * step_bytes <= max(plan.BATCH_BYTES, steps * step_bytes)
    for a, b in itertools.pairwise(cuts):  # no chunk of times in two batches
        assert index[a[-1]] // steps != index[b[0]] // steps


def test_many_small_assets_are_cut():
    index = np.arange(1000)
    assert [c.size for c in plan.batches(index, index, 4096, 100)] == [128] * 7 + [104]
