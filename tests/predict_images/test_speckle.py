"""`eoflow despeckle`: on files and on a dataset, by Lee's filter and by MERLIN."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
import torch
import xarray as xr
from cubes import make_cube
from imagescenes import RADAR, TIMES, radar_series, read, tif

import eoflow
from eoflow.errors import BadInput
from eoflow.models.images import ImageSignature
from eoflow.models.lee import Lee
from eoflow.train import train
from eoflow.verify.speckle import speckled, speckled_complex


@pytest.fixture
def slc():
    """Fields of 400 and 1600, single-look complex: (2, 96, 80)."""
    truth = np.where(np.arange(96)[:, None] < 50, 400.0, 1600.0) * np.ones((96, 80))
    return np.round(speckled_complex(truth, np.random.default_rng(3))).astype("f4")


def test_every_form_of_complex_data_gives_the_filtered_intensity(tmp_path, workspace, slc):
    np.save(tmp_path / "a.npy", np.moveaxis(slc, 0, -1))
    tif(tmp_path / "b.tif", (slc[0] + 1j * slc[1]).astype("complex64")[None])
    with rasterio.open(tmp_path / "c.tif", "w", driver="GTiff", height=96, width=80, count=1,
                       dtype="complex_int16") as f:  # fmt: skip
        f.write((slc[0] + 1j * slc[1]).astype("complex64"), 1)
    tif(tmp_path / "d.tif", slc, names=["real", "imaginary"])
    files = [tmp_path / n for n in ("a.npy", "b.tif", "c.tif", "d.tif")]
    report = eoflow.despeckle(files, out=tmp_path / "out", workspace=workspace)
    intensity = torch.from_numpy(np.square(slc).sum(0))[None, None, None]
    expected = Lee(ImageSignature(1, 1))(intensity)["image"][0].numpy()
    for name in "abcd":
        values, profile, names = read(tmp_path / "out" / f"{name}.tif")
        inner = (slice(None), slice(3, -3), slice(3, -3))  # beyond the edge the runner mirrors
        np.testing.assert_allclose(values[inner], expected[inner], rtol=1e-5)
        assert (profile["dtype"], names) == ("float32", ("intensity",))
    assert read(tmp_path / "out/b.tif")[1]["crs"].to_epsg() == 32632
    row = report.tiles[0]
    ratio = np.square(slc).sum(0) / read(tmp_path / "out/a.tif")[0][0]
    assert row["valid"] == 1
    assert row["ratio_mean"] == pytest.approx(ratio.mean(), rel=1e-5)
    assert row["ratio_variance"] == pytest.approx(ratio.var(), rel=1e-4)
    assert any("baseline 'lee'" in m for m in report.messages)
    assert any("What was taken off" in m for m in report.messages)


def test_detected_images_in_decibel_or_power_with_their_looks(tmp_path, workspace):
    rng = np.random.default_rng(1)
    power = np.stack([speckled(np.full((200, 220), level), 4.4, rng) for level in (0.1, 0.02)]).astype("f4")
    power[:, :5, :7] = np.nan
    tif(tmp_path / "power.tif", power, names=["VV", "VH"])
    tif(tmp_path / "db.tif", 10 * np.log10(power), names=["VV", "VH"])
    for name, units in (("power", "1"), ("db", "dB")):
        report = eoflow.despeckle(tmp_path / f"{name}.tif", out=tmp_path / "out", said={"units": units},
                                  workspace=workspace)  # fmt: skip
        (said,) = [m for m in report.messages if m.startswith("Looks of the image")]
        assert float(said.split()[4].rstrip(",")) == pytest.approx(4.4, rel=0.15)
        assert report.tiles[0]["ratio_mean"] == pytest.approx(1, abs=0.02)
        assert 0.7 / 4.4 < report.tiles[0]["ratio_variance"] < 1.05 / 4.4
    values, _, names = read(tmp_path / "out/power.tif")
    assert names == ("intensity_VV", "intensity_VH")
    np.testing.assert_allclose(values, read(tmp_path / "out/db.tif")[0], rtol=2e-4)
    assert np.isnan(values[:, :5, :7]).all()
    assert np.isfinite(values[:, 5:]).all()
    for found, level in zip(values, (0.1, 0.02), strict=True):
        assert np.nanmean(found) == pytest.approx(level, rel=0.03)
        assert np.nanvar(found) < 0.1 * np.nanvar(power)


def test_nothing_seen_is_said(tmp_path, workspace):
    tif(tmp_path / "void.tif", np.full((2, 40, 40), np.nan, "f4"), names=["VV", "VH"])
    report = eoflow.despeckle(tmp_path / "void.tif", out=tmp_path / "out", said={"units": "dB"}, workspace=workspace)
    assert np.isnan(read(tmp_path / "out/void.tif")[0]).all()
    assert report.tiles[0]["valid"] == 0
    assert any("no pixel could be judged" in m for m in report.messages)


def test_merlin_is_trained_on_images_without_labels_and_refuses_detected_ones(tmp_path, workspace, slc):
    (tmp_path / "chips").mkdir()
    np.save(tmp_path / "chips/one.npy", np.moveaxis(slc, 0, -1))
    tif(tmp_path / "chips/two.tif", (slc[0] + 1j * slc[1]).astype("complex64")[None])
    small = ["network.options.width=3", "patches.patch=64", "training.crop=64", "training.steps=3",
             "training.batch_size=1"]  # fmt: skip
    made = train("merlin", chips=tmp_path / "chips", overrides=small, workspace=workspace)
    report = eoflow.despeckle(tmp_path / "chips/one.npy", out=tmp_path / "out", workspace=workspace)
    assert (report.model, report.checkpoint) == ("merlin", made.hash)
    assert read(tmp_path / "out/one.tif")[0].shape == (1, 96, 80)
    amplitude = tif(tmp_path / "grd.tif", np.abs(slc) + 1, names=["real", "imaginary"])
    with pytest.raises(BadInput, match="no single-look complex image"):
        eoflow.despeckle(amplitude, out=tmp_path / "out", workspace=workspace)
    void = tif(tmp_path / "void.tif", np.full_like(slc, np.nan), names=["real", "imaginary"])
    assert eoflow.despeckle(void, out=tmp_path / "void", workspace=workspace).tiles[0]["valid"] == 0
    radar = tif(tmp_path / "vv.tif", np.abs(slc) / 1e4, names=["VV", "VH"])
    with pytest.raises(BadInput, match="do not fit merlin"):
        eoflow.despeckle(radar, out=tmp_path / "out", said={"units": "1"}, model=made.folder, workspace=workspace)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["one.tif"]


def test_scenes_of_a_dataset(workspace):
    bands, _ = radar_series()
    make_cube(workspace, "s1", {"A": bands}, TIMES, bands=RADAR, sensor="sentinel-1", level="RTC")
    report = eoflow.despeckle("s1", period="2024-06", workspace=workspace)
    ds = xr.open_zarr(report.path, group="tiles/A")
    assert dict(ds.sizes) == {"time": 1, "y": 96, "x": 112, "date": 1}
    power = 10 ** (bands["VV"][-1].astype("f8") / 10)
    assert float(ds["intensity_VV"].mean()) == pytest.approx(power.mean(), rel=0.02)
    assert report.tiles[0]["ratio_mean"] == pytest.approx(1, abs=0.02)
    assert not eoflow.despeckle("s1", period="2024-06", workspace=workspace).made
    again = eoflow.open("despeckle", dataset="s1", workspace=workspace)
    np.testing.assert_array_equal(again["intensity_VH"], ds["intensity_VH"])
    with pytest.raises(BadInput, match="--zones does not belong"):
        eoflow.despeckle("s1", zones="x.geojson", workspace=workspace)
