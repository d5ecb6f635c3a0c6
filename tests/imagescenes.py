"""Small image files and cubes for the tasks of image models."""

from __future__ import annotations

import numpy as np
import rasterio
from affine import Affine
from cubes import make_cube
from PIL import Image

from eoflow.quality import Quality

UTM = ("EPSG:32632", Affine(10, 0, 500_000, 0, -10, 5_000_000))


def tif(path, values, *, place=UTM, nodata=None, names=None):
    """A GeoTIFF of (C, y, x) values."""
    values = np.asarray(values)
    crs, transform = place if place is not None else (None, None)
    where = {} if place is None else {"crs": crs, "transform": transform}
    with rasterio.open(path, "w", driver="GTiff", height=values.shape[1], width=values.shape[2], count=len(values),
                       dtype=values.dtype, nodata=nodata, **where) as f:  # fmt: skip
        f.write(values)
        for i, name in enumerate(names or [], 1):
            f.set_band_description(i, name)
    return path


def read(path):
    with rasterio.open(path) as f:
        return f.read(), f.profile, f.descriptions


def radar(shape=(70, 90), seed=0):
    """Water at -20 dB in the upper 30 rows, land at -8; (VV, VH)."""
    rng = np.random.default_rng(seed)
    vv = np.where(np.arange(shape[0])[:, None] < 30, -20.0, -8.0) + rng.normal(0, 0.6, shape)
    return np.stack([vv, vv - 7]).astype("f4")


def pair(folder, shape=(60, 80)):
    """Two photographs; a bright roof is new at rows 10..25, columns 30..50."""
    rng = np.random.default_rng(5)
    before = rng.integers(60, 90, (*shape, 3)).astype(np.uint8)
    after = np.clip(before.astype(int) + rng.integers(-4, 5, before.shape), 0, 255).astype(np.uint8)
    after[10:25, 30:50] = 220
    for name, values in (("before.png", before), ("after.png", after)):
        Image.fromarray(values).save(folder / name)
    return folder / "before.png", folder / "after.png"


def series(folder, dates=6, lost=False):
    """Sentinel-2 L1C, 13 bands, one file a date; the last has a cloud at the upper left (all of them: `lost`)."""
    rng = np.random.default_rng(8)
    ground = rng.integers(500, 800, (13, 48, 56))
    ground[7:9] += 2000
    ground[10] = 10
    out, stack = [], []
    for k in range(dates):
        values = (ground + rng.integers(-15, 16, ground.shape)).astype("u2")
        values[10] = 10
        if k == dates - 1 or lost:
            part = (slice(None), slice(None), slice(None)) if lost else (slice(None), slice(0, 16), slice(0, 16))
            values[part] = 7000
            values[(10, *part[1:])] = 150
        out.append(tif(folder / f"s2_place_2024-05-{k + 1:02d}.tif", values))
        stack.append(values)
    return out, np.stack(stack)


# -- cubes -------------------------------------------------------------------------------------------------------------

RADAR = {"VV": {"units": "dB", "scale": 1.0, "offset": 0.0, "nodata": None},
         "VH": {"units": "dB", "scale": 1.0, "offset": 0.0, "nodata": None}}  # fmt: skip
TIMES = ["2024-05-01T06:00", "2024-05-13T06:00", "2024-05-25T06:00", "2024-06-06T06:00"]
SHAPE = (96, 112)


def radar_series(seed: int = 0, dates: int = 4) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Land at -8 dB; a lake (rows 0..20) at -20 dB on every date, flood (rows 20..40) on the last one."""
    rng = np.random.default_rng(seed)
    water = np.zeros((dates, *SHAPE), bool)
    water[:, :20] = True
    water[-1, :40] = True
    vv = np.where(water, -20.0, -8.0) + rng.normal(0, 0.7, water.shape)
    return {"VV": vv.astype("f4"), "VH": (vv - 7).astype("f4")}, water


def cloudy(workspace, name: str = "s2", lost: bool = False):
    """Four dates of 40 x 48 pixels; the second has a cloud in one corner (everywhere on all dates: `lost`)."""
    rng = np.random.default_rng(1)
    ground = rng.integers(1500, 4000, (3, 40, 48))
    values = {b: np.stack([ground[i] + 10 * t for t in range(4)]).astype("u2")
              for i, b in enumerate(("B02", "B03", "B04"))}  # fmt: skip
    quality = np.full((4, 40, 48), int(Quality.CLEAR), "u1")
    quality[1, :16, :16] = int(Quality.CLOUD)
    if lost:
        quality[:] = int(Quality.CLOUD)
    for v in values.values():
        v[quality == int(Quality.CLOUD)] = 9000
    times = ["2024-05-01", "2024-05-11", "2024-05-21", "2024-05-31"]
    names = {"B02": {"common_name": "blue"}, "B03": {"common_name": "green"}, "B04": {"common_name": "red"}}
    make_cube(workspace, name, {"A": values}, times, bands=names, quality={"A": quality})
    return values
