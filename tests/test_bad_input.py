"""Wrong input through the command line: what, where and what to do; exit code 2; the workspace as it was."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import yaml
from commandline import CommandLine, contents
from support import small_world

import eoflow
from eoflow import checkpoint
from eoflow.workspace import Workspace

DAYS = 40
HALF_DAY = np.timedelta64(12, "h")


def save(ds, path):
    for name in ds.variables:
        ds[name].encoding = {}
    ds.to_netcdf(path)
    return path


@pytest.fixture(scope="module")
def world():
    """Fifty days; the archive of these tests holds the first forty."""
    return small_world(DAYS + 10)


@pytest.fixture(scope="module")
def based(tmp_path_factory, world):
    """A workspace with dataset `base`. Refused input leaves it as it is, so the tests may share it."""
    folder = tmp_path_factory.mktemp("based")
    ws = Workspace(folder / "workspace")
    eoflow.ingest("base", [save(world.isel(time=slice(0, DAYS)), folder / "base.nc")], workspace=ws)
    return ws


@pytest.fixture
def cli(based, capsys):
    return CommandLine(based, capsys)


@pytest.fixture
def changing(based, capsys, tmp_path):
    """The command line on a copy of the workspace, for input that is taken."""
    shutil.copytree(based.root, tmp_path / "workspace")
    return CommandLine(Workspace(tmp_path / "workspace"), capsys)


@pytest.fixture
def later(world):
    """The ten days after the archive's, to be changed at will."""
    return world.isel(time=slice(DAYS, DAYS + 10)).copy(deep=True)


# -- files that are refused ------------------------------------------------------------------------------------------


def other_values(ds, world):
    ds = world.isel(time=slice(DAYS - 5, DAYS + 5)).copy(deep=True)
    ds["msl"].values[3, 2, 1] += 1
    return ds


def shuffled(ds, world):
    return ds.isel(time=[0, 2, 1, *range(3, 10)])


def duplicated(ds, world):
    return ds.isel(time=[0, 1, 1, *range(2, 10)])


def between_the_steps(ds, world):
    return ds.assign_coords(time=ds.time + HALF_DAY)


def fewer_columns(ds, world):
    return ds.isel(longitude=slice(0, 8))


def shifted(ds, world):
    return ds.assign_coords(longitude=ds.longitude + 2.5)


def southern(ds, world):
    """Contradicts the archive also after rows are put in order."""
    return ds.assign_coords(latitude=-ds.latitude)


def hundredth_without_units(ds, world):
    ds["msl"].values[:] /= 100
    del ds["msl"].attrs["units"]
    return ds


def hundredth_as_pascal(ds, world):
    ds["msl"].values[:] /= 100
    return ds


def other_units(ds, world):
    ds["msl"].attrs["units"] = "K"
    return ds


def without_msl(ds, world):
    return ds.drop_vars("msl")


def other_levels(ds, world):
    return ds.assign_coords(level=("level", [500.0, 700.0], ds.level.attrs))


def a_field_of_nan(ds, world):
    ds["z"].values[6, 1] = np.nan
    return ds


def all_nan(ds, world):
    ds["msl"].values[:] = np.nan
    return ds


def unordered_longitude(ds, world):
    return ds.isel(longitude=[0, 1, 3, 2, *range(4, 10)])


FILES = {
    other_values: ("other values", "bad.nc, variable msl, time 2001-02-08", "latitude 50, longitude -35", "--rewrite"),
    shuffled: ("not in order", "bad.nc", "2001-02-11", "sort"),
    duplicated: ("more than once", "bad.nc", "2001-02-11", "drop"),
    between_the_steps: ("schedule", "every 1d", "bad.nc", "2001-02-10T12:00"),
    fewer_columns: ("grid", "6 x 10", "6 x 8", "bad.nc", "--as"),
    shifted: ("grid", "lon -40..5", "lon -37.5..7.5", "bad.nc"),
    southern: ("grid", "lat 60..35", "lat -35..-60", "bad.nc"),
    hundredth_without_units: ("'msl' has no units", "bad.nc, variable msl", "source_units: Pa} (or hPa)"),
    hundredth_as_pascal: ("outside the valid range", "bad.nc, variable msl, time 2001-02-10", "units"),
    other_units: ("K", "Pa", "bad.nc, variable msl"),
    without_msl: ("'msl' is missing", "bad.nc"),
    other_levels: ("850", "bad.nc", "500, 700"),
    a_field_of_nan: ("all values are NaN", "bad.nc, variable z850, time 2001-02-16"),
    all_nan: ("all values are NaN", "bad.nc, variable msl, time 2001-02-10"),
    unordered_longitude: ("longitudes are not in order", "bad.nc", "sort"),
}


