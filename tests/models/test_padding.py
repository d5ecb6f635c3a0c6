"""Padding policies against analytically continued fields, and a convolution that must commute with rotation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from eoflow.models.base import Signature
from eoflow.models.layers.depthwise import depthwise_conv2d
from eoflow.models.layers.padding import (
    BandPadding,
    LimitedAreaPadding,
    PaddedConv2d,
    SpherePadding,
    padding_for,
    wrap_columns,
)


def signature(latitude, longitude, global_=False, wraps=False, **kw):
    given = {"frames": 2, "channels": 1, "static": 0, "step_hours": 6.0} | kw
    return Signature(
        height=len(latitude),
        width=len(longitude),
        latitude=tuple(latitude),
        longitude=tuple(longitude),
        global_=global_,
        wraps=wraps,
        **given,
    )


def scalar_on_sphere(lat, lon):
    """A smooth function of the point on the sphere, so that latitudes beyond 90 degrees mean the other side."""
    phi, lam = np.meshgrid(np.deg2rad(lat), np.deg2rad(lon), indexing="ij")
    x, y, z = np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)
    return torch.tensor(z + 0.3 * x * y - 0.7 * x**3 * z + y * z**2)


@pytest.mark.parametrize("pole_rows", [False, True])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 5), (7, 16)])
def test_sphere_padding_continues_a_function_across_the_pole(pole_rows, rows, columns):
    ny, nx = 12, 16
    step = 180 / (ny - 1) if pole_rows else 180 / ny
    first = 90.0 if pole_rows else 90.0 - step / 2
    lat = first - step * np.arange(-rows, ny + rows)
    lon = 360 / nx * np.arange(-columns, nx + columns)
    wide = scalar_on_sphere(lat, lon)
    field = wide[rows : rows + ny, columns : columns + nx][None, None]
    padded = SpherePadding(pole_rows)(field, rows, columns)
    torch.testing.assert_close(padded[0, 0], wide, rtol=0, atol=1e-12)


@pytest.mark.parametrize("pole_rows", [False, True])
def test_kernel_larger_than_the_sphere_walks_over_both_poles(pole_rows):
    ny, nx, rows = 4, 8, 11
    step = 180 / (ny - 1) if pole_rows else 180 / ny
    first = 90.0 if pole_rows else 90.0 - step / 2
    wide = scalar_on_sphere(first - step * np.arange(-rows, ny + rows), 45.0 * np.arange(-20, nx + 20))
    field = wide[rows : rows + ny, 20 : 20 + nx][None, None]
    torch.testing.assert_close(SpherePadding(pole_rows)(field, rows, 20)[0, 0], wide, rtol=0, atol=1e-12)


@pytest.mark.parametrize("pole_rows", [False, True])
@pytest.mark.parametrize(("rows", "columns"), [(0, 3), (2, 0), (4, 7), (2, 1)])
@pytest.mark.parametrize("width", [7, 8])
def test_sphere_padding_gradient(pole_rows, rows, columns, width):
    torch.manual_seed(0)
    x = torch.randn(2, 2, 5, width, dtype=torch.float64)
    for layout in (torch.channels_last, torch.contiguous_format):
        field = x.contiguous(memory_format=layout).requires_grad_()
        assert torch.autograd.gradcheck(lambda f: SpherePadding(pole_rows)(f, rows, columns), (field,))


def test_odd_width_takes_the_mean_of_the_two_nearest_columns():
    nx = 45
    lat, lon = 90 - 4 * (np.arange(-2, 47) + 0.5), 8.0 * np.arange(nx)
    wide = scalar_on_sphere(lat, lon)
    padded = SpherePadding()(wide[2:-2][None, None], 2, 0)[0, 0]
    # Linear interpolation to the half column: exact to second order in the 8 degree spacing.
    torch.testing.assert_close(padded, wide, rtol=0, atol=0.005)
    assert not torch.allclose(padded[0], wide[2])


@pytest.mark.parametrize("padding", [SpherePadding(), SpherePadding(True), BandPadding()])
def test_convolution_commutes_with_rotation_in_longitude(padding):
    torch.manual_seed(0)
    conv = PaddedConv2d(3, 3, 5, padding, dilation=2, groups=3)
    x = torch.randn(2, 3, 9, 16)
    torch.testing.assert_close(conv(x.roll(5, -1)), conv(x).roll(5, -1), rtol=1e-5, atol=1e-6)


def test_zero_padding_does_not_commute_so_the_test_above_can_fail():
    torch.manual_seed(0)
    conv = PaddedConv2d(3, 3, 5, LimitedAreaPadding("zeros"))
    x = torch.randn(2, 3, 9, 16)
    assert not torch.allclose(conv(x.roll(5, -1)), conv(x).roll(5, -1), atol=1e-2)


@pytest.mark.parametrize("mode", ["replicate", "reflect", "zeros"])
def test_limited_area_is_torch_own_padding(mode):
    x = torch.randn(2, 3, 6, 9)
    want = F.pad(x, (3, 3, 2, 2), mode="constant" if mode == "zeros" else mode)
    assert torch.equal(LimitedAreaPadding(mode)(x, 2, 3), want)


def test_reflect_on_a_small_area_repeats_the_edge():
    x = torch.randn(1, 1, 3, 3)
    assert torch.equal(LimitedAreaPadding("reflect")(x, 4, 1), F.pad(x, (1, 1, 4, 4), mode="replicate"))


def test_unknown_mode_and_even_kernel_are_refused():
    with pytest.raises(ValueError, match="replicate, zeros, reflect"):
        LimitedAreaPadding("mirror")
    with pytest.raises(ValueError, match="even"):
        PaddedConv2d(1, 1, 4, BandPadding())


def test_policy_follows_the_grid():
    lon = np.arange(8) * 45.0
    assert padding_for(signature([67.5, 22.5, -22.5, -67.5], lon, True, True)) == SpherePadding(False)
    assert padding_for(signature([90, 45, 0, -45, -90], lon, True, True)) == SpherePadding(True)
    assert padding_for(signature([90, 45, 0, -45, -90], lon, True, True), patch=2) == SpherePadding(False)
    assert padding_for(signature([60, 30], lon, False, True)) == BandPadding()
    assert padding_for(signature([60, 30], lon[:3]), limited="reflect") == LimitedAreaPadding("reflect")


def test_wrapping_more_columns_than_there_are():
    x = torch.arange(5.0)[None]
    assert wrap_columns(x, 7)[0].tolist() == [float(i % 5) for i in range(-7, 12)]


@pytest.mark.parametrize("kernel", [3, 5, 7, 8, 9])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_fast_depthwise_gradient_is_the_library_gradient(kernel, layout):
    torch.manual_seed(kernel)
    x = torch.randn(2, 6, 14, 17, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    weight = torch.randn(6, 1, kernel, kernel, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(6, dtype=torch.float64, requires_grad=True)
    want, got = F.conv2d(x, weight, bias, groups=6), depthwise_conv2d(x, weight, bias)
    assert torch.equal(want, got)
    pull = torch.randn_like(want)
    expected = torch.autograd.grad(want, (x, weight, bias), pull)
    for a, b in zip(torch.autograd.grad(got, (x, weight, bias), pull), expected):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_channels_last_survives_padding():
    x = torch.randn(2, 4, 6, 8).contiguous(memory_format=torch.channels_last)
    for policy in (SpherePadding(), BandPadding()):
        assert policy(x, 2, 2).is_contiguous(memory_format=torch.channels_last)
