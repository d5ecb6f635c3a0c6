"""`eoflow flood | change | clouds`, as they are typed."""

from __future__ import annotations

import numpy as np
import pytest
from commandline import CommandLine
from imagescenes import RADAR, TIMES, pair, radar, radar_series, read, series, tif

from eoflow.cli_tasks import settings_of
from eoflow.errors import BadInput


@pytest.fixture
def cli(workspace, capsys):
    return CommandLine(workspace, capsys)


def test_flood_of_files(cli, tmp_path):
    scene = tif(tmp_path / "a.tif", radar())
    done = cli("flood", scene, "--model", "otsu", "--out", tmp_path / "o")
    assert done.code == 2
    assert "--bands VV,VH" in done.err
    assert not (tmp_path / "o").exists()
    line = ["flood", scene, "--model", "otsu", "--bands", "VV,VH", "--set", "units=dB", "--out", tmp_path / "o"]
    done = cli(*line)
    assert done.code == 0
    assert "o/a.tif" in done.out
    assert "km2" in done.out
    assert (read(tmp_path / "o/a.tif")[0][0, :30] == 1).all()
    assert cli(*line).code == 2
    document = cli("--json", *line, "--overwrite").document
    assert document["files"] == [str(tmp_path / "o/a.tif"), str(tmp_path / "o/a_prob.tif")]
    assert document["areas"][0]["water_km2"] == pytest.approx(0.27, rel=1e-2)
    assert document["made"]


def test_change_and_clouds_of_files(cli, tmp_path):
    before, after = pair(tmp_path)
    done = cli("change", before, after, "--model", "image-difference", "--out", tmp_path / "c.tif")
    assert done.code == 0
    assert "pixel coordinates" in done.out
    assert read(tmp_path / "c.tif")[0].max() == 1
    assert cli("change", before, "--model", "image-difference", "--out", tmp_path / "d.tif").code == 2
    files, stack = series(tmp_path)
    done = cli("clouds", *files, "--model", "last-clear", "--out", tmp_path / "f.tif", "--json")
    assert done.code == 0
    assert len(done.document["tiles"]) == 6
    np.testing.assert_array_equal(read(tmp_path / "f.tif")[0][:, 20:], stack[-1][:, 20:])
    assert not (tmp_path / "d.tif").exists()


def test_a_dataset(cli, workspace, tmp_path):
    from cubes import make_cube

    make_cube(workspace, "s1", {"A": radar_series()[0]}, TIMES, bands=RADAR, sensor="sentinel-1", level="RTC")
    done = cli("flood", "s1", "--model", "otsu", "--period", "2024-06", "--before", "2024-05")
    assert done.code == 0
    assert "flood km2" in done.out
    assert "open_zarr" in done.out
    again = cli("flood", "s1", "--model", "otsu", "--period", "2024-06", "--before", "2024-05", "--json").document
    assert not again["made"]
    assert again["areas"][0]["flood_km2"] == pytest.approx(0.224, rel=1e-2)
    change = cli("change", "s1", "--model", "image-difference", "--every", "--json").document
    assert len(change["tiles"]) == 3
    for line, what in (
        (["flood", "s1", "--overwrite"], "does not go with a dataset"), (["flood", "nothere"], "nothere"),
        (["flood", "s1", "--model", "nonsense"], "nonsense"),
        (["change", "s1", "--before", "2031"], "no scene at 2031"),
        (["flood", str(tmp_path / "none.tif"), "--out", str(tmp_path)], "no such file"),
        (["flood", "s1", "--area", "1,2,3"], "neither"),
    ):  # fmt: skip
        done = cli(*line)
        assert done.code == 2, line
        assert what in done.err, (line, done.err)


def test_settings():
    assert settings_of(["units=dB", "bands.VV.scale=0.01"], "sentinel-1") == {
        "sensor": "sentinel-1", "units": "dB", "bands": {"VV": {"scale": 0.01}}}  # fmt: skip
    assert settings_of(["units=1"], None) == {"units": "1"}
    with pytest.raises(BadInput):
        settings_of(["units"], None)
