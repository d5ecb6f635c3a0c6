"""The command line as a whole: verbs, global options, JSON documents, exit codes, and the real files in one command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import yaml
from commandline import CommandLine
from support import SMALL_NET, small_world

import eoflow
from eoflow.cli import hoist, main

REPO = Path(__file__).resolve().parent.parent
ROW = {"dataset", "model", "variable", "lead_hours", "metric", "value", "low", "high", "n"}
RUN = "import sys; from eoflow.cli import main; sys.exit(main())"


@pytest.fixture
def cli(workspace, capsys):
    """The command line on an empty workspace."""
    return CommandLine(workspace, capsys)


@pytest.fixture
def small(trained, capsys):
    """The command line on the workspace with dataset `small` and its trained network."""
    return CommandLine(trained, capsys)


@pytest.fixture
def changing(trained_copy, capsys):
    """As `small`, for tests that change it."""
    return CommandLine(trained_copy, capsys)


def process(*arguments, cwd, env=None, **options):
    env = {**os.environ, "PYTHONPATH": str(REPO), **(env or {})}
    return subprocess.run([sys.executable, "-c", RUN, *map(str, arguments)], cwd=cwd, env=env, capture_output=True,
                          text=True, timeout=120, **options)  # fmt: skip


# -- global options --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("forecast --lead 3d --json --workspace W", "--json --workspace W forecast --lead 3d"),
        ("forecast --workspace=W --lead 3d --quiet", "--workspace=W --quiet forecast --lead 3d"),
        ("--debug datasets show x --dask tcp://a:1", "--debug --dask tcp://a:1 datasets show x"),
        ("datasets show -- --json", "datasets show -- --json"),
        ("status --workspace", "--workspace status"),
    ],
)
def test_global_options_may_stand_anywhere(given, expected):
    assert hoist(given.split()) == expected.split()


def test_the_same_document_wherever_the_options_stand(small, capsys):
    root = small.workspace.root
    lines: tuple[list[str], ...] = (
        ["--workspace", root, "--json", "datasets", "show", "small"],
        ["datasets", "show", "small", "--json", "--workspace", root],
        ["datasets", "--json", "show", f"--workspace={root}", "small"],
    )
    found = []
    for line in lines:
        assert main(line) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0]["entry"]["name"] == "small"
    assert found[0] == found[1] == found[2]


def test_the_workspace_of_the_environment_and_of_the_folder(trained, tmp_path):
    there = process("status", "--json", cwd=tmp_path, env={"EOFLOW_WORKSPACE": trained.root})
    assert [r["dataset"] for r in json.loads(there.stdout)] == ["small"]
    (tmp_path / "eoflow-data").symlink_to(trained.root)
    here = process("--json", "status", cwd=tmp_path)
    assert here.stdout == there.stdout
    elsewhere = process("--json", "status", "--workspace", tmp_path / "none", cwd=tmp_path)
    assert json.loads(elsewhere.stdout) == []


def test_options_of_one_call_do_not_stay(small):
    assert small.ok("--quiet", "status").out == ""
    assert json.loads(small.ok("--json", "status").out)
    assert "small" in small.ok("status").out


def test_version(capsys):
    for line in (["--version"], ["status", "--version"]):
        assert main(line) == 0
        assert capsys.readouterr().out == f"eoflow {eoflow.__version__}\n"
    assert main(["--version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"eoflow": eoflow.__version__}


VERBS = [
    "prepare", "train", "forecast", "verify", "demo", "report", "status", "doctor", "up", "datasets", "ingest", "gaps",
    "backfill", "history", "rollback", "models",
]  # fmt: skip
SUBVERBS = [
    *(("datasets", v) for v in ("list", "show", "check", "new")),
    *(("models", v) for v in ("list", "show", "check")),
]


def test_help_names_every_verb(capsys):
    assert main(["--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for verb in VERBS:
        assert f"\n  {verb} " in out
    for option in ("--workspace", "--dask", "--json", "--quiet", "--debug", "--version"):
        assert option in out


@pytest.mark.parametrize("verb", [*[(v,) for v in VERBS], *SUBVERBS], ids=" ".join)
def test_every_verb_explains_itself(verb, capsys):
    assert main([*verb, "--help"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"Usage: eoflow {' '.join(verb)} ")
    assert err == ""
    described = [line for line in out.splitlines() if line.startswith("  ")]
    assert described[0].strip()


def test_help_is_fast(tmp_path):
    """Best of five processes; the goal is 0.3 s on an idle machine, the limit leaves room for a busy one."""
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        assert process("--help", cwd=tmp_path).returncode == 0
        seconds.append(time.perf_counter() - began)
        if seconds[-1] < 0.3:
            break
    assert min(seconds) < 0.6, seconds


def test_help_imports_nothing_heavy(tmp_path):
    code = "import sys; from eoflow.cli import main; main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code, "forecast", "--help"], capture_output=True, text=True,
                          cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPO)}, timeout=60)  # fmt: skip
    assert done.stdout.startswith("Usage:")
    loaded = set(done.stderr.split())
    assert "eoflow.cli" in loaded
    assert loaded & {"numpy", "torch", "xarray", "zarr", "icechunk", "dask", "pandas", "scipy"} == set()


# -- errors ----------------------------------------------------------------------------------------------------------


def raises(error):
    def run(*args, **kwargs):
        raise error

    return run


def test_exit_codes(small, monkeypatch):
    from eoflow.errors import BadInput, Failure

    cases = [
        (BadInput("wrong", where="there", todo="do this"), 2, "error: wrong\n  where: there\n  to do: do this\n"),
        (Failure("broke"), 1, "error: broke\n"),
        (ValueError("a bug"), 1, "error: unexpected ValueError: a bug\n  to do: run again with --debug"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ]
    for error, code, text in cases:
        monkeypatch.setattr("eoflow.listing.status_rows", raises(error))
        done = small("status")
        assert (done.code, done.out) == (code, "")
        assert done.err.startswith(text)
        as_json = small("status", "--json")
        assert as_json.code == code
        assert as_json.err == done.err
        assert as_json.document["exit_code"] == code
        quiet = small("--quiet", "status")
        assert (quiet.code, quiet.err) == (code, done.err)


def test_a_traceback_only_with_debug(trained, capsys, monkeypatch):
    monkeypatch.setattr("eoflow.listing.status_rows", raises(ValueError("a bug")))
    assert main(["--workspace", trained.root, "status", "--debug"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" in err
    assert "ValueError: a bug" in err


def test_ctrl_c_in_a_process(tmp_path):
    code = (
        "import os, signal, sys, eoflow.listing\n"
        "eoflow.listing.status_rows = lambda ws: os.kill(os.getpid(), signal.SIGINT)\n" + RUN
    )
    done = subprocess.run([sys.executable, "-c", code, "status"], capture_output=True, text=True, cwd=tmp_path,
                          env={**os.environ, "PYTHONPATH": str(REPO)}, timeout=60)  # fmt: skip
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.splitlines() == ["interrupted; run the same line again to go on"]


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    """As in `eoflow datasets list | head -1`."""
    env = {**os.environ, "PYTHONPATH": str(REPO), "PYTHONUNBUFFERED": "1"}
    line = [sys.executable, "-c", RUN, "datasets", "list", "--json"]
    running = subprocess.Popen(line, cwd=tmp_path, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    running.stdout.close()
    error = running.stderr.read()
    running.stderr.close()
    running.wait(60)
    assert error == ""


def test_exit_codes_of_a_process(tmp_path):
    assert process("status", cwd=tmp_path).returncode == 0
    wrong = process("gaps", "nothing", "--json", cwd=tmp_path)
    assert wrong.returncode == 2
    assert json.loads(wrong.stdout)["exit_code"] == 2
    assert wrong.stderr.startswith("error: dataset 'nothing' has no archive")
    assert process("gaps", cwd=tmp_path).returncode == 2


# -- documents -------------------------------------------------------------------------------------------------------


def test_documents_of_datasets(small, tmp_path):
    rows = small.ok("datasets", "list", "--json").document
    assert {r["name"]: r["ingested"] for r in rows}["small"] is True
    assert set(rows[0]) == {"name", "kind", "title", "driver", "cadence", "licence", "ingested"}
    kinds = {r["name"]: r["kind"] for r in rows}
    assert (kinds["small"], kinds["sentinel-2-l2a"]) == ("fields", "scenes")
    shown = small.ok("datasets", "show", "small", "--json").document
    assert shown["archive"]["present"] == "700 of 700"
    assert shown["archive"]["channels"] == "z500, z850, msl"
    assert small.ok("datasets", "show", "gfs", "--json").document["archive"] is None
    assert small.ok("datasets", "check", "small", "--json").document["valid"] is True
    later = Path(small.workspace.root).parent / "later.nc"
    checked = small.ok("datasets", "check", later, "--json").document
    assert checked["times"] == "30, 2002-12-02/2002-12-31 every 1d"
    new = small.ok("datasets", "new", later, "--as", "other", "--json").document
    assert new["name"] == "other"
    printed = small.ok("datasets", "new", later, "--as", "other").out
    (tmp_path / "other.yaml").write_text(printed)  # what it prints is an entry
    assert small.ok("datasets", "check", tmp_path / "other.yaml", "--json").document["name"] == "other"
    assert yaml.safe_load(small.ok("datasets", "show", "small").out)["name"] == "small"


def test_documents_of_an_archive(changing, tmp_path):
    folder = changing.workspace.root
    world = small_world(730)
    later = tmp_path / "later.nc"
    world.isel(time=[*range(700, 710), *range(712, 730)]).to_netcdf(later)
    done = changing.ok("ingest", later, "--as", "small", "--json").document
    assert (done["dataset"], done["new"], done["skipped"], done["failed"]) == ("small", 28, 0, 0)
    assert done["where"] == f"{folder}/archives/small"
    again = changing.ok("--json", "ingest", later, "--as", "small").document
    assert (again["new"], again["skipped"], again["snapshot"]) == (0, 28, done["snapshot"])
    gaps = changing.ok("gaps", "small", "--json").document
    assert (gaps["expected"], gaps["present"], len(gaps["gaps"])) == (730, 728, 1)
    assert gaps["gaps"][0]["start"] == "2002-12-12"
    rest = tmp_path / "rest.nc"
    world.isel(time=slice(710, 712)).to_netcdf(rest)
    changing.ok("ingest", rest, "--as", "small")
    assert changing.ok("gaps", "small", "--json").document["gaps"] == []
    history = changing.ok("history", "small", "--json").document
    assert history[1]["id"] == done["snapshot"]
    assert changing.ok("rollback", "small", history[1]["id"][:8], "--json").document["dataset"] == "small"
    assert changing.ok("gaps", "small", "--json").document["present"] == 728
    filled = changing.ok("backfill", "small", "--json").document
    assert filled["new"] == 2


def test_documents_of_models(small):
    rows = small.ok("models", "list", "--json").document
    assert {"puyun", "persistence", "climatology", "eof-ridge"} <= {r["name"] for r in rows}
    card = small.ok("models", "show", "puyun", "--dataset", "small", "--json").document
    assert card["config"]["provenance"]["dataset"] == "small"
    assert card["text"].startswith("---") or card["text"].startswith("#")
    checks = small.ok("models", "check", "persistence", "--json").document
    assert all(c["passed"] for c in checks)


def test_documents_of_prepare_and_train(changing):
    done = changing.ok("prepare", "puyun", "--dataset", "small", "--json").document
    assert isinstance(done, dict)
    line = ["train", "puyun", "--dataset", "small", *(x for s in SMALL_NET for x in ("--set", s)), "--json"]
    trained = changing.ok(*line).document
    assert trained["reused"] is True  # the session's training is found again
    assert trained["folder"].startswith(changing.workspace.root)
    assert {r["metric"] for r in trained["scores"]} >= {"rmse"}


def test_documents_from_forecast_to_report(changing):
    line = ("forecast", "--lead", "3d", "--init", "2002-09-01/2002-10-31", "--every", "5d", "--json")
    done = changing.ok(*line).document
    assert (done["dataset"], done["model"], done["new"], done["unchanged"]) == ("small", "puyun", 13, 0)
    assert changing.ok(*line).document["new"] == 0
    assert xr.open_zarr(done["latest"], decode_timedelta=True).sizes["lead_time"] == 3
    rows = changing.ok("verify", "--json").document
    assert rows
    assert {r["model"] for r in rows} >= {"puyun", "persistence", "climatology", "eof-ridge"}
    assert {r["metric"] for r in rows} >= {"rmse", "bias", "acc", "activity"}
    for row in rows:
        assert set(row) == ROW
        assert isinstance(row["lead_hours"], int | float)
        assert isinstance(row["n"], int)
        for key in ("value", "low", "high"):
            assert row[key] is None or isinstance(row[key], int | float), row
    assert {r["lead_hours"] for r in rows} == {24, 48, 72}
    assert {r["variable"] for r in rows} == {"z500", "z850", "msl"}
    stored = json.loads(changing.workspace.read_text("scores", "small", "scores.json"))
    assert stored["rows"] == rows if isinstance(stored, dict) else stored == rows
    assert Path(changing.ok("report", "--json").document["report"]).is_file()
    (status,) = changing.ok("status", "--json").document
    assert (status["dataset"], status["scores"]) == ("small", "yes")
    assert "puyun" in status["models"]
    text = changing.ok("verify").out
    assert "RMSE" in text
    assert "scores.json" in text


def test_document_of_doctor(cli):
    findings = cli.ok("doctor", "--json").document
    assert {f["level"] for f in findings} <= {"ok", "note"}


@pytest.mark.parametrize("line", ["datasets list", "status", "models list", "doctor", "datasets show gfs"])
def test_people_get_text_and_quiet_prints_nothing(cli, line):
    said = cli.ok(*line.split())
    assert said.out.strip()
    assert said.err == ""
    with pytest.raises(json.JSONDecodeError):
        json.loads(said.out)
    quiet = cli.ok("--quiet", *line.split())
    assert (quiet.out, quiet.err) == ("", "")


def test_brackets_in_titles_are_shown_as_they_are(cli, tmp_path):
    world = small_world(20)
    world.attrs["title"] = "daily [reanalysis] of [/home]"
    world.to_netcdf(tmp_path / "a.nc")
    cli.ok("ingest", tmp_path / "a.nc", "--as", "a")
    for line in (("datasets", "show", "a"), ("datasets", "new", tmp_path / "a.nc", "--as", "a")):
        assert "daily [reanalysis] of [/home]" in cli.ok(*line).out
    assert "[reanalysis]" in "".join(cli.ok("datasets", "list").out.split())


# -- real files, one command each ------------------------------------------------------------------------------------


def netcdf(path, name):
    engine = "h5netcdf" if path.read_bytes()[:4] == b"\x89HDF" else "scipy"
    with xr.open_dataset(path, engine=engine) as ds:
        return ds[name].load()


def points(rng, *sizes, count=60):
    return tuple(rng.integers(0, n, count) for n in sizes)


FILES = {
    "natlantic": ("reanalysis/ncep1_natlantic_slp_daily_2001_2007.nc", {("msl", None): "slp"}),
    "iberia": (
        "reanalysis/ncep1_iberia_daily_1961_2001.nc",
        {("msl", None): "SLP", ("t2m", None): "T2M", ("tp", None): "TP"}
        | {(n, float(p)): f"{n.upper()}{p}" for n in "ztq" for p in (500, 850, 1000)},
    ),
    "z500": ("reanalysis/raw_as_found/NCEP_Z500_1958_2001.nc", {("z", 500.0): "Z"}),
    "ersst": ("reanalysis/ersstv5_sst_monthly_2010_2020.nc", {("sst", None): "sst"}),
}
OFFSET = {"sst": 273.15}


@pytest.mark.realdata
@pytest.mark.parametrize("name", FILES)
def test_a_real_netcdf_file(cli, realdata, name):
    file, variables = FILES[name]
    done = cli.ok("ingest", realdata / file, "--as", name, "--json").document
    assert (done["failed"], done["partial"], done["problems"]) == (0, 0, [])
    ours = eoflow.open(name, workspace=cli.workspace)
    rng = np.random.default_rng(0)
    for (mine, level), theirs in variables.items():
        raw = netcdf(realdata / file, theirs).squeeze()
        lat, lon = (next(d for d in raw.dims if d.startswith(p)) for p in ("lat", "lon"))
        assert done["new"] == raw.sizes["time"]
        t, y, x = points(rng, *(raw.sizes[d] for d in ("time", lat, lon)))
        want = raw.transpose("time", lat, lon).values[t, y, x].astype("f8") + OFFSET.get(mine, 0)
        field = ours[mine] if level is None else ours[mine].sel(level=level)
        # looked up by the file's own coordinates, so that a wrong place or time is found
        found = field.sel(
            time=xr.DataArray(raw.time.values[t], dims="p"),
            latitude=xr.DataArray(raw[lat].values[y], dims="p"),
            longitude=xr.DataArray(wrapped(raw[lon].values[x], ours.longitude.values), dims="p"),
            method="nearest",
        )
        np.testing.assert_array_equal(found.values, want.astype("f4"), err_msg=theirs)


def wrapped(longitude, axis):
    """The same meridians as numbers inside the axis."""
    return (longitude - axis.min() + 1e-6) % 360 + axis.min() - 1e-6


GRIB = {
    "uk": ("grib/era5-2mt-2019-03-uk.grib", {}, {"t2m": ("t2m", 1.0)}),
    "members": ("grib/era5-levels-members.grib", {}, {"z": ("z", 1.0), "t": ("t", 1.0)}),
    "gfs2p5": (
        "grib/gfs_2011100800_f072_2p5deg.grib2",
        {"typeOfLevel": "isobaricInhPa", "shortName": ["gh", "t"]},
        {"z": ("gh", 9.80665), "t": ("t", 1.0)},
    ),
}


REFERENCE = """
import sys, cfgrib, json
file, keys, target = sys.argv[1:]
ds = cfgrib.open_dataset(file, filter_by_keys=json.loads(keys), indexpath=target + ".{short_hash}.idx")
ds.load().drop_attrs().to_netcdf(target, engine="scipy")
"""


def cfgrib_read(file, keys, target):
    """What cfgrib reads, by a process of its own: cfgrib and its libraries may break the heap of this one."""
    line = [sys.executable, "-W", "ignore", "-c", REFERENCE, str(file), json.dumps(keys), str(target)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)
    assert target.is_file(), done.stderr
    with xr.open_dataset(target, engine="scipy", decode_timedelta=True) as ds:
        return ds.load()


@pytest.mark.realdata
@pytest.mark.parametrize("name", GRIB)
def test_a_real_grib_file(cli, realdata, tmp_path, name):
    """Against cfgrib's xarray engine; its index goes to a folder of the test."""
    file, keys, variables = GRIB[name]
    done = cli.ok("ingest", realdata / file, "--as", name, "--json").document
    assert (done["failed"], done["partial"], done["problems"]) == (0, 0, [])
    ours = eoflow.open(name, workspace=cli.workspace)
    rng = np.random.default_rng(0)
    for mine, (theirs, factor) in variables.items():
        wanted = {**keys, "shortName": theirs} if keys else {}
        raw = cfgrib_read(realdata / file, wanted, tmp_path / f"{theirs}.nc")[theirs]
        if "time" not in raw.dims:
            raw = raw.expand_dims(time=[raw.valid_time.values])
        dims = [d for d in ("time", "number", "isobaricInhPa", "latitude", "longitude") if d in raw.dims]
        at = dict(zip(dims, points(rng, *(raw.sizes[d] for d in dims)), strict=True))
        want = raw.transpose(*dims).values[tuple(at.values())].astype("f8") * factor
        names = {"number": "member", "isobaricInhPa": "level"}
        look = {names.get(d, d): xr.DataArray(raw[d].values[i], dims="p") for d, i in at.items()}
        look["longitude"] = look["longitude"].copy(data=wrapped(look["longitude"].values, ours.longitude.values))
        found = ours[mine].sel(time=look.pop("time")).sel(**look, method="nearest")
        np.testing.assert_array_equal(found.values, want.astype("f4"), err_msg=theirs)


def test_a_table_in_a_file_is_not_cut_to_the_width_of_no_screen(monkeypatch, capsys):
    from eoflow.console import NO_SCREEN, OPTIONS, console
    from eoflow.view.tables import rows_table

    monkeypatch.setattr(OPTIONS, "json", False)  # of whatever was called before
    monkeypatch.setattr(OPTIONS, "quiet", False)
    rows = [{f"model-{k}": 0.123456 + k for k in range(12)}]
    monkeypatch.delenv("COLUMNS", raising=False)
    console().print(rows_table(rows))
    wide = capsys.readouterr().out
    assert all(f"{0.123456 + k:.4g}" in wide for k in range(12))
    assert 80 < max(map(len, wide.splitlines())) <= NO_SCREEN
    monkeypatch.setenv("COLUMNS", "60")
    console().print(rows_table(rows))
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 60
