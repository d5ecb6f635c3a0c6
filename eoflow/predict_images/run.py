"""`eoflow clouds | change | flood | despeckle DATASET`: a task's model over tiles and dates of a cube, as a product."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import eoflow
from eoflow.bands import BandSpec
from eoflow.composite.run import cut
from eoflow.cube import Cube
from eoflow.errors import BadInput
from eoflow.ingest.workers import client
from eoflow.predict_images import dates as when
from eoflow.predict_images import store
from eoflow.predict_images.asked import Asked, Part
from eoflow.predict_images.engine import fewer_bits
from eoflow.predict_images.permanent import Reference
from eoflow.predict_images.report import ProductReport
from eoflow.predict_images.stack import CubeFrames, Progress
from eoflow.predict_images.zones import Area, Zone, read_zones
from eoflow.quality import Quality
from eoflow.times import Period, iso
from eoflow.workspace import Workspace

if TYPE_CHECKING:
    from eoflow.checkpoint_images import ImageCheckpoint

Array = np.ndarray[Any, Any]
FORMAT = 1
"""Part of the id: a change of what the numbers mean makes new products."""
SPREAD = "spread 1"
"""The same, of standard deviations."""


def predict_dataset(
    task: str, dataset: str, *, model: str | None = None, area: Any = None, period: str | Period | None = None,
    out: str | Path | None = None, workspace: Workspace | str | None = None, dask: Any | None = None,
    as_of: str | None = None, before: str | None = None, after: str | None = None, every: bool = False,
    at: str | None = None, dates: int | None = None, permanent: str | Path | None = None, keep: bool = True,
    zones: str | Path | None = None, progress: Progress | None = None, command: str = "",
) -> ProductReport:  # fmt: skip
    """Run a task's model over the scenes of `dataset` and write a product.

    task: segmentation, change-detection, cloud-removal or despeckling. model: a name, a recipe's name or a checkpoint
    folder; by default one that fits the bands, else the task's best baseline. area: W, S, E, N in degrees or a GeoJSON
    file. The rest: see Asked. dask: a client; by default that of the settings.

    The product is a plain Zarr, products/VERB/DATASET/MODEL/ID.zarr (or `out`), one group a tile with dims (time, y,
    x); the same call on the same scenes changes nothing, a killed one is taken up. Raises BadInput for unknown names, a
    period without scenes, an area without tiles, less than two dates of change.
    """
    from eoflow.predict_images.choose import choose, inputs_of
    from eoflow.predict_images.tiles import Job, make

    started = time.monotonic()
    asked = Asked(
        Area.parse(area), None if period is None else Period.parse(period), before, after, every, at, dates,
        None if permanent is None else str(permanent), keep, None if zones is None else str(zones),
    )  # fmt: skip
    asked.require(task)
    some_zones = read_zones(zones) if zones is not None else []
    reference = None if permanent is None else Reference.open(permanent)
    ws = Workspace.of(workspace)
    cube = Cube.load(ws, dataset)
    snapshot = cube.archive.resolve(as_of)
    tiles = cube.tiles(snapshot)
    grid = cube.grid(tiles[0], snapshot) if tiles else None
    checkpoint, why = choose(ws, task, cube.schema, dataset=dataset, model=model, grid=grid)
    normalizer, specs = inputs_of(checkpoint, cube.schema)
    parts = _parts(cube, snapshot, checkpoint, specs, task, asked)
    verb = store.KINDS[task]
    report = ProductReport(task, verb, dataset, checkpoint.name, checkpoint.hash)
    for line in filter(None, [why]):
        report.say(line)
    if not parts:
        report.say("No date of the period has clouds: there is nothing to fill, and nothing was written.")
        return report
    identity = _identity(task, cube, checkpoint, specs, parts, asked, some_zones, reference)
    times = [w.time for p in parts for w in p.wants]
    report.id = f"{_day(min(times))}-{_day(max(times))}-{identity[:8]}"
    where = ("products", verb, dataset, checkpoint.name, f"{report.id}.zarr")
    report.path = ws.url(*where) if out is None else str(Path(out).absolute())
    report.open_lines = f'import xarray as xr\nds = xr.open_zarr("{report.path}", group="tiles/{parts[0].tile}")'
    with ws.lock(f"{verb}-{dataset}-{identity[:8]}"):
        summary = store.found_at(ws, where, out, identity)
        if summary is None:
            provenance = {
                "verb": verb, "task": task, "dataset": dataset, "archive_snapshot": snapshot, "model": checkpoint.name,
                "schema_hash": cube.schema.hash, "checkpoint": checkpoint.hash, "recipe": recipe_hash(checkpoint),
                "sensor": cube.schema.sensor, "source_level": cube.schema.level, "level": "L3",
                "bands": ", ".join(b.name for b in specs), "area": "" if asked.area is None else str(asked.area),
                "period": "" if asked.period is None else str(asked.period), "permanent": asked.permanent or "",
                "code_version": eoflow.__version__, "identity": identity,
                "created": dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds"),
                "command": command or f"eoflow {verb} {dataset}",
            }  # fmt: skip
            dask = dask if dask is not None else client() if ws.is_local else None
            job = Job(task, checkpoint, normalizer, tuple(parts), asked, tuple(some_zones), reference, provenance,
                      tuple(cube.schema.names))  # fmt: skip
            making, summary = make(job, store.place_of(ws, where, out), dask, progress, report)
            store.publish(making, ws, where, out)
            report.made = True
    report.tiles, report.areas = summary["tiles"], summary["areas"]
    for line in summary["messages"]:
        report.say(line)
    report.seconds = time.monotonic() - started
    return report


def recipe_hash(checkpoint: ImageCheckpoint) -> str:
    """16 hex digits over the recipe."""
    text = json.dumps(checkpoint.recipe.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _parts(
    cube: Cube, snapshot: str, checkpoint: ImageCheckpoint, specs: tuple[BandSpec, ...], task: str, asked: Asked
) -> list[Part]:
    """The tiles that the area touches, with the maps that are wanted of each."""
    from eoflow.predict_images.choose import dates_of

    classes: tuple[Quality, ...] = checkpoint.recipe.patches.classes
    span, touched, refused, out = asked.period, 0, [], []
    tiles = cube.tiles(snapshot)
    for tile in tiles:
        whole = cube.grid(tile, snapshot)
        window = cut(whole, None if asked.area is None else asked.area.box)
        if window is None:
            continue
        touched += 1
        rows, columns = window
        times = cube.times(tile, snapshot)
        if not times.size:
            continue
        stored: Any = cube.group(tile, snapshot)["items"]
        items = tuple(str(t) for t in stored[: times.size])
        have = np.array([bool(t) for t in items])
        grid = whole.window(rows, columns)
        frames = CubeFrames(cube.archive.workspace.root, cube.name, snapshot, tile, tuple(range(times.size)),
                            (rows.start, columns.start), grid, specs, classes)  # fmt: skip
        known = when.of_tile(cube, snapshot, tile, rows, columns, classes)
        known = replace(known, covered=known.covered * have, usable=known.usable * have)
        part = Part(tile, grid, frames, times, items, ())
        try:
            if task in store.SCENE_BY_SCENE:
                wants = when.each(known, span, have)
                earlier = when.each(known, Period.parse(asked.before), have) if asked.before else []
                part = replace(part, earlier=tuple(earlier))
            elif task == "change-detection":
                wants = when.pairs(known, span, asked.before, asked.after, asked.every)
            else:
                wants = when.around(known, span, asked.at, dates_of(checkpoint), asked.dates)
        except BadInput as e:  # of one tile among several: the others may have what is asked for
            refused.append(e)
            continue
        if wants:
            out.append(replace(part, wants=tuple(wants)))
    if not touched:
        raise BadInput(f"no tile of '{cube.name}' lies in the area",
                       todo=f"its tiles: {', '.join(tiles[:8]) or 'none'}")  # fmt: skip
    if not out and refused:
        raise refused[0]
    if not out:
        _require_scenes(cube, snapshot, tiles, span)
    if asked.before and task == "segmentation" and not any(p.earlier for p in out):
        raise BadInput(f"there is no scene in {asked.before}, which would tell permanent water", todo="another period")
    return out


def _require_scenes(cube: Cube, snapshot: str, tiles: Sequence[str], span: Period | None) -> None:
    every = [t for tile in tiles for t in cube.times(tile, snapshot)]
    inside = [t for t in every if span is None or span.contains(t)]
    if not inside:
        held = f"its scenes are of {iso(min(every))} to {iso(max(every))}" if every else "it holds no scene yet"
        raise BadInput(f"no scene of '{cube.name}'{f' in {span}' if span else ''}", todo=held)


def _identity(
    task: str, cube: Cube, checkpoint: ImageCheckpoint, specs: Sequence[BandSpec], parts: Sequence[Part], asked: Asked,
    zones: Sequence[Zone], reference: Reference | None,
) -> str:  # fmt: skip
    """Hash of all that the numbers come from; not the snapshot, which other tiles and dates change too."""
    keep = ("id", "version", "recipe", "digest")
    file = None
    if reference is not None:
        file = [hashlib.sha256(Path(reference.path).read_bytes()).hexdigest(), reference.above]
    said: list[Any] = [
        FORMAT, task, cube.name, checkpoint.name, checkpoint.hash, [b.model_dump(mode="json") for b in specs],
        str(asked.area), asked.keep, [z.hash for z in zones], file, *fewer_bits(checkpoint.model),
        *([SPREAD] if checkpoint.tells_uncertainty else []),
    ]  # fmt: skip
    for p in parts:
        for wants in (p.wants, p.earlier):
            for w in wants:
                items = [[{k: i.get(k) for k in keep} for i in json.loads(text or "[]")] for _, text in p.sources(w)]
                said.append([p.tile, repr(p.grid), str(w.time), [len(d) for d in w.dates], w.target is None, items])
    return hashlib.blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=16).hexdigest()


def _day(at: np.datetime64) -> str:
    return str(at.astype("datetime64[D]")).replace("-", "")
