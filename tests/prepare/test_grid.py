from __future__ import annotations

import dask.array
import numpy as np
import pytest
import xarray as xr
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from eoflow.errors import BadInput
from eoflow.prepare.grid import Regridder, regrid, target_grid
from eoflow.schema import LatLonGrid


def equiangular(ny, nx, poles=False, lon0=0.0):
    lat = np.linspace(90, -90, ny) if poles else 90 - (np.arange(ny) + 0.5) * 180 / ny
    return LatLonGrid(latitude=tuple(lat), longitude=tuple(lon0 + np.arange(nx) * 360 / nx))


def field(grid, seed=0, extra=()):
    rng = np.random.default_rng(seed)
    dims = (*[f"d{i}" for i in range(len(extra))], "latitude", "longitude")
    return xr.DataArray(
        rng.normal(280, 10, (*extra, *grid.shape)), dims=dims, attrs={"units": "K"}, name="t",
        coords={"latitude": list(grid.latitude), "longitude": list(grid.longitude)},
    )  # fmt: skip


def edges(c, limit=None):
    c = np.asarray(c)
    e = np.r_[1.5 * c[0] - 0.5 * c[1], (c[1:] + c[:-1]) / 2, 1.5 * c[-1] - 0.5 * c[-2]]
    return e if limit is None else np.clip(e, -limit, limit)


def by_cumulative_integral(x, source, target):
    """Reference without overlaps: the integral over [south pole..lat] x [lon0..lon] is bilinear between cell corners in
    (sin lat, lon), so that a cell's integral is a difference of four interpolated values."""  # fmt: skip
    s = np.sin(np.deg2rad(edges(source.latitude, 90)))[::-1]
    lon = edges(source.longitude)
    area = np.diff(s)[:, None] * np.diff(lon)
    three = np.tile(x[::-1] * area, 3)  # three turns, so that a target cell may straddle the seam
    lon3 = np.concatenate([lon[:-1] - 360, lon[:-1], lon + 360])
    total = np.zeros((len(s), len(lon3)))
    total[1:, 1:] = three.cumsum(0).cumsum(1)
    at_s = np.sin(np.deg2rad(edges(target.latitude, 90)))[::-1]
    at_lon = edges(target.longitude)
    rows = np.stack([np.interp(at_s, s, column) for column in total.T], axis=1)
    corners = np.stack([np.interp(at_lon, lon3, row) for row in rows])
    integral = np.diff(np.diff(corners, axis=0), axis=1)
    return (integral / (np.diff(at_s)[:, None] * np.diff(at_lon)))[::-1]


grids = st.builds(
    equiangular, st.integers(3, 14), st.integers(3, 20), st.booleans(), st.sampled_from([0.0, 1.7, -180.0, 12.5])
)


@settings(max_examples=30, deadline=None)
@given(grids, grids, st.integers(0, 2**31))
def test_global_grids_against_the_reference_and_the_integral(source, target, seed):
    da = field(source, seed)
    out = regrid(da, target)
    np.testing.assert_allclose(out.values, by_cumulative_integral(da.values, source, target), rtol=1e-9)
    before = np.average(da.mean("longitude"), weights=source.area_weights())
    after = np.average(out.mean("longitude"), weights=target.area_weights())
    np.testing.assert_allclose(after, before, rtol=1e-12)


@settings(max_examples=20, deadline=None)
@given(grids, grids, st.floats(-1e6, 1e6, allow_subnormal=False))
def test_constants_stay(source, target, value):
    out = regrid(field(source) * 0 + value, target)
    np.testing.assert_allclose(out.values, value, rtol=1e-12, atol=1e-300)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 9), st.integers(2, 9), st.floats(-60, 40), st.floats(-170, 170), st.integers(0, 2**31))
def test_regional_source(ny, nx, south, west, seed):
    source = LatLonGrid(latitude=tuple(south + 2.5 * np.arange(ny)[::-1]), longitude=tuple(west + 2.5 * np.arange(nx)))
    target = LatLonGrid(
        latitude=tuple(south + 1.3 + 3.1 * np.arange(-2, 3)[::-1]), longitude=tuple(west + 0.4 + 3.7 * np.arange(-2, 3))
    )
    da = field(source, seed)
    try:
        out = Regridder(source, target, min_valid=1e-6)(da)
    except BadInput:
        assume(False)
    # brute force: many points a target cell, equidistant in sin(latitude) and longitude, looked up in the source
    n = 300
    lat_e, lon_e = edges(source.latitude, 90), edges(source.longitude)
    for i, j in ((0, 0), (2, 2), (3, 1)):
        s = np.sin(np.deg2rad(np.sort(edges(target.latitude, 90)[i : i + 2])))
        lat = np.rad2deg(np.arcsin(s[0] + (np.arange(n) + 0.5) / n * (s[1] - s[0])))
        lon = edges(target.longitude)[j] + (np.arange(n) + 0.5) / n * 3.7
        row, col = np.searchsorted(-lat_e, -lat) - 1, np.searchsorted(lon_e, lon) - 1
        good = ((row >= 0) & (row < ny))[:, None] & ((col >= 0) & (col < nx))
        if good.mean() < 0.02:
            continue
        values = da.values[np.clip(row, 0, ny - 1)[:, None], np.clip(col, 0, nx - 1)]
        assert abs(out.values[i, j] - values[good].mean()) < 1.0
        assert abs(out.values[i, j] - values[good].mean()) < 60 / n / min(1, good.mean())


