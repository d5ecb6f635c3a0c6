"""A composite in an object store: made, opened, the same again, exported."""

from __future__ import annotations

import numpy as np
import xarray as xr
from cubes import make_cube

import eoflow.composite
import eoflow.export
from eoflow.workspace import s3_options


def test_composite_in_an_object_store(bucket, tmp_path):
    values = np.random.default_rng(0).integers(1, 9000, (3, 40, 50)).astype("u2")
    make_cube(bucket, "s2", {"T1": {"B04": values}}, ["2021-01-01", "2021-01-02", "2021-01-03"])
    report = eoflow.composite("s2", "2021", workspace=bucket)
    ds = xr.open_zarr(report.path, group="tiles/T1", mask_and_scale=False, storage_options=s3_options())
    np.testing.assert_array_equal(ds["B04"], np.median(values, axis=0))
    assert not eoflow.composite("s2", "2021", workspace=bucket).made
    eoflow.export("composite:s2", tmp_path / "c.tif", workspace=bucket)
    import rasterio

    with rasterio.open(tmp_path / "c.tif") as f:
        np.testing.assert_array_equal(f.read(1), ds["B04"])
    assert not list((tmp_path / "cache").glob("composite-*"))
