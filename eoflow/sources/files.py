"""What the file drivers share: expanding paths, remembering each file's times, planning one asset a file."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from eoflow.errors import BadInput, EoflowError
from eoflow.sources.base import Area, Asset, AssetCorrupt, AssetMissing, SourceContext
from eoflow.sources.conventions import Reading
from eoflow.times import NS, Period

if TYPE_CHECKING:
    import xarray as xr

    from eoflow.catalog import DatasetEntry

MAGIC = (
    (b"\x89HDF", "hdf5"),
    (b"CDF\x05", "netcdf3-64"),
    (b"CDF", "netcdf3"),
    (b"GRIB", "grib"),
    (b"PK", "zip"),
    (b"II*\x00", "tiff"),
    (b"MM\x00*", "tiff"),
    (b"\x1f\x8b", "gzip"),
    (b"BUFR", "bufr"),
    (b"<", "html"),
)


def kind_of(path: str) -> str:
    """What a file is by its first bytes: hdf5, netcdf3, grib, ... or `unknown`.

    Raises AssetMissing for no file, AssetCorrupt for an empty one, BadInput for a folder.
    """
    p = Path(path)
    if p.is_dir():
        raise BadInput(f"'{path}' is a folder", where=path, todo="give the files themselves, for example FOLDER/*.nc")
    try:
        with p.open("rb") as f:
            head = f.read(512)
    except FileNotFoundError:
        raise AssetMissing("there is no such file", where=path, todo="check the path") from None
    except OSError as e:
        raise AssetCorrupt(
            f"the file cannot be opened: {e.strerror}", where=path, todo="check its permissions"
        ) from None
    if not head:
        raise AssetCorrupt("the file is empty (0 bytes)", where=path, todo="fetch it again")
    for magic, kind in MAGIC:
        if head.startswith(magic):
            return kind
    return "grib" if b"GRIB" in head else "unknown"


def not_a(what: str, path: str, kind: str) -> AssetCorrupt:
    """The error for a file that is something else than its driver reads; shows how it begins."""
    with Path(path).open("rb") as f:
        head = f.read(24)
    shown = head.decode("ascii", "replace").replace("\ufffd", "?").split("\n")[0]
    return AssetCorrupt(
        f"this is not a {what} file (it is {kind}: it begins with {shown!r})",
        where=path,
        todo="check that the download did not save an error page, and that the name fits the content",
    )


def expand(paths: Sequence[str] | str) -> list[str]:
    """Paths and glob patterns -> absolute paths, sorted within each pattern, each once; none for no match."""
    out: list[str] = []
    for text in [paths] if isinstance(paths, str) else paths:
        full = os.path.abspath(Path(str(text)).expanduser())  # noqa: PTH100  `resolve` would follow links
        pattern = glob.has_magic(full) and not Path(full).exists()
        out.extend(sorted(glob.glob(full)) if pattern else [full])  # noqa: PTH207  patterns are absolute
    return list(dict.fromkeys(out))


class TimesCache:
    """Times of files, remembered in the cache folder by path, size and modification time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "file-times"

    def _key(self, path: str) -> Path:
        return self.folder / f"{hashlib.sha256(path.encode()).hexdigest()[:32]}.json"

    def get(self, path: str) -> np.ndarray[Any, np.dtype[np.datetime64]] | None:
        """The remembered times; also of a file that is gone, so that its absence can be reported by time."""
        try:
            found = json.loads(self._key(path).read_text())
            if Path(path).exists() and found["stamp"] != _stamp(path):
                return None
            return np.array(found["times"], np.int64).astype(NS)
        except (OSError, ValueError, KeyError):
            return None

    def put(self, path: str, times: np.ndarray[Any, np.dtype[np.datetime64]]) -> None:
        """Remember; written beside and renamed, so that two processes do not meet in one file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self._key(path)
        temp = target.with_suffix(f".{os.getpid()}.tmp")
        temp.write_text(
            json.dumps({"path": path, "stamp": _stamp(path), "times": times.astype(NS).astype(np.int64).tolist()})
        )
        temp.replace(target)


def _stamp(path: str) -> list[int]:
    s = Path(path).stat()
    return [s.st_size, s.st_mtime_ns]


def reading_of(entry: DatasetEntry, area: Area | None = None) -> Reading:
    """How an entry's files are to be read."""
    args = entry.source.args
    return Reading(
        variables=entry.variables,
        only=entry.variables is not None,
        area=area or entry.area,
        level_units=args.get("level_units"),
        lexicon=str(args.get("lexicon", "generic")),
    )


def check_args(entry: DatasetEntry, known: Iterable[str]) -> None:
    """Raise BadInput for a source argument that nothing reads."""
    from eoflow.registry import nearest

    names = sorted(known)
    for key in entry.source.args:
        if key not in names:
            raise BadInput(
                f"unknown source argument '{key}'{nearest(key, names)}",
                where=f"dataset {entry.name}, source.args",
                todo=f"choose from {', '.join(names)}",
            )


class FileSource(ABC):
    """A source of local files given as `paths` (names and glob patterns); one asset a file.

    An asset whose times cannot be read has none (shape (0,)); `open` then says why.
    """

    ARGS: ClassVar[tuple[str, ...]] = ("paths", "level_units", "lexicon")

    def __init__(self, entry: DatasetEntry, context: SourceContext) -> None:
        check_args(entry, self.ARGS)
        if not entry.source.args.get("paths"):
            raise BadInput(
                f"dataset '{entry.name}' lists no files",
                where="source.args.paths",
                todo="write  source: {driver: ..., args: {paths: [FILE, ...]}}",
            )
        self.entry, self.context = entry, context
        self.paths: Any = entry.source.args["paths"]
        self._times = TimesCache(context.cache)

    @abstractmethod
    def read_times(self, path: str) -> np.ndarray[Any, np.dtype[np.datetime64]]:
        """The valid times of one file, checked."""

    @abstractmethod
    def read(self, path: str, reading: Reading, wanted: np.ndarray[Any, np.dtype[np.datetime64]] | None) -> xr.Dataset:
        """One file in canonical form, at the wanted times."""

    def times(self, path: str) -> np.ndarray[Any, np.dtype[np.datetime64]]:
        """The valid times of one file, from memory if it has not changed."""
        found = self._times.get(path)
        if found is None:
            found = self.read_times(path)
            self._times.put(path, found)
        return found

    def plan(self, period: Period | None, area: Area | None = None) -> list[Asset]:
        """One asset a file that has times in the period, oldest first; unreadable files last, without times."""
        good, bad = [], []
        for path in expand(self.paths):
            args = {"area": list(area)} if area else {}
            try:
                times = self.times(path)
            except EoflowError:
                bad.append(Asset(id=path, times=np.empty(0, NS), href=path, args=args))
                continue
            inside = times if period is None else times[period.contains(times)]
            if inside.size:
                good.append(Asset(id=path, times=inside, href=path, args=args))
        return [*sorted(good, key=lambda a: a.times[0]), *bad]

    def open(self, asset: Asset) -> xr.Dataset:
        """The file in canonical form, at the asset's times."""
        area = tuple(asset.args["area"]) if asset.args.get("area") else None
        kind_of(asset.href)
        times = asset.times if asset.times.size else None
        return self.read(asset.href, reading_of(self.entry, area), times)
