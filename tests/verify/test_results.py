from __future__ import annotations

import pytest

from eoflow.errors import BadInput
from eoflow.verify.results import Comparison, Row, Scorecard, days


def curve(better, baselines=("persistence", "climatology"), leads=(24, 48, 72, 96), also=()):
    """A scorecard in which `net` is significantly better at the leads marked True."""
    rows = [Row("d", m, "z500", float(h), "rmse", 1.0, 0.9, 1.1, 20) for m in ("net", *baselines) for h in leads]
    pairs = [
        Comparison("net", b, "z500", float(h), "rmse", -0.1, -0.2, -0.05 if ok else 0.05, 0.9, ok, False, 20)
        for b in baselines
        for h, ok in zip(leads, better)
    ]
    return Scorecard(rows, pairs)


@pytest.mark.parametrize(
    ("better", "until"),
    [
        ((True, True, False, False), 48),
        ((True, True, True, True), 96),
        ((True, False, True, True), 24),
        ((False, True, True, False), 72),
        ((False, False, False, False), None),
    ],
)
def test_skilful_until_is_the_end_of_the_first_unbroken_run(better, until):
    assert curve(better).skilful_until("net", "z500") == until


def test_statements():
    text = curve((True, True, False, False)).statement("net", "z500")
    assert text == (
        "z500: skilful to day 2 (better than persistence and climatology, 95 %); "
        "day 3 and later not better than persistence or climatology"
    )
    assert "not skilful at any lead" in curve((False,) * 4).statement("net", "z500")
    assert "from day 2 to day 3" in curve((False, True, True, False)).statement("net", "z500")
    assert "no baseline" in curve((True,) * 4, baselines=()).statement("net", "z500")
    assert curve((True,) * 4).statement("net", "z500").endswith("95 %)")


def test_both_baselines_must_be_beaten():
    card = curve((True, True, False, False), baselines=("persistence",))
    both = Scorecard([*card.rows, Row("d", "climatology", "z500", 24.0, "rmse", 0.5, 0.4, 0.6, 20)], card.comparisons)
    assert card.skilful_until("net", "z500") == 48
    assert both.skilful_until("net", "z500") is None


def test_skill_and_names(card):
    skill = card.skill("good", "persistence", "msl")
    assert list(skill) == [12, 24, 48]
    assert all(c.better and c.ratio < 1 for c in skill.values())
    with pytest.raises(BadInput, match="no variable 'z50'"):
        card.skill("good", "persistence", "z50")
    assert len(card.statements("good")) == 3


def test_days():
    assert [days(h) for h in (6, 24, 36, 54, 240)] == ["6 h", "day 1", "36 h", "day 2.25", "day 10"]
