"""Why a pixel is what it is: the scenes, masks and versions that made it, and the commit that wrote it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from eoflow._callable import make_callable
from eoflow.commits import Commit
from eoflow.cube import Cube
from eoflow.cube_layout import encode_times
from eoflow.errors import BadInput
from eoflow.ingest.scenes.ledger import Row, SceneLedger
from eoflow.quality import Quality
from eoflow.times import NS, Period, iso
from eoflow.workspace import Workspace

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Band:
    """A band at the pixel: the stored value, and the physical one in `units` (None: nodata)."""

    name: str
    stored: float
    physical: float | None
    units: str
    href: str = ""
    etag: str = ""


@dataclass(frozen=True)
class Pixel:
    """One pixel of one time step of a tile. item: of the scene that made it (None: no scene covers it). ledger: rows of
    every scene of the step, those that failed included. commit: the state that wrote the item. notes: for people."""

    tile: str
    row: int
    column: int
    time: np.datetime64
    quality: str
    bands: tuple[Band, ...]
    item: dict[str, Any] | None
    others: tuple[str, ...] = ()
    ledger: tuple[dict[str, Any], ...] = ()
    commit: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Why:
    """The answer for a point (degrees) and a time: one pixel for each tile that holds the point."""

    dataset: str
    lon: float
    lat: float
    asked: str
    snapshot: str
    pixels: tuple[Pixel, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        out = asdict(self)
        for p in out["pixels"]:
            p["time"] = iso(p["time"])
        return out

    def lines(self) -> list[str]:
        """Plain text, a few lines for each tile."""
        out = [f"{self.dataset} at {self.lon:g}, {self.lat:g} on {self.asked} (state {self.snapshot})"]
        for p in self.pixels:
            out += ["", f"tile {p.tile}, row {p.row}, column {p.column}, time {iso(p.time)}"]
            out += [f"  quality   {p.quality}"]
            for b in p.bands:
                units = "" if b.units == "1" else f" {b.units}"
                value = "nodata" if b.physical is None else f"{b.physical:.6g}{units}"
                out.append(f"  {b.name:<9} {value}   (stored {b.stored:g})")
            out += _item_lines(p)
            out += [f"  note      {n}" for n in p.notes]
        return out


def _item_lines(p: Pixel) -> list[str]:
    out = []
    if p.item is not None:
        i = p.item
        baseline = f", baseline {i['baseline']}" if i.get("baseline") else ""
        out += [f"  scene     {i['id']}, version {i['version'] or '-'}{baseline}"]
        out += [f"  from      {i['href']}"] if i.get("href") else []
        out += [f"  {b.name:<9} {b.href}   (etag {b.etag or '-'})" for b in p.bands if b.href]
        if i.get("hrefs", {}).get("quality"):
            out.append(f"  mask      {i['hrefs']['quality']}   (etag {i['etags'].get('quality') or '-'})")
        out.append(f"  recipe    {i['recipe']}, digest of the scene's values {i['digest']}")
    if p.item is not None and p.item.get("outside"):
        out.append(f"  left out  {p.item['outside']:.1%} of the scene's pixels, which lie outside the tile")
    out += [f"  also in this time step: {', '.join(p.others)}"] if p.others else []
    for r in p.ledger:
        if r["status"] != "present":
            out.append(f"  {r['status']:<9} {r['scene']}: {r['reason']}")
    if p.commit is not None:
        c = p.commit
        out.append(f"  written   {c['time']} by {c['id']} ({c['message']}; eoflow {c.get('eoflow', '?')})")
    return out


def why(
    dataset: str, lon: float, lat: float, time: Any, workspace: Workspace | str | None = None, *,
    as_of: str | None = None,
) -> Why:  # fmt: skip
    """Which scenes, masks and versions made the pixel at a point (degrees) and time, in each tile that holds it.

    time: an instant, or what names a span (`2022-06-05`, `2022-06`): the last time step within it. Where it holds
    none, the nearest one, and a note says so. Raises BadInput where the dataset does not hold the point.
    """
    cube = Cube.load(Workspace.of(workspace), dataset)
    if not (-360 <= lon <= 360 and -90 <= lat <= 90):
        raise BadInput(f"{lon:g}, {lat:g} is no place on the Earth", todo="give LON,LAT in degrees")
    span = Period.parse(str(time))
    snapshot = cube.archive.resolve(as_of)
    at = cube.at((lon + 180) % 360 - 180, lat, snapshot)
    if not at:
        raise BadInput(f"'{dataset}' has no tile at {lon:g}, {lat:g}", todo=f"tiles: {_some(cube.tiles(snapshot))}")
    ledger = SceneLedger.load(cube.archive, snapshot)
    states = cube.archive.history()
    pixels = tuple(_pixel(cube, snapshot, ledger, states, *where, span) for where in at)
    return Why(dataset, lon, lat, str(time), snapshot, tuple(p for p in pixels if p is not None))


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _choose(times: Array, span: Period) -> tuple[int, tuple[str, ...]]:
    """Position of the time step that answers for a span, and what to say of the choice."""
    inside = np.flatnonzero(span.contains(times))
    if inside.size:
        more = f"{inside.size} time steps lie within {span}; this is the last" if inside.size > 1 else ""
        return int(inside[-1]), (more,) if more else ()
    middle = span.start + (span.end - span.start) // 2
    i = int(np.abs(times - middle).argmin())
    return i, (f"there is no time step within {span}; this is the nearest",)


def _pixel(
    cube: Cube, snapshot: str, ledger: SceneLedger, states: list[Commit], tile: str, row: int, column: int, span: Period
) -> Pixel | None:  # fmt: skip
    times = cube.times(tile, snapshot)
    if times.size == 0:
        return None
    i, notes = _choose(times.astype(NS), span)
    group: Any = cube.group(tile, snapshot)
    items = cube.items(tile, i, snapshot)
    number = int(group["scene"][i, row, column])
    item = items[number - 1] if 0 < number <= len(items) else None
    step = int(encode_times(times[i : i + 1])[0])
    rows = [r for r in ledger.of_tile(tile) if r.step == step]
    quality = Quality(int(group["quality"][i, row, column]))
    if quality is Quality.MISSING:
        what = "covers the pixel" if items else "is stored"
        notes = (*notes, f"no scene of this time step {what}")
    return Pixel(
        tile, row, column, times[i], quality.name.lower(), _bands(cube, group, i, row, column, item), item,
        tuple(x["id"] for x in items if x is not item), tuple(r.to_dict() for r in rows),
        None if item is None else _commit(cube, snapshot, states, rows, item["id"]), notes,
    )  # fmt: skip


def _bands(cube: Cube, group: Any, i: int, row: int, column: int, item: dict[str, Any] | None) -> tuple[Band, ...]:
    out = []
    for spec in cube.schema.bands:
        stored = np.asarray(group[spec.name][i, row, column])
        physical = float(spec.physical(stored[None])[0])
        hrefs, etags = ({}, {}) if item is None else (item["hrefs"], item["etags"])
        href, etag = hrefs.get(spec.name, ""), etags.get(spec.name) or ""
        out.append(
            Band(spec.name, float(stored), None if np.isnan(physical) else physical, spec.units, href, etag)
        )  # fmt: skip
    return tuple(out)


def _commit(cube: Cube, snapshot: str, states: list[Commit], rows: list[Row], scene: str) -> dict[str, Any] | None:
    """The state in which readers first saw a scene as it is: the commit of its batch, or the one that published it."""
    batch = next((r.batch for r in rows if r.scene == scene and r.present), None)
    if not batch:
        return None
    visible = {c.id: c for c in states}
    seen = None
    for s in cube.archive.repo.ancestry(snapshot_id=snapshot):  # newest first
        seen = visible.get(s.id, seen)
        if dict(s.metadata).get("batch") == batch:
            return None if seen is None else seen.to_dict()
    return None


__all__ = ["Band", "Pixel", "Why", "why"]


make_callable(__name__, "eoflow.why:why")
