"""Which tiles a scene goes to, what grid a new tile gets, and what of a scene its tile cannot hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from eoflow.catalog_scenes import SceneEntry
from eoflow.errors import BadInput
from eoflow.sources.base import AssetCorrupt
from eoflow.sources.scene import MASKS, Grid, Scene
from eoflow.tiling import cells, cells_of_box, footprint, outside, refuse_other, same_pixels, union

Cut = dict[str, dict[str, float]]
"""By tile and scene: the share of the scene's pixels that its tile does not hold."""


def planned_tiles(entry: SceneEntry, scene: Scene) -> list[str]:
    """The tiles that a scene is for, as far as the listing tells; [""] where only its header will."""
    if entry.tiles.scheme == "footprint":
        return [scene.tile]
    grids = [b.grid for n, b in scene.bands.items() if b.grid is not None and n not in MASKS]
    try:
        if grids:
            return list(cells(grids[0], entry.tiles)) or [""]
        if scene.bbox is not None:
            return list(cells_of_box(scene.bbox, entry.tiles)) or [""]
    except BadInput:  # said with its reason when the scene is opened
        pass
    return [""]


def blocks_of(scene: Scene, grid: Grid) -> tuple[int, int] | None:
    """Blocks (y, x) of the scene's files in pixels of the tile: of the first band with its resolution."""
    for band in scene.bands.values():
        if band.grid is not None and band.blocks is not None and band.grid.resolution == grid.resolution:
            return band.blocks
    return None


class Extents:
    """The pixel grids of the scenes that are known, by tile: what the grid of a new tile has to hold.

    A listing that tells the grids (STAC) makes all of them known before anything is written; of other sources those
    whose headers were read.
    """

    def __init__(self, entry: SceneEntry, names: Sequence[str], scenes: Iterable[Scene] = ()) -> None:
        self.entry, self.names = entry, names
        self._of: dict[str, dict[Grid, None]] = {}
        self._footprints: dict[tuple[Grid, ...], Grid | None] = {}
        self.add(scenes)

    def add(self, scenes: Iterable[Scene]) -> None:
        """Remember where some scenes lie, as far as they tell."""
        if self.entry.tiles.scheme == "grid":
            return
        for s in scenes:
            grids = tuple(g for n in self.names if n in s.bands and (g := s.bands[n].grid) is not None and g.crs)
            if len(grids) < len(self.names):
                continue
            if grids not in self._footprints:
                try:
                    self._footprints[grids] = footprint(grids, self.entry.tiles)
                except BadInput:  # said when the scene is placed
                    self._footprints[grids] = None
            if (mine := self._footprints[grids]) is not None:
                self._of.setdefault(s.tile, {})[mine] = None

    def grid(self, tile: str, first: Grid, blocks: tuple[int, int] | None) -> Grid:
        """The grid of a new tile, whose first scene has the grid `first` and files with such blocks."""
        others = [g for g in self._of.get(tile, ()) if g != first and same_pixels(first, g)]
        return union([first, *others], self.entry.tiles.margin, blocks)


def grids_of(
    entry: SceneEntry, names: Sequence[str], scene: Scene, known: Mapping[str, Grid], extents: Extents | None = None
) -> dict[str, Grid]:
    """Tile and grid that a scene (its header read) goes to. known: grids of the tiles that there are.

    Raises AssetCorrupt where the scene lacks a band or does not fit the grid of its tile.
    """
    lacking = [n for n in names if n not in scene.bands]
    if lacking:
        raise AssetCorrupt(f"the scene does not have {', '.join(lacking)}", where=scene.id,
                           todo="correct `bands` in the catalog entry, or leave the scene out")  # fmt: skip
    grids = [g for n in names if (g := scene.bands[n].grid) is not None]
    if len(grids) < len(names) or not all(g.crs for g in grids):
        raise AssetCorrupt("a band has no CRS", where=scene.id, todo="write it into the file")
    try:
        if entry.tiles.scheme == "grid":
            widest = max(grids, key=lambda g: g.shape[0] * g.resolution[0] * g.shape[1] * g.resolution[1])
            return cells(widest, entry.tiles)
        mine = footprint(grids, entry.tiles)
        tile = known.get(scene.tile)
        if tile is not None:
            refuse_other(tile, mine)
            return {scene.tile: tile}
        return {scene.tile: mine if extents is None else extents.grid(scene.tile, mine, blocks_of(scene, mine))}
    except BadInput as e:
        raise AssetCorrupt(e.what, where=e.where or scene.id, todo=e.todo) from None


def outside_of(entry: SceneEntry, names: Sequence[str], scene: Scene, tile: Grid) -> float:
    """The share of a scene's pixels that its tile does not hold (scheme footprint), 0 up to one pixel beyond."""
    if entry.tiles.scheme == "grid":
        return 0.0
    grids = [g for n in names if (g := scene.bands[n].grid) is not None]
    return outside(tile, footprint(grids, entry.tiles))


def said_of(cut: Cut) -> list[str]:
    """One line a tile for people: how much of which scenes was left out, and what to do."""
    lines = []
    for tile, scenes in sorted(cut.items()):
        most = max(scenes, key=lambda i: scenes[i])
        share = f"{scenes[most]:.1%} of the pixels of {most}"
        some = share if len(scenes) == 1 else f"up to {share}, and some of {len(scenes) - 1} more scenes"
        lines.append(
            f"tile {tile}: {some} lie outside the tile, whose grid was set by its first scenes, and are left out. To"
            " keep them, ingest under a new name with  tiles: {scheme: grid, resolution: ...}  or with tiles.margin"
        )
    return lines
