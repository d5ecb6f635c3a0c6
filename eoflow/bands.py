"""SceneSchema: the bands of a scene dataset with their radiometry, the tile scheme and the quality rule, hashed.

A stored band keeps the provider's integers; `physical = stored * scale + offset` in `units`, `nodata` is the stored
value that means no value. Every scene of a cube has the same scale and offset: another processing baseline is brought
to it when it is ingested, exactly (Sentinel-2 before baseline 04.00 gets 1000 added).
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from eoflow.errors import SchemaMismatch

Array = np.ndarray[Any, Any]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BandSpec(_Frozen):
    """One band as it is stored."""

    name: str
    dtype: str
    units: str
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None
    common_name: str | None = Field(default=None, description="STAC eo:common_name: red, nir, ...")
    standard_name: str | None = None
    long_name: str | None = None
    wavelength: float | None = Field(default=None, description="centre, micrometres")
    valid_range: tuple[float, float] | None = Field(default=None, description="physical limits, in units")

    @property
    def fill(self) -> Any:
        """What an array holds where nothing was stored: nodata, else NaN or 0."""
        kind = np.dtype(self.dtype).kind
        if self.nodata is not None:
            return np.dtype(self.dtype).type(self.nodata)
        return np.dtype(self.dtype).type(np.nan if kind == "f" else 0)

    @property
    def attrs(self) -> dict[str, Any]:
        """CF attributes of the stored array; xarray decodes scale, offset and nodata from them."""
        pairs: dict[str, Any] = {
            "units": self.units, "standard_name": self.standard_name, "long_name": self.long_name,
            "common_name": self.common_name, "radiation_wavelength": self.wavelength, "grid_mapping": "spatial_ref",
            "coordinates": "spatial_ref",
        }  # fmt: skip
        out = {k: v for k, v in pairs.items() if v is not None}
        if (self.scale, self.offset) != (1.0, 0.0):
            out |= {"scale_factor": self.scale, "add_offset": self.offset}
        if self.nodata is not None:
            out["_FillValue"] = self.fill.item()
        return out

    def physical(self, stored: Array) -> Array:
        """Stored values (any shape) -> float32 in `units`, NaN where nodata."""
        out = stored.astype("f4") * np.float32(self.scale) + np.float32(self.offset)
        if self.nodata is not None and not np.isnan(self.nodata):
            out[stored == self.fill] = np.nan
        return out


class SceneSchema(_Frozen):
    """The contract of a scene dataset. `tiles` and `quality` are the rules of the catalog entry, as JSON text."""

    bands: tuple[BandSpec, ...]
    sensor: str
    level: str
    tiles: str
    quality: str

    @property
    def names(self) -> tuple[str, ...]:
        """Band names in stored order."""
        return tuple(b.name for b in self.bands)

    def band(self, name: str) -> BandSpec:
        """The band called `name` (or with that common name). Raises BadInput."""
        from eoflow.errors import BadInput
        from eoflow.registry import nearest

        for b in self.bands:
            if name in (b.name, b.common_name):
                return b
        raise BadInput(f"no band '{name}'{nearest(name, list(self.names))}", todo=f"bands: {', '.join(self.names)}")

    @property
    def hash(self) -> str:
        """16 hexadecimal digits over everything above."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def require_same(self, other: SceneSchema, mine: str, theirs: str, todo: str) -> None:
        """Raise SchemaMismatch that prints both sides, unless the two are equal."""
        if self == other:
            return
        rows = []
        ours, others = {b.name: b for b in self.bands}, {b.name: b for b in other.bands}
        for name in dict.fromkeys([*ours, *others]):
            if ours.get(name) != others.get(name):
                rows.append(f"  band {name}: {mine} {_said(ours.get(name))}; {theirs} {_said(others.get(name))}")
        for key in ("sensor", "level", "tiles", "quality"):
            if getattr(self, key) != getattr(other, key):
                rows.append(f"  {key}: {mine} {getattr(self, key)}; {theirs} {getattr(other, key)}")
        if not rows:
            rows.append(f"  order of bands: {mine} {', '.join(ours)}; {theirs} {', '.join(others)}")
        raise SchemaMismatch("two scene schemas differ\n" + "\n".join(rows), todo=todo)


def _said(band: BandSpec | None) -> str:
    if band is None:
        return "does not have it"
    return f"{band.dtype}, {band.units}, scale {band.scale:g}, offset {band.offset:g}, nodata {band.nodata}"
