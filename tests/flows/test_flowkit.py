from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from eoflow.errors import BadInput, Failure
from eoflow.flowkit import is_transient, markdown
from eoflow.sources.base import AssetCorrupt, AssetTransient


class Flagged(Failure):
    transient = True


def chained(outer: Exception, inner: Exception) -> Exception:
    try:
        try:
            raise inner
        except Exception as e:
            raise outer from e
    except Exception as e:
        return e


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (AssetTransient("503"), True),
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (Flagged("busy"), True),
        (chained(Failure("no luck"), ConnectionRefusedError()), True),
        (BadInput("wrong name"), False),
        (AssetCorrupt("truncated"), False),
        (Failure("no space"), False),
        (FileNotFoundError(), False),
        (None, False),
    ],
)
def test_only_transient_errors_are_tried_again(error: Exception | None, again: bool):
    assert is_transient(error) is again


@dataclass
class Row:
    lead: int
    rmse: float


@dataclass
class Report:
    dataset: str = "a|b"
    new: int = 3
    rows: list[Row] = field(default_factory=lambda: [Row(24, 1.23456), Row(48, 2.0)])
    nothing: list[str] = field(default_factory=list)


def test_markdown_has_a_table_of_values_and_of_rows():
    text = markdown("Ingest of a", Report())
    assert text.startswith("# Ingest of a\n")
    assert "| dataset | a\\|b |" in text
    assert "| new | 3 |" in text
    assert "## rows\n\n| lead | rmse |\n| --- | --- |\n| 24 | 1.235 |\n| 48 | 2 |" in text


def test_markdown_is_bounded():
    text = markdown("Ingest", {"problems": [{"time": i} for i in range(5000)]})
    assert len(text) < 2000
    assert "... and 4950 more" in text
