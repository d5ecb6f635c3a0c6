"""Where items come from: a search at a STAC API (pystac-client), or a list: item collection, items, static catalog."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from eoflow.config import settings
from eoflow.errors import BadInput, EoflowError, MissingExtra
from eoflow.sources.base import Area, AssetTransient
from eoflow.sources.files import expand
from eoflow.sources.hosts import join
from eoflow.sources.raster_http import TIMEOUT_S, bare
from eoflow.sources.signing import fetch_json
from eoflow.times import Period

Json = dict[str, Any]
Check = Callable[[str], None]
PAGE = 100
LARGEST_SEARCH = 20_000
LARGEST_LIST = 2**30
DEEPEST = 10_000
TRANSIENT = (429, 500, 502, 503, 504)


def boxes(area: Area | None) -> list[Area | None]:
    """An area as boxes that servers agree on: cut in two where it crosses the antimeridian (west > east)."""
    if area is None or area[0] <= area[2]:
        return [area]
    west, south, east, north = area
    return [(west, south, 180.0, north), (-180.0, south, east, north)]


def overlaps(a: Area, b: Area) -> bool:
    """Whether two areas share a point; either may cross the antimeridian."""

    def one(p: Area, q: Area) -> bool:
        return p[0] <= q[2] and q[0] <= p[2] and p[1] <= q[3] and q[1] <= p[3]

    return any(one(p, q) for p in boxes(a) if p for q in boxes(b) if q)


def rfc3339(time: np.datetime64) -> str:
    """datetime64 -> `2020-06-01T00:00:00.000000Z`."""
    return f"{np.datetime_as_string(time, unit='us')}Z"


def search(args: Json, period: Period | None, area: Area | None, check: Check) -> Iterator[Json]:
    """Items of an API, page after page; an item may come twice (two boxes).

    Raises AssetTransient (no connection, after the retries) or BadInput (refused, unknown collection).
    """
    try:
        import pystac_client  # noqa: F401
        from pystac_client.exceptions import APIError
    except ImportError as e:
        raise MissingExtra("pystac-client", "stac") from e
    url = str(args["api"])
    try:
        client = _open(url, check)
        able = _abilities(client)
        if args.get("filter") is not None and "FILTER" not in able:
            raise BadInput(
                "the API does not say that it can filter (CQL2)", where="source.args.filter",
                todo="use  query: {property: {operator: value}}, which is applied here too",
            )  # fmt: skip
        options: dict[str, Any] = {
            "collections": texts(args.get("collections")) or None, "ids": texts(args.get("ids")) or None,
            "query": args.get("query") if "QUERY" in able else None,
            "filter": args.get("filter"), "filter_lang": args.get("filter_lang"),
            "limit": int(args.get("limit", PAGE)),
            "datetime": None if period is None else f"{rfc3339(period.start)}/{rfc3339(period.end)}",
        }  # fmt: skip
        # a link that names no method is for GET; POST is better, long filters fit into it
        methods = {str(link.to_dict().get("method", "GET")).upper() for link in client.get_links("search")}
        options["method"] = "GET" if methods == {"GET"} else "POST"
        found = 0
        for box in boxes(area) if args.get("intersects") is None else [None]:
            where: dict[str, Any] = (
                {"intersects": args["intersects"]} if args.get("intersects") is not None else {"bbox": box}
            )
            for page in client.search(**options, **where).pages_as_dicts():
                matched = page.get("numberMatched") or (page.get("context") or {}).get("matched") or 0
                found += len(page.get("features") or ())
                _require_few(max(found, int(matched)), int(args.get("max_items", LARGEST_SEARCH)), url)
                yield from page.get("features") or ()
        if not found:
            _require_collections(client, options["collections"] or (), url)
    except APIError as e:
        raise _api_error(e, url) from None
    except EoflowError:
        raise
    except Exception as e:  # what the client raises depends on how the answer is wrong
        raise BadInput(
            f"the API does not answer as a STAC API does: {type(e).__name__}: {e}", where=bare(url),
            todo="give the landing page of the API, for example https://earth-search.aws.element84.com/v1",
        ) from e  # fmt: skip


def _abilities(client: Any) -> set[str]:
    """Which extensions of item search the API declares. What it does not know, it would ignore in silence."""
    from pystac_client import ConformanceClasses as Classes

    return {name for name in ("QUERY", "FILTER") if client.conforms_to(Classes[name])}


def _require_few(found: int, most: int, url: str) -> None:
    """Raise BadInput for a search without bounds, from its first page on if the API counts."""
    if found > most:
        raise BadInput(
            f"the search finds {found} items or more; {most} are allowed", where=bare(url),
            todo="give --area W,S,E,N or --period START/END, narrow source.args.query, or raise source.args.max_items",
        )  # fmt: skip


def _open(url: str, check: Check) -> Any:
    """The client of an API: transient answers are tried again, and every address is checked first."""
    from pystac_client import Client
    from pystac_client.stac_api_io import StacApiIO
    from urllib3 import Retry

    def allowed(request: Any) -> Any:
        check(str(request.url))
        return request

    def redirected(response: Any, **_: Any) -> None:
        target = response.headers.get("Location")
        if response.is_redirect and target:
            check(join(str(response.url), target))

    retry = Retry(
        total=settings().retries, backoff_factor=0.3, backoff_jitter=0.3, status_forcelist=TRANSIENT,
        allowed_methods=None, raise_on_status=False, respect_retry_after_header=True,
    )  # fmt: skip
    io = StacApiIO(max_retries=retry)
    io.session.headers["User-Agent"] = "eoflow"
    io.session.hooks["response"].append(redirected)
    return Client.open(url, stac_io=io, request_modifier=allowed, timeout=TIMEOUT_S)  # the other place is overwritten


def _api_error(e: Any, url: str) -> EoflowError:
    cause: BaseException | None = e
    while cause is not None:  # the client wraps whatever happens in a request
        if isinstance(cause, EoflowError):
            return cause
        cause = cause.__context__
    status = getattr(e, "status_code", None)
    said = " ".join(str(e).split())[:300]
    if status is None or status in TRANSIENT:
        what = "cannot be reached" if status is None else f"answers HTTP {status}"
        return AssetTransient(f"the STAC API {what}: {said}", where=bare(url), todo="try again later")
    return BadInput(
        f"the STAC API answers HTTP {status}: {said}", where=bare(url),
        todo="check source.args (api, collections, query, filter)",
    )  # fmt: skip


def _require_collections(client: Any, names: list[str] | tuple[str, ...], url: str) -> None:
    """Raise BadInput for a collection that the API does not have: an empty answer would hide it."""
    from eoflow.registry import nearest

    for name in names:
        if client.get_collection(name) is None:
            known = sorted(c.id for c in client.get_collections())
            raise BadInput(
                f"the API has no collection '{name}'{nearest(name, known)}", where=bare(url),
                todo=f"choose from {', '.join(known[:30])}{', ...' if len(known) > 30 else ''}",
            )  # fmt: skip


def texts(value: Any) -> list[str]:
    """A text, a list of them or None -> a list of texts."""
    return [] if value is None else [value] if isinstance(value, str) else [str(v) for v in value]


# -- lists -----------------------------------------------------------------------------------------------------------


def places(items: Any) -> list[str]:
    """What `source.args.items` names: addresses as they are, paths and patterns as absolute paths. Raises BadInput."""
    out: list[str] = []
    for text in texts(items):
        if "://" in text[:12]:
            out.append(text)
            continue
        found = expand(text)
        if not found or not all(Path(p).exists() for p in found):
            raise BadInput(
                f"there is no file '{text}'", where="source.args.items", todo="check the path of the item list"
            )
        out += found
    return out


def listed(where: list[str], check: Check) -> Iterator[tuple[Json, str]]:
    """(item, the place of the document it was in) of item collections, single items and static catalogs.

    Raises BadInput (not STAC, or a link to a place that is not allowed) or AssetTransient.
    """
    waiting, seen = list(where), set(where)
    while waiting:
        place = waiting.pop(0)
        check(place)
        found = _read(place, check)
        kind = found.get("type") if isinstance(found, dict) else None
        if kind == "FeatureCollection" and isinstance(found.get("features"), list):
            for item in found["features"]:
                yield _item(item, place), place
        elif kind == "Feature":
            yield _item(found, place), place
        elif isinstance(found, dict) and isinstance(found.get("links"), list):  # catalog or collection
            for link in found["links"]:
                if isinstance(link, dict) and link.get("rel") in ("child", "item") and link.get("href"):
                    target = join(place, str(link["href"]))
                    if target not in seen:
                        seen.add(target)
                        waiting.append(target)
            if len(seen) > DEEPEST:
                raise BadInput(
                    f"the static catalog has more than {DEEPEST} documents", where=bare(place),
                    todo="give an item collection, or an API",
                )  # fmt: skip
        else:
            raise BadInput(
                "this is no STAC item, item collection or catalog", where=bare(place),
                todo="give a GeoJSON FeatureCollection of items, an item, or catalog.json",
            )  # fmt: skip


def _item(item: Any, place: str) -> Json:
    if not isinstance(item, dict) or not item.get("id") or not isinstance(item.get("assets"), dict):
        raise BadInput("a feature of the list is no STAC item (it has no id or no assets)", where=bare(place))
    return item


def _read(place: str, check: Check) -> Any:
    if "://" in place[:12] and not place.startswith("file:"):
        if urlsplit(place).scheme not in ("http", "https"):
            raise BadInput(f"item lists are read by http(s) or from files, not '{bare(place)}'")
        return fetch_json(place, check=check, what="the item list")
    path = Path(place)
    try:
        if path.stat().st_size > LARGEST_LIST:
            raise BadInput("the item list is larger than 1 GiB", where=place, todo="split it")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise BadInput(f"the item list cannot be read: {e.strerror}", where=place, todo="check the path") from None
    except ValueError as e:
        raise BadInput(f"this is not JSON: {e}", where=place, todo="give a STAC item collection") from None


# -- filters ---------------------------------------------------------------------------------------------------------

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda a, b: a == b,
    "neq": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "lte": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "gte": lambda a, b: a >= b,
    "in": lambda a, b: a in b,
    "startsWith": lambda a, b: str(a).startswith(str(b)),
    "endsWith": lambda a, b: str(a).endswith(str(b)),
    "contains": lambda a, b: b in a,
}
"""Of the STAC API query extension."""


def check_query(query: Any, key: str = "query") -> None:
    """Raise BadInput for a filter that is not `{property: {operator: value}}` with operators of the extension."""
    from eoflow.registry import nearest

    where, todo = f"source.args.{key}", f"write  {key}: {{eo:cloud_cover: {{lt: 50}}}}"
    if not isinstance(query, dict) or not all(isinstance(v, dict) for v in query.values()):
        raise BadInput("the filter is no mapping of properties", where=where, todo=todo)
    for name in (op for tests in query.values() for op in tests):
        if name not in OPERATORS:
            raise BadInput(
                f"no operator '{name}'{nearest(name, list(OPERATORS))}", where="source.args.query", todo=todo
            )


def matches(item: Json, query: Json) -> bool:
    """Whether an item fulfils a query; a property that it lacks fulfils nothing.

    Applied to what an API returns, too: an API without the extension ignores the query.
    """
    properties = item.get("properties") or {}
    for name, tests in query.items():
        if properties.get(name) is None:
            return False
        for operator, value in tests.items():
            try:
                if not OPERATORS[operator](properties[name], value):
                    return False
            except TypeError:
                return False
    return True
