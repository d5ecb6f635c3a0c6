from __future__ import annotations

import json

import numpy as np
import pytest

from eoflow.ingest.gaps import find
from eoflow.ingest.ledger import Ledger, Status
from eoflow.times import Cadence


def day(n):
    return np.datetime64("2001-01-01", "ns") + np.asarray(n) * np.timedelta64(86400 * 10**9, "ns")


@pytest.fixture
def ledger():
    ledger = Ledger.empty().cover(day([10, 29]), Cadence("1d"))
    ledger.mark(day(range(10, 30)), Status.PRESENT, now=day(40))
    ledger.mark(day([15, 16]), Status.FAILED, reason="truncated", now=day(40))
    ledger.mark(day([17]), Status.FAILED, reason="404", now=day(40))
    ledger.mark(day([20]), Status.ABSENT_AT_SOURCE, reason="not listed", now=day(40))
    return ledger


def test_grouped_by_cause(ledger):
    g = find("d", day(range(35)), ledger)
    assert [(x.count, x.status.word, x.reason) for x in g.ranges] == [
        (10, "never tried", ""),
        (2, "failed", "truncated"),
        (1, "failed", "404"),
        (1, "absent at source", "not listed"),
        (5, "never tried", ""),
    ]
    assert g.ranges[1].to_dict() == {
        "start": "2001-01-16",
        "end": "2001-01-17",
        "count": 2,
        "cause": "failed",
        "reason": "truncated",
    }
    assert sum(x.count for x in g.ranges) + g.count(Status.PRESENT) == g.expected == 35
    assert g.fraction == pytest.approx(16 / 35)  # of what is expected, not of what was seen
    assert "16 of 35 expected times present (45.71 %)" in g.summary()
    json.dumps(g.to_dict())
    assert g.table().row_count == 5


def test_picture(ledger):
    g = find("d", day(range(35)), ledger)
    assert g.picture(100) == "·" * 10 + "█" * 5 + "xxx" + "██" + "·" + "█" * 9 + "·" * 5
    assert len(g.picture(7)) == 7
    assert find("d", day([]), ledger).lines() == ["d: nothing is expected yet"]


def test_a_cell_that_lacks_one_time_is_not_full():
    ledger = Ledger.empty().cover(day([0, 999]), Cadence("1d"))
    ledger.mark(day(range(1, 1000)), Status.PRESENT, now=day(0))
    g = find("d", day(range(1000)), ledger)
    assert g.picture(2) == "▇█"
    assert "99.90 %" in g.summary()
