"""A scene: some bands of one acquisition as raster files, with everything that is known of them before reading.

Every source of scenes (STAC, SAFE, Landsat, folders of GeoTIFFs, the sample planet) ends in these values; one reader
(`eoflow.sources.raster`) turns them into arrays.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from eoflow.sources.base import Area, SourceContext
from eoflow.tiling import Grid as Grid
from eoflow.times import NS, Period

if TYPE_CHECKING:
    from eoflow.catalog_scenes import SceneEntry

QUALITY = "quality"
"""Key of the provider's mask among the bands of a scene; it becomes the quality layer by the entry's rule."""


SATURATION = "saturation"
"""Key of the provider's bits of saturated bands (Landsat's QA_RADSAT), of a scene that has them."""
MASKS = (QUALITY, SATURATION)


@dataclass(frozen=True)
class RasterBand:
    """One band of one raster file. None: not known before the header is read (`SceneSource.header` fills it in).

    index: band number in the file, from 1. physical = stored * scale + offset in `units`. blocks: (y, x) of the file's
    own blocks. etag: what identifies the content (HTTP ETag, checksum, or size and modification time of a file).
    """

    href: str
    index: int = 1
    dtype: str | None = None
    nodata: float | None = None
    scale: float | None = None
    offset: float | None = None
    units: str | None = None
    grid: Grid | None = None
    blocks: tuple[int, int] | None = None
    etag: str | None = None


@dataclass(frozen=True)
class Scene:
    """One acquisition (or the part of one that the provider ships as one item).

    id: the provider's item id, unique in the dataset. time: datetime64[ns], UTC. tile: the provider's tile
    (`29UNU`, `008059`, a chip's name), the group of scheme `footprint`. bands: by eoflow's band name, and the
    provider's mask under QUALITY. bbox: W, S, E, N in degrees (west > east across the antimeridian). version:
    changes when the provider publishes the scene again (baseline, creation time, `updated`).
    """

    id: str
    time: np.datetime64
    tile: str
    bands: dict[str, RasterBand]
    bbox: Area | None = None
    platform: str | None = None
    level: str | None = None
    baseline: str | None = None
    version: str = ""
    href: str = ""
    properties: dict[str, Any] = field(default_factory=dict)

    def with_bands(self, **changes: RasterBand) -> Scene:
        """The same scene with some bands replaced."""
        return replace(self, bands={**self.bands, **changes})

    def to_json(self) -> str:
        """JSON text that `from_json` takes (for Dask workers and the ledger); never holds a signature or a secret."""
        raw = asdict(self)
        raw["time"] = str(self.time.astype(NS))
        return json.dumps(raw, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Scene:
        """The inverse of `to_json`."""
        raw = json.loads(text)
        bands = {}
        for name, b in raw.pop("bands").items():
            g = b.pop("grid")
            blocks = b.pop("blocks")
            grid = None if g is None else Grid(g["crs"], tuple(g["transform"]), tuple(g["shape"]))
            bands[name] = RasterBand(**b, grid=grid, blocks=None if blocks is None else tuple(blocks))
        bbox = raw.pop("bbox")
        return cls(
            **{**raw, "time": np.datetime64(raw["time"], "ns")},
            bands=bands,
            bbox=None if bbox is None else tuple(bbox),
        )


@runtime_checkable
class SceneSource(Protocol):
    """Registered as `eoflow.sources` like a source of fields; `gives` tells the two apart.

    `plan` lists scenes without opening a raster (a search, a listing), oldest first. `header` opens what is needed to
    fill in grid, dtype, nodata, scale, offset, units, blocks and etag of every band, and checks them against the
    entry: what is unknown or contradicts raises AssetCorrupt (this scene) or BadInput (the entry must say it).
    `readable` turns an href into what the reader opens, at the moment of reading (signing, allowed hosts).
    """

    gives: ClassVar[str] = "scenes"

    def __init__(self, entry: SceneEntry, context: SourceContext) -> None: ...

    def plan(self, period: Period | None, area: Area | None = None) -> list[Scene]:
        """Scenes of the period and area, oldest first. Raises AssetTransient (no connection) or BadInput."""
        ...

    def header(self, scene: Scene) -> Scene:
        """The scene with every field of its bands filled in. Raises AssetMissing, AssetCorrupt, AssetTransient."""
        ...

    def readable(self, href: str) -> str:
        """What rasterio opens: a path, or a URL that is signed now. Raises BadInput for a host that is not allowed."""
        ...
