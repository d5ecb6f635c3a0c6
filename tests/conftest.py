from __future__ import annotations

import os
import zlib
from pathlib import Path

import hypothesis
import pyproj  # noqa: F401  before eccodes (cfgrib), or PROJ misses its database and the process ends in a crash
import pytest
from support import SMALL_NET, small_world

os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")

# CI draws the same examples every time; at a desk hypothesis goes on searching.
hypothesis.settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of real files; skips the test where it is absent."""
    folder = Path(os.environ.get("EOFLOW_REALDATA", REPO.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set EOFLOW_REALDATA)")
    return folder


@pytest.fixture
def workspace(tmp_path: Path):
    """An empty local workspace."""
    from eoflow.workspace import Workspace

    return Workspace(tmp_path / "workspace")


@pytest.fixture
def bucket(monkeypatch, tmp_path, request):
    """An empty workspace in a bucket of its own, on an S3 server on this machine."""
    from eoflow.config import settings
    from eoflow.workspace import Workspace

    server_module = pytest.importorskip("moto.server", reason="moto is not installed")
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    env = {
        "EOFLOW_S3_ENDPOINT": f"http://{host}:{port}", "EOFLOW_S3_ALLOW_HTTP": "true",
        "EOFLOW_CACHE": str(tmp_path / "cache"), "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }  # fmt: skip
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()
    name = f"b{zlib.crc32(request.node.nodeid.encode()):08x}"  # all servers of this process share their buckets
    s3fs.S3FileSystem(anon=False, client_kwargs={"endpoint_url": env["EOFLOW_S3_ENDPOINT"]}).mkdir(name)
    yield Workspace(f"s3://{name}/data")
    server.stop()
    settings.cache_clear()


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A workspace with dataset `small` (700 days in one file, 30 more in another), and a small trained `puyun`."""
    import eoflow
    from eoflow.workspace import Workspace

    folder = tmp_path_factory.mktemp("trained")
    world = small_world(730)
    world.isel(time=slice(0, 700)).to_netcdf(folder / "first.nc")
    world.isel(time=slice(700, 730)).to_netcdf(folder / "later.nc")
    ws = Workspace(folder / "workspace")
    eoflow.ingest("small", [str(folder / "first.nc")], workspace=ws)
    eoflow.train("puyun", "small", overrides=SMALL_NET, workspace=ws)
    return ws


@pytest.fixture
def trained_copy(trained, tmp_path):
    """A copy of the trained workspace, without any forecast, that a test may change."""
    import shutil

    from eoflow.workspace import Workspace

    made_by_tests = shutil.ignore_patterns("products", "scores", "locks")
    shutil.copytree(trained.root, tmp_path / "workspace", symlinks=True, ignore=made_by_tests)
    return Workspace(tmp_path / "workspace")


@pytest.fixture(scope="session")
def worlds():
    """Small made-up worlds: truth, forecast cubes, means (tests/worlds.py)."""
    import worlds as toy_worlds

    return toy_worlds


@pytest.fixture(scope="session")
def truth(worlds):
    return worlds.truth_world()


@pytest.fixture
def run_by(monkeypatch):
    """run_by(kind): the setting `runtime`, until the test ends."""
    from eoflow.config import settings

    def choose(kind):
        monkeypatch.setenv("EOFLOW_RUNTIME", kind)
        settings.cache_clear()

    yield choose
    monkeypatch.delenv("EOFLOW_RUNTIME", raising=False)
    settings.cache_clear()
