from __future__ import annotations

import numpy as np

from eoflow.ingest.ledger import Ledger, Status
from eoflow.times import Cadence


def day(n):
    return np.datetime64("2001-01-01", "ns") + np.asarray(n) * np.timedelta64(86400 * 10**9, "ns")


def test_cover_keeps_what_is_known():
    ledger = Ledger.empty().cover(day([5, 7]), Cadence("1d"))
    ledger.mark(day([5]), Status.PRESENT, asset="a", digest=np.uint64(2**63 + 1), nan_fraction=0.25, now=day(9))
    wider = ledger.cover(day([2, 9]), Cadence("1d"))
    np.testing.assert_array_equal(wider.times, day(range(2, 10)))
    np.testing.assert_array_equal(wider.status_at(day([1, 2, 5, 6, 99])), [0, 0, 1, 0, 0])
    assert wider.digest_at(day([5]))[0] == np.uint64(2**63 + 1)
    assert wider.asset[3] == "a"
    assert wider.cover(day([3]), Cadence("1d")) is wider


def test_months():
    ledger = Ledger.empty().cover(np.array(["2001-01-01", "2001-12-01"], "datetime64[ns]"), Cadence("1mo"))
    assert ledger.times.size == 12


def test_ranges_widen():
    ledger = Ledger.empty()
    ledger.note_range("t", 1.0, 2.0, 1.5, 0.1)
    ledger.note_range("t", 0.0, 1.5, 2.5, 0.1)
    low, high, rms = ledger.ranges["t"]
    assert (low, high) == (0.0, 2.0)
    np.testing.assert_allclose(rms, 1.6)
