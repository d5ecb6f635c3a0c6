"""Bytes from http(s), s3 and gs through fsspec, with retries and errors that say whether trying again may help."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from eoflow.config import settings
from eoflow.errors import MissingExtra
from eoflow.sources.base import AssetCorrupt, AssetError, AssetMissing, AssetTransient
from eoflow.sources.lazy import is_network, said
from eoflow.workspace import s3_options

T = TypeVar("T")


def resolve(url: str, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
    """(url, fsspec options). Public gs:// buckets are read over https, so that no Google library is needed."""
    if options:
        return url, dict(options)
    if url.startswith("gs://"):
        return "https://storage.googleapis.com/" + url.removeprefix("gs://"), {}
    if url.startswith("s3://"):
        return url, s3_options()
    return url, {}


def filesystem(url: str, options: dict[str, Any] | None = None) -> tuple[Any, str]:
    """(fsspec filesystem, path in it)."""
    import fsspec

    url, options = resolve(url, options)
    try:
        fs, path = fsspec.core.url_to_fs(url, **options)
    except ImportError as e:
        raise MissingExtra(str(e).split(" ")[-1] if str(e) else "fsspec", "remote") from e
    return fs, path


def error(e: BaseException, where: str) -> AssetError:
    """The asset error that an exception of fsspec, aiohttp or botocore stands for."""
    if isinstance(e, AssetError):
        return e
    status = getattr(e, "status", None)
    if isinstance(e, FileNotFoundError) or status in (404, 410):
        return AssetMissing("the provider does not have it (not found)", where=where, todo="it may be published later")
    if isinstance(e, PermissionError) or status in (401, 403):
        return AssetMissing(
            f"access was refused ({said(e)})",
            where=where,
            todo="set the credentials in the environment, or EOFLOW_S3_ANONYMOUS=1",
        )
    if is_network(e):
        return AssetTransient(f"the connection failed: {said(e)}", where=where, todo="try again later")
    return AssetCorrupt(f"it cannot be read: {said(e)}", where=where, todo="check the address, or fetch it again later")


def retrying(work: Callable[[], T], where: str, wait: float = 0.5) -> T:
    """Do `work`, trying again after transient errors, waiting twice as long each time (EOFLOW_RETRIES times)."""
    tries = settings().retries
    for attempt in range(tries + 1):
        try:
            return work()
        except Exception as e:  # classified right here
            found = error(e, where)
            if attempt == tries or not isinstance(found, AssetTransient):
                raise found from e
            time.sleep(wait * 2**attempt * (0.5 + random.random()))
    raise AssertionError("unreachable")


def read(url: str, start: int | None = None, end: int | None = None, *, wait: float = 0.5) -> bytes:
    """The bytes [start, end) of an object, or all of it.

    Raises AssetMissing (not found, refused), AssetTransient (after the retries) or AssetCorrupt (a short answer).
    """

    def work() -> bytes:
        fs, path = filesystem(url)
        data = bytes(fs.cat_file(path, start=start, end=end))
        if start is not None and end is not None and len(data) != end - start:
            if len(data) >= end:  # a server that ignores ranges sent everything
                return data[start:end]
            raise AssetCorrupt(
                f"asked for {end - start} bytes at {start}, got {len(data)}",
                where=url,
                todo="the file is shorter than its index says",
            )
        return data

    return retrying(work, url, wait)
