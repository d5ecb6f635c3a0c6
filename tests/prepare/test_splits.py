from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eoflow.catalog import DatasetEntry
from eoflow.errors import BadInput
from eoflow.prepare.splits import Splits, check, choose, window_gap
from eoflow.times import Period

DAY = np.timedelta64(86400 * 10**9, "ns")


def days(n: int, start: str = "2001-01-01"):
    return np.datetime64(start, "ns") + np.arange(n) * DAY


def entry(**splits) -> DatasetEntry:
    return DatasetEntry(
        name="x",
        title="x",
        source={"driver": "netcdf"},
        schedule={"start": "2001-01-01", "cadence": "1d"},
        splits=splits or None,
    )  # type: ignore[arg-type]


def test_default_fractions_and_gap():
    t = days(1000)
    s = choose(t, "1d")
    counts = [int(p.contains(t).sum()) for _, p in s.items()]
    assert counts == [720, 130, 130]
    assert s.test is not None
    second = np.timedelta64(1, "s")
    assert s.valid.start - s.train.end == s.test.start - s.valid.end == 10 * DAY + second
    assert s.test.end == t[-1] + DAY - second
    # as text, as checkpoints keep them, the periods hold the same times
    assert [int(Period.parse(str(p)).contains(t).sum()) for _, p in s.items()] == counts
    check(s, "1d", window=12, gap=10 * DAY)


@settings(max_examples=30, deadline=None)
@given(st.integers(12, 400), st.integers(1, 8), st.booleans(), st.integers(0, 2**31))
def test_no_two_splits_share_a_window(n, window, given_period, seed):
    rng = np.random.default_rng(seed)
    t = np.sort(rng.choice(days(2 * n), n, replace=False))
    try:
        s = choose(
            t, "1d", None, f"{str(t[n // 10])[:10]}/{str(t[-n // 10])[:10]}" if given_period else None, window=window
        )
    except BadInput:
        return
    sets = [set(t[p.contains(t)]) for _, p in s.items()]
    assert all(len(x) >= window for x in sets)
    for i, a in enumerate(sets):
        assert not any(a & b for b in sets[i + 1 :])
    check(s, "1d", window)


def test_train_period_holds_training_and_validation_and_leaves_the_rest_alone():
    t = days(4000)
    s = choose(t, "1d", None, "2002/2005")
    assert s.test is None
    assert s.train.start == np.datetime64("2002-01-01")
    assert s.valid.end == np.datetime64("2005-12-31T23:59:59")
    assert s.valid.start - s.train.end >= 10 * DAY
    # the entry's own validation period is taken where it lies apart
    own = entry(train="2001/2003", valid="2008", test="2009")
    assert str(choose(t, "1d", own, "2002/2005").valid) == str(Period.parse("2008"))
    assert choose(t, "1d", own, "2002/2008-06").valid.end == np.datetime64("2008-06-30T23:59:59")
    assert choose(t, "1d", own) == Splits.from_dict({"train": "2001/2003", "valid": "2008", "test": "2009"})


def test_bad_periods():
    t = days(4000)
    with pytest.raises(BadInput, match=r"training period holds 0 times(.|\n)*2001-01-01/"):
        choose(t, "1d", None, "1990/1991")
    with pytest.raises(BadInput, match="overlap"):
        choose(t, "1d", entry(train="2001/2005", valid="2005/2006"))
    with pytest.raises(BadInput, match="valid period holds 0 times"):
        choose(t, "1d", entry(train="2001/2005", valid="2050"))
    with pytest.raises(BadInput, match="too few to train"):
        choose(t[:5], "1d")
    with pytest.raises(BadInput, match="shorter than one sample of 40 steps"):
        check(choose(days(100), "1d"), "1d", window=40)
    with pytest.raises(BadInput, match="lie only"):
        check(choose(t, "1d"), "1d", gap=20 * DAY)
    with pytest.raises(BadInput, match="no split 'tset'"):
        choose(t, "1d").period("tset")


def test_round_trip_and_months():
    s = choose(days(500), "1d")
    assert Splits.from_dict(s.to_dict()) == s
    months = np.arange("1950-01", "2000-01", dtype="datetime64[M]").astype("datetime64[ns]")
    m = choose(months, "1mo")
    assert m.valid.start - m.train.end >= 31 * DAY
    assert window_gap("1mo", 3) == 93 * DAY
    assert window_gap("6h", 100) == 25 * DAY
