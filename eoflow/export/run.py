"""`eoflow export`: a product as COG, NetCDF or Zarr, with a STAC item beside it."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.errors import BadInput
from eoflow.export.cog import INDEXES, CogBand, band_of, stored, void, write_cog
from eoflow.export.mosaic import paste, union
from eoflow.export.product import Piece, Product, find
from eoflow.export.publish import beside, into_place, refuse_existing
from eoflow.export.stac import Exported, make_item
from eoflow.tiling import Grid
from eoflow.workspace import Workspace

if TYPE_CHECKING:
    import xarray as xr

Array = np.ndarray[Any, Any]
Progress = Callable[[float, float, str], None]
FORMATS = (".tif", ".tiff", ".nc", ".zarr")


@dataclass
class ExportReport:
    """Files that were written, STAC items last."""

    product: str
    files: list[str] = field(default_factory=list)
    items: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return dict(self.__dict__)


def export(
    product: str | Path | xr.Dataset, dest: str | Path, *, workspace: Workspace | str | None = None,
    as_of: str | None = None, bands: Sequence[str] | None = None, mosaic: bool = False, stac: bool = True,
    compress: str = "deflate", overwrite: bool = False, command: str = "", progress: Progress | None = None,
) -> ExportReport:  # fmt: skip
    """Write a product to `dest` (.tif as COG, .nc, .zarr) and a STAC item beside it (.json).

    product: DATASET:TILE:TIME, composite:DATASET[:ID], the path of a .zarr or .nc, or a dataset with dims y and x and a
    spatial_ref. Variables of another type than the first go into files of their own, DEST_NAME.tif. Several tiles
    become DEST_TILE.tif each, or with `mosaic` one image (one CRS and pixel grid). Everything is written beside and
    renamed; items last. Raises BadInput for an unknown product or ending, or a `dest` that exists.
    """
    started = time.monotonic()
    dest = Path(dest).absolute()
    if dest.suffix not in FORMATS:
        raise BadInput(f"'{dest.name}' does not end in {', '.join(FORMATS)}", todo="the ending says the format")
    refuse_existing(dest, overwrite)
    found = find(product, workspace, as_of).select(bands)
    if stac and found.times is None:
        raise BadInput("nothing says the time of this image, and a STAC item needs one",
                       todo="give it a coordinate `time`, or export without the item")  # fmt: skip
    report = ExportReport(found.id if isinstance(product, str | Path) else "dataset")
    several = len(found.pieces) > 1 and not mosaic
    if dest.suffix == ".zarr" and several:
        _write_zarr_tiles(found, dest, overwrite)
        report.files.append(str(dest))
        report.seconds = time.monotonic() - started
        return report
    images = [_Image.of(found.pieces)] if mosaic else [_Image.of((p,)) for p in found.pieces]
    lineage = command or f"eoflow export {found.id} {dest.name}"
    for done, image in enumerate(images):
        target = dest.with_name(f"{dest.stem}_{image.tile}{dest.suffix}") if several else dest
        written = _write(image, target, found, compress, overwrite)
        report.files += [str(w.path) for w in written]
        if stac:
            report.items.append(str(_item(image, target, found, written, lineage, overwrite)))
        if progress is not None:
            progress(done + 1, len(images), "images")
    report.seconds = time.monotonic() - started
    return report


@dataclass(frozen=True)
class _Image:
    """What goes into one set of files: tiles on one grid."""

    tile: str
    pieces: tuple[Piece, ...]
    grid: Grid

    @classmethod
    def of(cls, pieces: Sequence[Piece]) -> _Image:
        """One tile, or the mosaic of several."""
        if len(pieces) == 1:
            return cls(pieces[0].tile, tuple(pieces), pieces[0].grid)
        return cls("mosaic", tuple(pieces), union([p.grid for p in pieces], [p.tile for p in pieces]))

    @property
    def bands(self) -> list[CogBand]:
        """One band a variable, in order."""
        ds = self.pieces[0].ds
        names = [str(v) for v in ds.data_vars]
        if len(self.pieces) > 1:  # positions in a list that each tile has its own of
            names = [n for n in names if n not in INDEXES]
        return [band_of(ds[n]) for n in names]

    def read(self, band: CogBand, rows: slice, columns: slice) -> Array:
        """Stored values of a window; where no tile lies, nodata or 0.

        Where tiles overlap, the first that has a value in its first variable gives every layer of the pixel.
        """
        if len(self.pieces) == 1:
            return _values(self.pieces[0], band, rows, columns)
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        out = np.full(shape, 0 if band.nodata is None else band.nodata, band.dtype)
        taken = np.zeros(shape, bool)
        lead = self.bands[0]
        parts = []
        for piece in self.pieces:
            row, column = (round(v) for v in self.grid.offset(piece.grid))
            r = slice(max(0, rows.start - row), min(piece.grid.shape[0], rows.stop - row))
            c = slice(max(0, columns.start - column), min(piece.grid.shape[1], columns.stop - column))
            if r.start < r.stop and c.start < c.stop:
                values, first = _values(piece, band, r, c), _values(piece, lead, r, c)
                parts.append((values, (row + r.start - rows.start, column + c.start - columns.start)))
                paste(out, *parts[-1], ~void(first, lead.nodata), taken)
        for values, at in parts:  # pixels that no tile has a value for still have a count, a quality
            paste(out, values, at, np.ones(values.shape, bool), taken)
        return out


def _values(piece: Piece, band: CogBand, rows: slice, columns: slice) -> Array:
    da = piece.ds[band.name].transpose("y", "x")
    decoded = "scale_factor" in da.encoding or "add_offset" in da.encoding
    return stored(np.asarray(da[rows, columns].values), band, decoded)


def _write(image: _Image, target: Path, product: Product, compress: str, overwrite: bool) -> list[Exported]:
    if target.suffix in (".tif", ".tiff"):
        return _write_cogs(image, target, product, compress, overwrite)
    ds = _dataset(image, product)
    with beside(target, overwrite) as temp, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        if target.suffix == ".nc":
            ds.to_netcdf(temp, engine="h5netcdf")
        else:
            ds.to_zarr(temp, zarr_format=3, consolidated=True)
    return [Exported("data", target, tuple(image.bands))]


def _write_cogs(image: _Image, target: Path, product: Product, compress: str, overwrite: bool) -> list[Exported]:
    """The bands of the first one's type in `target`, each of the others in a file of its own."""
    bands = image.bands
    main = [b for b in bands if b.kind == bands[0].kind]
    groups = [("data", target, main)]
    for b in bands:
        if b not in main:
            groups.append((b.name, target.with_name(f"{target.stem}_{b.name}{target.suffix}"), [b]))
    for _, path, _ in groups:
        refuse_existing(path, overwrite)
    tags = {f"EOFLOW_{k.upper()}": v for k, v in product.provenance.items()}
    if product.times is not None:
        tags["TIFFTAG_DATETIME"] = str(product.times[1].astype("datetime64[s]")).replace("-", ":").replace("T", " ")
    tags["TIFFTAG_SOFTWARE"] = f"eoflow {product.provenance.get('code_version', '')}".strip()
    out = []
    for key, path, some in groups:

        def read(i: int, rows: slice, columns: slice, some: list[CogBand] = some) -> Array:
            return image.read(some[i], rows, columns)

        write_cog(path, some, image.grid, read, tags=tags, compress=compress, overwrite=overwrite)
        out.append(Exported(key, path, tuple(some), ("data",) if key == "data" else ("metadata", key)))
    return out


