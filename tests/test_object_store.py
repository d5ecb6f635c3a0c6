"""The whole chain on an S3 server on this machine: archive, training, cube, published run, scores."""

from __future__ import annotations

import pytest
import xarray as xr
from support import SMALL_NET, small_world

import eoflow
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
    s3fs.S3FileSystem(anon=False, client_kwargs={"endpoint_url": f"http://{host}:{port}"}).mkdir("chain")
    yield Workspace("s3://chain/data")
    server.stop()
    settings.cache_clear()


def test_ingest_train_forecast_verify(bucket, tmp_path, monkeypatch):
    small_world(500).to_netcdf(tmp_path / "a.nc")
    eoflow.ingest("small", [str(tmp_path / "a.nc")], workspace=bucket)
    trained = eoflow.train("puyun", "small", overrides=SMALL_NET, workspace=bucket)
    assert bucket.exists("checkpoints", "small", "puyun", trained.hash, "model.safetensors")
    monkeypatch.setenv("EOFLOW_CACHE", str(tmp_path / "another-machine"))
    settings.cache_clear()
    report = eoflow.forecast("5d", dataset="small", init="2002-03-20/2002-05-01", every="3d", workspace=bucket)
    assert report.checkpoint == trained.hash
    assert report.new == 15
    again = eoflow.forecast("5d", dataset="small", init="2002-03-20/2002-05-01", every="3d", workspace=bucket)
    assert again.new == 0
    latest = xr.open_zarr(report.latest, storage_options=s3_options(), decode_timedelta=True)
    assert latest["init_time"].values[0].astype("datetime64[D]").astype(str) == "2002-05-01"
    card = eoflow.verify("small", workspace=bucket)
    assert card.get("puyun", "z500", 24.0, "rmse").n > 10
    assert bucket.exists("scores", "small", "scores.json")