@pytest.mark.parametrize("change", FILES, ids=lambda f: f.__name__)
def test_a_wrong_file(cli, later, world, tmp_path, change):
    path = save(change(later, world), tmp_path / "bad.nc")
    cli.refused("ingest", path, "--as", "base", words=FILES[change])


@pytest.mark.parametrize("change", [shuffled, duplicated, hundredth_without_units, hundredth_as_pascal, all_nan])
def test_a_wrong_first_file_leaves_no_dataset(tmp_path, capsys, later, world, change):
    cli = CommandLine(Workspace(tmp_path / "workspace"), capsys)
    path = save(change(later, world), tmp_path / "bad.nc")
    cli.refused("ingest", path, "--as", "new", words=("bad.nc",))
    assert contents(cli.workspace) == {}
    assert cli("--json", "datasets", "show", "new").code == 2


def test_a_good_file_beside_a_wrong_one_stays_out(cli, world, later, tmp_path):
    good = save(world.isel(time=slice(DAYS, DAYS + 4)), tmp_path / "good.nc")
    bad = save(a_field_of_nan(later, world).isel(time=slice(4, 10)), tmp_path / "bad.nc")
    cli.refused("ingest", good, bad, "--as", "base", words=("bad.nc", "z850"))


@pytest.mark.parametrize("kept", [0, 10, 0.3, 0.7, -1], ids=lambda x: f"cut at {x}")
@pytest.mark.parametrize("engine", ["h5netcdf", "scipy"])
def test_a_cut_netcdf_file(cli, later, tmp_path, engine, kept):
    path = tmp_path / "cut.nc"
    later.to_netcdf(path, engine=engine)
    size = path.stat().st_size
    with path.open("rb+") as f:
        f.truncate(int(kept * size) if 0 < kept < 1 else size + kept if kept < 0 else kept)
    cli.refused("ingest", path, "--as", "base", words=("cut.nc", "empty" if kept == 0 else ""))
    cli.refused("datasets", "check", path, words=("cut.nc",))


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("kept", "words"),
    [
        (3, ("not a GRIB file",)),
        (700_000, ("truncated: message 48",)),
        (-20, ("truncated: message 160",)),
        (48 * 14_760, ("variable t500, time 2017-01-01T12:00",)),  # between two messages: a field has no values
    ],
)
def test_a_cut_grib_file(tmp_path, capsys, realdata, kept, words):
    cli = CommandLine(Workspace(tmp_path / "workspace"), capsys)
    data = (realdata / "grib" / "era5-levels-members.grib").read_bytes()
    (tmp_path / "cut.grib").write_bytes(data[:kept])
    cli.refused("ingest", tmp_path / "cut.grib", "--as", "members", words=("cut.grib", *words))
    assert contents(cli.workspace) == {}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("page.nc", b"<html>404</html>", ("not a NetCDF file", "<html>404", "download")),
        ("page.grib2", b"<html>404</html>", ("not a GRIB file", "page.grib2")),
        ("notes.txt", b"hello", ("not NetCDF, Zarr or GRIB", "notes.txt")),
        ("empty.grib", b"", ("empty", "empty.grib")),
    ],
)
def test_what_is_no_data_file(cli, tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    cli.refused("ingest", tmp_path / name, "--as", "base", words=words)


def test_files_that_are_not_there_or_have_no_name(cli, later, tmp_path):
    cli.refused("ingest", tmp_path / "no.nc", "--as", "base", words=("no such file", "no.nc"))
    cli.refused("ingest", tmp_path / "no*.nc", "--as", "base", words=("no file matches", "no*.nc"))
    a, b = (save(later, tmp_path / f"{n}.nc") for n in "ab")
    cli.refused("ingest", a, b, words=("need a name", "a.nc", "eoflow ingest FILE... --as a"))
    cli.refused("ingest", a, words=("need a name", f"eoflow ingest {a} --as a"))
    cli.refused("ingest", a, "--as", "../x", words=("'../x'", "letters"))
    cli.refused("ingest", a, "--as", "base", "--period", "2050/2051", words=("2050",))
    cli.refused("ingest", a, "--as", "base", "--period", "yesterday", words=("yesterday",))
    cli.refused("ingest", a, "--as", "base", "--cadence", "6h", words=("cadence of 1d, not 6h",))


# -- files that are taken --------------------------------------------------------------------------------------------


def appended(changing, world, path):
    """`path` is taken, and the archive holds the world's values afterwards."""
    done = changing.ok("--json", "ingest", path, "--as", "base").document
    assert (done["new"], done["rewritten"], done["problems"]) == (10, 0, [])
    found = eoflow.open("base", workspace=changing.workspace)
    assert found.sizes["time"] == DAYS + 10
    for name in ("z", "msl"):
        np.testing.assert_allclose(found[name], world[name], rtol=2e-7)
    for name in ("latitude", "longitude", "level"):
        np.testing.assert_array_equal(found[name], world[name])


def hectopascal(ds):
    ds["msl"] = (ds["msl"] / 100).assign_attrs(ds["msl"].attrs, units="hPa")
    return ds


def south_to_north(ds):
    return ds.isel(latitude=slice(None, None, -1))


def eastward(ds):
    """Longitudes of 0..360, in the order of their numbers."""
    return ds.assign_coords(longitude=("longitude", ds.longitude.values % 360, ds.longitude.attrs)).sortby("longitude")


def both_and_other_dims(ds):
    renamed = {"latitude": "lat", "longitude": "lon", "msl": "slp"}
    return eastward(south_to_north(ds)).transpose("longitude", "latitude", ...).rename(renamed)


def with_valid_time(ds):
    return ds.rename(time="valid_time").assign_coords(number=0, expver="0001")


@pytest.mark.parametrize(
    "change", [hectopascal, south_to_north, eastward, both_and_other_dims, with_valid_time], ids=lambda f: f.__name__
)
def test_what_only_looks_different_is_normalised(changing, later, world, tmp_path, change):
    appended(changing, world, save(change(later), tmp_path / "other.nc"))


def test_the_line_that_is_asked_for_makes_a_file_without_units_readable(changing, later, world, tmp_path):
    path = save(hundredth_without_units(later, world), tmp_path / "bad.nc")
    changing.refused("ingest", path, "--as", "base", words=("source_units",))
    entry = changing.workspace.path("catalogs", "datasets", "base.yaml")
    document = yaml.safe_load(entry.read_text())
    document["variables"]["msl"] |= {"source_name": "msl", "source_units": "hPa"}
    entry.write_text(yaml.safe_dump(document))
    appended(changing, world, path)


def test_corrected_values_are_taken_with_rewrite(changing, world, later, tmp_path):
    path = save(other_values(later, world), tmp_path / "corrected.nc")
    changing.refused("ingest", path, "--as", "base")
    done = changing.ok("ingest", path, "--as", "base", "--rewrite", "--json").document
    assert (done["new"], done["rewritten"], done["skipped"]) == (5, 1, 4)
    assert eoflow.open("base", workspace=changing.workspace)["msl"].values[DAYS - 2, 2, 1] == np.float32(
        world["msl"].values[DAYS - 2, 2, 1] + 1
    )


# -- catalogs and recipes --------------------------------------------------------------------------------------------

ENTRY = {
    "name": "mine", "title": "mine", "source": {"driver": "netcdf", "args": {"paths": ["a.nc"]}},
    "schedule": {"start": "2001-01-01", "cadence": "1d"},
    "variables": {"msl": {"units": "Pa"}}, "checks": {"max_nan_fraction": 0.1},
}  # fmt: skip


@pytest.mark.parametrize(
    ("group", "wrong", "right"),
    [
        ((), "licens", "licence"),
        (("schedule",), "cadense", "cadence"),
        (("source",), "drivr", "driver"),
        (("variables", "msl"), "source_unit", "source_units"),
        (("checks",), "max_nan", "max_nan_fraction"),
    ],
)
def test_a_wrong_key_in_a_dataset_entry(cli, tmp_path, group, wrong, right):
    document = yaml.safe_load(yaml.safe_dump(ENTRY))
    node = document
    for key in group:
        node = node[key]
    node[wrong] = "x"
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(document))
    key = ".".join((*group, wrong))
    cli.refused("datasets", "check", path, words=(f"unknown key '{key}' (did you mean '{right}'?)", "mine.yaml"))


