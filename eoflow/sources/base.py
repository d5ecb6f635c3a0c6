"""What a source is: it plans assets and opens them as canonical, lazy datasets."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from eoflow.errors import EoflowError
from eoflow.times import Period

if TYPE_CHECKING:
    import xarray as xr

    from eoflow.catalog import DatasetEntry

Area = tuple[float, float, float, float]
"""West, south, east, north in degrees."""


@dataclass(frozen=True, eq=False)
class Asset:
    """One thing to fetch: a file, a store or a part of one, with the times it should hold.

    id: stable and unique in the dataset (shown in ledger and messages). times: datetime64[ns] (T,), increasing.
    href: where it lies. args: what the driver needs to open it (JSON-ready).
    """

    id: str
    times: np.ndarray[Any, np.dtype[np.datetime64]]
    href: str = ""
    args: dict[str, Any] = field(default_factory=dict)


class AssetError(EoflowError):
    """An asset could not be used. The ledger records it; the rest of the ingest goes on."""


class AssetMissing(AssetError):
    """The provider does not have it (yet)."""


class AssetCorrupt(AssetError):
    """It is there and cannot be read (truncated, checksum, undecodable)."""


class AssetTransient(AssetError):
    """It could not be reached now; trying again may help."""


@dataclass(frozen=True)
class SourceContext:
    """What a source may use: a local cache folder, and the time it is."""

    cache: Path
    now: np.datetime64


@runtime_checkable
class Source(Protocol):
    """Two methods; a class that has them and takes (entry, context) can be registered as `eoflow.sources`.

    `plan` lists the assets for a period (those that the provider should have by `context.now`), oldest first,
    without reading data. `open` returns a lazy dataset in canonical form:

        dims (time, [member,] [level,] latitude, longitude), float32 or float64 data;
        latitude north to south; longitude ascending, 0..360 on a global grid, else -180..180 unless the area
        crosses the antimeridian; level in hPa (surface to top or as the provider orders them, ascending in value);
        names and units of the entry or the lexicon, attributes units, standard_name, long_name;
        static fields without a time dimension.

    `open` raises AssetMissing, AssetCorrupt or AssetTransient; reading the lazy arrays later may raise them too.
    """

    def __init__(self, entry: DatasetEntry, context: SourceContext) -> None: ...

    def plan(self, period: Period | None, area: Area | None = None) -> list[Asset]:
        """Assets of the period, oldest first."""
        ...

    def open(self, asset: Asset) -> xr.Dataset:
        """The asset as a lazy canonical dataset."""
        ...


def create(entry: DatasetEntry, context: SourceContext) -> Source:
    """The source of a catalog entry."""
    from eoflow import registry

    source: Source = registry.load("sources", entry.source.driver)(entry, context)
    return source
