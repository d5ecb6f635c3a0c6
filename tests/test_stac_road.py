"""From a STAC API to a cube by one command: a real API and COGs by range requests, both on loopback."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from commandline import CommandLine
from rangeserver import RangeServer
from stacserver import StacServer, item, rustac, s2, write_cog

from eoflow.cube import Cube
from eoflow.quality import Quality
from eoflow.workspace import Workspace

pytestmark = pytest.mark.skipif(rustac() is None, reason="rustac is not installed")
ENTRY = """
kind: scenes
name: local-s2
title: a local API
source: {{driver: stac, args: {{api: "{url}", collections: [sentinel-2-l2a]}}}}
sensor: sentinel-2
level: L2A
bands:
  B04: {{units: "1", scale: 0.0001, offset: -0.1, nodata: 0, dtype: uint16}}
  B08: {{units: "1", scale: 0.0001, offset: -0.1, nodata: 0, dtype: uint16}}
quality: {{rule: scl, source_name: SCL}}
schedule: {{start: 2015-01-01}}
"""
SHAPE, DAYS = (190, 210), (1, 6, 11)


@pytest.fixture
def cli(tmp_path, capsys):
    ws = Workspace(tmp_path / "workspace")
    return CommandLine(ws, capsys)


def scenes(root, url: str):
    """Three dates of one tile; the second was published in the old convention, without the offset."""
    rng = np.random.default_rng(5)
    out = []
    for day in DAYS:
        folder = root / f"d{day}"
        bands = {n: rng.integers(1, 9000, SHAPE).astype("u2") for n in ("B04", "B08")}
        for name, values in bands.items():
            values[:20] = 0
            write_cog(folder / f"{name}.tif", values)
        scl = rng.choice([0, 3, 4, 6, 8, 11], SHAPE).astype("u1")
        write_cog(folder / "SCL.tif", scl)
        old = day == 6
        raster = {"nodata": 0, "data_type": "uint16", "scale": 0.0001, "offset": 0 if old else -0.1}
        common = {"type": "image/tiff", "roles": ["data"]}
        assets = {n: {"href": f"{url}/d{day}/{n}.tif", "raster:bands": [raster], **common} for n in bands}
        assets["SCL"] = {"href": f"{url}/d{day}/SCL.tif", **common}
        baseline = {"s2:processing_baseline": "03.01" if old else "05.09"}
        out.append(s2(f"S2A_29UNU_2023050{day}", day, assets, **baseline))
    return out


def test_one_command(cli, tmp_path):
    root = tmp_path / "cogs"
    with RangeServer(root) as files, StacServer(tmp_path / "api", scenes(root, files.url)) as api:
        entry = tmp_path / "local-s2.yaml"
        entry.write_text(ENTRY.format(url=api.url))
        done = cli.ok("--json", "ingest", entry).document
        assert (done["new"], done["failed"], done["absent"]) == (3, 0, 0), done
        again = cli.ok("--json", "ingest", entry).document
        assert again["new"] == 0
    cube = Cube.load(cli.workspace, "local-s2")
    (tile,) = cube.tiles()
    ds = cube.open(tile, physical=True)
    raw = cube.open(tile)
    rng = np.random.default_rng(0)
    row, column = rng.integers(0, SHAPE[0], 1000), rng.integers(0, SHAPE[1], 1000)
    for i, day in enumerate(DAYS):
        for name in ("B04", "B08"):
            with rasterio.open(root / f"d{day}" / f"{name}.tif") as f:
                digital = f.read(1).astype("f8")[row, column]
            want = np.where(digital == 0, np.nan, digital * 1e-4 - (0 if day == 6 else 0.1))
            np.testing.assert_allclose(ds[name].isel(time=i).values[row, column], want, atol=2e-6)
        with rasterio.open(root / f"d{day}" / "SCL.tif") as f:
            scl = f.read(1)
        quality = raw["quality"].isel(time=i).values
        assert (quality[20:][scl[20:] == 8] == int(Quality.CLOUD)).all()
        assert (quality[20:][scl[20:] == 6] == int(Quality.WATER)).all()
        assert (quality[:20] == int(Quality.NODATA)).all()
    assert [i["baseline"] for n in range(3) for i in cube.items(tile, n)] == ["05.09", "03.01", "05.09"]


def test_an_expired_signature_is_said(cli, tmp_path):
    """A signed address in the item itself: what expired is named, and not its secret."""
    root = tmp_path / "cogs"
    with RangeServer(root, rule=lambda path, query: 403) as files:
        write_cog(root / "B04.tif", np.ones((50, 60), "u2"))
        href = f"{files.url}/B04.tif?se=2020-01-01T00%3A00%3A00Z&sig=SECRET"
        assets = {n: {"href": href, "type": "image/tiff", "roles": ["data"]} for n in ("B04", "B08", "SCL")}
        listed = [item("S2A_x", "2023-05-01T10:00:00Z", assets, **{"s2:processing_baseline": "05.09"})]
        with StacServer(tmp_path / "api", listed) as api:
            entry = tmp_path / "local-s2.yaml"
            entry.write_text(ENTRY.format(url=api.url))
            said = cli.refused("ingest", entry, words=("S2A_x", "expired"))
    assert "SECRET" not in said
