"""What an installation consists of: wheel, sdist, versions, and what an outside package can add to it."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

REPO = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# distribution -> what it is imported as, where they differ
IMPORTED_AS = {
    "pyyaml": "yaml",
    "netcdf4": "netCDF4",
    "google-crc32c": "google_crc32c",
    "pydantic-settings": "pydantic_settings",
    "odc-geo": "odc",
    "pystac-client": "pystac_client",
}


def constraints() -> dict[str, str]:
    lines = (REPO / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split("#")[0].strip() for line in lines]
    return dict(p.split("==") for p in pins if p)


def requirements(*extras: str) -> list[Requirement]:
    texts = list(PROJECT["dependencies"])
    for extra in extras:
        texts += PROJECT["optional-dependencies"][extra]
    return [Requirement(t) for t in texts]


def name(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist, built without a network."""
    out = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(REPO)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return out


def test_wheel_carries_what_runs(built: Path):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as z:
        members = set(z.namelist())
        entry_points = z.read(next(m for m in members if m.endswith("entry_points.txt"))).decode()
    for folder in ("eoflow", "catalogs", "flows"):
        inside = Path("eoflow") if folder != "eoflow" else Path()
        for path in (REPO / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert (inside / path.relative_to(REPO)).as_posix() in members
    assert "eoflow = eoflow.cli:main" in entry_points
    top = {m.split("/")[0] for m in members}
    assert top == {"eoflow", f"eoflow-{PROJECT['version']}.dist-info"}
    assert not [m for m in members if "test" in m.lower() or m.endswith(".pyc")]
    assert any(m.endswith("licenses/LICENSE") for m in members)


def test_sdist_builds_again(built: Path):
    with tarfile.open(next(built.glob("*.tar.gz"))) as t:
        members = {m.split("/", 1)[1] for m in t.getnames() if "/" in m}
    for path in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "Makefile", "constraints.txt",
                 "eoflow/cli.py", "flows/ingest.py", "deploy/prefect.yaml", "tests/test_house.py"):  # fmt: skip
        assert path in members
    assert not [m for m in members if m.startswith((".venv", "eoflow-data", ".git/"))]


def test_wheel_runs_from_anywhere(built: Path, tmp_path: Path):
    """Unpacked outside the checkout, the package finds its catalogs and its flows."""
    with zipfile.ZipFile(next(built.glob("*.whl"))) as z:
        z.extractall(tmp_path / "site")
    code = """
import eoflow, pathlib, sys
from eoflow import catalog, up
print(pathlib.Path(eoflow.__file__).parent.parent)
print(catalog.dataset("sample-atmosphere").name)
for n in sorted({n for flows in up.SCHEDULES.values() for n in flows}):
    f = up.load_flow(n)
    print(n, f.to_deployment("x").entrypoint)
"""
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "PREFECT_HOME": str(tmp_path / "prefect")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == [str(tmp_path / "site"), "sample-atmosphere"]
    for line in lines[2:]:
        flow, entrypoint = line.split(" ", 1)
        assert entrypoint == f"site/eoflow/flows/{flow}.py:{flow}"


def test_constraints_satisfy_the_project():
    pins = constraints()
    for r in requirements(*[e for e in PROJECT["optional-dependencies"] if e != "all"]):
        assert name(r.name) in pins, f"{r.name} is not in constraints.txt"
        assert r.specifier.contains(Version(pins[name(r.name)])), f"{r}: constraints.txt has {pins[name(r.name)]}"


@pytest.mark.parametrize(
    ("package", "below"),
    [("xarray", "2026.8"), ("fastapi", "0.151"), ("sqlalchemy", "2.1"), ("torch", "2.14"), ("icechunk", "2")],
)
def test_what_breaks_at_run_time_is_excluded(package: str, below: str):
    """In the project itself too: `pip install eoflow[flows]` reads no constraints file."""
    (required,) = [r for r in requirements("flows") if name(r.name) == package]
    assert not required.specifier.contains(Version(below))
    text = (REPO / "constraints.txt").read_text(encoding="utf-8").splitlines()
    line = next(i for i, t in enumerate(text) if t.startswith(f"{package}=="))
    assert text[line - 1].startswith("#"), f"the pin of {package} has no reason beside it"


