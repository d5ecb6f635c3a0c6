"""Where things lie: a folder or an object-store URL, and nothing is ever written outside it.

catalogs/datasets/*.yaml        entries that `eoflow ingest FILE --as NAME` and `datasets new` wrote
archives/DATASET/               Icechunk repository: fields, ledger, statistics
prepared/DATASET/KEY.zarr       immutable sharded training sets
checkpoints/NAME/               weights, recipe, schema, normaliser, card, scores
products/forecast/DATASET/MODEL/{cube, runs/*.zarr, latest.zarr}
scores/DATASET/                 scores.json and the figures
cache/                          source indexes, planet states; safe to delete
locks/
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eoflow.config import settings
from eoflow.errors import BadInput, Failure

if TYPE_CHECKING:
    import icechunk

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
LOCK_TIMEOUT_S = 600.0


def check_name(name: str, what: str = "name") -> str:
    """Return `name` if it is safe as one path segment, else raise BadInput."""
    if not _NAME.match(name) or ".." in name:
        raise BadInput(f"'{name}' is not a usable {what}", todo="use letters, digits, '.', '_' and '-' only")
    return name


class Workspace:
    """A root folder (`Path`) or object-store URL (`s3://bucket/prefix`), with the layout above."""

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        text = str(root if root is not None else settings().workspace)
        self.is_local = "://" not in text or text.startswith("file://")
        self.root = (
            str(Path(text.removeprefix("file://")).expanduser().absolute()) if self.is_local else text.rstrip("/")
        )
        if not self.is_local and not text.startswith("s3://"):
            raise BadInput(f"cannot use '{text}' as a workspace", todo="give a folder or an s3://bucket/prefix URL")

    @classmethod
    def of(cls, place: Workspace | str | os.PathLike[str] | None) -> Workspace:
        """A workspace as given, or of a folder or URL, or of the settings for None."""
        return place if isinstance(place, cls) else cls(place)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return f"Workspace({self.root!r})"

    def url(self, *parts: str) -> str:
        """The location of an object in the workspace: an absolute path or a URL."""
        for p in parts:
            for segment in p.split("/"):
                check_name(segment, "path segment")
        return "/".join((self.root, *parts))

    def path(self, *parts: str) -> Path:
        """As `url`, as a Path; only for a local workspace."""
        if not self.is_local:
            raise Failure(f"{self.root} is not a folder", todo="this step needs a local workspace")
        return Path(self.url(*parts))

    @property
    def cache(self) -> Path:
        """A local folder for caches: inside the workspace, or `EOFLOW_CACHE` for an object store."""
        if settings().cache:
            folder = Path(str(settings().cache))
        elif self.is_local:
            folder = self.path("cache")
        else:
            folder = Path(tempfile.gettempdir()) / "eoflow-cache"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    # -- plain files -------------------------------------------------------------------------------------------

    def storage_options(self) -> dict[str, Any]:
        """fsspec options for `url` of an object store; empty for a folder."""
        return {} if self.is_local else s3_options()

    def fs(self) -> Any:
        """The fsspec filesystem of the workspace."""
        import fsspec

        return fsspec.filesystem("file" if self.is_local else "s3", **self.storage_options())

    def exists(self, *parts: str) -> bool:
        """Whether a file or folder is there."""
        return Path(self.url(*parts)).exists() if self.is_local else bool(self.fs().exists(self.url(*parts)))

    def read_text(self, *parts: str) -> str:
        """The text of a file."""
        if self.is_local:
            return Path(self.url(*parts)).read_text(encoding="utf-8")
        return str(self.fs().cat_file(self.url(*parts)).decode("utf-8"))

    def write_text(self, text: str, *parts: str) -> None:
        """Write a file so that readers see the old text or the new one, never a part."""
        self.write_bytes(text.encode("utf-8"), *parts)

    def write_bytes(self, data: bytes, *parts: str) -> None:
        """As write_text, for bytes."""
        if not self.is_local:
            self.fs().pipe_file(self.url(*parts), data)
            return
        target = Path(self.url(*parts))
        target.parent.mkdir(parents=True, exist_ok=True)
        fd, temp = tempfile.mkstemp(dir=target.parent, prefix=".tmp-")
        try:
            with os.fdopen(fd, "wb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
            Path(temp).chmod(0o644)
            Path(temp).replace(target)
        except BaseException:
            Path(temp).unlink(missing_ok=True)
            raise

    def sync(self) -> None:
        """Wait until everything that was written to a local workspace is on the disk (an object store needs none)."""
        if not self.is_local:
            return
        root = next(p for p in (Path(self.root), *Path(self.root).parents) if p.exists())
        syncfs = _syncfs()
        if syncfs is None:
            os.sync()
            return
        fd = os.open(root, os.O_RDONLY)
        try:
            syncfs(fd)
        finally:
            os.close(fd)

    def names(self, *parts: str) -> list[str]:
        """Sorted names inside a folder (hidden ones left out), empty if there is none."""
        if self.is_local:
            folder = Path(self.url(*parts))
            return sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")) if folder.is_dir() else []
        fs, url = self.fs(), self.url(*parts)
        fs.invalidate_cache()
        found = fs.ls(url, detail=False) if fs.exists(url) else []
        return sorted({str(p).rstrip("/").rsplit("/", 1)[-1] for p in found})

    # -- stores ------------------------------------------------------------------------------------------------

    def icechunk_storage(self, *parts: str) -> icechunk.Storage:
        """Icechunk storage of a repository in the workspace."""
        import icechunk

        if self.is_local:
            return icechunk.local_filesystem_storage(self.url(*parts))
        bucket, _, prefix = self.url(*parts).removeprefix("s3://").partition("/")
        s = settings()
        return icechunk.s3_storage(
            bucket=bucket, prefix=prefix, region=s.s3_region, endpoint_url=s.s3_endpoint, allow_http=s.s3_allow_http,
            force_path_style=s.s3_endpoint is not None, from_env=not s.s3_anonymous, anonymous=s.s3_anonymous or None,
        )  # fmt: skip

    @contextmanager
    def lock(self, name: str, timeout: float = LOCK_TIMEOUT_S) -> Iterator[None]:
        """Hold the one-writer lock called `name`.

        Icechunk's local-filesystem commits are not safe against each other; object stores need no lock, there
        the commit itself is conditional. The lock dies with its process, so a crash leaves nothing behind.
        """
        if not self.is_local:
            yield
            return
        from filelock import FileLock, Timeout

        folder = self.path("locks")
        folder.mkdir(parents=True, exist_ok=True)
        # one object a path and thread: the holder may take it again, another thread or process may not
        lock = FileLock(folder / f"{check_name(name)}.lock", is_singleton=True)
        try:
            lock.acquire(timeout=timeout)
        except Timeout:
            raise Failure(
                f"another process has been writing '{name}' for {timeout:.0f} s", where=self.root,
                todo="wait for it, or stop it: the lock ends with the process",
            ) from None  # fmt: skip
        try:
            yield
        finally:
            lock.release()


def s3_options() -> dict[str, Any]:
    """s3fs options from the settings (credentials come from the usual AWS environment)."""
    s = settings()
    options: dict[str, Any] = {"anon": s.s3_anonymous}
    if s.s3_endpoint:
        options["client_kwargs"] = {"endpoint_url": s.s3_endpoint, "region_name": s.s3_region}
    return options


@lru_cache(maxsize=1)
def _syncfs() -> Any:
    """The system call that syncs one file system only; None where there is none."""
    import ctypes

    try:
        return getattr(ctypes.CDLL(None), "syncfs", None)
    except (OSError, TypeError):
        return None
