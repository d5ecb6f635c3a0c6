from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from eoflow.errors import BadInput, SchemaMismatch
from eoflow.prepare.moments import Moments
from eoflow.prepare.normalize import Normalizer, inverse_transform, stack, transform, unstack
from eoflow.prepare.statistics import Statistics
from eoflow.schema import FieldSchema
from eoflow.times import Period

C = ("z500", "z850", "msl")


def normalizer(transforms=(None, None, None)) -> Normalizer:
    return Normalizer(C, (54000.0, 14000.0, 101325.0), (500.0, 300.0, 700.0), (50.0, 30.0, 140.0), transforms)


def statistics_of(x: np.ndarray, names=("a", "b"), transforms=None) -> Statistics:
    field = Moments.of(x, axis=(0, 2, 3))
    change = Moments.of(np.diff(x, axis=0), axis=(0, 2, 3))
    return Statistics(names, names, field, change, Period.parse("2001"), len(x), "f", "s", False, transforms or {})


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([(), (4,), (2, 3)]))
def test_round_trip_of_numpy_and_torch(seed, lead):
    x = np.random.default_rng(seed).normal(size=(*lead, 3, 4, 5)) * 1000 + 50000
    n = normalizer()
    np.testing.assert_allclose(n.decode(n.encode(x)), x, rtol=1e-12)
    expected = (x - np.array(n.mean)[:, None, None]) / np.array(n.std)[:, None, None]
    np.testing.assert_allclose(n.encode(x), expected)
    t = n.encode(torch.from_numpy(x.astype("f4")))
    assert t.dtype == torch.float32
    np.testing.assert_allclose(t.numpy(), n.encode(x.astype("f4")), rtol=1e-6, atol=1e-6)
    assert n.encode(x.astype("f4")).dtype == np.float32


@pytest.mark.parametrize("kind", ["sqrt", "log"])
def test_transforms_invert_exactly(kind):
    x = np.concatenate([[0.0, -1e-9], np.logspace(-8, 0, 200)])
    np.testing.assert_allclose(inverse_transform(transform(x, kind), kind), x, rtol=1e-12, atol=0)
    t = torch.from_numpy(x)
    np.testing.assert_allclose(transform(t, kind).numpy(), transform(x, kind), rtol=1e-14)
    n = normalizer((None, kind, None))
    field = np.abs(np.random.default_rng(0).normal(size=(2, 3, 4, 5)))
    np.testing.assert_allclose(n.decode(n.encode(field)), field, rtol=1e-6)


def test_fit_standardises_and_knows_the_tendency():
    x = np.random.default_rng(1).normal(5, 3, (40, 2, 6, 7))
    n = Normalizer.fit(statistics_of(x))
    z = n.encode(x)
    np.testing.assert_allclose(z.mean(axis=(0, 2, 3)), 0, atol=1e-12)
    np.testing.assert_allclose(z.std(axis=(0, 2, 3)), 1, rtol=1e-12)
    np.testing.assert_allclose(n.tendency_scale, np.diff(z, axis=0).std(axis=(0, 2, 3)), rtol=1e-6)


def test_constant_channel_warns_and_gets_std_one():
    x = np.random.default_rng(1).normal(5, 3, (40, 2, 6, 7))
    x[:, 1] = 273.15
    with pytest.warns(UserWarning, match="channel b is constant"):
        n = Normalizer.fit(statistics_of(x))
    assert n.std[1] == 1.0
    np.testing.assert_allclose(n.encode(x)[:, 1], 0, atol=1e-9)


def test_channel_without_values_is_refused():
    x = np.ones((4, 2, 3, 3))
    x[:, 0] = np.nan
    with pytest.raises(BadInput, match=r"without a single value(.|\n)*channel a"):
        Normalizer.fit(statistics_of(x))


def test_json_and_hash():
    n = normalizer(("sqrt", None, None))
    again = Normalizer.from_dict(json.loads(json.dumps(n.to_dict())))
    assert again == n
    assert again.hash == n.hash
    assert Normalizer(C, (54000.1, *n.mean[1:]), n.std, n.tendency_std, n.transforms).hash != n.hash
    with pytest.raises(BadInput):
        Normalizer.from_dict({"channels": ["a"]})
    with pytest.raises(BadInput):
        Normalizer.from_dict({**n.to_dict(), "std": [1.0, 0.0, 1.0]})


def test_missing_and_reordered_channels_are_refused():
    n = normalizer()
    with pytest.raises(SchemaMismatch, match="missing msl"):
        n.require(["z500", "z850"])
    with pytest.raises(SchemaMismatch, match="the order differs"):
        n.encode(np.zeros((3, 2, 2)), channels=["z850", "z500", "msl"])
    with pytest.raises(SchemaMismatch, match="does not have 3 channels"):
        n.encode(np.zeros((5, 2, 4, 4)))
    assert n.select(["msl", "z500"]).mean == (101325.0, 54000.0)
    with pytest.raises(SchemaMismatch, match="knows no t850"):
        n.select(["t850"])


def test_stack_goes_by_name_and_unstack_is_its_inverse(world):
    ds = world(5)
    schema = FieldSchema.of(ds, "6h")
    x = stack(ds, schema)
    assert x.shape == (5, 3, 6, 10)
    np.testing.assert_array_equal(x[:, 1], ds.z.sel(level=850))
    permuted = ds.transpose("longitude", "level", "time", "latitude").isel(level=[1, 0])[["msl", "z"]]
    np.testing.assert_array_equal(stack(permuted, schema), x)
    np.testing.assert_array_equal(stack(ds.isel(time=2), schema), x[2])
    back = unstack(x, schema, {"time": ds.time})
    xr.testing.assert_equal(back, ds.drop_vars("orog"))
    assert back.z.attrs["units"] == "m2 s-2"
    cube = unstack(x[None], schema, {"init_time": [ds.time.values[0]]}, dims=("init_time", "lead_time"))
    assert cube.z.dims == ("init_time", "lead_time", "level", "latitude", "longitude")
    np.testing.assert_array_equal(stack(ds[["msl"]], schema.select(["msl"]))[:, 0], ds.msl)


def test_stack_says_what_is_wrong(world):
    ds = world(3)
    schema = FieldSchema.of(ds, "6h")
    with pytest.raises(SchemaMismatch, match="'msl' is missing"):
        stack(ds.drop_vars("msl"), schema)
    with pytest.raises(SchemaMismatch, match="z has no level 850"):
        stack(ds.sel(level=[500.0]), schema)
    with pytest.raises(SchemaMismatch, match="grids differ"):
        stack(ds.isel(latitude=slice(None, None, -1)), schema)
    with pytest.raises(SchemaMismatch, match="'hPa', expected 'Pa'"):
        stack(ds.assign(msl=ds.msl.assign_attrs(units="hPa")), schema)
    with pytest.raises(SchemaMismatch, match="dimensions"):
        stack(ds.expand_dims(member=[0, 1]), schema)
    with pytest.raises(SchemaMismatch, match="does not fit"):
        unstack(np.zeros((3, 4, 6, 10)), schema)


def test_two_level_sets(world):
    ds = world(3)
    ds["t"] = ds.z.isel(level=[0]).rename(level="level1").assign_attrs(units="K")
    schema = FieldSchema.of(ds, "6h")
    assert [c.label for c in schema.channels] == ["z500", "z850", "msl", "t500"]
    xr.testing.assert_equal(unstack(stack(ds, schema), schema, {"time": ds.time}), ds.drop_vars("orog"))
