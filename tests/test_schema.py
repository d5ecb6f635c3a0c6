from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from eoflow.errors import BadInput, SchemaMismatch
from eoflow.schema import Channel, FieldSchema, LatLonGrid, VariableSpec


def grid(rows=4, columns=8, sphere=True) -> LatLonGrid:
    lat = np.linspace(90 - 90 / rows, -90 + 90 / rows, rows) if sphere else np.linspace(60, 30, rows)
    lon = np.arange(columns) * 360 / columns if sphere else np.linspace(-20, 10, columns)
    return LatLonGrid(latitude=tuple(lat), longitude=tuple(lon))


def schema(**changes) -> FieldSchema:
    z = VariableSpec(name="z", units="m2 s-2", levels=(500.0, 850.0))
    base = {"variables": (z, VariableSpec(name="t2m", units="K")), "grid": grid(), "step": "6h"}
    return FieldSchema(**(base | changes))


def test_channel_order_is_derived():
    assert [c.label for c in schema().channels] == ["z500", "z850", "t2m"]
    assert Channel("msl").label == "msl"


def test_hash_tells_what_matters_and_nothing_else():
    named = schema(variables=(schema().variables[0].model_copy(update={"long_name": "x"}), schema().variables[1]))
    assert named.hash == schema().hash
    for other in (
        schema(step="12h"),
        schema(grid=grid(sphere=False)),
        schema(variables=schema().variables[::-1]),
        schema(variables=(schema().variables[0],)),
    ):
        assert other.hash != schema().hash
        assert schema().differences(other)
        with pytest.raises(SchemaMismatch, match=r"archive.*checkpoint"):
            schema().require_same(other, "archive", "checkpoint", "train again")


def test_json_round_trip():
    assert FieldSchema.model_validate_json(schema().model_dump_json()) == schema()


@given(st.integers(2, 60), st.booleans())
@settings(max_examples=20, deadline=None)
def test_area_weights_are_the_exact_areas(rows, sphere):
    g = grid(rows, 8, sphere)
    w = g.area_weights()
    assert w.mean() == pytest.approx(1)
    lat = np.deg2rad(np.array(g.latitude))
    if rows > 8:  # close to the cosine, and for a whole sphere of equal rows proportional to it
        np.testing.assert_allclose(w, np.cos(lat) / np.cos(lat).mean(), rtol=0.02)


def test_a_pole_row_has_a_small_weight_but_not_none():
    g = LatLonGrid(latitude=tuple(np.linspace(90, -90, 19)), longitude=tuple(np.arange(0.0, 360, 10)))
    w = g.area_weights()
    assert 0 < w[0] < 0.1 * w[9]
    assert g.is_global
    assert not grid(sphere=False).is_global


def test_schema_of_a_dataset_needs_units():
    ds = xr.Dataset(
        {"z": (("time", "level", "latitude", "longitude"), np.zeros((1, 2, 3, 4), "f4"), {"units": "m2 s-2"})},
        coords={"level": [500.0, 850.0], "latitude": [50.0, 45, 40], "longitude": [0.0, 5, 10, 15]},
    )
    s = FieldSchema.of(ds, "6h")
    assert s.variables[0].levels == (500.0, 850.0)
    del ds["z"].attrs["units"]
    with pytest.raises(BadInput, match="without units"):
        FieldSchema.of(ds, "6h")


def test_select_keeps_order_and_refuses_strangers():
    assert [v.name for v in schema().select(["t2m", "z"]).variables] == ["z", "t2m"]
    with pytest.raises(BadInput, match="no variable 'q'"):
        schema().select(["q"])
