"""A source, a model and a metric for eoflow, each the few lines that it takes. Copy this page to begin your own."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from eoflow.catalog import DatasetEntry
from eoflow.models.base import ForecastModel, Signature
from eoflow.sources.base import Area, Asset, SourceContext
from eoflow.times import Period
from eoflow.verify.metrics import Metric

EPOCH = np.datetime64("2000-01-01", "ns")


class TravellingWave:
    """A source: a sea-level pressure wave that travels east around the globe, one asset a day."""

    def __init__(self, entry: DatasetEntry, context: SourceContext) -> None:
        self.entry, self.now = entry, context.now
        self.degrees = float(entry.source.args.get("degrees", 30.0))

    def plan(self, period: Period | None, area: Area | None = None) -> list[Asset]:
        """One asset for each day of the schedule, oldest first."""
        times = self.entry.schedule.expected(period, self.now)
        days = times.astype("datetime64[D]")
        return [Asset(id=str(d), times=times[days == d], href=f"wave:{d}") for d in np.unique(days)]

    def open(self, asset: Asset) -> xr.Dataset:
        """Lazy and canonical: (time, latitude, longitude), north to south, 0..360, units in the attributes."""
        at = {
            "time": asset.times,
            "latitude": np.arange(90 - self.degrees / 2, -90, -self.degrees),
            "longitude": np.arange(0, 360, self.degrees),
        }
        hours = xr.DataArray((asset.times - EPOCH) / np.timedelta64(1, "h"), dims="time", coords={"time": at["time"]})
        lat, lon = (np.deg2rad(xr.DataArray(at[d], dims=d, coords={d: at[d]})) for d in ("latitude", "longitude"))
        wave = np.cos(2 * lon - 2 * np.pi * hours.chunk(time=1) / 96)
        msl = (101325 + 1500 * np.cos(lat) * wave).astype("float32").transpose(*at)
        msl.attrs = {"units": "Pa", "standard_name": "air_pressure_at_mean_sea_level"}
        return msl.to_dataset(name="msl")


class DampedDrift(ForecastModel):
    """A model: the state plus a learned fraction of its last change, for each channel; `start` is it at first."""

    default_frames = 2

    def __init__(self, signature: Signature, start: float = 0.5) -> None:
        super().__init__(signature)
        self.drift = nn.Parameter(torch.full((signature.channels, 1, 1), float(start)))

    def forward(self, frames: Tensor, clock: Tensor, static: Tensor) -> Tensor:
        """(B, 2, C, H, W) -> (B, C, H, W), normalised."""
        before, last = frames[:, -2], frames[:, -1]
        return last + self.drift * (last - before)


class Worst(Metric):
    """A metric: the largest absolute error of the field, averaged over the cases."""

    name = "worst"
    better = "lower"
    bounds = (0.0, np.inf)

    def cases(self, forecast: Any, truth: Any, climatology: Any | None, weights: Any) -> Any:
        """(N, H, W) -> (N, 1)."""
        error = np.abs(np.asarray(forecast, np.float64) - np.asarray(truth, np.float64))
        return np.nanmax(error, axis=(-2, -1))[:, None]
