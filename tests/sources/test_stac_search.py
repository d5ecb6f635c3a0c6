"""Searches and lists that go wrong: a static API with faults, catalogs with links, filters."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rangeserver import RangeServer
from stacserver import asset, item

from eoflow.config import settings as process_settings
from eoflow.errors import BadInput
from eoflow.sources.base import AssetTransient
from eoflow.sources.hosts import Access, default_hosts
from eoflow.sources.stac_search import boxes, check_query, listed, matches, overlaps, places, rfc3339, search
from eoflow.times import Period

ITEM = item("i", "2023-05-01T11:00:00Z", {"B04": asset("https://a.org/B04.tif")})
ROOT = {
    "type": "Catalog", "stac_version": "1.0.0", "id": "api", "description": "x",
    "conformsTo": ["https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/item-search",
                   "https://api.stacspec.org/v1.0.0/collections", "https://api.stacspec.org/v1.0.0/item-search#query"],
}  # fmt: skip


def link(rel: str, href: str, **more) -> dict:
    return {"rel": rel, "href": href, "type": "application/json", **more}


def collection(*features: dict, **more) -> dict:
    return {"type": "FeatureCollection", "features": list(features), "links": [], **more}


def write(folder: Path, name: str, found: dict) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(found))


@pytest.fixture
def api(tmp_path, monkeypatch):
    """Answers of a STAC API as files: the landing page `api.json`, one page `search`."""
    pytest.importorskip("pystac_client")
    monkeypatch.setattr(process_settings(), "retries", 2)
    with RangeServer(tmp_path) as server:
        links = [link("self", f"{server.url}/api.json"), link("search", f"{server.url}/search", method="GET"),
                 link("data", f"{server.url}/collections")]  # fmt: skip
        write(tmp_path, "api.json", {**ROOT, "links": links})
        write(tmp_path, "search", collection(ITEM))
        yield server


def found(api: RangeServer, args: dict | None = None, period: Period | None = None) -> list[dict]:
    url = f"{api.url}/api.json"
    return list(search({"api": url, **(args or {})}, period, None, Access(default_hosts(url)).check))


def test_transient_answers_of_the_api(api):
    api.fault("search", 503, times=2)
    assert [i["id"] for i in found(api)] == ["i"]
    api.fault("search", 503, times=3)
    with pytest.raises(AssetTransient, match="HTTP 503"):
        found(api)


@pytest.mark.parametrize("status", [400, 403, 404])
def test_a_refused_search(api, status):
    api.fault("search", status)
    with pytest.raises(BadInput, match=f"HTTP {status}") as e:
        found(api)
    assert e.value.exit_code == 2


def test_the_search_stays_with_the_endpoint(api, tmp_path):
    write(
        tmp_path,
        "search",
        collection(ITEM, links=[link("next", f"http://localhost:{api.url.rpartition(':')[2]}/search")]),
    )
    with pytest.raises(BadInput, match="'localhost:"):
        found(api)
    write(tmp_path, "search", collection(ITEM))
    api.redirects["/search"] = api.url.replace("127.0.0.1", "localhost") + "/other"
    with pytest.raises(BadInput, match="'localhost:"):
        found(api)
    assert not api.requests("other")


def test_something_else_than_an_api(api, tmp_path):
    for text in ("<html>", "[]", "{}", json.dumps({**ROOT, "links": []})):
        (tmp_path / "api.json").write_text(text)
        with pytest.raises(BadInput, match="STAC API"):
            found(api)


def test_pages_and_what_is_sent(api, tmp_path):
    second = item("j", "2023-05-02T11:00:00Z", {})
    write(tmp_path, "search", collection(ITEM, links=[link("next", f"{api.url}/page2")]))
    write(tmp_path, "page2", collection(second))
    args = {"query": {"eo:cloud_cover": {"lt": 5}}, "collections": "c", "limit": 7}
    assert [i["id"] for i in found(api, args, Period.parse("2023-05"))] == ["i", "j"]
    (sent,) = api.requests("search")
    for part in (
        "limit=7",
        "collections=c",
        "2023-05-01T00%3A00%3A00",
        "2023-05-31T23%3A59%3A59.999999",
        "eo%3Acloud_cover",
    ):
        assert part in sent[1]


def test_a_search_without_bounds_is_refused_at_its_first_page(api, tmp_path):
    write(tmp_path, "search", collection(ITEM, numberMatched=10**8, links=[link("next", f"{api.url}/page2")]))
    with pytest.raises(BadInput, match=r"(?s)finds 100000000 items or more; 20000 are allowed.*--area"):
        found(api)
    assert not api.requests("page2")


# -- lists -----------------------------------------------------------------------------------------------------------


def open_list(where, *hosts: str, folder: Path | None = None) -> list[str]:
    access = Access(hosts, [folder] if folder else [])
    return [i["id"] for i, _ in listed(places(where), access.check)]


def test_a_static_catalog_with_relative_links(tmp_path):
    root = [link("child", "./a/collection.json"), link("self", "x"), link("item", "./i.json")]
    below = [link("item", "j.json"), link("root", "../catalog.json"), link("child", "../catalog.json")]
    write(tmp_path, "catalog.json", {"type": "Catalog", "links": root})
    write(tmp_path, "a/collection.json", {"type": "Collection", "links": below})
    write(tmp_path, "i.json", ITEM)
    write(tmp_path, "a/j.json", {**ITEM, "id": "j"})
    assert sorted(open_list(str(tmp_path / "catalog.json"), folder=tmp_path)) == ["i", "j"]
    assert open_list(str(tmp_path / "a/*.json"), folder=tmp_path) == ["j", "i"]  # a loop of links ends
    with RangeServer(tmp_path) as server:
        assert sorted(open_list(f"{server.url}/catalog.json", "127.0.0.1")) == ["i", "j"]


def test_links_of_a_catalog_that_lead_away(tmp_path):
    for href in ("https://evil.example/i.json", "file:///etc/passwd", "../../etc/passwd"):
        write(tmp_path, "in/catalog.json", {"type": "Catalog", "links": [link("item", href)]})
        with pytest.raises(BadInput, match=r"not allow|outside the folder"):
            open_list(str(tmp_path / "in/catalog.json"), folder=tmp_path / "in")
    write(tmp_path, "in/catalog.json", {"type": "Catalog", "links": [link("item", "file:///etc/passwd")]})
    with RangeServer(tmp_path / "in") as server, pytest.raises(BadInput, match="came from elsewhere"):
        open_list(f"{server.url}/catalog.json", "127.0.0.1")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1]", "no STAC item"), ("{", "not JSON"), ('{"type": "Feature"}', "no id or no assets"),
        ('{"type": "FeatureCollection", "features": [1]}', "no id or no assets"), ("\x00\xff", "not JSON"),
    ],
)  # fmt: skip
def test_files_that_are_no_list(tmp_path, text, said):
    (tmp_path / "x.json").write_bytes(text.encode("latin1"))
    with pytest.raises(BadInput, match=said):
        open_list(str(tmp_path / "x.json"), folder=tmp_path)


def test_a_list_that_is_not_there(tmp_path):
    with RangeServer(tmp_path) as server:
        with pytest.raises(BadInput, match="HTTP 404"):
            open_list(f"{server.url}/none.json", "127.0.0.1")
        with pytest.raises(BadInput, match="by http"):
            open_list("s3://bucket/items.json", "s3://bucket")
    with pytest.raises(BadInput, match="no file"):
        places(str(tmp_path / "*.json"))


# -- filters ---------------------------------------------------------------------------------------------------------

lon, lat = st.integers(-180, 180), st.integers(-90, 90)


@given(st.tuples(lon, lat, lon, lat), st.tuples(lon, lat, lon, lat))
@settings(max_examples=30, deadline=None)
def test_overlap_is_that_of_the_points(a, b):
    a, b = ((w, min(s, n), e, max(s, n)) for w, s, e, n in (a, b))

    def points(area) -> set[tuple[int, int]]:
        w, s, e, n = area
        lons = range(w, e + 1) if w <= e else [*range(w, 181), *range(-180, e + 1)]
        return {(x, y) for x in lons for y in range(s, n + 1)}

    assert overlaps(a, b) == bool(points(a) & points(b)) == overlaps(b, a)


def test_boxes():
    assert boxes(None) == [None]
    assert boxes((1, 2, 3, 4)) == [(1, 2, 3, 4)]
    assert boxes((179, -1, -179, 1)) == [(179, -1, 180.0, 1), (-180.0, -1, -179, 1)]


def test_rfc3339():
    assert rfc3339(np.datetime64("2020-06-30T23:59:59.999999999", "ns")) == "2020-06-30T23:59:59.999999Z"


@pytest.mark.parametrize(
    ("query", "yes"),
    [
        ({"c": {"lt": 5}}, True), ({"c": {"lt": 4}}, False), ({"c": {"gte": 4, "lte": 4}}, True),
        ({"d": {"lt": 5}}, False), ({"p": {"in": ["a", "b"]}}, True), ({"p": {"startsWith": "b"}}, False),
        ({"l": {"contains": "VV"}}, True), ({"l": {"eq": ["VV", "VH"]}}, True), ({"p": {"lt": 5}}, False),
        ({"n": {"eq": 1}}, False), ({"p": {"neq": "b"}}, True),
    ],
)  # fmt: skip
def test_queries(query, yes):
    check_query(query)
    assert matches({"properties": {"c": 4, "p": "a", "l": ["VV", "VH"], "n": None}}, query) is yes
