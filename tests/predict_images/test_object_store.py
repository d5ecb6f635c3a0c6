"""Products of a workspace in an object store: what a folder would hold, made once, opened by their own line."""

from __future__ import annotations

import pytest
import xarray as xr
from cubes import make_cube
from imagescenes import RADAR, TIMES, cloudy, radar_series

from eoflow.predict_images.run import predict_dataset
from eoflow.workspace import s3_options


@pytest.mark.parametrize(("task", "model"), [("segmentation", "otsu"), ("cloud-removal", "median-composite")])
def test_a_product_in_a_bucket_is_that_of_a_folder(bucket, workspace, task, model):
    made = {}
    for place in (workspace, bucket):
        if task == "segmentation":
            values, _ = radar_series()
            make_cube(place, "d", {"A": values}, TIMES, bands=RADAR, sensor="sentinel-1", level="RTC")
        else:
            cloudy(place, "d")
        first = predict_dataset(task, "d", model=model, workspace=place)
        again = predict_dataset(task, "d", model=model, workspace=place)
        assert (first.made, again.made, again.path) == (True, False, first.path)
        made[place.root] = first
    here, there = made.values()
    assert there.path.startswith("s3://")
    one = xr.open_zarr(here.path, group="tiles/A", mask_and_scale=False).load()
    two = xr.open_zarr(there.path, group="tiles/A", mask_and_scale=False, storage_options=s3_options()).load()
    xr.testing.assert_equal(one, two)
    assert here.areas == there.areas
