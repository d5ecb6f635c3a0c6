"""Products as files that others read: COG, NetCDF, Zarr, with STAC items. The room itself is callable."""

from eoflow._callable import make_callable

make_callable(__name__, "eoflow.export.run:export")
