from __future__ import annotations

import io

import pytest
from rich.console import Console

from eoflow.errors import BadInput
from eoflow.view import tables


def text(*renderables, width=140):
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None)
    for r in renderables:
        console.print(r)
    return out.getvalue()


def test_scorecard_shows_values_intervals_activity_and_the_best(card):
    shown = text(*tables.scorecard_tables(card))
    row = card.get("puyun", "z500", 24, "rmse")
    assert f"*{tables.number(row.value)}" in shown
    assert f"{tables.number(row.low)} to {tables.number(row.high)}" in shown
    assert f"a {card.get('puyun', 'z500', 24, 'activity_ratio').value:.2f}" in shown
    for word in ("z500: RMSE (m2 s-2)", "z850", "msl: RMSE (Pa)", "day 5", "12 h", "cell", "climatology"):
        assert word in shown


def test_scorecard_of_another_metric_marks_the_highest(card):
    shown = text(*tables.scorecard_tables(card, metric="acc", variables=["msl"]))
    assert "msl: ACC" in shown
    assert "(Pa)" not in shown
    assert f"*{tables.number(card.get('puyun', 'msl', 24, 'acc').value)}" in shown
    with pytest.raises(BadInput, match="did you mean 'rmse'"):
        tables.scorecard_tables(card, metric="rms")


@pytest.mark.parametrize(
    ("leads", "shown"),
    [
        ([6, 12, 18], [6, 12, 18]),
        (range(6, 241, 6), [6, 24, 48, 72, 120, 168, 240]),
        (range(24, 241, 24), [24, 48, 72, 120, 168, 240]),
        (range(24, 361, 24), [24, 48, 72, 120, 168, 240, 360]),
        (range(1, 20), [1, 4, 7, 10, 13, 16, 19]),
    ],
)
def test_shown_leads(leads, shown):
    assert tables.shown_leads(leads) == shown


def test_scores_table_of_plain_rows(card):
    rows = [r for r in card.row_dicts() if r["metric"] == "rmse"]
    shown = text(tables.scores_table(rows, "validation [x]", channels=1))
    assert "validation [x]" in shown
    assert "z500" in shown
    assert "and 2 more variables" in shown
    assert "persistence" in shown
    assert text(tables.scores_table([], "empty"))


def test_rows_and_datasets_tables_keep_brackets_and_lists():
    rows = [{"name": "a[b]", "n": 3, "models": ["x", "y"], "ok": True, "v": 1.23456}, {"name": "c", "n": 4, "ok": None}]
    shown = text(tables.rows_table(rows, "t"))
    for word in ("a[b]", "x, y", "yes", "1.235"):
        assert word in shown
    assert "nothing yet" in text(tables.rows_table([]))
    entry = {
        "name": "era5",
        "title": "ERA5 [WB2]",
        "driver": "zarr",
        "cadence": "6h",
        "licence": "CC",
        "ingested": True,
    }
    shown = text(tables.datasets_table([entry]))
    assert "ERA5 [WB2]" in shown
    assert "ingested" in shown


def test_numbers():
    assert [tables.number(x) for x in (1234.5, 12.345, 0.01234, 1e-5, 0, None)] == [
        "1234",
        "12.3",
        "0.0123",
        "1.0e-05",
        "0",
        "-",
    ]
