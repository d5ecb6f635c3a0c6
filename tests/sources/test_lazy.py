import dask
import numpy as np
import pytest
import xarray as xr

from eoflow.sources import lazy
from eoflow.sources.base import AssetCorrupt, AssetTransient


def test_blocks_are_whole_fields_on_native_cuts():
    b = lazy.block_shape(("time", "level", "latitude", "longitude"), (1000, 13, 121, 240), 4, (8, 1, 121, 240), "time")
    assert b["level"] == 13
    assert (b["latitude"], b["longitude"]) == (121, 240)
    assert b["time"] % 8 == 0
    assert b["time"] * 13 * 121 * 240 * 4 <= lazy.BLOCK_BYTES


def test_large_native_chunks_are_cut_along_levels():
    b = lazy.block_shape(
        ("time", "level", "latitude", "longitude"), (100, 37, 721, 1440), 4, (1, 37, 721, 1440), "time"
    )
    assert b["time"] == 1
    b = lazy.block_shape(("time", "level", "latitude", "longitude"), (100, 37, 721, 1440), 4, (1, 1, 721, 1440), "time")
    assert b["level"] == 1


def test_cuts_stay_on_the_native_grid_after_slicing():
    da = xr.DataArray(np.zeros((20, 2, 2), "f4"), dims=("time", "y", "x"), name="v")
    da.encoding["chunksizes"] = (6, 2, 2)
    assert lazy.blocked(da.isel(time=slice(4, 20)), "f", "time", 4).chunks[0] in ((16,), (2, 6, 6, 2))
    assert lazy._cuts(16, 6, 4) == (2, 6, 6, 2)
    assert lazy._cuts(16, 6, 0) == (6, 6, 4)


class Broken:
    dtype, ndim, shape = np.dtype("f4"), 1, (3,)

    def __init__(self, error):
        self.error = error

    def __getitem__(self, key):
        raise self.error


@pytest.mark.parametrize(
    ("error", "kind"), [(OSError("inflate failed"), AssetCorrupt), (ConnectionResetError(), AssetTransient)]
)
def test_reading_errors_name_the_file(error, kind):
    with pytest.raises(kind) as e:
        lazy.Guarded(Broken(error), "file.nc, variable t")[slice(None)]
    assert "file.nc, variable t" in e.value.text()


def test_linear_is_lazy_and_computed_in_double_precision():
    x = np.float32([-1.8, 0.1, 30.123])
    da = xr.DataArray(x, dims="time").chunk()

    def never(*args, **kwargs):
        raise AssertionError("computed")

    with dask.config.set(scheduler=never):
        out = lazy.linear(da, 1.0, 273.15)
    np.testing.assert_array_equal(out.values, (x.astype("f8") + 273.15).astype("f4"))
