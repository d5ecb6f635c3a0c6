"""One output of the form that works on files: a network's layers as COGs, with what is told of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow import __version__
from eoflow.errors import EoflowError, Failure
from eoflow.export.cog import CogBand, write_cog
from eoflow.predict_images import dates as when
from eoflow.predict_images import permanent as water
from eoflow.predict_images import store as st
from eoflow.predict_images.engine import fewer_bits
from eoflow.predict_images.file_frames import FileFrames
from eoflow.predict_images.permanent import Reference
from eoflow.predict_images.report import ProductReport, remark
from eoflow.predict_images.speckle import prepared, remarks, taken_off
from eoflow.predict_images.spread import spread_factor
from eoflow.predict_images.stack import Progress, Stack, as_input, blocks, cached
from eoflow.predict_images.tiles import Keep, area_row, network_of, windows_of
from eoflow.predict_images.zones import Census, Zone
from eoflow.tasks.base import LayerSpec
from eoflow.times import iso
from eoflow.windows import Box, Layer, Partial, Sink, run
from eoflow.windows.geotiff import paths as cog_paths
from eoflow.windows.geotiff import publish_cogs

if TYPE_CHECKING:
    from eoflow.bands import BandSpec
    from eoflow.checkpoint_images import ImageCheckpoint

Array = np.ndarray[Any, Any]
SHORT = {"probability": "prob"}
"""Layers that a file name has a shorter word for."""


@dataclass(frozen=True)
class Picture:
    """One output: where it goes, the frames, their dates, and the frame whose seen pixels stay."""

    name: str
    dest: Path
    frames: FileFrames
    times: Array
    want: when.Want


@dataclass(frozen=True)
class Part:
    """What one output is made by, and how."""

    task: str
    checkpoint: ImageCheckpoint
    normalizer: Any
    picture: Picture
    keep: bool
    overwrite: bool
    command: str


class PackSink:
    """Takes physical images (or any layer) and writes them as they are stored, through another sink.

    order: which plane comes first, second, ... in the file.
    """

    def __init__(
        self, layer: Layer, inner: Sink, arrays: Sequence[st.Plane], keep: Any | None, order: Sequence[int]
    ) -> None:
        self.layer, self.inner, self.arrays, self.keep, self.order = layer, inner, tuple(arrays), keep, tuple(order)

    def write(self, box: Box, values: Array) -> None:
        """Write one box."""
        planes = st.settled(self.layer, self.arrays, values, box, self.keep, None)
        self.inner.write(box, np.stack([planes[i] for i in self.order]))


def predict_one(
    part: Part, reference: Reference | None, zones: Sequence[Zone], dask: Any | None, progress: Progress | None,
    report: ProductReport,
) -> list[str]:  # fmt: skip
    """One output with its companions; returns the files."""
    picture, checkpoint, frames = part.picture, part.checkpoint, part.picture.frames
    layers = checkpoint.task.layers(checkpoint)
    arrays = _arrays(part, layers)
    stack = Stack(frames, picture.want.dates)
    how = as_input(part.normalizer, part.task)
    plan, batch = windows_of(checkpoint.model, stack.shape, len(stack.order), len(frames.specs))
    orders = {layer.name: _order(part, layer) for layer in layers}
    files = [_file_layer(x, [arrays[x.name][i] for i in orders[x.name]], frames) for x in layers]
    if part.task == "despeckling":
        checkpoint, said = prepared(checkpoint, frames, picture.want.dates[0][0])
        if said:
            report.say(said)
    keep = None
    if part.task == "cloud-removal" and part.keep and picture.want.target is not None:
        names = [str(c) for c in checkpoint.normalizer.channels]
        keep = Keep(frames, picture.want.target, tuple(names.index(t) for t in checkpoint.recipe.patches.targets))
    partial = Partial(picture.dest, files, plan, identity=_identity(part), attrs=_tags(part))
    partial.grid = frames.grid if frames.grid.crs else None
    wanted = when.float_day(picture.want.time)
    times = [when.float_day(picture.times[d[0]]) if d else wanted for d in picture.want.dates]
    try:
        spread = _spread(part, report)
        network, note = network_of(checkpoint, stack, how, plan, batch, times, wanted, spread)
        if note:
            report.say(note)
        sinks = [
            PackSink(st.window_layer(layer, arrays[layer.name]), sink, arrays[layer.name], keep, orders[layer.name])
            for layer, sink in zip(layers, partial.sinks, strict=True)
        ]  # fmt: skip
        done = run(network, cached(stack, (512, 512)), sinks, plan, how, done=partial.done(), mark=partial.mark,
                   client=dask, progress=progress)  # fmt: skip
        report.windows += done.windows + done.skipped
        report.resumed += done.resumed
        written = [str(p) for p in publish_cogs(partial, part.overwrite)]
    except (EoflowError, ValueError):  # what is wrong with the input stays wrong; only a killed run is taken up
        partial.discard()
        raise
    if part.task == "cloud-removal":
        _filled(part, report)
    elif part.task == "despeckling":
        _despeckled(part, report)
    else:
        written += _told(part, reference, zones, layers, report)
    return written


def _order(part: Part, layer: LayerSpec) -> list[int]:
    """Planes of a layer in the order in which the file that was given has its bands; a network may have its own."""
    given = [s.name for s in part.picture.frames.shots[0].specs]
    mine = [given.index(band.name) for band in _bands(part)] if layer.bands else [0]
    return sorted(range(len(mine)), key=mine.__getitem__)


def _bands(part: Part) -> list[BandSpec]:
    """The bands of the image as the files call them, in the order of the network: its targets, else its inputs."""
    specs, names = part.picture.frames.specs, [str(c) for c in part.checkpoint.normalizer.channels]
    return [specs[names.index(t)] for t in part.checkpoint.recipe.patches.targets] or list(specs)


def _spread(part: Part, report: ProductReport) -> float:
    """The factor of the standard deviation, and what is said of it."""
    if part.task != "cloud-removal":
        return 1.0
    picture = part.picture
    factor, said = spread_factor(part.checkpoint, picture.frames, picture.times, picture.want, part.normalizer)
    if said:
        report.say(said)
    return factor


def _arrays(part: Part, layers: Sequence[LayerSpec]) -> dict[str, tuple[st.Plane, ...]]:
    """Planes of the layers; an image keeps dtype and scaling where its bands agree on them, else it is physical."""
    bands = _bands(part)
    if len({(b.dtype, b.nodata) for b in bands}) > 1:
        bands = [b.model_copy(update={"dtype": "float32", "nodata": None, "scale": 1.0, "offset": 0.0}) for b in bands]
    return st.planes(layers, bands)


def _file_layer(spec: LayerSpec, arrays: Sequence[st.Plane], frames: FileFrames) -> Layer:
    """A layer as it is written into a GeoTIFF. The scaling of an image is stated as the input states it."""
    attrs = {k: v for k, v in spec.attrs.items() if k != "units"}
    name = SHORT.get(spec.name, spec.name)
    bands = tuple(p.name for p in arrays)
    if spec.name != "image":
        bands = (name,) if len(bands) == 1 else bands
        nodata = float("nan") if spec.nodata is None and spec.dtype.startswith("float") else spec.nodata
        flags = "flag_values" in spec.attrs
        return Layer(name, bands, spec.dtype, nodata, flags, units=spec.attrs.get("units"), attrs=attrs)
    header, one = frames.shots[0].header, arrays[0]
    physical = one.dtype != header.dtype
    scale, offset = (1.0, 0.0) if physical or header.scale is None else (header.scale, header.offset or 0.0)
    nodata = float("nan") if one.nodata is None and one.dtype.startswith("float") else one.nodata
    return Layer("image", bands, one.dtype, nodata, scale=scale, offset=offset, units=header.units, attrs=attrs)


def _identity(part: Part) -> str:
    """Hash of what is computed from what."""
    files: list[Any] = []
    for shot in part.picture.frames.shots:
        for band in shot.bands.values():
            stat = Path(band.href).stat()
            files.append([band.href, band.index, stat.st_size, stat.st_mtime_ns])
        files.append([s.model_dump(mode="json") for s in shot.specs])
    found = part.checkpoint
    said = [files, found.hash, found.name, str(part.picture.want), part.keep, fewer_bits(found.model)]
    return hashlib.blake2b(json.dumps(said, default=str).encode(), digest_size=16).hexdigest()


def _tags(part: Part) -> dict[str, str]:
    picture = part.picture
    used = [picture.frames.shots[k] for d in picture.want.dates for k in d]
    out = {
        "EOFLOW_MODEL": part.checkpoint.name, "EOFLOW_CHECKPOINT": part.checkpoint.hash,
        "EOFLOW_SOURCES": ", ".join(Path(s.path).name for s in used), "EOFLOW_TASK": part.task,
        "EOFLOW_COMMAND": part.command, "TIFFTAG_SOFTWARE": f"eoflow {__version__}",
    }  # fmt: skip
    if all(s.time is not None for s in used) and used:
        out["EOFLOW_TIMES"] = ", ".join(iso(s.time) for s in used if s.time is not None)
    return out


# -- what is told of a map ---------------------------------------------------------------------------------------------


def _told(
    part: Part, reference: Reference | None, zones: Sequence[Zone], layers: Sequence[LayerSpec], report: ProductReport
) -> list[str]:
    """Rows of pixels and km2, and the flood file where a reference tells permanent water."""
    import rasterio

    picture, grid = part.picture, part.picture.frames.grid
    names = str(next(x for x in layers if x.name == "class").attrs.get("flag_meanings", "")).split()
    some = list(zones) or [Zone(picture.name)]
    classes = Census(grid, some) if grid.crs else None
    tell = reference is not None and part.task == "segmentation" and bool(grid.crs)
    flood = Census(grid, some) if tell else None
    counts = np.zeros(256, np.int64)
    if reference is not None and not grid.crs:
        report.say(f"{picture.name} has no georeference: permanent water cannot be told.")

    def split(_: int, rows: slice, columns: slice) -> Array:
        assert reference is not None
        with rasterio.open(picture.dest) as f:
            values = f.read(1, window=(tuple_of(rows), tuple_of(columns)))
        return water.tell(values, reference.read(grid.window(rows, columns)), 1)

    with rasterio.open(picture.dest) as f:
        for rows, columns in blocks(grid.shape, 1024):
            values = f.read(1, window=(tuple_of(rows), tuple_of(columns)))
            counts += np.bincount(values.ravel(), minlength=256)
            if classes is not None:
                classes.add(rows, columns, values)
            if flood is not None:
                flood.add(rows, columns, split(0, rows, columns))
    share = 1 - int(counts[255]) / int(counts.sum())
    time = picture.frames.shots[-1].time
    stamp = "" if time is None else iso(time)
    row = {"tile": picture.name, "time": stamp, "valid": share}
    report.tiles.append(row | {n: int(counts[i]) / int(counts.sum()) for i, n in enumerate(names)})
    if said := remark(part.task, picture.name, stamp, share, {i: int(counts[i]) for i in range(len(names))}):
        report.say(said)
    if classes is not None:
        report.areas += [area_row(z, k, picture.name, stamp, names, classes, flood) for k, z in enumerate(some)]
    if not tell:
        return []
    path = picture.dest.with_name(f"{picture.dest.stem}_flood{picture.dest.suffix}")
    band = CogBand("flood", "uint8", 255, long_name="land 0, flood 1, permanent water 2", categorical=True)
    return [str(write_cog(path, [band], grid, split, tags=_tags(part), overwrite=part.overwrite))]


def _filled(part: Part, report: ProductReport) -> None:
    """How many pixels come from where."""
    import rasterio

    path = next(p for p in cog_paths(part.picture.dest, (Layer("image"), Layer("filled"))) if p.stem.endswith("filled"))
    if not path.exists():
        raise Failure("the layer of filled pixels is missing", where=str(path))
    counts = np.zeros(256, np.int64)
    with rasterio.open(path) as f:
        for rows, columns in blocks((f.height, f.width), 2048):
            values = f.read(1, window=(tuple_of(rows), tuple_of(columns)))
            counts += np.bincount(values.ravel(), minlength=256)
    total = int(counts.sum())
    if counts[255]:
        report.say(f"{counts[255] / total:.1%} of the pixels were seen on no date and could not be filled: nodata.")
    if counts[1]:
        report.say(f"{counts[1] / total:.1%} of the pixels were seen on no date: they are the model's guess"
                   " (1 in the file of filled pixels).")  # fmt: skip


def _despeckled(part: Part, report: ProductReport) -> None:
    """What was taken off."""
    import rasterio

    picture, time = part.picture, part.picture.frames.shots[-1].time
    with rasterio.open(picture.dest) as f:
        found = taken_off(part.checkpoint, picture.frames, picture.want.dates[0][0],
                          lambda rows, columns: f.read(window=(tuple_of(rows), tuple_of(columns))))  # fmt: skip
    row: dict[str, Any] = {"tile": picture.name, "time": "" if time is None else iso(time), **found}
    report.tiles.append(row)
    for said in remarks([row]):
        report.say(said)


def tuple_of(s: slice) -> tuple[int, int]:
    """A slice as rasterio's windows want it."""
    return s.start, s.stop
