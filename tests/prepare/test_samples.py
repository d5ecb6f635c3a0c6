from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eoflow.prepare import samples
from eoflow.prepare.samples import SampleIndex, epoch_order


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 40), st.integers(1, 6), st.integers(0, 100))
def test_windows_are_all_and_only_the_whole_consecutive_ones(seed, n, length, offset):
    rng = np.random.default_rng(seed)
    steps = np.cumsum(1 + (rng.random(n) < 0.2)).astype(np.int64)
    usable = rng.random(n) > 0.15
    index = SampleIndex(steps, usable, offset)
    by_hand = [
        i + offset
        for i in range(n - length + 1)
        if usable[i : i + length].all() and (np.diff(steps[i : i + length]) == 1).all()
    ]
    np.testing.assert_array_equal(index.starts(length), by_hand)
    rows = [r for a, b in index.segments() for r in range(a, b)]
    np.testing.assert_array_equal(rows, np.flatnonzero(usable) + offset)
    windows_in_segments = sum(max(0, b - a - length + 1) for a, b in index.segments())
    assert windows_in_segments == len(by_hand)


def test_length_below_one():
    with pytest.raises(ValueError, match="at least one"):
        SampleIndex(np.arange(3), np.ones(3, bool)).starts(0)


def test_epoch_order_is_complete_deterministic_and_pooled(monkeypatch):
    monkeypatch.setattr(samples, "POOL_BYTES", 3 * 10 * 8)
    starts = np.r_[np.arange(0, 95), np.arange(100, 143)]
    pools = epoch_order(starts, shard=10, row_bytes=8, seed=1, epoch=0)
    order = np.concatenate(pools)
    np.testing.assert_array_equal(np.sort(order), np.arange(starts.size))
    for pool in pools:
        assert len(np.unique(starts[pool] // 10)) <= 3
        assert (np.diff(pool) != 1).any()
    again = np.concatenate(epoch_order(starts, 10, 8, 1, 0))
    np.testing.assert_array_equal(order, again)
    assert (order != np.concatenate(epoch_order(starts, 10, 8, 1, 1))).any()
    assert (order != np.concatenate(epoch_order(starts, 10, 8, 2, 0))).any()
    monkeypatch.setattr(samples, "POOL_BYTES", 1 << 30)
    assert len(epoch_order(starts, 10, 8, 1, 0)) == 1
    assert epoch_order(np.empty(0, np.int64), 10, 8, 0, 0) == []
