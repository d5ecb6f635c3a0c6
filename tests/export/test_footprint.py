"""Outlines in degrees: where the antimeridian and the poles are."""

from __future__ import annotations

import numpy as np
import pytest
from cubes import grid
from pyproj import Transformer
from shapely.geometry import Point, shape

from eoflow.errors import BadInput
from eoflow.export.footprint import outline

CASES = {
    "europe": ("EPSG:32632", 500_000, 5_000_000, 100),
    "before the antimeridian": ("EPSG:32660", 645_000, 7_000_000, 100),
    "after it": ("EPSG:32601", 345_000, 7_000_000, 100),
    "south, across": ("EPSG:32701", 150_000, 8_000_000, 1000),
    "degrees": ("EPSG:4326", 9, 46, 0.01),
    "degrees beyond 180": ("EPSG:4326", 179.5, 46, 0.01),
    "north pole": ("EPSG:3413", -100_000, 150_000, 2000),
    "south pole": ("EPSG:3031", -100_000, 120_000, 2000),
    "beside a pole": ("EPSG:3413", 1_000_000, 1_500_000, 2000),
    "polar, across": ("EPSG:3413", -1_500_000, 1_500_000, 2000),
}


@pytest.mark.parametrize("case", CASES)
def test_every_pixel_lies_inside(case):
    crs, left, top, res = CASES[case]
    g = grid((100, 100), left, top, res, crs)
    geometry, bbox = outline(g)
    there = shape(geometry)
    assert there.is_valid
    west, south, east, north = bbox
    assert -180 <= west <= 180
    assert -180 <= east <= 180
    assert -90 <= south < north <= 90
    lons = np.concatenate([np.asarray(p.exterior.coords) for p in getattr(there, "geoms", [there])])[:, 0]
    assert lons.min() >= -180
    assert lons.max() <= 180
    x, y = np.meshgrid(g.x()[2:-2:5], g.y()[2:-2:5])
    lon, lat = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(x.ravel(), y.ravel())
    lon = (np.asarray(lon) + 180) % 360 - 180
    assert all(there.covers(Point(p)) for p in zip(lon, lat))
    inside = (lon >= west) & (lon <= east) if west <= east else (lon >= west) | (lon <= east)
    assert inside.all()
    assert ((lat >= south) & (lat <= north)).all()


@pytest.mark.parametrize(
    ("case", "crossing"),
    [("europe", False), ("before the antimeridian", True), ("after it", True), ("degrees beyond 180", True),
     ("north pole", False), ("polar, across", True), ("beside a pole", False)],
)  # fmt: skip
def test_who_crosses(case, crossing):
    crs, left, top, res = CASES[case]
    geometry, (west, _, east, _) = outline(grid((100, 100), left, top, res, crs))
    assert (geometry["type"] == "MultiPolygon") is crossing
    assert (west > east) is crossing


def test_the_pole_is_inside():
    geometry, bbox = outline(grid((100, 100), *CASES["north pole"][1:], "EPSG:3413"))
    assert bbox[3] == 90
    assert (bbox[0], bbox[2]) == (-180, 180)
    assert shape(geometry).contains(Point(12.3, 89.99))


def test_no_place():
    with pytest.raises(BadInput, match="no CRS"):
        outline(grid((10, 10), crs=""))
