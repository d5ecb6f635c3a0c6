"""The part of the Earth that a dataset is of: given once, kept in its entry, the same ever after."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from eoflow import catalog
from eoflow.archive import Archive
from eoflow.catalog import DatasetEntry
from eoflow.catalog_scenes import SceneEntry
from eoflow.cube import Cube
from eoflow.errors import BadInput
from eoflow.workspace import Workspace

Box = tuple[float, float, float, float]
Entry = DatasetEntry | SceneEntry
FORM = "write --area W,S,E,N in degrees"


def parse(area: str | Box | list[float]) -> Box:
    """`W,S,E,N`, or four numbers, in degrees; W > E across the antimeridian. Raises BadInput."""
    try:
        numbers = [float(v) for v in (area.split(",") if isinstance(area, str) else area)]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != 4:
        raise BadInput(f"'{area}' is not W,S,E,N", where="--area", todo=FORM)
    west, south, east, north = numbers
    if not (-90 <= south < north <= 90 and -180 <= west <= 360 and -180 <= east <= 360 and west != east):
        raise BadInput(f"{said((west, south, east, north))} is no box on the Earth", where="--area", todo=FORM)
    return west, south, east, north


def said(area: Box | None) -> str:
    """For people: `9,47,10,48`."""
    return "the whole of it" if area is None else ",".join(f"{v:g}" for v in area)


def holds(outer: Box, inner: Box) -> bool:
    """Whether a box lies in another; both may cross the antimeridian."""
    width = (outer[2] - outer[0]) % 360 or 360.0
    start, length = (inner[0] - outer[0]) % 360, (inner[2] - inner[0]) % 360 or 360.0
    return outer[1] <= inner[1] and inner[3] <= outer[3] and (start + length <= width + 1e-9 or width == 360.0)


def narrowed(entry: Entry, area: Box, workspace: Workspace) -> Entry:
    """The entry, of this area only. Raises BadInput where the entry or what is stored already says otherwise."""
    name = entry.name
    archive = Archive(workspace, name)
    if archive.exists():
        held = Cube(archive).entry.area if archive.kind == "scenes" else archive.entry.area
        if held != area:
            raise BadInput(
                f"the archive of '{name}' was begun for {said(held)}, and cannot go on for {said(area)}",
                where=workspace.root,
                todo="leave --area out, or give a copy of the entry another name:  eoflow datasets show " + name,
            )
    elif entry.area is not None and not holds(entry.area, area):
        raise BadInput(
            f"{said(area)} reaches beyond the area of the entry, {said(entry.area)}", where=f"dataset {name}",
            todo="give an area inside it, or a copy of the entry another name and area",
        )  # fmt: skip
    return entry.model_copy(update={"area": area})


@contextmanager
def kept(entry: Entry, workspace: Workspace) -> Iterator[None]:
    """The entry stands in the workspace's catalog from here on, so that later runs ask for the same area; not if
    nothing could be stored."""
    parts = ("catalogs", "datasets", f"{entry.name}.yaml")
    before = workspace.read_text(*parts) if workspace.exists(*parts) else None
    catalog.save_dataset(entry, workspace)
    try:
        yield
    except BaseException:
        if not Archive(workspace, entry.name).exists():
            if before is None:
                workspace.fs().rm(workspace.url(*parts))
            else:
                workspace.write_text(before, *parts)
        raise
