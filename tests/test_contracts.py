"""The contract checks over everything that is registered, outside packages included."""

from __future__ import annotations

import numpy as np
import pytest

from eoflow import catalog, registry
from eoflow.contract import check_metric, check_model, check_scene_source, check_source
from eoflow.errors import BadInput


def failed(results):
    return [r.line() for r in results if not r.passed]


@pytest.mark.parametrize("name", sorted({*registry.names("models"), *catalog.names("models")}))
def test_models(name):
    assert not failed(check_model(name))


@pytest.mark.parametrize("name", registry.names("metrics"))
def test_metrics(name):
    assert not failed(check_metric(name))


def _netcdf(folder):
    from support import small_world

    small_world(12).to_netcdf(folder / "a.nc")
    return str(folder / "a.nc")


def _zarr(folder):
    from support import small_world

    small_world(12).to_zarr(folder / "a.zarr", zarr_format=3, consolidated=False)
    return str(folder / "a.zarr")


@pytest.mark.parametrize("make", [_netcdf, _zarr])
def test_file_sources(make, tmp_path):
    from eoflow.sources.infer import infer_entry

    entry = infer_entry("a", [make(tmp_path)])
    assert not failed(check_source(entry, tmp_path, np.datetime64("2030-01-01", "ns")))


def test_grib_source(realdata, tmp_path):
    from eoflow.sources.infer import infer_entry

    entry = infer_entry("uk", [str(realdata / "grib" / "era5-2mt-2019-03-uk.grib")], cache=tmp_path)
    assert not failed(check_source(entry, tmp_path, np.datetime64("2030-01-01", "ns")))


@pytest.mark.parametrize("name", ["sample-scenes", "sample-radar"])
def test_sample_scenes(name, tmp_path):
    assert not failed(check_scene_source(catalog.entry(name), tmp_path, np.datetime64("2020-01-20", "ns")))


@pytest.mark.parametrize(
    ("path", "driver"),
    [("s2_safe", "safe"), ("stac/landsat_assets3", "landsat"), ("s2_cloud/ts_ROIs2017_146_patch0", "geotiff")],
)
def test_scene_files(realdata, tmp_path, path, driver):
    from eoflow.sources.infer_scenes import infer_scene_entry

    now = np.datetime64("2030-01-01", "ns")
    entry = infer_scene_entry("a", [str(realdata / path)], now, {})
    assert entry.source.driver == driver
    assert not failed(check_scene_source(entry, tmp_path, now))


def test_sample_source(tmp_path):
    entry = catalog.dataset("sample-atmosphere")
    assert not failed(check_source(entry, tmp_path, np.datetime64("2020-01-08", "ns")))


def test_every_registered_source_and_task_loads():
    for kind in ("sources", "tasks"):
        for name in registry.names(kind):
            assert registry.load(kind, name)


def test_a_bad_model_is_found_out():
    results = check_model("test_contracts:Leaky")
    text = "\n".join(failed(results))
    assert "changes by" in text  # batch statistics leak between samples
    assert "not in state_dict" in text
    with pytest.raises(BadInput):
        check_model("test_contracts:Nothing")


def _leaky():
    import torch

    from eoflow.models.base import ForecastModel

    class Leaky(ForecastModel):
        """Centres on the batch mean, and keeps what it fitted in a plain attribute."""

        closed_form = True

        def __init__(self, signature):
            super().__init__(signature)
            self.offset = torch.zeros(1)

        def fit(self, data):
            self.offset = torch.ones(1)

        def forward(self, frames, clock, static):
            last = frames[:, -1]
            return last - last.mean(dim=0) + self.offset

    return Leaky


Leaky = _leaky()