def test_versions_agree():
    import eoflow

    assert eoflow.__version__ == PROJECT["version"]
    assert f"## {PROJECT['version']}" in (REPO / "CHANGELOG.md").read_text(encoding="utf-8")


def imported() -> set[str]:
    """Third-party top-level modules that eoflow imports anywhere."""
    found = set()
    for path in (REPO / "eoflow").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {a.name.split(".")[0] for a in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"eoflow", "__future__"}


EXTRAS = ("cloud", "fast", "flows", "grib", "stac")


def test_every_import_is_declared():
    declared = {IMPORTED_AS.get(name(r.name), name(r.name)) for r in requirements(*EXTRAS)}
    assert imported() <= declared, f"not in pyproject.toml: {sorted(imported() - declared)}"


# declared, and used by another library on our behalf
USED_THROUGH = {
    "aiohttp": "fsspec (http stores)",
    "h5py": "h5netcdf",
    "netCDF4": "xarray's engine netcdf4",
    "fastapi": "prefect",
    "sqlalchemy": "prefect",
    "s3fs": "fsspec (s3 stores)",
    "gcsfs": "fsspec (gs stores)",
    "zarrs": "zarr's codec pipeline, chosen by name",
    "rioxarray": "the .rio accessor of a cube that a user opens",
}


def test_every_declared_dependency_is_used():
    declared = {IMPORTED_AS.get(name(r.name), name(r.name)) for r in requirements(*EXTRAS)}
    unused = declared - imported() - set(USED_THROUGH)
    assert not unused, f"in pyproject.toml, and nothing imports them: {sorted(unused)}"


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outside package, installed by pip into a folder of its own."""
    target = tmp_path_factory.mktemp("outside")
    source = REPO / "tests" / "plugin_package"
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--quiet",
         "--target", str(target), str(source)],
        capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return target


COMMANDS = """
import json, sys
from eoflow.cli import main
for argv in json.loads(sys.argv[1]):
    if main(argv):
        sys.exit(f"failed: {argv}")
