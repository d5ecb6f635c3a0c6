"""The work of a product: every map of every tile, window by window, then what is told of it (permanent water, km2)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.predict_images import permanent as water
from eoflow.predict_images import store
from eoflow.predict_images.asked import Asked, Part
from eoflow.predict_images.choose import targets_of
from eoflow.predict_images.dates import Want, float_day
from eoflow.predict_images.engine import engine
from eoflow.predict_images.network import Runnable, days_asked, decoder
from eoflow.predict_images.permanent import Reference
from eoflow.predict_images.report import ProductReport, remark
from eoflow.predict_images.speckle import prepared, remarks, taken_off
from eoflow.predict_images.spread import FACTOR, add_factors, spread_factor
from eoflow.predict_images.stack import Frames, Progress, Stack, as_input, blocks, cached, plan_of
from eoflow.predict_images.store import Making, Plane, StepSink
from eoflow.predict_images.whole import fitted, is_whole, whole_plan
from eoflow.predict_images.zones import Census, Zone
from eoflow.tasks.base import LayerSpec
from eoflow.tiling import Grid
from eoflow.times import iso
from eoflow.windows import Box, Network, Plan, run

if TYPE_CHECKING:
    from eoflow.checkpoint_images import ImageCheckpoint

Array = np.ndarray[Any, Any]
EARLIER = "earlier"
NOT_TOLD = ("Permanent water is not told from flood water: give --permanent FILE.tif (a map of permanent water) or "
            "--before START/END (dates before the event).")  # fmt: skip


@dataclass(frozen=True)
class Job:
    """All that a product is made from."""

    task: str
    checkpoint: ImageCheckpoint
    normalizer: Any
    parts: tuple[Part, ...]
    asked: Asked
    zones: tuple[Zone, ...]
    reference: Reference | None
    provenance: dict[str, str]
    order: tuple[str, ...] = ()
    """Bands as the cube has them; a network may have its own order."""

    @property
    def tells_flood(self) -> bool:
        """Whether flood is told from permanent water."""
        return self.task == "segmentation" and (self.reference is not None or self.asked.before is not None)


@dataclass(frozen=True)
class Keep:
    """Pixels that the target date itself saw stay as they are: image observed, std 0, filled 0."""

    frames: Frames
    frame: int
    bands: tuple[int, ...]

    def __call__(self, layer: str, box: Box, values: Array) -> Array:
        """Values of a layer (K, h, w) with the observed pixels put in."""
        observed, seen = self.frames.frame(self.frame, *box.slices)
        out = values.copy()
        if layer == "image":
            out[:, seen] = observed[list(self.bands)][:, seen]
        elif layer in ("std", "filled"):
            out[:, seen] = 0
        elif layer == "count":
            out[:, seen] = np.maximum(out[:, seen], 1)
        return out


@dataclass(frozen=True)
class Inside:
    """Which pixels lie in the outline of the area."""

    grid: Grid
    zone: Zone

    def __call__(self, rows: slice, columns: slice) -> Array:
        """(h, w) bool."""
        found = self.zone.mask(self.grid, rows, columns)
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        return np.ones(shape, bool) if found is None else found


@dataclass(frozen=True)
class Map:
    """One map that is to be made: where it is written, and its windows."""

    part: Part
    want: Want
    step: int
    earlier: bool
    plan: Plan
    batch: int
    first: int


def maps_of(job: Job) -> list[Map]:
    """Every map, with the numbers of its windows."""
    model, out, first = job.checkpoint.model, [], 0
    for part in job.parts:
        specs = part.frames.specs
        for earlier, wants in ((True, part.earlier), (False, part.wants)):
            for step, want in enumerate(wants):
                plan, batch = windows_of(model, part.grid.shape, len(want.dates), len(specs))
                out.append(Map(part, want, step, earlier, plan, batch, first))
                first += len(plan)
    return out


def windows_of(model: Any, shape: tuple[int, int], dates: int, bands: int) -> tuple[Plan, int]:
    """(windows, windows a batch) of a model over a scene."""
    plan = whole_plan(model, shape) if is_whole(model) else None
    if plan is not None:
        return plan, 1
    light = bool(getattr(model, "closed_form", False))
    halo, multiple = int(getattr(model, "halo", 0)), int(getattr(model, "multiple", 1))
    return plan_of(shape, dates, bands, halo, multiple, light)


def make(
    job: Job, dest: Path, dask: Any | None, progress: Progress | None, report: ProductReport
) -> tuple[Making, dict[str, Any]]:
    """The finished store, not yet in its place, and its summary."""
    maps = maps_of(job)
    total = sum(len(m.plan) for m in maps)
    making = Making(dest, job.provenance["identity"], total)
    layers = job.checkpoint.task.layers(job.checkpoint)
    if job.task == "despeckling":
        checkpoint, said = prepared(job.checkpoint, job.parts[0].frames, job.parts[0].wants[0].dates[0][0])
        job = replace(job, checkpoint=checkpoint)
        if said:
            report.say(said)
    specs = job.parts[0].frames.specs
    bands = [specs[i] for i in targets_of(job.checkpoint, specs)]
    arrays = store.planes(layers, bands)
    title = f"{job.provenance['verb']} of {job.provenance['dataset']} by {job.checkpoint.name}"
    attrs = store.root_attrs(job.provenance, title)
    if making.fresh:
        for part in job.parts:
            build(job, making.folder, part, arrays, maps, attrs)
        making.built()
    done = 0
    for one in maps:
        made = making.done(one.first, len(one.plan))
        report.resumed += int(made.sum())
        if not made.all():
            shifted = _shifted(progress, done + int(made.sum()), total)
            if note := run_map(job, one, making, layers, arrays, made, dask, shifted):
                report.say(note)
            report.windows += len(one.plan) - int(made.sum())
        done += len(one.plan)
    summary = told(job, making.folder, layers)
    store.finish(making.folder, [p.tile for p in job.parts], attrs, summary)
    return making, summary


def build(
    job: Job, folder: Path, part: Part, arrays: dict[str, tuple[Plane, ...]], maps: Sequence[Map], attrs: dict[str, Any]
) -> None:
    """Empty arrays of a tile, and of the earlier maps that only tell permanent water."""
    import zarr

    chunk = store.chunk_of(part.grid.shape, next(m.plan for m in maps if m.part is part).core)
    first = next(iter(arrays.values()))
    order = sorted(range(len(first)), key=lambda i: (*job.order, first[i].name).index(first[i].name))
    every = [some[i] for some in arrays.values() for i in (order if len(some) == len(order) else range(len(some)))]
    if job.tells_flood:
        every.append(Plane("flood", "uint8", 255, attrs=water.FLOOD_ATTRS))
    sources = [part.sources(w) for w in part.wants]
    more = {**attrs, "eoflow_bands": [p.name for p in every]}
    store.add_tile(folder, part.tile, part.grid, chunk, every, [w.time for w in part.wants], sources, more)
    g: Any = zarr.open_group(str(folder), mode="r+", zarr_format=3)[f"tiles/{part.tile}"]
    if job.tells_flood:
        store.add_array(g, Plane("permanent", "uint8", 255, attrs=water.PERMANENT_ATTRS), part.grid.shape, chunk)
    if "std" in arrays:
        add_factors(g, len(part.wants))
    if part.earlier:
        shape = (len(part.earlier), *part.grid.shape)
        store.add_array(g.create_group(EARLIER), arrays["class"][0], shape, (1, *chunk))


def run_map(
    job: Job, one: Map, making: Making, layers: Sequence[LayerSpec], arrays: dict[str, tuple[Plane, ...]], made: Array,
    dask: Any | None, progress: Progress | None,
) -> str:  # fmt: skip
    """One map, window by window, into the store; returns what to say of the runtime, or ""."""
    part, want = one.part, one.want
    stack = Stack(part.frames, want.dates)
    how = as_input(job.normalizer, job.task)
    keep = None
    if job.task == "cloud-removal" and job.asked.keep and want.target is not None:
        keep = Keep(part.frames, want.target, targets_of(job.checkpoint, part.frames.specs))
    outline = job.asked.area.outline if job.asked.area is not None else None
    mask = None if outline is None else Inside(part.grid, outline)
    group = str(making.folder / "tiles" / part.tile / (EARLIER if one.earlier else ""))
    wanted = [layer for layer in layers if layer.name == "class"] if one.earlier else layers
    sinks = [
        StepSink(store.window_layer(layer, arrays[layer.name]), group, one.step, arrays[layer.name], keep, mask)
        for layer in wanted
    ]  # fmt: skip
    spread = 1.0
    if "std" in arrays:
        import zarr

        spread, _ = spread_factor(job.checkpoint, part.frames, part.times, want, job.normalizer)
        zarr.open_group(group, mode="r+", zarr_format=3)[FACTOR][one.step] = spread  # type: ignore[index]
    when = float_day(want.time)
    network, note = network_of(job.checkpoint, stack, how, one.plan, one.batch, days(part, want), when, spread)
    chunk = store.chunk_of(part.grid.shape, one.plan.core)
    run(
        network, cached(stack, chunk), sinks, one.plan, how, done=made,
        mark=lambda j: making.mark(one.first + j), client=dask, progress=progress,
    )  # fmt: skip
    return note


def network_of(
    checkpoint: ImageCheckpoint, stack: Stack, how: Any, plan: Plan, batch: int, times: Sequence[float] | None,
    when: float | None, spread: float = 1.0,
) -> tuple[Network, str]:  # fmt: skip
    """The checkpoint's model, fitted on the whole scene where it must be, as the windowed runner takes it; and what to
    say of its runtime."""
    model = checkpoint.model
    flat = all(p.dim() != 5 for p in model.parameters())
    days, note = days_asked(model, times, when), ""
    runs: Any = fitted(model, stack, how) if is_whole(model) and len(plan) > 1 else model
    if runs is model:
        runs, note = engine(model, checkpoint.hash, stack, how, plan, days)
    return Network(Runnable(runs, days), decoder(checkpoint, spread), batch, channels_last=flat), note


def days(part: Part, want: Want) -> list[float]:
    """Days since 1970 of the dates of a map; a date that nobody saw lies at the wanted time."""
    return [float_day(part.times[d[-1]] if d else want.time) for d in want.dates]


def _shifted(progress: Progress | None, done: int, total: int) -> Progress | None:
    if progress is None:
        return None
    return lambda n, _, text: progress(done + n, total, text)


# -- what is told at the end -----------------------------------------------------------------------------------------


def told(job: Job, folder: Path, layers: Sequence[LayerSpec]) -> dict[str, Any]:
    """Rows of tiles and areas, and sentences; writes the layers `permanent` and `flood`."""
    import zarr

    root: Any = zarr.open_group(str(folder), mode="r+", zarr_format=3)
    out: dict[str, Any] = {"tiles": [], "areas": [], "messages": []}
    if job.task == "despeckling":
        out["tiles"] = [row for part in job.parts for row in _despeckled(job, part, root[f"tiles/{part.tile}"], layers)]
        out["messages"] += remarks(out["tiles"])
        return out
    main = next(layer for layer in layers if layer.name in ("class", "filled"))
    names = str(main.attrs.get("flag_meanings", "")).split()
    for part in job.parts:
        g = root[f"tiles/{part.tile}"]
        if job.tells_flood:
            _permanent(job, part, g, water_class(names))
        for step, want in enumerate(part.wants):
            _one(job, part, g, main.name, names, step, want, out)
        if part.earlier:
            shutil.rmtree(folder / "tiles" / part.tile / EARLIER)
    if job.task == "segmentation" and not job.tells_flood:
        out["messages"].append(NOT_TOLD)
    if factors := [r[FACTOR] for r in out["tiles"] if r.get(FACTOR, 1.0) != 1]:
        low, high = min(factors), max(factors)
        out["messages"].append(f"Standard deviations times {low:.2f} to {high:.2f}, as dates of the series that were"
                               f" left out ask for ({FACTOR}).")  # fmt: skip
    if note := _overlap(job.parts):
        out["messages"].append(note)
    return out


def _despeckled(job: Job, part: Part, g: Any, layers: Sequence[LayerSpec]) -> Iterator[dict[str, Any]]:
    """What was taken off each scene of a tile."""
    names = [p.name for p in store.planes(layers, ())[layers[0].name]]
    for step, want in enumerate(part.wants):
        read = lambda rows, columns, k=step: np.stack([g[n][k, rows, columns] for n in names])  # noqa: E731
        found = taken_off(job.checkpoint, part.frames, want.dates[0][0], read)
        yield {"tile": part.tile, "time": iso(want.time), **found}


def water_class(names: Sequence[str]) -> int:
    """Number of the class that is water."""
    return next((i for i, n in enumerate(names) if n.lower() in ("water", "flood")), 1)


def _permanent(job: Job, part: Part, g: Any, wet: int) -> None:
    for rows, columns in blocks(part.grid.shape, 2048):
        if job.reference is not None:
            values = job.reference.read(part.grid.window(rows, columns))
        elif part.earlier:
            stored = g[f"{EARLIER}/class"]
            values = water.often([np.asarray(stored[k, rows, columns]) for k in range(len(part.earlier))], wet)
        else:
            continue
        g["permanent"][rows, columns] = values


def _one(
    job: Job, part: Part, g: Any, main: str, names: Sequence[str], step: int, want: Want, out: dict[str, Any]
) -> None:
    """Counts, areas and the flood layer of one map."""
    zones = zones_of(job.zones, job.asked, part.tile)
    classes, flood = Census(part.grid, zones), Census(part.grid, zones)
    counts = np.zeros(256, np.int64)
    wet = water_class(names)
    for rows, columns in _square(part.grid.shape):
        values = np.asarray(g[main][step, rows, columns])
        counts += np.bincount(values.ravel(), minlength=256)
        if job.task == "cloud-removal":
            continue
        classes.add(rows, columns, values)
        if job.tells_flood:
            split = water.tell(values, np.asarray(g["permanent"][rows, columns]), wet)
            g["flood"][step, rows, columns] = split
            flood.add(rows, columns, split)
    pixels, when = int(counts.sum()), iso(want.time)
    share = 1 - int(counts[255]) / pixels
    row = {"tile": part.tile, "time": when, "valid": share, "dates": sum(bool(d) for d in want.dates)}
    row |= {n: int(counts[i]) / pixels for i, n in enumerate(names)}
    row |= {FACTOR: float(g[FACTOR][step])} if FACTOR in g else {}
    out["tiles"].append(row)
    if said := remark(job.task, part.tile, when, share, {i: int(counts[i]) for i in range(len(names))}):
        out["messages"].append(said)
    if job.task == "cloud-removal":
        return
    for k, zone in enumerate(zones):
        if classes.sums[k].any():
            out["areas"].append(
                area_row(zone, k, part.tile, when, names, classes, flood if job.tells_flood else None)
            )  # fmt: skip


def area_row(
    zone: Zone, k: int, tile: str, when: str, names: Sequence[str], classes: Census, flood: Census | None
) -> dict[str, Any]:
    """One row of the table of areas."""
    row: dict[str, Any] = {"zone": zone.name, "tile": tile, "time": when}
    row |= {f"{n}_km2": classes.km2(k, i) for i, n in enumerate(names)}
    if flood is not None:
        row |= {"flood_km2": flood.km2(k, water.FLOOD), "permanent_water_km2": flood.km2(k, water.PERMANENT)}
    return row | {"nodata_km2": classes.km2(k, 255)}


def zones_of(zones: Sequence[Zone], asked: Asked, tile: str) -> Sequence[Zone]:
    """The zones that were given, else the area's outline, else all of the image."""
    if zones:
        return zones
    if asked.area is not None:
        return [asked.area.outline or Zone("area")]
    return [Zone(tile)]


def _square(shape: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    yield from blocks(shape, 1024)


def _overlap(parts: Sequence[Part]) -> str | None:
    """A warning where two tiles show the same ground: their areas may not be added up."""
    for i, a in enumerate(parts):
        for b in parts[i + 1 :]:
            if a.grid.crs != b.grid.crs:
                continue
            (w, s, e, n), (p, q, r, t) = a.grid.bounds, b.grid.bounds
            if min(e, r) > max(w, p) and min(n, t) > max(s, q):
                return f"Tiles {a.tile} and {b.tile} overlap: areas are those of each tile; do not add them up."
    return None
