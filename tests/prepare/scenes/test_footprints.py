from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_cube import utm
from pyproj import Geod, Transformer
from shapely import Polygon

from eoflow.errors import BadInput
from eoflow.prepare.scenes import footprints
from eoflow.prepare.scenes.footprints import Blocks
from eoflow.tiling import Grid

GEOD = Geod(ellps="WGS84")


def one(grid, y, x, patch):
    return footprints.corners(grid, np.array([y]), np.array([x]), patch)


@settings(max_examples=30, deadline=None)
@given(a=st.tuples(st.integers(0, 300), st.integers(0, 300)), b=st.tuples(st.integers(0, 300), st.integers(0, 300)),
       patch=st.integers(5, 64))  # fmt: skip
def test_separation_in_one_zone_is_that_of_shapely(a, b, patch):
    grid = utm(shape=(400, 400), north=5_000_000.0)

    def box(y, x):
        return Polygon([(x, -y), (x + patch, -y), (x + patch, -y - patch), (x, -y - patch)])

    got = footprints.separation(one(grid, *a, patch), one(grid, *b, patch))[0]
    truth = 10.0 * box(*a).distance(box(*b))
    if truth > 0:
        assert got == pytest.approx(truth, rel=2e-3, abs=1.0)  # metres on the ground against metres of the grid
    else:
        deep = 10.0 * min(patch - abs(a[0] - b[0]), patch - abs(a[1] - b[1]))
        assert got == pytest.approx(-deep, rel=2e-3, abs=1.0)


def test_the_same_ground_in_two_zones_overlaps():
    """A place at 6 degrees east, on the border of zones 31 and 32, as a window of each."""
    lon, lat = 6.0, 45.0
    windows = []
    for zone in (31, 32):
        east, north = Transformer.from_crs("EPSG:4326", f"EPSG:{32600 + zone}", always_xy=True).transform(lon, lat)
        windows.append(one(utm(zone, east - 320, north + 320, (64, 64)), 0, 0, 64))
    assert footprints.separation(*windows)[0] == pytest.approx(-640, abs=30)
    moved = one(utm(32, *Transformer.from_crs("EPSG:4326", "EPSG:32632", always_xy=True).transform(lon + 0.1, lat),
                    shape=(64, 64)), 0, 0, 64)  # fmt: skip
    _, _, away = GEOD.inv(lon, lat, lon + 0.1, lat)
    assert 0 < footprints.separation(windows[0], moved)[0] < away


@pytest.mark.parametrize(("west", "east"), [(179.99, -179.99), (-180.0, 180.0)])
def test_the_antimeridian_is_no_wall(west, east):
    a = Grid("EPSG:4326", (0.0001, 0, west, 0, -0.0001, 10.0), (50, 50))
    b = Grid("EPSG:4326", (0.0001, 0, east - 0.005, 0, -0.0001, 10.0), (50, 50))
    got = footprints.separation(one(a, 0, 0, 50), one(b, 0, 0, 50))[0]
    edge = (west + 0.005, east - 0.005) if west > 0 else (west, east)
    truth = GEOD.inv(edge[0], 10, edge[1], 10)[2]
    assert got == pytest.approx(truth, abs=3.0)


def test_windows_at_the_pole_touch_every_block_of_its_row():
    polar = Grid("EPSG:3413", (100.0, 0, -3200.0, 0, -100.0, 3200.0), (64, 64))
    blocks = Blocks(20_000.0)
    touched = blocks.touched(polar, np.array([0]), np.array([0]), 64, 0.0)[0]
    top = blocks.rows - 1
    assert {c for r, c in touched if r == top} == set(range(int(blocks.columns(np.array(top)))))


@settings(max_examples=30, deadline=None)
@given(lat=st.floats(-84, 84), lon=st.floats(-180, 180), size=st.sampled_from([2_000.0, 15_000.0, 400_000.0]),
       margin=st.sampled_from([0.0, 700.0]), seed=st.integers(0, 99))  # fmt: skip
def test_a_window_touches_the_block_of_every_place_in_it(lat, lon, size, margin, seed):
    zone = int((lon + 180) // 6) % 60 + 1
    code = (32600 if lat >= 0 else 32700) + zone
    east, north = Transformer.from_crs("EPSG:4326", f"EPSG:{code}", always_xy=True).transform(lon, lat)
    grid = Grid(f"EPSG:{code}", (10.0, 0, east, 0, -10.0, north), (256, 256))
    blocks = Blocks(size)
    touched = blocks.touched(grid, np.array([0]), np.array([0]), 256, margin)[0]
    rng = np.random.default_rng(seed)
    y, x = rng.uniform(-margin / 10, 256 + margin / 10, (2, 400))
    there = {(int(r), int(c)) for r, c in blocks.at(*footprints.lonlat(grid, y, x))}
    assert there <= touched


def test_blocks_are_nearly_equal_and_everywhere():
    blocks = Blocks(100_000.0)
    rows = np.arange(blocks.rows)
    edges = np.deg2rad(np.linspace(-90, 90, blocks.rows + 1))
    area = 2 * np.pi * 6371007.0**2 * np.diff(np.sin(edges)) / blocks.columns(rows)
    away = np.abs(rows - blocks.rows / 2) < blocks.rows * 0.47
    np.testing.assert_allclose(area[away], 1e10, rtol=0.07)
    assert (blocks.at(np.array([-180.0, 180.0]), np.array([12.3, 12.3]))[:, 1] == 0).all()
    assert blocks.at(np.array([7.0]), np.array([90.0]))[0, 0] == blocks.rows - 1


def test_a_tile_without_a_place_is_refused():
    with pytest.raises(BadInput, match="no CRS"):
        footprints.require_crs(Grid("", (1, 0, 0, 0, -1, 0), (5, 5)), "t")
    assert footprints.pixel_size(utm()) == pytest.approx(10, rel=1e-3)
