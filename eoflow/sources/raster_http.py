"""What a remote raster answers: a probe of one byte that tells status, size and ETag, and the loop that tries again.

GDAL says little about a failed request and remembers the failure, so the status is asked for here, and a file that
failed, or that changed, is opened under another cache key (see `curl_path`).
"""

from __future__ import annotations

import hashlib
import http.client
import random
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, TypeVar

from eoflow.errors import BadInput
from eoflow.sources.base import AssetError, AssetMissing, AssetTransient

T = TypeVar("T")
Sleep = Callable[[float], object]
TIMEOUT_S = 30.0
HOPS = 4
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 20.0


@dataclass(frozen=True)
class Probe:
    """The answer to a request for the first byte. status 0: no answer at all (`said` has why)."""

    status: int
    etag: str | None = None
    size: int | None = None
    said: str = ""
    retry_after: float | None = None
    ranges: bool = True

    @property
    def ok(self) -> bool:
        """Whether the file is there and may be read."""
        return self.status in (200, 206)


class _Refusing(urllib.request.HTTPRedirectHandler):
    """Redirects are followed by hand, so that every host on the way is checked."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_Refusing)


def is_remote(path: str) -> bool:
    """Whether a path is an http(s) address."""
    return path.startswith(("http://", "https://"))


def bare(url: str) -> str:
    """An address as it may be shown: without query (signatures), fragment and password."""
    if not is_remote(url):
        return url
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def hide(text: str) -> str:
    """A message of GDAL or curl without the secret parts of the addresses in it."""
    text = text.replace("/vsicurl/", "")
    text = re.sub(r"(https?://)[^/\s@'\"]*@", r"\1", text)
    return re.sub(r"(https?://[^\s'\"?#]+)[?#][^\s'\"]*", r"\1", text)


def probe(url: str, allowed: Callable[[str], object] | None = None, timeout: float = TIMEOUT_S) -> Probe:
    """Ask for the first byte of `url`. Never raises for what a server or a network does.

    allowed: called with each address that the server redirects to; what it raises (BadInput) passes through.
    """
    for _ in range(HOPS):
        request = urllib.request.Request(url, headers={"Range": "bytes=0-0", "User-Agent": "eoflow"})
        try:
            with _OPENER.open(request, timeout=timeout) as answer:
                return _read(answer.status, answer)
        except urllib.error.HTTPError as e:
            with e:
                target = e.headers.get("Location")
                if e.code not in (301, 302, 303, 307, 308) or not target:
                    return _read(e.code, e)
            url = urllib.parse.urljoin(url, target)
            if not is_remote(url):
                raise BadInput(
                    f"the server sends on to '{bare(url)}', which is no http address", todo="check the address"
                ) from None
            if allowed is not None:
                allowed(url)
        except (OSError, http.client.HTTPException, ValueError) as e:
            reason = getattr(e, "reason", e)
            return Probe(0, said=hide(str(reason) or type(e).__name__))
    return Probe(0, said="too many redirects")


def _read(status: int, answer: IO[bytes] | urllib.error.HTTPError) -> Probe:
    headers: Any = answer.headers  # type: ignore[union-attr]
    total = re.fullmatch(r"bytes \d+-\d+/(\d+)", headers.get("Content-Range", ""))
    length = headers.get("Content-Length", "")
    size = int(total[1]) if total else int(length) if status == 200 and length.isdigit() else None
    etag = (headers.get("ETag") or headers.get("Last-Modified") or "").strip('"') or None
    after = headers.get("Retry-After", "")
    return Probe(
        status, etag, size, retry_after=float(after) if after.isdigit() else None,
        said=f"HTTP {status}", ranges=status != 200 or headers.get("Accept-Ranges") == "bytes",
    )  # fmt: skip


def curl_path(url: str, found: Probe, attempt: int) -> str:
    """The path that GDAL opens. The fragment is never sent; it keeps GDAL's caches of another content or of a
    failed attempt away from this one."""
    mark = hashlib.sha256(f"{found.etag} {found.size} {attempt}".encode()).hexdigest()[:12]
    return f"/vsicurl/{url.partition('#')[0]}#{mark}"


def refusal(found: Probe, where: str) -> AssetError:
    """The error that a status stands for. 401 and 403 are transient here: the caller has signed again already."""
    if found.status in (404, 410):
        return AssetMissing(
            f"the provider does not have it (HTTP {found.status})", where=where, todo="it may be published later"
        )
    if found.status in (401, 403):
        return AssetTransient(
            f"access was refused (HTTP {found.status}), also after signing the address again", where=where,
            todo="check the credentials and the clock of this machine, then run eoflow backfill",
        )  # fmt: skip
    if found.status == 0:
        return AssetTransient(f"the connection failed: {found.said}", where=where, todo="try again later")
    if found.status == 429 or found.status >= 500 or found.status == 408:
        return AssetTransient(f"the server answered HTTP {found.status}", where=where, todo="try again later")
    return AssetMissing(f"the server answered HTTP {found.status}", where=where, todo="check the address")


def retrying(work: Callable[[int], T], tries: int, sleep: Sleep = time.sleep) -> T:
    """`work(attempt)`; after AssetTransient again, up to `tries` times more, with growing, jittered pauses."""
    for attempt in range(tries + 1):
        try:
            return work(attempt)
        except AssetTransient as e:
            if attempt == tries or getattr(e, "final", False):
                raise
            # full jitter: threads that failed together must not come back together
            pause = random.uniform(0.1, 1.0) * min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**attempt)
            sleep(max(pause, min(LONGEST_PAUSE_S, getattr(e, "retry_after", None) or 0.0)))
    raise AssertionError("the loop returns or raises")
