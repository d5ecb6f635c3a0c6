"""A composite in an object store: made, opened, the same again, exported."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from cubes import make_cube

import eoflow.composite
import eoflow.export
from eoflow.config import settings
from eoflow.workspace import Workspace, s3_options


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    server_module = pytest.importorskip("moto.server", reason="moto is not installed")
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("EOFLOW_S3_ENDPOINT", f"http://{host}:{port}")
    monkeypatch.setenv("EOFLOW_S3_ALLOW_HTTP", "true")
    monkeypatch.setenv("EOFLOW_CACHE", str(tmp_path / "cache"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    settings.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem(anon=False, client_kwargs={"endpoint_url": f"http://{host}:{port}"}).mkdir("composites")
    yield Workspace("s3://composites/data")
    server.stop()
    settings.cache_clear()


def test_composite_in_an_object_store(bucket, tmp_path):
    values = np.random.default_rng(0).integers(1, 9000, (3, 40, 50)).astype("u2")
    make_cube(bucket, "s2", {"T1": {"B04": values}}, ["2021-01-01", "2021-01-02", "2021-01-03"])
    report = eoflow.composite("s2", "2021", workspace=bucket)
    ds = xr.open_zarr(report.path, group="tiles/T1", mask_and_scale=False, storage_options=s3_options())
    np.testing.assert_array_equal(ds["B04"], np.median(values, axis=0))
    assert not eoflow.composite("s2", "2021", workspace=bucket).made
    eoflow.export("composite:s2", tmp_path / "c.tif", workspace=bucket)
    import rasterio

    with rasterio.open(tmp_path / "c.tif") as f:
        np.testing.assert_array_equal(f.read(1), ds["B04"])
    assert not list((tmp_path / "cache").glob("composite-*"))
