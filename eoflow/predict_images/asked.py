"""What is wanted of a prediction over a cube: options of the verbs, and the maps of each tile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from eoflow.errors import BadInput
from eoflow.predict_images.dates import Want
from eoflow.predict_images.stack import CubeFrames
from eoflow.predict_images.zones import Area
from eoflow.tiling import Grid
from eoflow.times import Period

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Asked:
    """What is wanted beside the dataset and the model; only what fits the task may be given.

    before, after, every: the dates of change. at, dates: of a filled image. permanent, before: permanent water of
    flood maps, from a raster or from the maps of an earlier period. keep: pixels that the cloudy date itself saw stay
    as they are. zones: GeoJSON file of zones whose areas are summed.
    """

    area: Area | None = None
    period: Period | None = None
    before: str | None = None
    after: str | None = None
    every: bool = False
    at: str | None = None
    dates: int | None = None
    permanent: str | None = None
    keep: bool = True
    zones: str | None = None

    def require(self, task: str) -> None:
        """Raise BadInput for an option of another task."""
        allowed = {
            "segmentation": ("before", "permanent", "zones"), "change-detection": ("before", "after", "every", "zones"),
            "cloud-removal": ("at", "dates", "keep"), "despeckling": (),
        }[task]  # fmt: skip
        plain = Asked()
        for name in ("before", "after", "every", "at", "dates", "permanent", "keep", "zones"):
            if name not in allowed and getattr(self, name) != getattr(plain, name):
                raise BadInput(f"--{name} does not belong to this verb",
                               todo=f"it takes {', '.join(allowed)}" if allowed else "leave it out")
        if self.permanent and self.before:
            raise BadInput("permanent water from a raster or from an earlier period, not both",
                           todo="leave out --permanent or --before")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Part:
    """What is made of one tile. frames: of its scenes; earlier: wants that only tell permanent water."""

    tile: str
    grid: Grid
    frames: CubeFrames
    times: Array
    items: tuple[str, ...]
    wants: tuple[Want, ...]
    earlier: tuple[Want, ...] = ()

    def sources(self, want: Want) -> list[tuple[np.datetime64, str]]:
        """Time and items of the scenes of a map."""
        return [(self.times[k], self.items[k]) for date in want.dates for k in date]
