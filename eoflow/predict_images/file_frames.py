"""Scenes of files as frames on one pixel grid, and where their surface can be seen."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from eoflow.bands import BandSpec
from eoflow.errors import BadInput
from eoflow.models.cloudmask import CloudRules
from eoflow.predict_images.dates import Frames as Known
from eoflow.predict_images.pictures import picture_reader
from eoflow.predict_images.shots import Shot
from eoflow.predict_images.stack import Progress, blocks
from eoflow.quality import USABLE, Quality, from_cloud_mask, from_qa_pixel, from_scl, usable
from eoflow.sources.raster import RasterReader
from eoflow.sources.raster_grid import offset_in
from eoflow.tiling import Grid

Array = np.ndarray[Any, Any]
IN_MEMORY = 256 * 2**20
SEES_CLOUDS = ("coastal", "blue", "green", "red", "nir", "nir08", "cirrus", "swir16")


@dataclass(frozen=True)
class FileFrames:
    """Frames of scenes of the same bands, on the grid of the first. warped: which of them lie on another grid.

    quality: (N, y, x) uint8 (or a file of it) where clouds were found; None: the masks of the scenes, if they have one.
    """

    shots: tuple[Shot, ...]
    specs: tuple[BandSpec, ...]
    grid: Grid
    warped: tuple[bool, ...]
    quality: Any | None = None
    classes: tuple[Quality, ...] = USABLE
    reader: RasterReader = field(default_factory=picture_reader)

    def __len__(self) -> int:
        return len(self.shots)

    def frame(self, k: int, rows: slice, columns: slice) -> tuple[Array, Array]:
        """See stack.Frames."""
        values = self.values(k, rows, columns)
        seen = np.asarray(np.isfinite(values).all(axis=0))
        classes = self.mask(k, rows, columns)
        return values, seen if classes is None else seen & usable(classes, self.classes)

    def values(self, k: int, rows: slice, columns: slice) -> Array:
        """(C, h, w) float32, physical, NaN where there is no value."""
        shot = self.shots[k]
        part = (self.grid if self.warped[k] or shot.grid.crs else shot.grid).window(rows, columns)
        how = "bilinear" if self.warped[k] else "nearest"
        found = self.reader.read_bands({s.name: shot.bands[s.name] for s in self.specs}, part, how)
        own = {s.name: s for s in shot.specs}
        out = np.stack([own[s.name].physical(found[s.name]) for s in self.specs])
        if self.warped[k]:
            out[:, ~covered(shot.grid, part)] = np.nan
        return out

    def mask(self, k: int, rows: slice, columns: slice) -> Array | None:
        """(h, w) uint8 of eoflow.quality, or None where nothing is known."""
        if self.quality is not None:
            return np.asarray(self.quality[k, rows, columns])
        return own_mask(self, k, rows, columns)


def own_mask(frames: FileFrames, k: int, rows: slice, columns: slice) -> Array | None:
    """The quality of a scene by the mask that came with it."""
    shot = frames.shots[k]
    if shot.mask is None:
        return None
    grid = frames.grid if shot.grid.crs else shot.mask.grid or shot.grid
    raw = frames.reader.read(shot.mask, grid.window(rows, columns), "nearest")
    if shot.rule == "scl":
        return from_scl(raw)
    if shot.rule == "qa_pixel":
        return from_qa_pixel(raw)
    return from_cloud_mask(raw, shot.mask.nodata)


def covered(own: Grid, part: Grid) -> Array:
    """(h, w) whether the centres of a grid's pixels lie in another raster."""
    from pyproj import Transformer

    a, b, c, d, e, f = part.transform
    rows, columns = np.mgrid[0 : part.shape[0], 0 : part.shape[1]] + 0.5
    x, y = c + a * columns + b * rows, f + d * columns + e * rows
    x, y = Transformer.from_crs(part.crs, own.crs, always_xy=True).transform(x, y)
    a, b, c, d, e, f = own.transform
    det = a * e - b * d
    column, row = (e * (x - c) - b * (y - f)) / det, (a * (y - f) - d * (x - c)) / det
    return np.asarray((row >= 0) & (row < own.shape[0]) & (column >= 0) & (column < own.shape[1]))


def on_one_grid(
    shots: Sequence[Shot], specs: Sequence[BandSpec], classes: tuple[Quality, ...] = USABLE
) -> tuple[FileFrames, list[str]]:
    """Frames of scenes on the grid of the first, and what was done for it. Raises BadInput where they do not fit."""
    first, notes, warped = shots[0], [], []
    for shot in shots:
        same = shot.grid.shape == first.grid.shape
        if first.grid.crs and shot.grid.crs:
            fits = same and offset_in(shot.grid, first.grid) == (0, 0)
            warped.append(not fits)
            if not fits:
                notes.append(f"{Path(shot.path).name} lies on another grid: it was warped onto that of"
                             f" {Path(first.path).name} (bilinear).")  # fmt: skip
            continue
        if not same or bool(first.grid.crs) != bool(shot.grid.crs):
            said = [f"{Path(s.path).name} {s.grid.shape[1]} x {s.grid.shape[0]} pixels, "
                    f"{s.grid.crs or 'no georeference'}" for s in (first, shot)]  # fmt: skip
            raise BadInput("the images do not lie on each other: " + "; ".join(said), where=shot.path,
                           todo="give images of one size, or georeference them")  # fmt: skip
        warped.append(False)
        if not shot.grid.crs and "pixel coordinates" not in " ".join(notes):
            notes.append("The images have no georeference: pixel coordinates are kept.")
    return FileFrames(tuple(shots), tuple(specs), first.grid, tuple(warped), None, classes), notes


