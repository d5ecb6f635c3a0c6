"""The real series of twenty Sentinel-2 dates: composites, their COGs and items."""

from __future__ import annotations

import re

import numpy as np
import pytest
from cubes import make_cube
from stac_check import wrong, wrong_fields

import eoflow.composite
import eoflow.export
from eoflow.tiling import Grid

rasterio = pytest.importorskip("rasterio")


@pytest.mark.realdata
def test_twenty_dates(realdata, workspace, tmp_path):
    files = sorted((realdata / "s2_cloud").glob("ts_*/*.tif"), key=lambda p: re.search(r"\d{4}-\d{2}-\d{2}", p.name)[0])
    with rasterio.open(files[0]) as f:
        where = Grid(f.crs.to_string(), tuple(f.transform)[:6], f.shape)
    stack = {"B03": [], "B04": [], "B08": []}
    for path in files:
        with rasterio.open(path) as f:
            for name, index in (("B03", 3), ("B04", 4), ("B08", 8)):
                stack[name].append(f.read(index))
    values = {n: np.stack(v) for n, v in stack.items()}
    times = [re.search(r"\d{4}-\d{2}-\d{2}", p.name)[0] for p in files]
    make_cube(workspace, "real", {"patch": values}, times, grids={"patch": where})
    report = eoflow.composite("real", "2018", "medoid", workspace=workspace)
    assert report.tiles["patch"]["scenes"] == len(files) == 20
    assert report.unobserved < 0.01
    import xarray as xr

    ds = xr.open_zarr(report.path, group="tiles/patch", mask_and_scale=False).load()
    pixels = np.stack([v.reshape(20, -1) for v in values.values()]).astype("f8")
    for at in np.random.default_rng(0).integers(0, pixels.shape[2], 200):
        x = pixels[:, :, at].T
        x = x[(x != 0).all(axis=1)]
        sums = np.sqrt(((x[:, None] - x) ** 2).sum(-1)).sum(1)
        best = x[np.flatnonzero(sums <= sums.min() * (1 + 1e-9))[-1]]
        np.testing.assert_array_equal([ds[b].values.ravel()[at] for b in values], best)
    made = eoflow.export("composite:real", tmp_path / "real.tif", workspace=workspace)
    with rasterio.open(tmp_path / "real.tif") as f:
        np.testing.assert_array_equal(f.read(), np.stack([ds[b] for b in values]))
    import pystac

    assert wrong(pystac.Item.from_file(made.items[0]).to_dict()) == []
    assert wrong_fields(pystac.Item.from_file(made.items[0]).to_dict()) == []
