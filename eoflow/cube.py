"""Cube: a scene dataset as it is read: tiles, each a stack of scenes on one pixel grid.

It is an archive (one Icechunk repository with its history) whose groups are tiles instead of fields.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow import cube_layout as lay
from eoflow.archive import MAIN, Archive
from eoflow.bands import SceneSchema
from eoflow.errors import BadInput
from eoflow.registry import nearest
from eoflow.tiling import Grid
from eoflow.workspace import Workspace

if TYPE_CHECKING:
    import xarray as xr
    import zarr

    from eoflow.catalog_scenes import SceneEntry

Array = np.ndarray[Any, Any]


class Cube:
    """The cube of one scene dataset. Opening it reads metadata only; what is read stays at its snapshot if as_of says.

    tiles, grid, times, open, group and items take `as_of`: a snapshot id, a unique prefix, an ISO time; None: newest.
    """

    def __init__(self, archive: Archive, branch: str = MAIN) -> None:
        self.archive, self.branch = archive, branch
        self._roots: dict[str, zarr.Group] = {}
        self._grids: dict[tuple[str, str], Grid] = {}

    def __repr__(self) -> str:
        return f"Cube({self.archive.name!r} in {self.archive.workspace.root!r})"

    @classmethod
    def load(cls, workspace: Workspace, name: str) -> Cube:
        """The cube of dataset `name`. Raises BadInput where nothing has been ingested, or where it holds fields."""
        archive = Archive.load(workspace, name)
        if archive.kind != "scenes":
            raise BadInput(
                f"'{name}' is a dataset of fields, and this needs one of scenes", todo="eoflow datasets list"
            )
        return cls(archive)

    @classmethod
    def create(cls, workspace: Workspace, entry: SceneEntry, schema: SceneSchema, branch: str = MAIN) -> Cube:
        """Make an empty cube (no tiles yet) in one commit on `branch`. Raises BadInput where there is an archive."""
        archive = Archive(workspace, entry.name)
        details = {"what": "create"}
        with archive.beginning(branch), archive.transaction(
            f"create {entry.name}", details, branch, hidden=branch != MAIN
        ) as tx:  # fmt: skip
            lay.build(tx, entry, schema)
        return cls(archive, branch)

    # -- what it is ------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The dataset's name."""
        return self.archive.name

    @property
    def schema(self) -> SceneSchema:
        """Bands with their radiometry, tile scheme and quality rule."""
        return SceneSchema.model_validate_json(self.archive.attrs(branch=self.branch)["eoflow_schema"])

    @property
    def entry(self) -> SceneEntry:
        """The catalog entry that the cube was last written with."""
        from eoflow.catalog_scenes import SceneEntry

        return SceneEntry.model_validate_json(self.archive.attrs(branch=self.branch)["eoflow_entry"])

    @property
    def snapshot(self) -> str:
        """Id of the newest state."""
        return self.archive.tip(self.branch)

    def _root(self, as_of: str | None) -> zarr.Group:
        snapshot = self.archive.resolve(as_of, self.branch)
        if snapshot not in self._roots:
            if len(self._roots) > 8:
                self._roots.clear()
            self._roots[snapshot] = self.archive.zarr_group(snapshot if as_of else None, self.branch)
        return self._roots[snapshot]

    # -- tiles -----------------------------------------------------------------------------------------------------

    def tiles(self, as_of: str | None = None) -> list[str]:
        """Sorted names of the tiles."""
        group: Any = self._root(as_of).get(lay.TILES)
        return [] if group is None else sorted(group.group_keys())

    def group(self, tile: str, as_of: str | None = None, level: int = 1) -> zarr.Group:
        """The read-only group of a tile: plain Zarr arrays of stored values, no xarray between. Raises BadInput."""
        root = self._root(as_of)
        try:
            found: Any = root[lay.path(tile)]
            return found if level == 1 else found[f"{lay.OVERVIEWS}/{level}"]
        except KeyError:
            known = self.tiles(as_of)
            if tile not in known:
                some = ", ".join(known[:8]) + (f" and {len(known) - 8} more" if len(known) > 8 else "")
                raise BadInput(f"'{self.name}' has no tile '{tile}'{nearest(tile, known)}",
                               todo=f"tiles: {some or 'none yet'}") from None  # fmt: skip
            levels = ", ".join(str(f) for f in (1, *self.factors(tile, as_of)))
            raise BadInput(f"tile '{tile}' has no overview of factor {level}", todo=f"levels: {levels}") from None

    def grid(self, tile: str, as_of: str | None = None, level: int = 1) -> Grid:
        """The pixel grid of a tile."""
        key = (self.archive.resolve(as_of, self.branch), tile)
        if key not in self._grids:
            raw: Any = self.group(tile, as_of).attrs["eoflow_grid"]
            self._grids[key] = Grid(raw["crs"], tuple(raw["transform"]), tuple(raw["shape"]))
        return self._grids[key] if level == 1 else self._grids[key].coarser(level)

    def chunk(self, tile: str, as_of: str | None = None) -> tuple[int, int]:
        """Chunk of a tile, pixels (y, x); chunks hold one time each."""
        chunk: Any = self.group(tile, as_of).attrs["eoflow_chunk"]
        return int(chunk[0]), int(chunk[1])

    def factors(self, tile: str, as_of: str | None = None) -> tuple[int, ...]:
        """Factors of the overviews of a tile."""
        found: Any = self.group(tile, as_of).attrs["eoflow_overviews"]
        return tuple(int(f) for f in found)

    def times(self, tile: str, as_of: str | None = None) -> Array:
        """datetime64[ns] (T,), strictly increasing: every scene that was tried, failed ones included (see quality)."""
        stored: Any = self.group(tile, as_of)["time"]
        return lay.decode_times(stored[:])

    def at(self, lon: float, lat: float, as_of: str | None = None) -> list[tuple[str, int, int]]:
        """(tile, row, column) of the pixels that hold a point, degrees; several where tiles overlap."""
        from pyproj import Transformer

        points: dict[str, tuple[float, float]] = {}
        out = []
        for tile in self.tiles(as_of):
            grid = self.grid(tile, as_of)
            if grid.crs not in points:
                points[grid.crs] = Transformer.from_crs("EPSG:4326", grid.crs, always_xy=True).transform(lon, lat)
            x, y = points[grid.crs]
            found = grid.locate(x, y) if np.isfinite([x, y]).all() else None
            if found is not None:
                out.append((tile, *found))
        return out

    def items(self, tile: str, i: int, as_of: str | None = None) -> list[dict[str, Any]]:
        """The items of time step `i`, in the order in which they fill it: item k is value k + 1 of the layer `scene`.

        Each has id, version, href, baseline, hrefs and etags by band, recipe, digest, valid_fraction, and `outside`
        where the scene reaches beyond the tile (share of its pixels). Empty: nothing is stored (the ledger says why).
        """
        stored: Any = self.group(tile, as_of)[lay.ITEMS]
        text = str(stored[i])
        return json.loads(text) if text else []

    # -- values ----------------------------------------------------------------------------------------------------

    def open(
        self, tile: str, as_of: str | None = None, level: int = 1, physical: bool = False, chunks: Any = "auto-store"
    ) -> xr.Dataset:
        """A lazy dataset of a tile (time, y, x): the bands, quality, scene; CRS in `spatial_ref`.

        Bands hold stored values (native dtype, nodata as it is) or, with `physical`, float32 in units with NaN at
        nodata. level: 1, or the factor of an overview. chunks: as in `xr.open_zarr`; by default the stored chunks as
        dask arrays; None: lazy without dask (stored values only).
        """
        import xarray as xr

        self.group(tile, as_of, level)  # raises for a wrong name
        archive = self.archive
        store = archive.repo.readonly_session(snapshot_id=archive.resolve(as_of, self.branch)).store
        how = {} if (physical and chunks is None) or (isinstance(chunks, str) and chunks == "auto-store") else chunks
        ds = xr.open_zarr(
            store, group=lay.path(tile, level), consolidated=False, chunks=how, mask_and_scale=False
        )  # fmt: skip
        ds = ds[[*lay.layers(self.schema)]]  # a store has no order
        if physical:
            for band in self.schema.bands:
                ds[band.name] = _physical(ds[band.name], band)
        return ds

    def open_lines(self, tile: str) -> list[str]:
        """The lines that open a tile in a notebook without eoflow (physical values, decoded by xarray)."""
        first, _ = self.archive.open_lines()
        what = f'group="{lay.path(tile)}", consolidated=False'
        return [first, f'ds = xr.open_zarr(repo.readonly_session("main").store, {what})']


def _physical(da: xr.DataArray, band: Any) -> xr.DataArray:
    out = da.copy(data=da.data.map_blocks(band.physical, dtype="f4", meta=np.empty((0,) * da.ndim, "f4")))
    out.attrs = {k: v for k, v in da.attrs.items() if k not in ("scale_factor", "add_offset", "_FillValue")}
    return out
