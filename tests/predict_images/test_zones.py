from __future__ import annotations

import json

import numpy as np
import pytest
from pyproj import Geod, Transformer

from eoflow.errors import BadInput
from eoflow.predict_images.zones import Area, PixelAreas, Zone, census, read_zones
from eoflow.tiling import Grid

GEOD = Geod(ellps="WGS84")
GRIDS = {
    "utm": Grid("EPSG:32632", (10.0, 0.0, 300_000.0, 0.0, -10.0, 5_000_000.0), (130, 70)),
    "utm far from its meridian": Grid("EPSG:32632", (30.0, 0.0, 900_000.0, 0.0, -30.0, 7_400_000.0), (80, 90)),
    "web mercator": Grid("EPSG:3857", (100.0, 0.0, 1e6, 0.0, -100.0, 8e6), (64, 64)),
    "degrees": Grid("EPSG:4326", (1e-3, 0.0, 12.0, 0.0, -1e-3, 60.0), (50, 40)),
    "polar": Grid("EPSG:3031", (500.0, 0.0, 1e5, 0.0, -500.0, 2e5), (60, 60)),
    "antimeridian": Grid("EPSG:32601", (20.0, 0.0, 150_000.0, 0.0, -20.0, 2_000_000.0), (40, 60)),
    "rotated": Grid("EPSG:32632", (8.0, 6.0, 400_000.0, 6.0, -8.0, 5_000_000.0), (30, 40)),
}


def outline(grid: Grid, y0: float, y1: float, x0: float, x1: float, steps: int = 40) -> float:
    """m2 of a rectangle of pixel coordinates, by geodesics around it (Karney 2013)."""
    t = np.linspace(0, 1, steps, endpoint=False)
    columns = np.concatenate([x0 + 0 * t, x0 + t * (x1 - x0), x1 + 0 * t, x1 + t * (x0 - x1)])
    rows = np.concatenate([y0 + t * (y1 - y0), y1 + 0 * t, y1 + t * (y0 - y1), y0 + 0 * t])
    a, b, c, d, e, f = grid.transform
    to = Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True)
    lon, lat = to.transform(c + a * columns + b * rows, f + d * columns + e * rows)
    return abs(GEOD.polygon_area_perimeter(lon, lat)[0])


@pytest.mark.parametrize("name", GRIDS)
def test_pixels_are_measured_on_the_ellipsoid(name):
    grid = GRIDS[name]
    areas = PixelAreas(grid)
    height, width = grid.shape
    whole = areas.window(slice(0, height), slice(0, width))
    assert whole.sum() == pytest.approx(outline(grid, 0, height, 0, width, 400), rel=2e-6)
    for y, x in ((0, 0), (height // 2, width // 3), (height - 1, width - 1)):
        assert whole[y, x] == pytest.approx(outline(grid, y, y + 1, x, x + 1), rel=2e-4)
    part = areas.window(slice(7, 20), slice(3, 30))
    np.testing.assert_array_equal(part, whole[7:20, 3:30])


def test_the_whole_earth_has_its_area():
    grid = Grid("EPSG:4326", (1.0, 0.0, -180.0, 0.0, -1.0, 90.0), (180, 360))
    total = PixelAreas(grid).window(slice(0, 180), slice(0, 360)).sum()
    assert total == pytest.approx(510_065_621_724_088.4, rel=1e-9)  # of the ellipsoid WGS 84


def test_without_a_crs_there_is_no_area():
    with pytest.raises(BadInput, match="no georeference"):
        PixelAreas(Grid("", (1.0, 0.0, 0.0, 0.0, -1.0, 0.0), (4, 4)))


def test_census_sums_classes_inside_zones(tmp_path):
    grid = GRIDS["utm"]
    values = np.zeros(grid.shape, np.uint8)
    values[:50], values[100:] = 1, 255
    a, _, c, _, e, f = grid.transform
    back = Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True)
    corners = [(10, 20), (60, 20), (60, 120), (10, 120)]
    ring = [list(back.transform(c + a * x, f + e * y)) for x, y in [*corners, corners[0]]]
    file = tmp_path / "z.geojson"
    file.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    zones = [Zone("all"), *read_zones(file)]
    found = census(grid, zones, lambda y, x: values[y, x])
    areas = PixelAreas(grid).window(slice(0, 130), slice(0, 70))
    assert found.km2(0, 1) == pytest.approx(areas[:50].sum() / 1e6)
    assert zones[1].name == "zone 1"
    assert found.km2(1, 1) == pytest.approx(areas[20:50, 10:60].sum() / 1e6, rel=1e-6)
    assert found.km2(1, 255) == pytest.approx(areas[100:120, 10:60].sum() / 1e6, rel=1e-6)
    assert found.sums[1].sum() == pytest.approx(areas[20:120, 10:60].sum(), rel=1e-6)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "no GeoJSON"),
        ('{"type": "FeatureCollection", "features": []}', "no polygon"),
        ('{"type": "Point", "coordinates": [1, 2]}', "is a Point"),
        ('{"type": "Polygon", "coordinates": [[[5e5, 4e6], [6e5, 4e6], [6e5, 5e6], [5e5, 4e6]]]}', "no degrees"),
        ('{"type": "Nothing"}', "no geometry"),
    ],
)
def test_zones_that_cannot_be_read(tmp_path, text, what):
    file = tmp_path / "z.geojson"
    file.write_text(text)
    with pytest.raises(BadInput, match=what):
        read_zones(file)


def test_zones_in_an_old_crs_member(tmp_path):
    ring = [[500_000, 4_900_000], [510_000, 4_900_000], [510_000, 4_910_000], [500_000, 4_900_000]]
    raw = {"type": "FeatureCollection", "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32632"}},
           "features": [{"type": "Feature", "properties": {"name": "a"},
                         "geometry": {"type": "Polygon", "coordinates": [ring]}}]}  # fmt: skip
    file = tmp_path / "z.geojson"
    file.write_text(json.dumps(raw))
    (zone,) = read_zones(file)
    assert zone.shape.bounds[0] == pytest.approx(9.0, abs=1e-6)


def test_an_area_is_a_box_or_a_file(tmp_path):
    assert Area.parse("1,2,3,4") == Area((1.0, 2.0, 3.0, 4.0))
    assert Area.parse((1, 2, 3, 4)) == Area((1.0, 2.0, 3.0, 4.0))
    assert Area.parse(None) is None
    with pytest.raises(BadInput, match="neither"):
        Area.parse("1,2,3")
