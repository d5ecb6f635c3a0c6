"""Makes small folders of labelled chips, laid out as users have them."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import rasterio
import rasterio.errors


def write(path: Path, values, *, names=None, nodata=None, scale=None) -> Path:
    """An array (C, h, w) or (h, w) as an image file; the driver by its suffix."""
    values = np.asarray(values)
    values = values[None] if values.ndim == 2 else values
    path.parent.mkdir(parents=True, exist_ok=True)
    driver = {".tif": "GTiff", ".png": "PNG", ".bmp": "BMP"}[path.suffix]
    count, height, width = values.shape
    warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
    with rasterio.open(
        path, "w", driver=driver, count=count, height=height, width=width, dtype=values.dtype, nodata=nodata
    ) as ds:
        ds.write(values)
        for i, name in enumerate(names or (), 1):
            ds.set_band_description(i, name)
    return path


def radar(rng, labels, contrast=8.0):
    """VV, VH in dB (2, h, w): water is darker by `contrast`."""
    water = labels == 1
    vv = np.where(water, -12.0 - contrast, -12.0) + rng.normal(0, 1.0, labels.shape)
    return np.stack([vv, vv - 7]).astype(np.float32)


def floods(folder: Path, places=("Ghana", "India", "Spain", "Peru"), size=48, seed=0) -> dict[str, np.ndarray]:
    """Sen1Floods11's layout: S1/X_S1Hand.tif and Label/X_LabelHand.tif; returns the labels by chip."""
    rng = np.random.default_rng(seed)
    out = {}
    for k, place in enumerate(places):
        labels = np.zeros((size, size), np.int16)
        labels[:, : 12 + 4 * k] = 1
        labels[:5] = -1
        name = f"{place}_{100 + k}"
        write(folder / "S1" / f"{name}_S1Hand.tif", radar(rng, labels), names=("VV", "VH"), nodata=np.nan)
        write(folder / "Label" / f"{name}_LabelHand.tif", labels)
        out[name] = labels
    return out


def series(folder: Path, days=8, size=40, seed=0, clear=(1, 4, 6)) -> np.ndarray:
    """Dates of one place, 13 bands in DN; `clear` ones without cloud, five days apart. Returns the ground."""
    rng = np.random.default_rng(seed)
    ground = rng.uniform(300, 1500, (13, size, size))
    ground[10], ground[11] = 10, 2500  # cirrus sees no ground; no snow
    for d in range(days):
        image = ground * (1 + 0.02 * d)
        if d not in clear:
            image[:, : size // 2] = 6000 + rng.uniform(0, 500, (13, size // 2, size))
        date = str(np.datetime64("2019-05-01") + 5 * d)
        write(folder / f"s2_place_ImgNo_{d}_{date}_patch_0.tif", np.clip(image, 1, None).astype(np.uint16))
    return ground


def changes(folder: Path, n=3, size=40, seed=0) -> None:
    """A/, B/, label/ as 8-bit pictures; a bright square appears."""
    rng = np.random.default_rng(seed)
    for i in range(n):
        before = rng.integers(60, 90, (3, size, size)).astype(np.uint8)
        after, label = before.copy(), np.zeros((size, size), np.uint8)
        after[:, 8:20, 8 + i : 22] = 220
        label[8:20, 8 + i : 22] = 255
        for part, values in (("A", before), ("B", after), ("label", label)):
            write(folder / part / f"{i}_{i + 2}.png", values)
