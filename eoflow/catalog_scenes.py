"""Catalog entries of scene datasets: sensor, bands and their radiometry, quality rule, tile scheme."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from eoflow.catalog import Model, SourceRef, Splits
from eoflow.quality import Rule
from eoflow.times import Period, parse_duration, parse_time
from eoflow.workspace import check_name

UNITS = ("1", "dB", "K", "m", "degree", "DN", "m2 m-2")
"""Units a band may be stored in. "1": reflectance, or linear backscatter (gamma0, sigma0). "dB": backscatter."""


class BandEntry(Model):
    """One band. Whatever is left out is taken from the scene's own metadata; what neither says is an error."""

    source_name: str | None = Field(default=None, description="asset key, file-name part or band description")
    index: int | None = Field(default=None, ge=1, description="band number in a file with several, from 1")
    units: str | None = Field(default=None, description='"1" (reflectance, linear backscatter), "dB", "K", "DN"')
    scale: float | None = Field(default=None, description="physical = stored * scale + offset")
    offset: float | None = None
    nodata: float | None = Field(default=None, description="stored value that means no value")
    dtype: str | None = None
    common_name: str | None = None
    standard_name: str | None = None
    long_name: str | None = None
    wavelength: float | None = Field(default=None, description="centre, micrometres")
    valid_range: tuple[float, float] | None = Field(default=None, description="physical limits, in units")

    @field_validator("units")
    @classmethod
    def _units(cls, v: str | None) -> str | None:
        if v is not None and v not in UNITS:
            raise ValueError(f"units '{v}' are not known; choose from {', '.join(UNITS)}")
        return v


class QualityEntry(Model):
    """How the provider's mask becomes the quality layer. `source_name`: its asset key or file-name part."""

    rule: Rule = "none"
    source_name: str | None = None
    index: int | None = Field(default=None, ge=1)
    threshold: float | None = Field(default=None, description="cloud_probability: cloud from here on")
    saturation: str | None = Field(
        default=None, description="qa_pixel: asset key or file-name part of QA_RADSAT, of the scenes that have it"
    )

    @model_validator(mode="after")
    def _complete(self) -> QualityEntry:
        if self.rule != "none" and self.source_name is None and self.index is None:
            raise ValueError(f"quality rule '{self.rule}' needs source_name (or index): where the mask is")
        if self.rule == "cloud_probability" and self.threshold is None:
            raise ValueError("quality rule 'cloud_probability' needs a threshold")
        return self


class TileScheme(Model):
    """How the ground is cut into groups.

    footprint: every tile of the provider (MGRS tile, WRS path/row, chip) is a group with its own pixel grid, nothing
    is resampled. The grid holds all scenes of the tile that are known when it begins; it never changes, so what a later
    scene has beyond it is left out, and said. grid: a regular grid of `shape` pixels of `resolution`, anchored at the
    CRS origin, in `crs` ("utm": the zone of the scene; or "EPSG:n"); a scene goes into each cell that it touches.
    """

    scheme: Literal["footprint", "grid"] = "footprint"
    crs: str = "utm"
    resolution: float | None = Field(default=None, gt=0, description="of the CRS; needed by `grid`")
    shape: int = Field(default=4096, ge=64, description="pixels of a grid cell, each side")
    chunk: int = Field(
        default=1024, ge=64,
        description="pixels of a chunk, each side: at most so many, but a tile up to a quarter larger is one chunk",
    )  # fmt: skip
    resampling: Literal["nearest", "bilinear", "cubic", "average"] = "nearest"
    margin: float | None = Field(
        default=None, ge=0, le=1,
        description="footprint: room around the first scenes of a tile, as a share of their height and width, for later"
        " ones that lie a little off; default 0.03 where the first ones differ among themselves, else 0",
    )  # fmt: skip
    overviews: tuple[int, ...] | None = Field(
        default=None,
        description="factors of the coarser copies of each tile; default 4 and 16, as far as one of 512 pixels a side",
    )  # fmt: skip

    def agrees(self, begun: TileScheme) -> bool:
        """Whether this scheme may go on with a cube that was begun with another: the layout of tiles that are yet to
        begin is the cube's own, unless this one says otherwise."""
        unsaid = {k: getattr(begun, k) for k in LAYOUT if k not in self.model_fields_set}
        return self.model_copy(update=unsaid) == begun

    @field_validator("crs")
    @classmethod
    def _crs(cls, v: str) -> str:
        if v != "utm" and not re.fullmatch(r"EPSG:\d{4,6}", v, re.IGNORECASE):
            raise ValueError(f"crs '{v}': write utm or EPSG:number")
        return v if v == "utm" else v.upper()

    @model_validator(mode="after")
    def _complete(self) -> TileScheme:
        if self.scheme == "grid" and self.resolution is None:
            raise ValueError("scheme 'grid' needs a resolution (in units of the CRS)")
        return self


class SceneSchedule(Model):
    """When scenes are expected: from `start` on, listed `delay` after the acquisition. `revisit` is only shown."""

    start: str
    end: str | None = None
    delay: str = "0h"
    revisit: str | None = Field(default=None, description="nominal days between passes, for the picture of gaps")

    @field_validator("start", "end", mode="before")
    @classmethod
    def _yaml_date(cls, v: Any) -> Any:
        return v.isoformat() if hasattr(v, "isoformat") else v

    @field_validator("start", "end")
    @classmethod
    def _time(cls, v: str | None) -> str | None:
        if v is not None:
            parse_time(v)
        return v

    @field_validator("delay", "revisit")
    @classmethod
    def _duration(cls, v: str | None) -> str | None:
        if v is not None:
            parse_duration(v)
        return v

    def period(self, now: Any) -> Period:
        """From the start to what should be listed by `now`."""
        end = parse_time(now) - parse_duration(self.delay)
        if self.end is not None:
            end = min(end, Period.parse(self.end).end)
        return Period(parse_time(self.start), end)


class SceneEntry(Model):
    """A scene dataset that eoflow can ingest. `kind: scenes` tells it from a dataset of fields."""

    kind: Literal["scenes"] = "scenes"
    name: str
    title: str
    licence: str = "unknown"
    source: SourceRef
    sensor: str = Field(description="for example sentinel-2, sentinel-1, landsat-8")
    level: str = Field(description="processing level: L1C, L2A, GRD, RTC, L2SP, ...")
    bands: dict[str, BandEntry] | None = Field(default=None, description="None: every band of the first scene")
    quality: QualityEntry = QualityEntry()
    tiles: TileScheme = TileScheme()
    group_by: Literal["solar_day", "time"] = Field(
        default="solar_day", description="scenes of one overpass share a time step of a tile (first one wins)"
    )
    schedule: SceneSchedule
    area: tuple[float, float, float, float] | None = Field(default=None, description="W, S, E, N in degrees")
    splits: Splits | None = None
    notes: str | None = None

    @field_validator("name")
    @classmethod
    def _name(cls, v: str) -> str:
        return check_name(v, "dataset name")

    @field_validator("bands")
    @classmethod
    def _bands(cls, v: dict[str, BandEntry] | None) -> dict[str, BandEntry] | None:
        for name in v or {}:
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or name in RESERVED:
                raise ValueError(f"band name '{name}': letters, digits and _, and not one of {', '.join(RESERVED)}")
        return v


LAYOUT = ("chunk", "overviews", "margin")
"""Keys of a tile scheme that say how a new tile is laid out, and change no value."""
RESERVED = ("quality", "saturation", "scene", "time", "x", "y", "spatial_ref", "provenance", "overviews", "items")
