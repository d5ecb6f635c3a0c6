"""What pixels tell of loose rasters: the radiometric convention of Sentinel-2, and whether values fit their units."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from eoflow.catalog_scenes import SceneEntry
from eoflow.errors import BadInput
from eoflow.sources import geotiff_names as gn
from eoflow.sources.radiometry import Pair, check_backscatter, check_sample, cube_band, parse_baseline, sentinel2_pair
from eoflow.sources.raster import Header, RasterReader, fill_in
from eoflow.sources.scene import MASKS, Grid, RasterBand, Scene

Array = np.ndarray[Any, Any]
SAMPLE = 256
"""Pixels of a sample, each side."""
MOST = 64
"""Files that are looked at."""
ENOUGH = 64
SINCE = np.datetime64("2022-01-25", "ns")
"""First day of processing baseline 04.00: every product sensed since then has the offset, unless it was taken off."""
OFFSET_DN = 1000
DARK = 900
"""Stored values of 1 % of the pixels below this mean reflectances below -0.01 in the convention with the offset."""


def sample(reader: RasterReader, href: str, index: int, header: Header) -> Array:
    """Stored values of a square in the middle of a raster, at most SAMPLE x SAMPLE."""
    h, w = (min(SAMPLE, n) for n in header.shape)
    row, column = (header.shape[0] - h) // 2, (header.shape[1] - w) // 2
    a, b, c, d, e, f = header.transform
    grid = Grid(header.crs or "", (a, b, c + a * column + b * row, d, e, f + d * column + e * row), (h, w))
    return reader.read(fill_in(RasterBand(href, index), header), grid)


def evenly(n: int, most: int = MOST) -> list[int]:
    """Up to `most` of n positions, first and last among them."""
    return sorted(set(np.linspace(0, n - 1, min(n, most)).astype(int).tolist()))


def s2_pair(
    headers: Mapping[str, Header], bands: Mapping[str, Mapping[str, Any]], level: str, baseline: Any,
    reader: RasterReader, notes: list[str],
) -> Pair:  # fmt: skip
    """(scale, offset) of Sentinel-2 files that do not state it: by the baseline that was said, by the tags, or by dark
    pixels. Raises BadInput where the files are of two conventions or nothing tells."""
    where = next(iter(headers))
    if baseline is not None:
        parse_baseline(str(baseline))
        return sentinel2_pair(str(baseline), level, where=where)
    tagged = [h.tags.get("PROCESSING_BASELINE") for h in headers.values()]
    if all(tagged):
        return max((sentinel2_pair(t, level, where=where) for t in tagged), key=lambda p: -p[1])
    if any(tagged):
        raise _undecided("some files have the tag PROCESSING_BASELINE and others do not", where)
    paths = list(headers)
    kinds = {p: _convention(reader, p, headers[p], bands) for p in (paths[i] for i in evenly(len(paths)))}
    old = [p for p, k in kinds.items() if k == "old"]
    new = [p for p, k in kinds.items() if k == "new"]
    if old and new:
        raise _undecided(
            f"{PurePath(old[0]).name} has the radiometry before processing baseline 04.00,"
            f" {PurePath(new[0]).name} that since, and no metadata say which file is which", new[0],
        )  # fmt: skip
    late = [p for p in paths if (t := gn.time_of(p)) is not None and t >= SINCE and kinds.get(p) != "old"]
    if old and late and not any((t := gn.time_of(p)) is not None and t >= SINCE for p in old):
        raise _undecided("files from 2022-01-25 on may have the offset of processing baseline 04.00", late[0])
    if old:
        notes.append(
            f"Radiometry: reflectance = DN / 10000, without the offset of baseline 04.00"
            f" (in {len(old)} of {len(kinds)} files 1 % of the pixels of a band lie below {DARK})."
        )
        return 1e-4, 0.0
    if new:
        notes.append("Radiometry: reflectance = (DN - 1000) / 10000 (the darkest band begins at 1000).")
        return 1e-4, -0.1
    raise _undecided("neither names, tags nor dark pixels tell the radiometric offset", where)


def _undecided(what: str, where: str) -> BadInput:
    return BadInput(
        f"Sentinel-2 without metadata: {what}", where=where,
        todo="say it with --set offset=0.0 (before baseline 04.00, or offset already applied) or --set offset=-0.1"
        " (baseline 04.00 or later); files of both kinds need their SAFE, or datasets of their own",
    )  # fmt: skip


def _convention(reader: RasterReader, path: str, header: Header, bands: Mapping[str, Mapping[str, Any]]) -> str | None:
    """ "old" (no offset), "new" (offset of 1000) or None: not told."""
    low: dict[str, float] = {}
    for name, keys in bands.items():
        if keys.get("index") is None and gn.token(PurePath(path).stem, [str(keys.get("source_name") or name)]) is None:
            continue
        values = sample(reader, path, int(keys.get("index") or 1), header)
        values = values[values != 0]
        if values.size >= ENOUGH:
            low[name] = float(np.percentile(values, 1))
    if not low:
        return None
    if min(low.values()) < DARK:
        return "old"
    # the cirrus band sees nothing of the ground: without the offset a clear sky is 0 to 60 there, with it 1000 to 1060
    return "new" if OFFSET_DN - 10 <= low.get("B10", 0.0) <= OFFSET_DN + 60 else None


def check_values(entry: SceneEntry, scenes: Sequence[Scene], reader: RasterReader) -> None:
    """Some pixels of every band against its units, scale and offset. Raises BadInput that says what they look like.

    Bands without units (radar) are refused with a hint.
    """
    names = [n for n in (scenes[0].bands if scenes else ()) if n not in MASKS]
    for name in names:
        band_entry = (entry.bands or {}).get(name)
        for i in evenly(len(scenes), 8):
            band = scenes[i].bands.get(name)
            if band is None:
                continue
            header = reader.header(band.href, band.index)
            values = sample(reader, band.href, band.index, header)
            where = f"{band.href}, band {band.index}"
            if band_entry is not None and band_entry.units is None:
                if np.isfinite(values).sum() < ENOUGH and i != len(scenes) - 1:
                    continue  # an empty chip says nothing
                scale = band_entry.scale or 1.0
                _with_option(lambda v=values, s=scale, w=where: check_backscatter(v * s, None, where=w))
            spec = cube_band(name, band_entry, fill_in(band, header), entry.sensor, entry.level, where=where)
            if band.scale is not None and band.offset is not None:  # of the scene, where it differs from the cube's
                spec = spec.model_copy(update={"scale": band.scale, "offset": band.offset})
            _with_option(lambda v=values, s=spec, w=band.href: check_sample(v, s, entry.sensor, where=w))


def _with_option(check: Any) -> None:
    """Run a check; its hint is given as the options of the command line too."""
    try:
        check()
    except BadInput as e:
        options = [f"--set {k}={v}" for k, v in re.findall(r"(units|scale|offset): (\"?[\w.\-]+\"?)", e.todo or "")]
        shown = "" if not options or "one of" in (e.todo or "") else f", or  {' '.join(options)}"
        raise BadInput(e.what, where=e.where, todo=f"{e.todo}{shown or ', or --set units=dB'}") from None
