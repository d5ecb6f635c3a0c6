"""A small seeded world for the verification tests: autoregressive anomalies on a regional or global grid."""

from __future__ import annotations

import numpy as np
import xarray as xr

LEVELS = (500.0, 850.0)


def coords(ny=7, nx=12):
    return np.linspace(75, -75, ny), np.arange(nx) * (360 / nx)


def truth_world(days=60, step_hours=12, ny=7, nx=12, seed=0):
    """Archive: z on two levels and msl, AR(1) in time around a seasonal mean."""
    rng = np.random.default_rng(seed)
    lat, lon = coords(ny, nx)
    time = np.arange(np.datetime64("2001-01-01", "ns"), np.datetime64("2001-01-01", "ns") + np.timedelta64(days, "D"),
                     np.timedelta64(step_hours, "h"))  # fmt: skip
    noise = rng.standard_normal((len(time), 3, ny, nx))
    x = np.empty_like(noise)
    x[0] = noise[0]
    for i in range(1, len(time)):
        x[i] = 0.9 * x[i - 1] + np.sqrt(1 - 0.81) * noise[i]
    x += 0.3 * rng.standard_normal((1, 3, ny, nx))
    z = np.stack([50000 + 800 * x[:, 0], 15000 + 300 * x[:, 1]], axis=1).astype(np.float32)
    msl = (101325 + 900 * x[:, 2]).astype(np.float32)
    return xr.Dataset(
        {
            "z": (("time", "level", "latitude", "longitude"), z, {"units": "m2 s-2"}),
            "msl": (("time", "latitude", "longitude"), msl, {"units": "Pa"}),
        },
        coords={"time": time, "level": list(LEVELS), "latitude": lat, "longitude": lon},
    )


def means(truth):
    """Climatology dataset without a time axis."""
    return truth.mean("time", keep_attrs=True)


def cube(truth, kind, leads=(12, 24, 48), every=2, last=None, seed=1, members=None):
    """Forecasts of one of the kinds persistence, climatology, good (noise that grows with the lead), perfect."""
    rng = np.random.default_rng(seed)
    step = truth.time.values[1] - truth.time.values[0]
    lead_time = np.array(leads).astype("timedelta64[h]").astype("timedelta64[ns]")
    k = (lead_time / step).astype(int)
    inits = np.arange(0, (last or truth.sizes["time"]) - k.max(), every)
    now = truth.isel(time=xr.DataArray(inits, dims="init_time"))
    later = truth.isel(time=xr.DataArray(inits[:, None] + k[None], dims=("init_time", "lead_time")))
    shape = later.drop_vars("time")
    if kind == "persistence":
        out = now.drop_vars("time").map(lambda da: da.broadcast_like(shape[da.name]))
    elif kind == "climatology":
        out = means(truth).map(lambda da: da.broadcast_like(shape[da.name]))
    else:
        size = 0.0 if kind == "perfect" else 0.1
        scale = truth.std("time") * size * xr.DataArray(np.sqrt(k), dims="lead_time")
        dims = {} if members is None else {"member": np.arange(members)}

        def noisy(da):
            full = da.expand_dims(dims) if dims else da
            return full + scale[da.name] * xr.DataArray(rng.standard_normal(full.shape), dims=full.dims)

        out = shape.map(noisy)
    out = out.assign_coords(init_time=truth.time.values[inits], lead_time=lead_time)
    out = out.assign_coords(valid_time=out.init_time + out.lead_time).astype(np.float32)
    for name in out.data_vars:
        out[name].attrs["units"] = truth[name].attrs["units"]
    lead = [d for d in ("init_time", "lead_time", "member", "level", "latitude", "longitude") if d in out.dims]
    return out.transpose(*lead)