def test_identity():
    grid = equiangular(9, 12, poles=True)
    da = field(grid, extra=(2,))
    np.testing.assert_allclose(regrid(da, grid).values, da.values, rtol=1e-14)


def test_direction_and_longitude_convention_do_not_matter():
    source, target = equiangular(8, 12), equiangular(4, 6)
    da = field(source)
    expected = regrid(da, target)
    flipped = da.isel(latitude=slice(None, None, -1))
    np.testing.assert_allclose(regrid(flipped, target).values, expected.values, rtol=1e-12)
    west = da.assign_coords(longitude=(da.longitude + 180) % 360 - 180).sortby("longitude")
    np.testing.assert_allclose(regrid(west, target).values, expected.values, rtol=1e-12)


def test_missing_values_are_left_out_down_to_the_threshold():
    source, target = equiangular(4, 8), equiangular(2, 4)
    # cell edges of both grids coincide where the first longitude is moved by half a fine cell
    target = LatLonGrid(latitude=target.latitude, longitude=tuple(np.asarray(target.longitude) + 22.5))
    da = field(source)
    da[0, 0] = np.nan
    out = regrid(da, target)
    w = source.area_weights()
    three = [(da.values[0, 1], w[0]), (da.values[1, 0], w[1]), (da.values[1, 1], w[1])]
    expected = sum(a * b for a, b in three) / sum(b for _, b in three)
    np.testing.assert_allclose(out.values[0, 0], expected, rtol=1e-12)
    da[1, :2] = np.nan
    left = w[0] / (2 * (w[0] + w[1]))
    assert np.isnan(regrid(da, target).values[0, 0])
    np.testing.assert_allclose(Regridder(source, target, left - 0.01)(da).values[0, 0], da.values[0, 1])
    assert np.isnan(Regridder(source, target, left + 0.01)(da).values[0, 0])
    assert np.isfinite(regrid(da, target).values).sum() == 7


def test_lazy_attributes_dims_and_dtype():
    grid = equiangular(6, 8)
    t = field(grid, extra=(5,)).rename(d0="time").astype("f4")
    ds = xr.Dataset(
        {"t": t.transpose("latitude", "time", "longitude").chunk(time=2), "n": ("time", np.arange(5))}, attrs={"a": 1}
    )
    ds["latitude"].attrs["units"] = "degrees_north"
    out = regrid(ds, "45deg")
    assert isinstance(out.t.data, dask.array.Array)
    assert out.t.dims == ("latitude", "time", "longitude")
    assert out.t.dtype == np.float32
    assert out.t.attrs == {"units": "K"}
    assert out.latitude.attrs == {"units": "degrees_north"}
    assert out.attrs == {"a": 1}
    assert list(out) == ["t", "n"]
    np.testing.assert_allclose(out.t.compute().transpose("time", ...), regrid(t, "45deg"), rtol=1e-6)


def test_target_grids():
    wb2 = target_grid("5.625deg")
    assert wb2.shape == (32, 64)
    assert wb2.latitude[0] == 87.1875
    assert wb2.longitude[:2] == (0.0, 5.625)
    assert wb2.is_global
    assert target_grid("1.5deg+poles").shape == (121, 240)
    iberia = LatLonGrid(latitude=tuple(np.arange(45, 34, -0.25)), longitude=tuple(np.arange(-11, 6, 0.25)))
    inside = target_grid("2deg", iberia)
    assert inside.latitude == (43.0, 41.0, 39.0, 37.0)
    assert inside.longitude == (-10.0, -8.0, -6.0, -4.0, -2.0, 0.0, 2.0, 4.0)
    for wrong in ("5.6", "7deg", "0deg", "deg"):
        with pytest.raises(BadInput):
            target_grid(wrong)
    with pytest.raises(BadInput, match="no whole cell"):
        target_grid("30deg", iberia)


def test_what_does_not_fit_is_refused():
    a, b = equiangular(4, 8), LatLonGrid(latitude=(10.0, 5.0), longitude=(0.0, 5.0))
    far = LatLonGrid(latitude=(50.0, 45.0), longitude=(100.0, 105.0))
    with pytest.raises(BadInput, match="no area in common"):
        Regridder(b, far)
    with pytest.raises(BadInput, match="the data lie on"):
        Regridder(a, b)(field(equiangular(5, 8)))
    with pytest.raises(BadInput, match="at least two"):
        regrid(field(a).isel(latitude=[0]), b)
    with pytest.raises(BadInput, match="min_valid"):
        Regridder(a, b, 0.0)
    with pytest.raises(BadInput, match="one-dimensional latitude"):
        regrid(field(a).rename(latitude="y"), b)
