from __future__ import annotations

import pytest

from eoflow.errors import BadInput
from eoflow.verify.gate import check
from eoflow.verify.results import Comparison, Row, Scorecard


def made(differences, metric="rmse", low=None):
    """A scorecard of one lead with the given (difference, half width) by variable; the baseline scores 1."""
    rows, pairs = [], []
    sign = 1 if metric == "rmse" else -1
    for name, (d, half) in differences.items():
        rows += [Row("d", m, name, 24.0, metric, v, v, v, 20) for m, v in (("net", 1 + d), ("persistence", 1.0))]
        lo, hi = (d - half, d + half) if low is None else (None, None)
        better, worse = (
            (False, False) if low is not None else (max(sign * lo, sign * hi) < 0, min(sign * lo, sign * hi) > 0)
        )
        pairs.append(Comparison("net", "persistence", name, 24.0, metric, d, lo, hi, 1 + d, better, worse, 20))
    return Scorecard(rows, pairs)


@pytest.mark.parametrize(
    ("differences", "passed", "word"),
    [
        ({"z500": (-0.3, 0.1), "msl": (-0.2, 0.1)}, True, "2 of 2"),
        ({"z500": (-0.3, 0.1), "msl": (0.02, 0.1)}, True, "1 of 2"),
        ({"z500": (-0.3, 0.1), "msl": (0.3, 0.1)}, False, "worse in msl"),
        ({"z500": (-0.05, 0.1)}, False, "not better in any"),
        ({"a": (-0.3, 0.1), "b": (0.0, 0.1), "c": (0.0, 0.1)}, False, "only 1 of 3"),
        ({"a": (-0.02, 0.01), "b": (0.1, 0.2)}, False, "on average"),
    ],
)
def test_gate_rules(differences, passed, word):
    result = check(made(differences), "net", lead="1d")
    assert result.passed is passed
    assert bool(result) is passed
    assert word in result.why


def test_higher_is_better_for_correlations():
    assert check(made({"z500": (0.2, 0.1)}, metric="acc"), "net", metric="acc", lead=24)
    assert not check(made({"z500": (-0.2, 0.1)}, metric="acc"), "net", metric="acc", lead=24)


def test_no_interval_no_promotion():
    result = check(made({"z500": (-0.9, 0)}, low=True), "net")
    assert not result
    assert "too few" in result.why


def test_unknown_names_and_leads(card):
    with pytest.raises(BadInput, match="did you mean 'good'"):
        check(card, "god")
    with pytest.raises(BadInput, match="12 h, 24 h, 48 h"):
        check(card, "good", lead="6h")


def test_a_real_scorecard_passes_the_good_model_and_fails_the_climatology(card):
    assert check(card, "good", "persistence", "rmse", "1d")
    assert card.compare("good", "climatology", "msl", 24, "acc") is None, "the climatology has no anomaly correlation"
    assert not check(card, "climatology", "persistence", "rmse", "12h")
