"""The files of one product: a folder, or a zip archive that is read in place.

Names come from the listing of the bundle alone; what a metadata file mentions is looked up among them, so that nothing
outside of the product can be reached.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from eoflow.errors import BadInput
from eoflow.sources.base import AssetCorrupt, AssetMissing
from eoflow.sources.xmlfile import MAX_BYTES

MAX_FILES = 20_000


@dataclass(frozen=True)
class Bundle:
    """root: absolute path of the folder or zip. names: files below `prefix`, with / between parts, sorted."""

    root: str
    names: tuple[str, ...]
    prefix: str = ""
    zipped: bool = False

    def read(self, name: str) -> bytes:
        """The bytes of a metadata file (at most 32 MiB). Raises AssetMissing or AssetCorrupt."""
        where = self.href(name)
        if name not in self.names:
            raise AssetMissing(f"the product has no {name}", where=self.root, todo="fetch the whole product again")
        try:
            if self.zipped:
                with zipfile.ZipFile(self.root) as z, z.open(self.prefix + name) as f:
                    content = f.read(MAX_BYTES + 1)
            else:
                with (Path(self.root) / name).open("rb") as f:
                    content = f.read(MAX_BYTES + 1)
        except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as e:
            raise AssetCorrupt(f"the file cannot be read ({e})", where=where, todo="fetch the product again") from e
        if len(content) > MAX_BYTES:
            raise AssetCorrupt(
                f"the metadata file is larger than {MAX_BYTES // 2**20} MiB", where=where, todo="check the product"
            )
        return content

    def href(self, name: str) -> str:
        """What the raster reader opens for a file of the bundle."""
        return f"/vsizip/{self.root}/{self.prefix}{name}" if self.zipped else f"{self.root}/{name}"

    def stamp(self) -> str:
        """Size and modification time of a zip, which identify its content; empty for a folder."""
        if not self.zipped:
            return ""
        s = Path(self.root).stat()
        return f"{s.st_size}-{s.st_mtime_ns}"

    def holds(self, href: str) -> bool:
        """Whether `href` is one of the files."""
        start = self.href("")
        return href.startswith(start) and href[len(start) :] in self.names


def open_bundle(path: str, deep: bool = True) -> Bundle:
    """A folder or zip file as a bundle. A zip with one folder at its top is that folder. deep: with subfolders.

    Raises AssetMissing, AssetCorrupt (a damaged zip) or BadInput (neither folder nor zip; too many files).
    """
    p = Path(path)
    if p.is_dir():
        names = []
        for f in p.rglob("*") if deep else p.iterdir():
            if f.is_file():
                names.append(f.relative_to(p).as_posix())
                _few(len(names), path)
        return Bundle(path, tuple(sorted(names)))
    if not p.exists():
        raise AssetMissing("there is no such file or folder", where=path, todo="check the path")
    if not zipfile.is_zipfile(p):
        raise BadInput("neither a folder nor a zip file", where=path, todo="give the product's folder or its zip")
    try:
        with zipfile.ZipFile(p) as z:
            inside = [i.filename for i in z.infolist() if not i.is_dir()]
    except (zipfile.BadZipFile, OSError) as e:
        raise AssetCorrupt(f"the zip is damaged ({e})", where=path, todo="fetch it again") from e
    _few(len(inside), path)
    inside = [n for n in inside if not n.startswith("/") and ".." not in PurePosixPath(n).parts and "\\" not in n]
    tops = {n.split("/", 1)[0] for n in inside}
    prefix = f"{tops.pop()}/" if len(tops) == 1 and all("/" in n for n in inside) else ""
    return Bundle(path, tuple(sorted(n[len(prefix) :] for n in inside)), prefix, zipped=True)


def _few(n: int, path: str) -> None:
    if n > MAX_FILES:
        raise BadInput(
            f"more than {MAX_FILES} files in it: this is not one product", where=path,
            todo="give the products themselves, for example FOLDER/*.SAFE",
        )  # fmt: skip


def overlaps(a: tuple[float, float, float, float] | None, b: tuple[float, float, float, float] | None) -> bool:
    """Whether two boxes (W, S, E, N in degrees; W > E across the antimeridian) touch; an unknown box touches all."""
    if a is None or b is None:
        return True
    if a[1] > b[3] or b[1] > a[3]:
        return False

    def spans(w: float, e: float) -> list[tuple[float, float]]:
        return [(w, e)] if w <= e else [(w, 180.0), (-180.0, e)]

    return any(w1 <= e2 and w2 <= e1 for w1, e1 in spans(a[0], a[2]) for w2, e2 in spans(b[0], b[2]))
