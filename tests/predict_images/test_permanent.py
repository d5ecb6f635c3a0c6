from __future__ import annotations

import numpy as np
import pytest
from imagescenes import UTM, tif

from eoflow.errors import BadInput
from eoflow.predict_images.permanent import Reference, often, tell
from eoflow.tiling import Grid

GRID = Grid("EPSG:32632", tuple(UTM[1])[:6], (6, 8))


def test_water_of_more_than_half_of_what_was_seen_is_permanent():
    maps = [np.array([[1, 1, 0, 255]]), np.array([[1, 0, 255, 255]]), np.array([[0, 0, 1, 255]])]
    assert often([m.astype(np.uint8) for m in maps], 1).tolist() == [[1, 0, 0, 255]]


def test_flood_is_water_that_is_not_always_there():
    classes = np.array([[0, 1, 1, 1, 0, 255]], np.uint8)
    permanent = np.array([[1, 0, 1, 255, 255, 0]], np.uint8)
    assert tell(classes, permanent, 1).tolist() == [[0, 1, 2, 255, 0, 255]]


@pytest.mark.parametrize(
    ("values", "nodata", "wet"),
    [([0, 1, 1], None, 1), ([0, 255, 255], None, 255), ([0, 40, 80], 255, 80), ([0, 0, 0], None, 1)],
)
def test_layers_of_permanent_water(tmp_path, values, nodata, wet):
    image = np.repeat(np.array(values, np.uint8)[:, None], 8, axis=1)[None]
    path = tif(tmp_path / "w.tif", image, nodata=nodata)  # three of six rows
    found = Reference.open(path).read(GRID)
    np.testing.assert_array_equal(found[:3], (image[0] >= wet) & (image[0] > 50 if nodata else image[0] > 0))
    assert (found[3:] == 255).all()


def test_references_that_cannot_be_used(tmp_path):
    for values, place, what in (
        (np.full((1, 3, 3), 7000, np.uint16), UTM, "values up to 7000"),
        (np.zeros((1, 3, 3), np.uint8), None, "no CRS"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=what):
            Reference.open(tif(tmp_path / "w.tif", values, place=place))
    (tmp_path / "t.tif").write_text("no raster")
    with pytest.raises(BadInput, match="cannot be read"):
        Reference.open(tmp_path / "t.tif")
