"""`datasets check`, `datasets new`, `doctor`, `status` and `eoflow.open` on datasets of scenes."""

from __future__ import annotations

import socket

import numpy as np
import pytest
import rasters
import yaml
from commandline import CommandLine
from cubes import make_cube

import eoflow
from eoflow import catalog
from eoflow.doctor import examine
from eoflow.errors import BadInput


@pytest.fixture
def cli(workspace, capsys):
    return CommandLine(workspace, capsys)


@pytest.fixture
def offline(monkeypatch):
    """No connection can be opened."""

    def refuse(*_args, **_more):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.fixture
def files(tmp_path):
    """Two Sentinel-2-like rasters of one place, four bands each, with a corner of nodata."""
    folder = tmp_path / "chips"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for day in ("2021-05-03", "2021-05-13"):
        data = rng.integers(200, 4000, (2, 96, 128)).astype("u2")
        data[:, :24, :32] = 0
        rasters.write(folder / f"chip_{day}.tif", data, nodata=0, descriptions=("red", "nir"))
    return folder


SAID = ("--set", "units=1", "--set", "scale=0.0001", "--set", "offset=0", "--set", "sensor=mine", "--set", "level=SR")


@pytest.mark.parametrize("name", catalog.names("datasets"))
def test_every_shipped_entry_is_checked_without_a_network(cli, offline, name):
    done = cli.ok("datasets", "check", name, "--json").document
    assert done["valid"] is True
    assert done["name"] == name
    if done["driver"] == "stac":
        assert "network" in done["scenes"]
        assert done["bands"]


def test_check_of_the_sample_entry_lists_its_scenes(cli, offline):
    done = cli.ok("datasets", "check", "sample-scenes", "--json").document
    assert done["scenes"].startswith("876, 2020-01-03T09:30:55 to 2021-12-30")
    assert done["on"].startswith("6 tiles: 32N-0097-1012")
    assert done["quality"] == "scl from SCL"
    assert not cli.workspace.names("archives")
    assert not any(cli.workspace.cache.rglob("*.tif")), "nothing is made to be looked at"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sensr": "x"}, ("unknown key 'sensr' (did you mean 'sensor'?)",)),
        ({"bands": {"B02": {"units": "parsec"}}}, ("bands.B02.units", "parsec")),
        ({"source": {"driver": "sample-scenes", "args": {"tiles": {"32N-1-1": "moon"}}}}, ("tiles.32N-1-1", "lowland")),
        ({"source": {"driver": "stacc"}}, ("stacc", "mine.yaml, ")),
        ({"source": {"driver": "zarr"}}, ("gives fields", "mine.yaml, ")),
        ({"source": {"driver": "stac", "args": {"api": "https://e.org", "limits": 3}}}, ("limits", "mine.yaml, ")),
        ({"tiles": {"scheme": "grid"}}, ("resolution",)),
    ],
)
def test_wrong_entries_are_refused_by_key(cli, offline, tmp_path, change, words):
    raw = yaml.safe_load(catalog.to_yaml(catalog.entry("sample-scenes"))) | {"name": "mine"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(raw | change))
    cli.refused("datasets", "check", tmp_path / "mine.yaml", words=(*words, "mine.yaml"), todo=False)


def test_new_check_ingest_of_rasters(cli, files, tmp_path):
    text = cli.ok("datasets", "new", files, "--as", "chips", *SAID).out
    entry = catalog.parse_entry(text, "printed")
    assert entry.kind == "scenes"
    assert (entry.name, entry.sensor, list(entry.bands)) == ("chips", "mine", ["red", "nir"])
    assert entry.schedule.start.startswith("2021-05-03")
    (tmp_path / "chips.yaml").write_text(text)
    done = cli.ok("datasets", "check", tmp_path / "chips.yaml", "--json").document
    assert done["scenes"] == "2, 2021-05-03 to 2021-05-13"
    assert done["on"].startswith("1 tile: ")
    assert not cli.workspace.names("archives")
    catalog.save_dataset(entry, cli.workspace)
    report = cli.ok("ingest", "chips", "--json").document
    assert report["new"] == 2


def test_new_of_one_raster_takes_its_name_and_its_time(cli, tmp_path):
    path = rasters.write(tmp_path / "my scene.tif", np.full((64, 64), 900, "u2"), descriptions=("b",))
    cli.refused("datasets", "new", path, *SAID, words=("time",))
    entry = catalog.parse_entry(cli.ok("datasets", "new", path, *SAID, "--time", "2020-06-01").out, "printed")
    assert entry.name == "my-scene"
    assert entry.schedule.start.startswith("2020-06-01")
    cli.refused("datasets", "new", path, *SAID, "--cadence", "6h", words=("scenes have no cadence",))


