"""Real scenes, one command each: what the cube holds is what the files hold, by hand."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401
import xarray as xr
from commandline import CommandLine

from eoflow.cube import Cube
from eoflow.quality import Quality
from eoflow.workspace import Workspace

pytestmark = pytest.mark.realdata
COUNT = 1000


@pytest.fixture
def cli(tmp_path, capsys):
    return CommandLine(Workspace(tmp_path / "workspace"), capsys)


def places(shape, steps: int = 1, seed: int = 0):
    """(step, row, column) of random pixels."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, steps, COUNT), rng.integers(0, shape[0], COUNT), rng.integers(0, shape[1], COUNT)


def opened(cube: Cube, tile: str) -> xr.Dataset:
    """The tile as a user opens it: by the two lines that the command prints, decoded by xarray."""
    lines = cube.open_lines(tile)
    space: dict = {}
    exec("\n".join(lines), space)  # the lines are ours
    return space["ds"]


def test_series_of_twenty_dates(cli, realdata):
    folder = realdata / "s2_cloud" / "ts_ROIs2017_146_patch0"
    cli.ok("ingest", folder, "--as", "series")
    cube = Cube.load(cli.workspace, "series")
    (tile,) = cube.tiles()
    ds = opened(cube, tile)
    files = sorted(folder.glob("*.tif"), key=lambda p: re.search(r"\d{4}-\d\d-\d\d", p.name).group())
    days = [np.datetime64(re.search(r"\d{4}-\d\d-\d\d", p.name).group()) for p in files]
    assert (ds.time.values.astype("datetime64[D]") == days).all()
    assert ds.rio.crs.to_epsg() == 4326
    step, row, column = places((256, 256), 20)
    raw = np.stack([rasterio.open(p).read() for p in files])  # (date, band, y, x): digital numbers, reflectance x 10000
    for b, name in enumerate(cube.schema.names):
        assert ds[name].attrs["units"] == "1"
        np.testing.assert_allclose(ds[name].values[step, row, column], raw[step, b, row, column] / 1e4, atol=1e-6)
    assert set(np.unique(ds["quality"].values)) <= {int(q) for q in Quality}

    done = cli.ok("--json", "composite", "series", "--period", "2018-01-01/2018-12-31").document
    assert done["unobserved"] < 0.01
    again = cli.ok("--json", "ingest", folder, "--as", "series").document
    assert (again["new"], again["skipped"]) == (0, 20)


def test_composite_as_cog_and_stac_item(cli, realdata, tmp_path):
    import pystac
    from rio_cogeo.cogeo import cog_validate

    cli.ok("ingest", realdata / "s2_cloud" / "ts_ROIs2017_146_patch0", "--as", "series")
    cli.ok("composite", "series", "--period", "2018-01-01/2018-12-31", "--method", "medoid", "--bands", "B04,B03,B02")
    cli.ok("export", "composite:series", tmp_path / "out" / "c.tif")
    valid, errors, _ = cog_validate(tmp_path / "out" / "c.tif")
    assert valid, errors
    item = pystac.Item.from_file(str(tmp_path / "out" / "c.json"))
    assert item.geometry is not None
    with rasterio.open(next(a.get_absolute_href() for a in item.assets.values() if a.href.endswith("c.tif"))) as f:
        assert f.descriptions == ("B04", "B03", "B02")
        assert f.crs.to_epsg() == 4326
        values = f.read(1)
    cube = Cube.load(cli.workspace, "series")
    dates = cube.open(cube.tiles()[0])["B04"].values
    assert (values[None] == dates).any(axis=0).all(), "each pixel of a medoid is one of the observations"


def test_safe_of_baseline_four(cli, realdata):
    (safe,) = (realdata / "s2_safe").glob("*.SAFE")
    cli.ok("ingest", safe, "--as", "safe")
    cube = Cube.load(cli.workspace, "safe")
    assert cube.tiles() == ["29UNU"]
    ds = opened(cube, "29UNU").isel(time=0)
    meta = ET.parse(safe / "MTD_MSIL2A.xml").getroot()
    (offset,) = {int(e.text) for e in meta.iter("BOA_ADD_OFFSET")}
    quantification = int(next(meta.iter("BOA_QUANTIFICATION_VALUE")).text)
    assert ds.rio.crs.to_epsg() == 32629
    assert str(ds.time.values)[:10] == "2022-10-05"
    _, row, column = places(ds["B02"].shape)
    for name in ("B02", "B04", "B8A"):
        with rasterio.open(next(safe.rglob(f"*_{name}_60m.jp2"))) as f:
            digital = f.read(1).astype("f8")[row, column]
        want = np.where(digital == 0, np.nan, (digital + offset) / quantification)
        np.testing.assert_allclose(ds[name].values[row, column], want, atol=1e-6)
    with rasterio.open(next(safe.rglob("*_SCL_60m.jp2"))) as f:
        scl = f.read(1)[row, column]
    quality = ds["quality"].values[row, column]
    assert (quality[np.isin(scl, (8, 9, 10))] == int(Quality.CLOUD)).all()
    assert (quality[scl == 0] == int(Quality.NODATA)).all()


def test_landsat_scene(cli, realdata):
    folder = realdata / "stac" / "landsat_assets3"
    cli.ok("ingest", folder, "--as", "landsat")
    cube = Cube.load(cli.workspace, "landsat")
    (tile,) = cube.tiles()
    ds = opened(cube, tile).isel(time=0)
    _, row, column = places(ds["SR_B4"].shape)
    for n in range(1, 8):
        with rasterio.open(next(folder.glob(f"*_SR_B{n}.TIF"))) as f:
            digital = f.read(1).astype("f8")[row, column]
        want = np.where(digital == 0, np.nan, digital * 2.75e-05 - 0.2)
        np.testing.assert_allclose(ds[f"SR_B{n}"].values[row, column], want, atol=1e-6)
    with rasterio.open(next(folder.glob("*_QA_PIXEL.TIF"))) as f:
        qa = f.read(1)[row, column]
    quality = ds["quality"].values[row, column]
    assert (quality[(qa >> 3) & 1 == 1] == int(Quality.CLOUD)).all()
    found = cli.ok("--json", "why", "landsat", "--at", "-75.1,1.4", "--time", "2019-12-01").document
    assert "LC08_L2SP_008059_20191201" in found["pixels"][0]["item"]["id"]


@pytest.mark.parametrize("chip", ["Mekong_333434", "Spain_7370579"])
def test_flood_chips_in_decibel(cli, realdata, chip):
    path = realdata / "flood" / "sen1floods11" / "S1" / f"{chip}_S1Hand.tif"
    cli.ok("ingest", path, "--as", "chips", "--time", "2018-08-05", "--set", "units=dB")
    cube = Cube.load(cli.workspace, "chips")
    (tile,) = cube.tiles()
    with rasterio.open(path) as f:
        want = f.read()
    ds = opened(cube, tile).isel(time=0)
    for b, name in enumerate(cube.schema.names):
        assert ds[name].attrs["units"] == "dB"
        np.testing.assert_array_equal(ds[name].values, want[b])


def test_what_has_no_crs_is_no_dataset(cli, realdata):
    triplet = realdata / "s2_cloud" / "sen12mscr_s1s2_triplets" / "4438_input.tif"
    cli.refused("ingest", triplet, "--as", "t", "--time", "2020-01-01", words=("CRS",))
