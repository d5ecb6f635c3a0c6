"""How loose raster files become scenes and tiles: which files there are, what a tile is called, what is one twice."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from eoflow.catalog_scenes import BandEntry
from eoflow.errors import BadInput
from eoflow.sources import geotiff_names as gn
from eoflow.sources.files import expand
from eoflow.sources.scene import Grid, Scene

SUFFIXES = (".tif", ".tiff", ".jp2")
Key = tuple[str, ...]
"""What the files of one scene have in common: time, tile, folder, name without the band."""
Group = dict[str, gn.Named]
"""The files of one scene by the band that their name says ("" where it says none)."""


def how_to_say(name: str, lacks: Sequence[str]) -> str:
    """The options that complete a band."""
    values = {"units": "1 (reflectance, linear power; else dB, K, DN)", "scale": "0.0001", "offset": "0.0"}
    return (
        f"say it for every band with  {' '.join(f'--set {k}={values[k]}' for k in lacks)}  (for one band:"
        f" --set bands.{name}.{lacks[0]}=...), or name the product: --set sensor=sentinel-2 --set level=L1C"
    )


def files_of(paths: Sequence[str] | str) -> list[str]:
    """Absolute raster files of paths, patterns and folders (with their subfolders), each once."""
    out: list[str] = []
    for path in expand(paths):
        if os.path.isdir(path):  # noqa: PTH112
            out += sorted(str(p) for p in Path(path).rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        else:
            out.append(path)
    return list(dict.fromkeys(out))


def bands_in(descriptions: Sequence[str | None]) -> dict[str, BandEntry]:
    """Bands of a multi-band file: named by its descriptions, where every band has a usable one, else b1, b2, ..."""
    names = [re.sub(r"\W+", "_", d or "").strip("_") for d in descriptions]
    usable = len(set(names)) == len(names) and all(re.match(r"[A-Za-z]", n) for n in names)
    return {
        (names[i] if usable else f"b{i + 1}"): BandEntry(index=i + 1, source_name=descriptions[i] if usable else None)
        for i in range(len(descriptions))
    }


def tiles_of(groups: dict[Key, Group], grids: dict[Key, Grid | None], tile_by: str) -> dict[Key, str]:
    """The tile of each scene: by pattern, by name, or by pixel grid (None: the file cannot be opened).

    The oldest grid at a corner has the plain name, so that later files do not rename a tile.
    """
    first = {key: next(iter(group.values())) for key, group in groups.items()}
    out: dict[Key, str] = {}
    names: dict[str, str] = {}  # grid -> tile
    taken: set[str] = set()
    for key in sorted(groups, key=lambda k: (first[k].time, first[k].path)):
        n, grid = first[key], grids[key]
        if n.tile is not None:
            out[key] = gn.safe(n.tile)
        elif tile_by == "name":
            out[key] = gn.safe(n.rest or PurePath(n.path).parent.name)
        elif grid is not None:
            known = gn.grid_key(grid)
            if known not in names:
                name = gn.tile_name(grid)
                if name in taken:  # another size or resolution at the same corner
                    name = f"{name}_{grid.shape[0]}x{grid.shape[1]}_{abs(grid.transform[0]):.6g}"
                names[known] = name
                taken.add(name)
            out[key] = names[known]
    by_rest = {first[k].rest: tile for k, tile in out.items()}
    only = set(out.values())
    for key in groups:
        if key not in out:  # unreadable: where its neighbours are
            rest = first[key].rest
            out[key] = by_rest.get(rest) or (next(iter(only)) if len(only) == 1 else gn.safe(rest))
    return out


def version_of(paths: Iterable[str]) -> str:
    """Changes when one of the files is written again."""
    stamps = []
    for p in sorted(paths):
        try:
            s = os.stat(p)  # noqa: PTH116
            stamps.append(f"{s.st_size}-{s.st_mtime_ns}")
        except OSError:
            stamps.append("gone")
    return "+".join(stamps)


def unique_ids(scenes: list[Scene]) -> list[Scene]:
    """Stems as ids; a later one that is taken gets as many parent folders as it needs."""
    taken: set[str] = set()
    out = []
    for s in scenes:
        parts = PurePath(s.properties["files"][0]).parent.parts
        name, depth = s.id, 0
        while name in taken and depth < len(parts):
            depth += 1
            name = "/".join([*parts[-depth:], s.id])
        taken.add(name)
        out.append(replace(s, id=name))
    return out


def refuse_doubles(scenes: list[Scene]) -> None:
    """Raise BadInput for two scenes of one tile and time."""
    seen: dict[tuple[str, Any], Scene] = {}
    for s in scenes:
        first = seen.setdefault((s.tile, s.time), s)
        if first is not s:
            raise BadInput(
                f"two files hold tile {s.tile} at {str(s.time)[:19]}", where=f"{first.href} and {s.href}",
                todo="leave one out, or make each file a tile of its own: --set source.args.tile_by=name",
            )  # fmt: skip