def test_a_wrong_key_in_an_entry_of_the_workspace(changing):
    entry = changing.workspace.path("catalogs", "datasets", "base.yaml")
    entry.write_text(entry.read_text().replace("cadence:", "cadense:"))
    words = ("unknown key 'schedule.cadense' (did you mean 'cadence'?)", "catalogs/datasets/base.yaml")
    for line in (("ingest", "base"), ("datasets", "show", "base"), ("gaps", "base"), ("datasets", "list")):
        changing.refused(*line, words=words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"source": {"driver": "netcfd"}}, ("netcfd", "did you mean 'netcdf'?")),
        ({"source": {"driver": "netcdf", "args": {"path": "a.nc"}}}, ("path", "paths")),
        ({"schedule": {"start": "2001-01-01", "cadence": "1 day"}}, ("1 day", "6h")),
        ({"schedule": {"start": "first of May", "cadence": "1d"}}, ("first of May", "ISO")),
        ({"checks": {"max_nan_fraction": 7}}, ("checks.max_nan_fraction", "1")),
        ({"name": "a b"}, ("'a b'",)),
    ],
)
def test_a_wrong_value_in_a_dataset_entry(cli, tmp_path, change, words):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(ENTRY | change))
    cli.refused("datasets", "check", path, words=(*words, "mine.yaml"))


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2\n", ""])
def test_a_file_that_is_no_entry(cli, tmp_path, text):
    (tmp_path / "mine.yaml").write_text(text)
    cli.refused("datasets", "check", tmp_path / "mine.yaml", words=("mine.yaml",))


