"""NetCDF files: HDF5-based ones through h5netcdf, classic ones through scipy; lazily, with the chunks of the file.

The netCDF4 library is used for the rare CDF-5 variant only: it is not safe beside h5py in threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from eoflow.errors import BadInput
from eoflow.sources import conventions
from eoflow.sources.base import AssetCorrupt
from eoflow.sources.conventions import Reading
from eoflow.sources.files import FileSource, kind_of, not_a
from eoflow.sources.lazy import said

if TYPE_CHECKING:
    import xarray as xr

ENGINES = {"hdf5": "h5netcdf", "netcdf3": "scipy", "netcdf3-64": "netcdf4"}


def open_raw(path: str, group: str | None = None) -> xr.Dataset:
    """The file as it is, lazily: fill values and scaling applied, times not decoded.

    Raises AssetMissing, AssetCorrupt (empty, truncated, not NetCDF) or BadInput (a folder, only groups).
    """
    import warnings

    import xarray as xr

    # scipy keeps the file mapped as long as an array of it lives, which is what lazy reading is
    warnings.filterwarnings("ignore", message="Cannot close a netcdf_file opened with mmap=True")
    kind = kind_of(path)
    if kind not in ENGINES:
        raise not_a("NetCDF", path, kind)
    options: dict[str, Any] = {"group": group} if group else {}
    if kind == "hdf5":
        options["phony_dims"] = "access"
    try:
        ds = xr.open_dataset(
            path, engine=ENGINES[kind], decode_times=False, decode_timedelta=False, cache=False, chunks=None, **options
        )  # type: ignore[arg-type]
    except Exception as e:  # each backend raises its own kinds, plain OSError to TypeError, for a cut file
        raise AssetCorrupt(
            f"the NetCDF file is truncated or damaged ({said(e)})", where=path, todo="fetch it again"
        ) from e
    if not ds.data_vars and kind == "hdf5" and not group:
        groups = _groups(path)
        if groups:
            raise BadInput(
                f"its variables are in groups: {', '.join(groups)}",
                where=path,
                todo=f"write in the catalog entry:  source: {{args: {{group: {groups[0]}}}}}",
            )
    return ds


def _groups(path: str) -> list[str]:
    import h5netcdf

    with h5netcdf.File(path, "r", phony_dims="access") as f:
        return [str(g) for g in f.groups]


class NetcdfSource(FileSource):
    """`source: {driver: netcdf, args: {paths: [FILE or pattern, ...], group: G, level_units: hPa, lexicon: NAME}}`."""

    ARGS: ClassVar[tuple[str, ...]] = (*FileSource.ARGS, "group")

    def read_times(self, path: str) -> np.ndarray[Any, np.dtype[np.datetime64]]:
        """The checked valid times of one file."""
        with open_raw(path, self.entry.source.args.get("group")) as raw:
            return conventions.times_of(raw, path, Reading(level_units=self.entry.source.args.get("level_units")))

    def read(self, path: str, reading: Reading, wanted: np.ndarray[Any, np.dtype[np.datetime64]] | None) -> xr.Dataset:
        """One file in canonical form."""
        raw = open_raw(path, self.entry.source.args.get("group"))
        ds = conventions.canonical(raw, path, reading, wanted)
        ds.set_close(raw.close)
        return ds
