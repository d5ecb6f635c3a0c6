"""Grids, tiles, cells, chunks and windows, against other ways to compute them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Transformer

from eoflow import tiling
from eoflow.catalog_scenes import TileScheme
from eoflow.errors import BadInput
from eoflow.tiling import Grid


def grid(shape=(100, 200), left=500_000.0, top=5_000_000.0, res=10.0, crs="EPSG:32632"):
    return Grid(crs, (res, 0.0, left, 0.0, -res, top), shape)


def test_a_grid_agrees_with_odc():
    g = grid()
    box = g.geobox
    assert Grid.of(box) == g
    assert g.bounds == tuple(box.boundingbox)
    np.testing.assert_allclose(g.x(), box.coords["x"].values)
    np.testing.assert_allclose(g.y(), box.coords["y"].values)
    part = g.window(slice(10, 30), slice(20, 70))
    assert part == Grid.of(box[10:30, 20:70])
    assert part.offset(g) == (-10, -20)
    assert g.locate(g.x()[7], g.y()[5]) == (5, 7)
    assert g.locate(g.bounds[0] - 1, g.y()[0]) is None
    assert g.coarser(16).shape == (7, 13)
    assert tiling.same_pixels(g, part)
    assert not tiling.same_pixels(g, grid(res=20.0))


@pytest.mark.parametrize(
    ("lon", "lat", "code"),
    [(9, 47, 32632), (-179.9, 10, 32601), (179.9, -10, 32760), (180, 1, 32601), (0, 0, 32631), (3, 85, 5041),
     (3, -81, 5042)],
)  # fmt: skip
def test_zones(lon, lat, code):
    assert tiling.zone(lon, lat) == f"EPSG:{code}"


def scheme(**how):
    return TileScheme(scheme="grid", resolution=10, shape=64, **how)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(-3000, 3000), st.integers(-3000, 3000), st.integers(1, 150), st.integers(1, 150),
    st.sampled_from([0.0, 3.7]),
)  # fmt: skip
def test_cells_cover_exactly_what_the_raster_covers(column, row, height, width, off):
    g = grid((height, width), left=10.0 * column + off, top=10.0 * row + off)
    found = tiling.cells(g, scheme())
    left, bottom, right, top = g.bounds
    expected = {
        (i, j)
        for i in range(math.floor(left / 640), math.ceil(right / 640))
        for j in range(math.floor(bottom / 640), math.ceil(top / 640))
    }
    corners = {(round(c.bounds[0] / 640), round(c.bounds[1] / 640)) for c in found.values()}
    assert corners == expected
    for c in found.values():
        assert c.shape == (64, 64)
        assert c.crs == "EPSG:32632"
        assert c.bounds[0] % 640 == 0
    assert len(found) == len(expected)


def test_cells_of_a_raster_in_degrees_and_at_the_edge_of_the_world():
    g = Grid("EPSG:4326", (0.001, 0, 9.0, 0, -0.001, 47.0), (50, 60))
    assert all(c.crs == "EPSG:32632" for c in tiling.cells(g, scheme()).values())
    over = Grid("EPSG:32601", (10, 0, 166_000, 0, -10, 10_000), (100, 100))  # across 180 degrees
    lon = [Transformer.from_crs(over.crs, 4326, always_xy=True).transform(x, 9000)[0] for x in over.bounds[::2]]
    assert lon[0] > 179 or lon[0] < -179
    assert {c.crs for c in tiling.cells(over, scheme()).values()} == {"EPSG:32601"}
    degrees = TileScheme(scheme="grid", resolution=0.001, shape=64, crs="EPSG:4326")
    wide = Grid("EPSG:4326", (0.01, 0, 179.5, 0, -0.01, 10.0), (50, 100))
    with pytest.raises(BadInput, match="antimeridian"):
        tiling.cells(wide, degrees)
    with pytest.raises(BadInput, match="antimeridian"):
        tiling.cells_of_box((179.5, 9, -179.5, 10), degrees)
    boxed = tiling.cells_of_box((179.99, 9, -179.99, 9.02), TileScheme(scheme="grid", resolution=100, shape=64))
    assert {c.crs for c in boxed.values()} <= {"EPSG:32660", "EPSG:32601"}
    polar = tiling.cells_of_box((0, 86, 1, 86.1), TileScheme(scheme="grid", resolution=100, shape=64))
    assert {c.crs for c in polar.values()} == {"EPSG:5041"}
    with pytest.raises(BadInput, match="more than"):
        tiling.cells(grid((200_000, 200_000)), scheme())


def test_footprints():
    fine, coarse = grid((100, 100)), grid((50, 50), res=20.0)
    assert tiling.footprint([coarse, fine], TileScheme()) == fine
    assert tiling.footprint([coarse, fine], TileScheme(resolution=20)) == coarse
    assert tiling.footprint([fine], TileScheme(resolution=30)).shape == (34, 34)
    with pytest.raises(BadInput, match="rotated"):
        tiling.footprint([Grid("EPSG:32632", (7, 7, 0, 7, -7, 0), (10, 10))], TileScheme())
    tiling.refuse_other(fine, grid((90, 80), left=500_300.0))
    with pytest.raises(BadInput, match="pixels of"):
        tiling.refuse_other(fine, coarse)
    with pytest.raises(BadInput, match="EPSG:32633"):
        tiling.refuse_other(fine, grid((100, 100), crs="EPSG:32633"))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-40, 40), st.integers(-40, 40), st.integers(60, 120), st.integers(60, 120)), min_size=1,
        max_size=4,
    ),
    st.sampled_from([None, 0.0, 0.05]), st.sampled_from([None, (8, 8), (1, 120)]), st.sampled_from([0.0, 4.0]),
)  # fmt: skip
def test_the_union_of_grids_holds_them_all(places, margin, blocks, off):
    grids = [
        grid((h, w), left=500_000.0 + 10 * c + off * (i > 0), top=5_000_000.0 - 10 * r)
        for i, (r, c, h, w) in enumerate(places)
    ]
    found = tiling.union(grids, margin, blocks)
    boxes = np.array([g.bounds for g in grids])
    area = (np.ptp(boxes[:, [0, 2]]) // 10 + 1) * (np.ptp(boxes[:, [1, 3]]) // 10 + 1)
    if area > 1.9 * max(g.shape[0] * g.shape[1] for g in grids):
        return  # no frames of one place
    assert tiling.same_pixels(found, grids[0])
    assert all(abs(x - round(x)) < 1e-9 for x in found.offset(grids[0]))  # on the first one's lattice
    assert all(tiling.outside(found, g) == 0 for g in grids)
    left, bottom, right, top = found.bounds
    unit = 10.0 if blocks is None or blocks[0] == 1 else 80.0
    room = 0.0 if margin == 0 or (margin is None and len(set(grids)) == 1) else (margin or 0.03) * 120 * 10 + 10
    assert boxes[:, 0].min() - left <= room + unit + 10
    assert top - boxes[:, 3].max() <= room + unit + 10
    assert right - boxes[:, 2].max() <= room + 10
    assert boxes[:, 1].min() - bottom <= room + 10


def test_frames_of_several_places_are_no_tile():
    far = [grid((100, 100)), grid((100, 100), left=501_500.0)]
    assert tiling.union(far, None, None) == far[0]
    assert tiling.outside(far[0], far[1]) == 1.0
    assert tiling.outside(far[0], grid((100, 100), left=500_010.0)) == 0.0
    assert tiling.outside(far[0], grid((100, 100), left=500_020.0)) == pytest.approx(0.02)
    assert tiling.outside(far[0], grid((50, 50), left=500_100.0, top=4_999_900.0)) == 0.0
    assert tiling.outside(grid((10, 10)), grid((20, 10))) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("shape", "blocks", "chunk"),
    [
        ((10980, 10980), (1024, 1024), (1024, 1024)),
        ((10980, 10980), (2048, 2048), (1024, 1024)),
        ((10980, 10980), (256, 256), (1024, 1024)),
        ((10980, 10980), (1, 10980), (1024, 1024)),
        ((256, 256), (64, 64), (256, 256)),
        ((1280, 1098), (512, 512), (1280, 1098)),
        ((300, 5000), (128, 128), (300, 1024)),
        ((7000, 7000), (384, 384), (768, 768)),
        ((7000, 7000), (700, 700), (1024, 1024)),
        ((10980, 10980), None, (1024, 1024)),
    ],
)
def test_chunks(shape, blocks, chunk):
    assert tiling.chunk_shape(shape, blocks, TileScheme()) == chunk


@pytest.mark.parametrize(
    ("side", "said", "factors"),
    [(10980, None, (4, 16)), (2049, None, (4, 16)), (2048, None, (4,)), (1098, None, (4,)), (512, None, ()),
     (200, (4, 2), (2, 4)), (100, (4, 2), (2,)), (5000, (), ())],
)  # fmt: skip
def test_coarser_copies(side, said, factors):
    assert tiling.overview_factors((side, side // 2), TileScheme(overviews=said)) == factors


def test_the_layout_of_new_tiles_is_the_cubes_own():
    """So that other defaults of a later version go on with a cube of an earlier one."""
    begun = TileScheme(chunk=512, overviews=(4, 16), margin=0.1)
    assert TileScheme().agrees(begun)
    assert TileScheme(chunk=512).agrees(begun)
    assert not TileScheme(chunk=256).agrees(begun)
    assert not TileScheme(resampling="cubic").agrees(begun)
    assert not TileScheme(margin=0).agrees(begun)


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(st.integers(1, 4000), st.integers(1, 4000)),
    st.sampled_from([None, (256, 256), (1024, 1024), (1, 9999), (300, 300)]),
    st.integers(1, 26), st.integers(1 << 16, 1 << 26),
)  # fmt: skip
def test_windows_cover_once_in_whole_chunks(shape, blocks, pixel, budget):
    chunk = tiling.chunk_shape(shape, blocks, TileScheme())
    seen = np.zeros(shape, "u1")
    for rows, columns in tiling.windows(shape, chunk, blocks, pixel, budget):
        seen[rows, columns] += 1
        assert rows.start % chunk[0] == 0
        assert columns.start % chunk[1] == 0
        assert rows.stop % chunk[0] == 0 or rows.stop == shape[0]
        assert columns.stop % chunk[1] == 0 or columns.stop == shape[1]
        size = (rows.stop - rows.start) * (columns.stop - columns.start) * pixel
        assert size <= max(2 * budget, 16 * chunk[0] * chunk[1] * pixel)
    assert (seen == 1).all()