def test_new_of_fields_takes_no_keys_of_scenes(cli, truth, tmp_path):
    truth[["msl"]].isel(time=slice(0, 4)).to_netcdf(tmp_path / "f.nc")
    cli.refused("datasets", "new", tmp_path / "f.nc", "--set", "units=1", words=("for rasters",))
    assert catalog.parse_entry(cli.ok("datasets", "new", tmp_path / "f.nc").out, "printed").name == "f"


def test_check_of_rasters_says_what_is_in_them_and_what_is_lacking(cli, files, tmp_path):
    cli.refused("datasets", "check", files, words=("units", "--set"))
    good = cli.ok("datasets", "check", files, "--json", *SAID).document
    assert (good["driver"], good["sensor"], good["on"]) == ("geotiff", "mine SR", good["on"])
    nir = [v for k, v in good.items() if k.endswith(" nir")]
    assert len(nir) == 2
    assert all(v.startswith("96 x 128 uint16, 0.02 to 0.39") and v.endswith("6.2% without a value") for v in nir)
    db = np.linspace(-22, -4, 64 * 64, dtype="f4").reshape(64, 64)
    db[:8] = np.nan
    radar = rasters.write(tmp_path / "s1_2021-05-03_VV.tif", db)
    cli.refused("datasets", "check", radar, words=("look like decibel", "--set units=dB"))
    done = cli.ok("datasets", "check", radar, "--json", "--set", "units=dB").document
    assert done["sensor"].startswith("sentinel-1")
    (line,) = [v for k, v in done.items() if k.endswith(" VV")]
    assert line == "64 x 64 float32, -19.749 to -4 dB, 12.5% without a value"
    truncated = tmp_path / "s1_2021-05-04_VV.tif"
    truncated.write_bytes(radar.read_bytes()[:400])
    cli.refused("datasets", "check", truncated, words=("s1_2021-05-04_VV.tif",))


@pytest.mark.realdata
def test_check_of_real_files(cli, realdata):
    series = cli.ok("datasets", "check", realdata / "s2_cloud" / "ts_ROIs2017_146_patch0", "--json").document
    assert series["sensor"] == "sentinel-2 L1C"
    assert series["scenes"].startswith("20, 2018-01-06 to 2018-12-07")
    assert "Radiometry" in series["notes"]
    (safe,) = (realdata / "s2_safe").glob("*.SAFE")
    done = cli.ok("datasets", "check", safe, "--json").document
    assert done["on"] == "1 tile: 29UNU"
    (red,) = [v for k, v in done.items() if k.endswith(" B04")]
    assert red.endswith("% without a value")
    entry = catalog.parse_entry(cli.ok("datasets", "new", safe, "--as", "s2").out, "printed")
    assert (entry.source.driver, entry.quality.rule) == ("safe", "scl")


# -- doctor, status, open --------------------------------------------------------------------------------------------


@pytest.fixture
def cube(workspace):
    rng = np.random.default_rng(0)
    bands = {b: rng.integers(1100, 3000, (2, 64, 64)).astype("u2") for b in ("B04", "B08")}
    bands["B04"][0, 0, 0] = 0
    return make_cube(workspace, "s2", {"T1": bands, "T2": bands}, ["2021-05-03", "2021-05-13"])


def test_doctor_finds_nothing_wrong_with_scenes(workspace, cube):
    findings = examine(workspace)
    assert not [f for f in findings if f.level == "broken"]
    lines = [f.what for f in findings]
    assert any(x.startswith("archive s2: 2 tiles, 4 time steps, snapshot ") for x in lines)
    assert any(x.startswith("GDAL ") and "PROJ" in x for x in lines)


def test_doctor_names_a_cube_that_does_not_fit_together(workspace, cube):
    with cube.archive.transaction("damage", {"what": "test"}, "main") as tx:
        tx.group["tiles/T2/B04"].resize((1, 64, 64))
    (broken,) = [f for f in examine(workspace) if f.level == "broken"]
    assert "archive s2: the layers of tile T2" in broken.what
    assert "eoflow rollback s2" in broken.todo


def test_status_has_a_row(cli, cube):
    (row,) = cli.ok("status", "--json").document
    assert (row["dataset"], row["present"], row["variables"]) == ("s2", "4 of 4", "B04, B08")


def test_open_gives_a_tile_in_physical_units(workspace, cube):
    ds = eoflow.open("s2", tile="T2", workspace=workspace)
    assert ds.B04.dtype == np.float32
    assert np.isnan(ds.B04[0, 0, 0])
    stored = cube.open("T2").B04.values[1]
    np.testing.assert_allclose(ds.B04[1], stored * 1e-4 - 0.1, atol=1e-6)
    assert ds.quality.dtype == np.uint8
    with pytest.raises(BadInput, match=r"'s2' has 2 tiles") as e:
        eoflow.open("s2", workspace=workspace)
    assert "T1, T2" in str(e.value)
    with pytest.raises(BadInput, match="no tile 'T3'"):
        eoflow.open("s2", tile="T3", workspace=workspace)