RECIPE = {"name": "mine", "title": "mine", "network": {"name": "puyun"}, "training": {"epochs": 1}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"trainning": {}}, ("unknown key 'trainning' (did you mean 'training'?)",)),
        ({"training": {"epoch": 1}}, ("unknown key 'training.epoch' (did you mean 'epochs'?)",)),
        ({"training": {"rollout": [{"epochs": 1, "step": 2, "lr": 1}]}}, ("rollout.0.step'", "did you mean 'steps'?")),
        ({"training": {"epochs": "many"}}, ("training.epochs",)),
        ({"network": {"name": "puyn"}}, ("no model called 'puyn' (did you mean 'puyun'?)",)),
        ({"network": {"name": "puyun", "options": {"widht": 3}}}, ("network.options", "widht")),
        ({"variables": ["t2m"]}, ("no variable 't2m'", "z, msl")),
        ({"task": "forecasts"}, ("no task called 'forecasts' (did you mean 'forecast'?)",)),
    ],
)
def test_a_wrong_recipe(cli, tmp_path, change, words):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(RECIPE | change))
    cli.refused("train", path, "--dataset", "base", words=words)
    if "variables" in change:  # only the archive shows that
        assert cli("models", "check", path).code == 0
    elif "options" in change.get("network", {}):
        checked = cli("models", "check", path)
        assert checked.code == 2
        assert "widht" in checked.out
    else:
        cli.refused("models", "check", path)


def test_wrong_overrides(cli):
    line = ("train", "puyun", "--dataset", "base", "--set")
    cli.refused(*line, "training.epoch=3", words=("training.epoch", "did you mean 'epochs'?", "--set"))
    cli.refused(*line, "training.epochs", words=("not KEY=VALUE",))
    cli.refused(*line, "training.epochs=many", words=("training.epochs", "--set"))
    cli.refused("train", "puyun", "--dataset", "base", "--train-period", "2050/2060", words=("2050",))


# -- forecasts -------------------------------------------------------------------------------------------------------


def test_wrong_leads_and_times(cli):
    line = ("forecast", "--model", "persistence")
    for lead in ("0d", "0", "3h", "36h", "-1d", "soon"):
        cli.refused(*line, f"--lead={lead}", words=(lead,))
    cli.refused(*line, "--init", "2001-05-01", words=("2001-05-01", "not in the archive", "2001-01-01/2001-02-09"))
    cli.refused(*line, "--init", "2001-01-05T06:00", words=("2001-01-05T06:00", "not in the archive"))
    cli.refused(*line, "--init", "tomorrow", words=("tomorrow", "ISO"))
    cli.refused(*line, "--init", "2001-01-05/2001-01-20", "--every", "5h", words=("--every 5h", "1d"))
    cli.refused(*line, "--init", "1990/1991", "--every", "1d", words=("no initial time", "2001-01-01/2001-02-09"))
    cli.refused(*line, "--members", "0", words=("members",))


def test_three_hours_on_a_six_hour_dataset(tmp_path, capsys, world):
    cli = CommandLine(Workspace(tmp_path / "workspace"), capsys)
    time = world.time.values[0] + np.arange(DAYS + 10) * np.timedelta64(6, "h")
    path = save(world.assign_coords(time=time), tmp_path / "six.nc")
    cli.ok("ingest", path, "--as", "six")
    cli.refused("forecast", "--lead", "3h", "--model", "persistence", words=("lead of 3h", "step of 6h"))
    cli.refused("forecast", "--lead", "0h", "--model", "persistence", words=("0h", "6h"))


