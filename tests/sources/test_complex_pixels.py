"""Complex rasters and NumPy files as two real bands."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from affine import Affine

from eoflow.errors import BadInput
from eoflow.sources.complex_pixels import PARTS, open_numpy, unpacked
from eoflow.sources.raster import AssetCorrupt, RasterReader


@pytest.fixture
def pixels():
    rng = np.random.default_rng(0)
    return np.round(rng.normal(0, 40, (30, 41)) + 1j * rng.normal(0, 40, (30, 41))).astype("complex64")


def write(path, values, dtype="complex64", count=1):
    with rasterio.open(path, "w", driver="GTiff", height=30, width=41, count=count, dtype=dtype, crs="EPSG:32632",
                       transform=Affine(10, 0, 5e5, 0, -10, 5e6)) as f:  # fmt: skip
        for k in range(count):
            f.write(values, k + 1)
    return path


@pytest.mark.parametrize("dtype", ["complex64", "complex128", "complex_int16"])
def test_a_complex_raster_is_two_bands_in_its_place(tmp_path, pixels, dtype):
    path = write(tmp_path / "slc.tif", pixels, dtype)
    with rasterio.open(unpacked(path, tmp_path, "two")) as two, rasterio.open(path) as one:
        np.testing.assert_array_equal(two.read(), np.stack([pixels.real, pixels.imag]))
        assert two.descriptions == PARTS
        assert (two.crs, two.transform) == (one.crs, one.transform)


def test_real_pixels_stay_as_they_are_and_two_complex_bands_are_refused(tmp_path, pixels):
    assert unpacked(write(tmp_path / "real.tif", pixels.real, "float32"), tmp_path, "x") is None
    assert not (tmp_path / "x.tif").exists()
    with pytest.raises(BadInput, match="2 bands, and some are complex"):
        unpacked(write(tmp_path / "both.tif", pixels, count=2), tmp_path, "x")


@pytest.mark.parametrize(
    "form", [lambda z: z, lambda z: np.stack([z.real, z.imag], -1), lambda z: np.stack([z.real, z.imag]).astype("i2")]
)
def test_numpy_files_in_the_forms_there_are(tmp_path, pixels, form):
    np.save(tmp_path / "slc.npy", form(pixels))
    np.testing.assert_array_equal(open_numpy(tmp_path / "slc.npy"), np.stack([pixels.real, pixels.imag]))
    with rasterio.open(unpacked(tmp_path / "slc.npy", tmp_path, "two")) as two:
        np.testing.assert_array_equal(two.read(), np.stack([pixels.real, pixels.imag]))
        assert two.crs is None


@pytest.mark.parametrize(
    "content", [np.zeros((4, 5)), np.zeros((4, 5, 3)), np.zeros((0, 5, 2)), np.array(["a"]), np.array([{}], object),
                np.zeros((4, 5, 2), complex), b"no array"],
)  # fmt: skip
def test_other_numpy_files_are_refused_by_name(tmp_path, content):
    path = tmp_path / "slc.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(BadInput) as e:
        open_numpy(path)
    assert "slc.npy" in e.value.where


def test_a_cube_does_not_drop_the_imaginary_part_without_a_word(tmp_path, pixels):
    for dtype in ("complex64", "complex_int16"):
        with pytest.raises(AssetCorrupt, match="complex pixels") as e:
            RasterReader().header(str(write(tmp_path / f"{dtype}.tif", pixels, dtype)))
        assert "despeckle" in e.value.todo