"""


def eoflow_cli(outside: Path, *commands: list[str], cwd: Path) -> str:
    """The commands one after the other in a process that has the outside package; returns what they printed."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(outside), str(REPO)]), "OMP_NUM_THREADS": "1"}
    call = [sys.executable, "-c", COMMANDS, json.dumps(commands)]
    done = subprocess.run(call, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_outside_model_passes_the_contract(outside: Path, tmp_path: Path):
    targets = ("outside_pkg:DampedDrift", "damped-drift", "outside_images:SmallNet", "small-net")
    eoflow_cli(outside, *(["models", "check", target] for target in targets), cwd=tmp_path)


def test_outside_source_and_metric_pass_the_contract(outside: Path, tmp_path: Path):
    code = f"""
from pathlib import Path
import numpy as np
from eoflow import registry
from eoflow.catalog import DatasetEntry, Schedule, SourceRef
from eoflow.contract import check_metric, check_source
for kind, name in (("sources", "travelling-wave"), ("models", "damped-drift"), ("models", "small-net"),
                   ("metrics", "worst"), ("metrics", "overlooked")):
    assert name in registry.names(kind), name
entry = DatasetEntry(name="wave", title="w", source=SourceRef(driver="travelling-wave"),
                     schedule=Schedule(start="2020-01-01", cadence="6h", end="2020-01-04"))
results = [*check_source(entry, Path({str(tmp_path)!r}), np.datetime64("2020-02-01", "ns"))]
results += [*check_metric("worst"), *check_metric("overlooked")]
assert len(results) > 2
for r in results:
    assert r.passed, r.line()
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(outside), str(REPO)]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_outside_package_is_used_end_to_end(outside: Path, tmp_path: Path):
    """Its source is ingested, its model forecasts, its metric stands in the scorecard."""
    catalogs = tmp_path / "ws" / "catalogs"
    (catalogs / "datasets").mkdir(parents=True)
    (catalogs / "models").mkdir()
    entry = {
        "name": "wave", "title": "Travelling wave", "source": {"driver": "travelling-wave", "args": {"degrees": 30}},
        "schedule": {"start": "2020-01-01", "cadence": "6h", "end": "2020-04-30T18:00"},
    }  # fmt: skip
    recipe = {"name": "drift", "title": "Damped drift", "network": {"name": "damped-drift", "options": {"start": 0.9}},
              "training": {"epochs": 1}}  # fmt: skip
    (catalogs / "datasets" / "wave.yaml").write_text(yaml.safe_dump(entry))
    (catalogs / "models" / "drift.yaml").write_text(yaml.safe_dump(recipe))
    inits = ["--init", "2020-04-10/2020-04-25", "--every", "1d"]
    verify = ["--workspace", "ws", "--json", "verify", "--dataset", "wave", "--model", "drift"]
    said = eoflow_cli(
        outside,
        ["--workspace", "ws", "--quiet", "ingest", "wave"],
        ["--workspace", "ws", "--quiet", "train", "drift", "--dataset", "wave",
         "--train-period", "2020-01-01/2020-02-29"],
        ["--workspace", "ws", "--quiet", "forecast", "--lead", "2d", "--dataset", "wave", "--model", "drift", *inits],
        verify, cwd=tmp_path,
    )  # fmt: skip
    rows = json.loads(said[said.index("[") :])
    worst = {(r["model"], r["lead_hours"]): r["value"] for r in rows if r["metric"] == "worst"}
    rmse = {(r["model"], r["lead_hours"]): r["value"] for r in rows if r["metric"] == "rmse"}
    assert worst[("drift", 24)] > rmse[("drift", 24)] > 0


def radar_chip(folder: Path, name: str, seed: int) -> None:
    """A chip of VV and VH in dB with a lake, and its mask, as Sen1Floods11 names them."""
    from rasters import write

    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64]
    lake = (y - rng.uniform(16, 48)) ** 2 + (x - rng.uniform(16, 48)) ** 2 < rng.uniform(10, 20) ** 2
    level = np.where(lake, -20.0, -10.0) + rng.normal(0, 1.5, (2, 64, 64)) - np.array([0.0, 6.0])[:, None, None]
    write(folder / f"{name}_S1Hand.tif", level.astype("f4"))
    write(folder / f"{name}_LabelHand.tif", lake.astype("i2"))


def test_outside_network_is_used_end_to_end(outside: Path, tmp_path: Path):
    """It is trained on a folder of chips, maps water on an image, and its metric stands in the scorecard."""
    import rasterio

    chips, recipes = tmp_path / "chips", tmp_path / "ws" / "catalogs" / "models"
    chips.mkdir()
    recipes.mkdir(parents=True)
    for i, name in enumerate(["Alpha_1", "Beta_2", "Gamma_3", "Delta_4", "Epsilon_5", "Zeta_6"]):
        radar_chip(chips, name, i)
    recipe = {
        "name": "puddles", "title": "A small network", "task": "segmentation", "network": {"name": "small-net"},
        "patches": {"bands": ["VV", "VH"], "labels": {"band": "water"}, "patch": 64,
                    "normalize": {"scheme": "zscore"}},
        "classes": ["land", "water"], "training": {"steps": 80, "batch_size": 2, "lr": 0.02},
    }  # fmt: skip
    (recipes / "puddles.yaml").write_text(yaml.safe_dump(recipe))
    in_ws = ["--workspace", "ws", "--quiet"]
    verify = ["--workspace", "ws", "--json", "verify", "--chips", str(chips), "--task", "segmentation"]
    said = eoflow_cli(
        outside,
        [*in_ws, "train", "puddles", "--chips", str(chips)],
        [*in_ws, "flood", str(chips / "Alpha_1_S1Hand.tif"), "--model", "puddles", "--out", "maps"],
        [*verify, "--model", "puddles"], cwd=tmp_path,
    )  # fmt: skip
    with rasterio.open(tmp_path / "maps" / "Alpha_1_S1Hand.tif") as made, \
         rasterio.open(chips / "Alpha_1_LabelHand.tif") as truth:  # fmt: skip
        water, lake = made.read(1) == 1, truth.read(1) == 1
    assert (water & lake).sum() / (water | lake).sum() > 0.8
    rows = json.loads(said[said.index("[") :])
    score = {(r["model"], r["metric"]): r["value"] for r in rows}
    assert score[("puddles", "overlooked")] == pytest.approx(1 - score[("puddles", "recall")], abs=1e-6)
    assert score[("puddles", "iou")] > 0.8
    assert ("otsu", "iou") in score
