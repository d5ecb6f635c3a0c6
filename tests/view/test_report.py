from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from eoflow.view.report import Page, build, write_report
from eoflow.workspace import Workspace

VOID = {"meta", "img", "br", "link"}


class Checker(HTMLParser):
    """Balanced tags, and the text and attributes that were seen."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(html):
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    return checker


@pytest.fixture(scope="module")
def filled(tmp_path_factory, truth, card):
    """A workspace with an archive that has a gap, a forecast and a scorecard."""
    from eoflow.ingest.run import ingest
    from eoflow.predict import forecast

    folder = tmp_path_factory.mktemp("report")
    ws = Workspace(folder / "workspace")
    part = truth[["msl"]].isel(time=[i for i in range(40) if i not in (20, 21)])
    part.to_netcdf(folder / "toy.nc")
    ingest("toy", [folder / "toy.nc"], workspace=ws)
    forecast("3d", dataset="toy", model="persistence", workspace=ws, init="2001-01-05")
    noted = replace(card, header={**card.header, "notes": ["<script>alert(1)</script>"]})
    ws.write_text(noted.to_json(), "scores", "toy", "scores.json")
    return ws


@pytest.fixture(scope="module")
def html(filled):
    return build(filled, np.datetime64("2001-02-01T06:00"))


def test_report_is_one_page_without_network_or_script(html):
    page = read(html)
    assert "script" not in page.tags
    assert "<script>alert(1)</script>" in "".join(page.text), "shown as text"
    assert not re.search(r"(src|href)=\"(?!data:|#)", html), "nothing is loaded from elsewhere"
    assert "@import" not in html
    assert "http" not in re.sub(r"http-equiv", "", html.split("base64,")[0])


def test_report_shows_coverage_forecast_provenance_and_scores(html, card):
    text = " ".join(read(html).text)
    assert "38 of 40 expected times present (95.00 %); 2 absent at source" in text
    assert "Last forecast: persistence, msl" in text
    assert "Where the last run came from" in text
    assert card.statement("puyun", "z500") in text
    assert "day-of-year" in text or "climatology" in text
    images = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", html)
    assert len(images) == 3
    assert all(base64.b64decode(i).startswith(b"\x89PNG") for i in images)


def test_report_is_written_into_the_workspace(filled):
    where = write_report(filled)
    assert where == str(filled.path("report.html"))
    assert filled.path("report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_a_damaged_scorecard_is_said_and_hides_nothing(filled):
    good = filled.read_text("scores", "toy", "scores.json")
    try:
        filled.write_text("{}", "scores", "toy", "scores.json")
        text = " ".join(read(build(filled)).text)
    finally:
        filled.write_text(good, "scores", "toy", "scores.json")
    assert "this is not a scores.json" in text
    assert "expected times present" in text


def test_empty_workspace_says_what_to_do(workspace):
    text = " ".join(read(build(workspace)).text)
    assert "eoflow demo" in text


def test_page_escapes_everything():
    evil = '<evil a="1">&'
    page = Page(evil, evil)
    page.section(evil, evil)
    page.heading(evil)
    page.text(evil, error=True)
    page.lines([evil])
    page.code(evil)
    page.table((evil,), [(evil,), ((evil, evil, True),)], numeric=(0,))
    page.pairs({evil: "x", "y": evil})
    checker = read(page.html())
    assert "evil" not in checker.tags
    assert checker.text.count(evil) == 16  # the title and the section's title stand twice
