"""Tiles of the sample land: squares of the UTM grid, with the pixel grid and the place on the globe of each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from eoflow.errors import BadInput

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

RESOLUTION = 10.0
"""Metres of a pixel."""

Kind = Literal["lowland", "hills", "alpine", "lakes", "suburb", "coast", "steppe"]
KINDS: tuple[Kind, ...] = ("lowland", "hills", "alpine", "lakes", "suburb", "coast", "steppe")
_NAME = re.compile(r"^(\d{2})([NS])-(\d{3,4})-(\d{3,4})$")


@dataclass(frozen=True)
class Tile:
    """A square of `size` x `size` pixels of 10 m. `zone` 1..60, `north`, and column, row of the grid anchored at 0, 0.

    Its name is `32N-0097-1049`: zone, hemisphere, column, row.
    """

    zone: int
    north: bool
    column: int
    row: int
    size: int = 512

    @classmethod
    def parse(cls, name: str, size: int = 512) -> Tile:
        """From its name. Raises BadInput."""
        m = _NAME.match(name)
        if m is None or not 1 <= int(m[1]) <= 60:
            raise BadInput(f"'{name}' is not a tile of the sample land", todo="write it as 32N-0097-1049")
        tile = cls(int(m[1]), m[2] == "N", int(m[3]), int(m[4]), size)
        left, top = tile.origin
        if not (1e5 <= left <= 9e5 and 0.0 <= top <= 1e7):
            raise BadInput(
                f"tile '{name}' lies outside the UTM zone ({left:g} m east, {top:g} m north)",
                todo=f"choose a column from 1e5 to 9e5 m east; a column is {size * RESOLUTION:g} m",
            )
        return tile

    @property
    def name(self) -> str:
        """`32N-0097-1049`."""
        return f"{self.zone:02d}{'N' if self.north else 'S'}-{self.column:04d}-{self.row:04d}"

    @property
    def crs(self) -> str:
        """EPSG code of the UTM zone."""
        return f"EPSG:{(32600 if self.north else 32700) + self.zone}"

    @property
    def origin(self) -> tuple[float, float]:
        """Easting and northing of the upper left corner, m."""
        side = self.size * RESOLUTION
        return self.column * side, (self.row + 1) * side

    @property
    def transform(self) -> tuple[float, float, float, float, float, float]:
        """Affine a, b, c, d, e, f of the pixel grid, north up."""
        left, top = self.origin
        return (RESOLUTION, 0.0, left, 0.0, -RESOLUTION, top)

    @property
    def geobox(self) -> GeoBox:
        """The pixel grid."""
        from affine import Affine
        from odc.geo.geobox import GeoBox

        return GeoBox((self.size, self.size), Affine(*self.transform), self.crs)

    @property
    def bbox(self) -> tuple[float, float, float, float]:
        """West, south, east, north in degrees."""
        return _bbox(self)

    @property
    def centre(self) -> tuple[float, float]:
        """Longitude and latitude of the middle, degrees."""
        west, south, east, north = self.bbox
        return (west + east) / 2.0, (south + north) / 2.0


@lru_cache(maxsize=256)
def _bbox(tile: Tile) -> tuple[float, float, float, float]:
    box = tile.geobox.geographic_extent.boundingbox
    return (float(box.left), float(box.bottom), float(box.right), float(box.top))
