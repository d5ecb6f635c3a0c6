"""Products as files that others read: COG, NetCDF, Zarr, with STAC items. The room itself is callable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eoflow._callable import make_callable

if TYPE_CHECKING:
    from eoflow.export.run import ExportReport as ExportReport
    from eoflow.export.run import export as export

__all__ = ["ExportReport", "export"]

make_callable(__name__, "eoflow.export.run:export")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'eoflow.export' has no attribute '{name}'")
    from eoflow.export import run

    return getattr(run, name)