def _dataset(image: _Image, product: Product) -> xr.Dataset:
    """An image as a CF dataset, lazily."""
    import dask.array as da
    import xarray as xr

    from eoflow.cube_layout import mapping_attrs
    from eoflow.export.georef import axis_attrs

    ds = image.pieces[0].ds
    ay, ax = axis_attrs(image.grid)
    coords = {"y": ("y", image.grid.y(), ay), "x": ("x", image.grid.x(), ax)}
    variables: dict[str, Any] = {}
    for band in image.bands:
        attrs = dict(ds[band.name].attrs)
        attrs.pop("coordinates", None)
        if (band.scale, band.offset) != (1.0, 0.0):
            attrs |= {"scale_factor": band.scale, "add_offset": band.offset}
        if band.nodata is not None:
            attrs["_FillValue"] = np.dtype(band.dtype).type(band.nodata)
        lazy = da.map_blocks(  # type: ignore[no-untyped-call]
            partial(_block, image, band), dtype=band.dtype, chunks=_chunks(image.grid.shape),
            meta=np.empty((0, 0), band.dtype),
        )  # fmt: skip
        variables[band.name] = (("y", "x"), lazy, attrs | {"grid_mapping": "spatial_ref"})
    out = xr.Dataset(variables, coords=coords)
    out = out.assign_coords(spatial_ref=xr.Variable((), 0, mapping_attrs(image.grid)))
    if product.times is not None and product.times[0] == product.times[1]:
        out = out.assign_coords(time=product.times[0])
        out["time"].encoding = {"units": "microseconds since 1970-01-01", "dtype": "int64"}
    out.attrs = {"Conventions": "CF-1.11", "source": "eoflow", "eoflow_kind": product.kind}
    out.attrs["eoflow_bands"] = list(variables)
    if product.times is not None and product.times[0] != product.times[1]:
        out.attrs["period"] = "/".join(str(t.astype("datetime64[s]")) for t in product.times)
    out.attrs["eoflow_provenance"] = json.dumps(product.provenance)
    return out


def _chunks(shape: tuple[int, int], size: int = 1024) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(min(size, n - i) for i in range(0, n, size)) for n in shape)


def _block(image: _Image, band: CogBand, block_info: Any = None) -> Array:
    (y0, y1), (x0, x1) = block_info[None]["array-location"]
    return image.read(band, slice(y0, y1), slice(x0, x1))


def _write_zarr_tiles(product: Product, dest: Path, overwrite: bool) -> None:
    """One group a tile, as the composite itself."""
    import zarr

    with beside(dest, overwrite) as temp, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        zarr.create_group(str(temp), zarr_format=3, attributes={"eoflow_provenance": json.dumps(product.provenance)})
        for piece in product.pieces:
            one = _dataset(_Image.of((piece,)), replace(product, pieces=(piece,)))
            one.to_zarr(temp, group=f"tiles/{piece.tile}", zarr_format=3, consolidated=True)


def _item(image: _Image, target: Path, product: Product, files: list[Exported], lineage: str, overwrite: bool) -> Path:
    """The STAC item, written beside and renamed after its assets."""
    assert product.times is not None
    path = target.with_suffix(".json")
    name = f"{product.id}-{image.tile}" if image.tile and image.tile not in product.id else product.id
    if product.id == "dataset":
        name = target.stem
    item = make_item(name, image.grid, product.times, files, path, product.provenance, lineage)
    temp = path.with_name(f".tmp-{path.name}")
    temp.write_text(json.dumps(item.to_dict(include_self_link=False), indent=1), encoding="utf-8")
    return into_place(temp, path, overwrite=True if overwrite else not path.exists())
