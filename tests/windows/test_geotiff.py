"""From file to file: COGs of every layer, resumed, with and without a place on the Earth; and real scenes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eoflow.errors import BadInput
from eoflow.tiling import Grid
from eoflow.windows import ArraySource, Layer, Network, Plan, infer, raster_source, whole

rasterio = pytest.importorskip("rasterio")
LAYERS = [Layer("water", ("water",), "uint8", 255, categorical=True), Layer("prob", ("prob",), units="1")]
GRID = Grid("EPSG:32632", (10.0, 0.0, 500000.0, 0.0, -10.0, 5000000.0), (61, 47))


def image() -> np.ndarray:
    x = np.random.default_rng(0).random((1, 61, 47)).astype("f4")
    x[0, :5] = np.nan
    return x


def answer(outputs):
    p = outputs["output"]
    return {"water": p > 0.5, "prob": p}


def valid(path) -> bool:
    from rio_cogeo.cogeo import cog_validate

    return cog_validate(str(path), quiet=True)[0]


@pytest.mark.parametrize("grid", [GRID, None])
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_cog_a_layer_after_a_crash(tmp_path, grid):
    x, plan = image(), Plan.of((61, 47), core=16)
    calls = []

    def falls(t):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError
        return t

    with pytest.raises(RuntimeError):
        infer(Network(falls, answer), ArraySource(x), tmp_path / "a.tif", LAYERS, plan, grid=grid)
    assert not list(tmp_path.glob("*.tif"))
    net, attrs = Network(lambda t: t, answer), {"MODEL": "none"}
    report = infer(net, ArraySource(x), tmp_path / "a.tif", LAYERS, plan, grid=grid, attrs=attrs)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tif", "a_prob.tif"]
    assert report.files == [str(tmp_path / "a.tif"), str(tmp_path / "a_prob.tif")]
    assert all(valid(f) for f in report.files)
    void = np.isnan(x[0])
    with rasterio.open(tmp_path / "a.tif") as f:
        np.testing.assert_array_equal(f.read(1), np.where(void, 255, x[0] > 0.5))
        assert (f.nodata, f.descriptions, f.tags()["MODEL"]) == (255, ("water",), "none")
        assert (f.crs is not None) is (grid is not None)
        if grid is not None:
            assert f.transform.to_gdal() == (500000, 10, 0, 5000000, 0, -10)
    with rasterio.open(tmp_path / "a_prob.tif") as f:
        np.testing.assert_array_equal(f.read(1), x[0])
    assert report.resumed == 3  # the corner and the bottom row, before the third call
    for left in ("a.tif", "a_prob.tif"):
        (tmp_path / left).replace(tmp_path / "b_prob.tif")
        with pytest.raises(BadInput, match="exists already"):
            infer(Network(lambda t: t, answer), ArraySource(x), tmp_path / "b.tif", LAYERS, plan)


@pytest.mark.realdata
def test_real_scenes_window_by_window(realdata, tmp_path):
    """A real Sentinel-2 series image through a convolution: as rasterio and torch at once give it."""
    path = sorted((realdata / "s2_cloud").rglob("ts_*/*.tif") or (realdata / "s2_cloud").rglob("*.tif"))[0]
    source = raster_source([str(path)])
    with rasterio.open(path) as f:
        full = f.read().astype("f4")
    torch.manual_seed(0)
    net = torch.nn.Conv2d(full.shape[0], 2, 5, padding=2).eval()
    plan = Plan.of(source.shape, core=100, halo=2, border="none")
    found = whole(Network(net), source, [Layer("o", ("a", "b"))], plan)["o"]
    with torch.inference_mode():
        expected = net(torch.from_numpy(full)[None])[0].numpy()
    seen = np.isfinite(found)
    assert seen.mean() > 0.5
    np.testing.assert_allclose(found[seen], expected[seen], rtol=1e-4, atol=1e-2)
