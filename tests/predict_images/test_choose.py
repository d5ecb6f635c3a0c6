"""Which model a prediction takes where several fit the bands."""

from __future__ import annotations

import numpy as np
import pytest
from affine import Affine
from imagescenes import tif

import eoflow
from eoflow.predict_images.choose import metres
from eoflow.tiling import Grid

RGB = ["red", "green", "blue"]


def place(size, crs="EPSG:32632"):
    if crs == "EPSG:4326":
        degrees = size / 111_320
        return crs, Affine(degrees / np.cos(np.radians(48)), 0, 11.0, 0, -degrees, 48.0)
    return crs, Affine(size, 0, 500_000, 0, -size, 5_000_000)


def photographs(folder, where):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        tif(folder / f"{name}.tif", rng.integers(60, 120, (3, 64, 64)).astype("u1"), place=where, names=RGB)
    return [folder / "a.tif", folder / "b.tif"]


@pytest.mark.parametrize("crs", ["EPSG:32632", "EPSG:4326"])
@pytest.mark.parametrize(("size", "model"), [(0.5, "change-aerial"), (2.0, "change-coarse")])
def test_change_by_the_model_for_such_pixels(tmp_path, workspace, crs, size, model):
    report = eoflow.change(photographs(tmp_path, place(size, crs)), out=tmp_path / "c.tif", workspace=workspace)
    assert report.model == model
    assert not any("pixels" in m for m in report.messages)


def test_what_is_not_known_and_what_is_too_coarse_is_said(tmp_path, workspace):
    report = eoflow.change(photographs(tmp_path, None), out=tmp_path / "c.tif", workspace=workspace)
    assert report.model == "change-aerial"
    (said,) = [m for m in report.messages if "size of the pixels is not known" in m]
    assert "change-coarse: 1.1 to 3 m" in said
    report = eoflow.change(photographs(tmp_path, place(30.0)), out=tmp_path / "d.tif", workspace=workspace)
    assert report.model == "change-coarse"
    assert any("worth little" in m for m in report.messages)
    named = eoflow.change(photographs(tmp_path, place(30.0)), out=tmp_path / "e.tif", model="change-aerial",
                          workspace=workspace)  # fmt: skip
    assert named.model == "change-aerial"


def test_metres_of_a_pixel():
    for crs in ("EPSG:32632", "EPSG:4326"):
        grid = Grid(crs, tuple(place(10.0, crs)[1])[:6], (100, 200))
        assert metres(grid) == pytest.approx(10.0, rel=5e-3)
    assert metres(Grid("", (1, 0, 0, 0, 1, 0), (4, 4))) is None
