"""The whole chain on an S3 server on this machine: archive, training, cube, published run, scores."""

from __future__ import annotations

import xarray as xr
from support import SMALL_NET, small_world

import eoflow
from eoflow.config import settings
from eoflow.workspace import s3_options


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