def test_an_initial_time_in_a_gap(tmp_path, capsys, world):
    cli = CommandLine(Workspace(tmp_path / "workspace"), capsys)
    rest = world.isel(time=[i for i in range(DAYS) if i not in (20, 21)])
    cli.ok("ingest", save(rest, tmp_path / "gap.nc"), "--as", "gap", "--cadence", "1d")
    line = ("forecast", "--model", "persistence", "--init")
    for time in ("2001-01-21", "2001-01-22"):
        cli.refused(*line, time, words=(time, "not in the archive", "eoflow gaps gap"))
    assert cli.ok(*line, "2001-01-20", "--lead", "2d", "--json").document["new"] == 1


def test_a_checkpoint_of_another_grid(trained, tmp_path, capsys, world):
    cli = CommandLine(Workspace(tmp_path / "workspace"), capsys)
    cli.ok("ingest", save(world.isel(longitude=slice(0, 8)), tmp_path / "a.nc"), "--as", "narrow")
    folder = checkpoint.current(trained, "small", "puyun")
    words = ("6 x 8", "6 x 10", "eoflow train puyun --dataset narrow")
    cli.refused("forecast", "--model", folder, words=words)
    cli.refused("forecast", "--model", tmp_path / "nowhere", words=("nowhere", "not a checkpoint"))


def test_a_checkpoint_of_other_variables(trained, tmp_path, capsys, world):
    cli = CommandLine(Workspace(tmp_path / "workspace"), capsys)
    cli.ok("ingest", save(world.drop_vars("z"), tmp_path / "a.nc"), "--as", "poor")
    cli.refused("forecast", "--model", checkpoint.current(trained, "small", "puyun"), words=("z: missing | present",))


# -- names -----------------------------------------------------------------------------------------------------------


def test_unknown_names_are_answered_with_near_ones(cli):
    cli.refused("datasets", "show", "arco-era", words=("no dataset called 'arco-era' (did you mean 'arco-era5'?)",))
    cli.refused("ingest", "arco-era", words=("did you mean 'arco-era5'?",))
    for verb in ("gaps", "history", "backfill"):
        cli.refused(verb, "bas", words=("'bas'", "base"))
    for verb in ("forecast", "verify"):
        cli.refused(verb, "--dataset", "bas", words=("'bas'", "base"))
    cli.refused("train", "puyun", "--dataset", "bas", words=("'bas'", "base"))
    cli.refused("prepare", "puyn", words=("no recipe called 'puyn' (did you mean 'puyun'?)",))
    cli.refused("train", "puyn", words=("no recipe called 'puyn' (did you mean 'puyun'?)",))
    cli.refused("models", "show", "puyn", words=("(did you mean 'puyun'?)",))
    cli.refused("models", "check", "persistense", words=("did you mean 'persistence'?",))
    cli.refused("rollback", "base", "cafe", words=("'cafe' is neither a snapshot", "eoflow history base"))


def test_what_is_not_there_yet_comes_with_the_line_that_makes_it(cli, tmp_path, capsys):
    cli.refused("forecast", words=("eoflow train puyun --dataset base",))
    cli.refused("forecast", "--model", "eof-ridge", words=("eoflow train eof-ridge --dataset base",))
    cli.refused("verify", words=("no forecast for base", "eoflow forecast --lead 10d --dataset base"))
    empty = CommandLine(Workspace(tmp_path / "empty"), capsys)
    for verb in ("forecast", "verify"):
        empty.refused(verb, words=("no dataset yet", "eoflow ingest FILE.nc --as NAME"))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (("forecast", "--laed", "3d"), ("--laed", "--lead")),
        (("forecats",), ("forecats", "Did you mean 'forecast'?")),
        (("datasets", "shwo", "x"), ("shwo", "'show'")),
        (("forecast", "--members", "many"), ("--members", "integer")),
        (("ingest",), ("Missing argument",)),
        (("forecast", "now"), ("now",)),
        (("forecast", "--lead"), ("--lead",)),
    ],
)
def test_a_line_that_cannot_be_parsed(cli, line, words):
    before = contents(cli.workspace)
    done = cli(*line)
    assert (done.code, done.out) == (2, "")
    for word in words:
        assert word in done.err, done.err
    as_json = cli("--json", *line)
    assert as_json.code == 2
    assert as_json.document["exit_code"] == 2
    assert words[0] in as_json.document["error"]
    assert contents(cli.workspace) == before