def require_same_bands(shots: Sequence[Shot]) -> None:
    """Raise BadInput unless all scenes have the bands of the first, in the same units."""
    first = shots[0]
    for shot in shots[1:]:
        mine, theirs = ({(s.name, s.units) for s in x.specs} for x in (first, shot))
        if mine != theirs:
            said = [", ".join(f"{s.name} [{s.units}]" for s in x.specs) for x in (first, shot)]
            raise BadInput(f"the images have different bands: {said[0]} in {Path(first.path).name},"
                           f" {said[1]} in {Path(shot.path).name}", where=shot.path,
                           todo="give images of one sensor")  # fmt: skip


# -- clouds ------------------------------------------------------------------------------------------------------------


def find_clouds(
    shots: Sequence[Shot], frames: FileFrames, folder: Path, progress: Progress | None = None
) -> tuple[FileFrames, Known, str]:
    """The frames with the quality of each pixel, what that says of each date, and how it was found.

    Scenes with a mask have it from there; for the others see eoflow.models.cloudmask. folder: a scratch file lies there
    while a large series is worked on. Raises BadInput for images in which clouds cannot be found.
    """
    shape = (len(shots), *frames.grid.shape)
    quality: Array
    if np.prod(shape) > IN_MEMORY:
        scratch = tempfile.TemporaryFile(dir=folder, prefix=".quality-")  # noqa: SIM115  as long as the frames live
        quality = np.memmap(scratch, np.uint8, "w+", shape=shape)
    else:
        quality = np.zeros(shape, np.uint8)
    blind = [k for k, s in enumerate(shots) if s.mask is None]
    bands = _optical(shots) if blind else {}
    rules = CloudRules()
    series = replace(frames, specs=tuple(bands.values()), quality=None)
    squares = blocks(frames.grid.shape, 512 if len(shots) > 8 else 1024)
    for done, (rows, columns) in enumerate(squares):
        _block(series, frames, list(bands), blind, rules, quality, rows, columns)
        if progress is not None:
            progress(done + 1, len(squares), "looking for clouds")
    counts = np.stack([np.bincount(q.ravel(), minlength=256) for q in quality]) / (shape[1] * shape[2])
    known = Known(
        times_of(shots), 1 - counts[:, [0, 1]].sum(1), counts[:, [int(q) for q in frames.classes]].sum(1),
        counts[:, [int(Quality.CLOUD), int(Quality.SHADOW)]].sum(1),
    )  # fmt: skip
    how = "Clouds: by the masks given."
    if blind:
        count = f"{len(blind)} of {len(shots)} images have no mask: their" if len(blind) < len(shots) else "No masks:"
        how = f"{count} clouds and shadows were found by rules (brightness, and rise against the other dates)."
    out = replace(frames, quality=quality)
    return out, known, how


def _block(
    series: FileFrames, frames: FileFrames, names: list[str], blind: list[int], rules: CloudRules, quality: Array,
    rows: slice, columns: slice,
) -> None:  # fmt: skip
    """Quality of one square, seen with the pixels around it that a grown cloud may come from."""
    height, width = frames.grid.shape
    y, x = (slice(max(0, s.start - rules.grow), s.stop + rules.grow) for s in (rows, columns))
    y, x = slice(y.start, min(y.stop, height)), slice(x.start, min(x.stop, width))
    inner = (slice(rows.start - y.start, rows.stop - y.start), slice(columns.start - x.start, columns.stop - x.start))
    if blind:
        stack = np.stack([series.values(k, y, x) for k in range(len(series))])
        valid = np.isfinite(stack).all(axis=1)
        values = {n: np.where(valid, stack[:, i], 0) for i, n in enumerate(names)}
        found = rules(values, valid)
        quality[:, rows, columns] = found[(slice(None), *inner)]
    for k in range(len(frames)):
        given = own_mask(frames, k, rows, columns)
        if given is not None:
            quality[k, rows, columns] = given


def _optical(shots: Sequence[Shot]) -> dict[str, BandSpec]:
    """The bands by common name that tell clouds. Raises BadInput."""
    first = shots[0]
    found = {str(s.common_name): s for s in first.specs if s.common_name in SEES_CLOUDS and s.units == "1"}
    photograph = all(s.dtype == "uint8" for s in found.values())
    if photograph or not {"green", "red"} <= found.keys():
        what = "brightness of a photograph is no reflectance" if found else "green and red are not there"
        raise BadInput(f"clouds cannot be found in these images: {what}", where=first.path,
                       todo="give masks, one an image in the same order: --masks M1.tif,M2.tif (0 clear)")  # fmt: skip
    return found


def times_of(shots: Sequence[Shot]) -> Array:
    """Times of scenes; a day apart in the order given where a name has none."""
    if all(s.time is not None for s in shots):
        return np.array([s.time for s in shots], "datetime64[ns]")
    return np.datetime64("1970-01-01", "ns") + np.arange(len(shots)) * np.timedelta64(86400 * 10**9, "ns")
