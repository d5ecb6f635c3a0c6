"""Small scene datasets with lakes, changes and clouds in them, which a small network can learn in seconds."""

from __future__ import annotations

from typing import Any

import numpy as np
from cubes import make_cube
from scipy.ndimage import gaussian_filter

from eoflow.quality import Quality
from eoflow.workspace import Workspace

TIMES = np.datetime64("2024-01-01", "ns") + np.arange(4) * np.timedelta64(10, "D")
SHAPE = (128, 192)
FLOODS = ["patches.patch=16", "patches.split.block=400", "patches.split.buffer=0", "training.crop=12",
          "training.steps=12", "training.save_every=5", "training.batch_size=4", "network.options.width=4",
          "network.options.depth=2"]  # fmt: skip


def lakes(rng: np.random.Generator, share: float = 0.3) -> Any:
    """(y, x) bool: blobs."""
    field = gaussian_filter(rng.normal(size=SHAPE), 6)
    return field < np.quantile(field, share)


def radar(workspace: Workspace, name: str = "s1", seed: int = 0, **how: Any) -> Any:
    """VV and VH in dB, and the class of the ground (-1 in a corner): water is dark in both, and overlaps with land."""
    rng = np.random.default_rng(seed)
    water = np.stack([lakes(rng) for _ in TIMES])
    level = {"VV": (-11.0, -17.0), "VH": (-17.0, -24.0)}
    values = {b: np.where(water, w, d) + rng.normal(0, 2.5, water.shape) for b, (d, w) in level.items()}
    values = {b: v.astype("f4") for b, v in values.items()}
    label = water.astype("i1")
    label[:, :20, :20] = -1
    bands = {b: {"units": "dB", "scale": 1.0, "offset": 0.0, "nodata": -9999.0} for b in values}
    bands["water"] = {"units": "1", "scale": 1.0, "offset": 0.0, "nodata": -1}
    return make_cube(workspace, name, {"t": {**values, "water": label}}, TIMES, bands=bands, sensor="sentinel-1",
                     level="GRD", quality={"t": np.full(water.shape, int(Quality.CLEAR), "u1")}, **how)  # fmt: skip


def optical(workspace: Workspace, name: str = "s2", seed: int = 0) -> Any:
    """Blue to near infrared as stored numbers; every second date is half cloudy."""
    rng = np.random.default_rng(seed)
    ground = np.stack([gaussian_filter(rng.normal(size=SHAPE), 3) for _ in range(2)])
    cloud = np.stack([lakes(rng, 0.5) & (i % 2 == 0) for i in range(len(TIMES))])
    values, common = {}, {"B02": "blue", "B03": "green", "B04": "red", "B08": "nir"}
    for k, b in enumerate(common):
        clear = 2500 + 5000 * ground[k % 2] * (1 + 0.1 * np.arange(len(TIMES))[:, None, None])
        values[b] = np.clip(np.where(cloud, 7000, clear), 1, 9000).astype("u2")
    quality = np.where(cloud, int(Quality.CLOUD), int(Quality.CLEAR)).astype("u1")
    bands = {b: {"common_name": c} for b, c in common.items()}
    return make_cube(workspace, name, {"t": values}, TIMES, bands=bands, quality={"t": quality})
