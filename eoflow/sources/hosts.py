"""Where a source may read: allowed hosts and folders, and addresses that are signed at the moment of reading.

What a STAC item says is input of strangers. Nothing is opened before its address is found to be allowed: http, https
and s3 on hosts that the catalog entry names (or that the endpoint is known for), and files only inside the folder of
an item list that is itself a local file.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from eoflow.errors import BadInput
from eoflow.sources.raster_http import bare

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
S3_HOST = re.compile(r"(?P<bucket>[a-z0-9.-]{3,63})\.s3(?:[.-][a-z0-9-]+)?(?:\.dualstack)?\.amazonaws\.com")
"""Host of a bucket in the virtual-hosted style."""

KNOWN: dict[str, tuple[str, ...]] = {
    "earth-search.aws.element84.com": ("s3://sentinel-cogs", "s3://e84-earth-search-sentinel-data"),
    "planetarycomputer.microsoft.com": (
        "sentinel2l2a01.blob.core.windows.net",
        "sentinel1euwest.blob.core.windows.net",
        "sentinel1euwestrtc.blob.core.windows.net",
        "landsateuwest.blob.core.windows.net",
    ),
}
"""API host -> where the pixels of its items lie. `s3://bucket` stands for the bucket's https host too."""

SECRETS = frozenset({
    "sig", "signature", "x-amz-signature", "x-amz-credential", "x-amz-security-token", "awsaccesskeyid",
    "x-goog-signature", "x-goog-credential", "googleaccessid", "token", "access_token", "api_key", "key-pair-id",
})  # fmt: skip
"""Query keys (lower case) of addresses that carry a signature or a secret."""


class Signer(Protocol):
    """Signs addresses when they are read; picklable, safe in threads. See `eoflow.sources.signing`."""

    def signs(self, url: str) -> bool:
        """Whether addresses of this place get a signature."""
        ...

    def sign(self, url: str) -> str:
        """The address with a signature that is valid now; the same address where none is needed."""
        ...

    def renew(self, url: str, failed: str = "") -> None:
        """Forget the signature of the place of `url` if it is the refused one: that of the address `failed`, else the
        one that this thread got last."""
        ...


class Buckets(Protocol):
    """Turns a place in S3 into an https address. See `eoflow.sources.signing`."""

    endpoint: str | None

    def url(self, bucket: str, key: str) -> str:
        """Where to read the object, now."""
        ...


def default_hosts(*apis: str) -> tuple[str, ...]:
    """The hosts that items of these endpoints may point at: the endpoint's own, and those it is known for."""
    hosts = [urlsplit(api).hostname or "" for api in apis]
    return tuple(dict.fromkeys(h for host in hosts for h in (host, *KNOWN.get(host, ())) if h))


def open_data_hosts() -> tuple[str, ...]:
    """Every public host above: what the items of a list that came from no endpoint may point at."""
    return tuple(dict.fromkeys(h for hosts in KNOWN.values() for h in hosts))


class Access:
    """Turns an href into what rasterio opens: a path, or an address that is signed now. Picklable.

    hosts: `host`, `host:port`, `*.domain` or `s3://bucket` (also allows the bucket's https host).
    folders: files inside them may be read. signer, buckets: how addresses and s3:// are signed, if at all.
    """

    def __init__(
        self, hosts: Iterable[str], folders: Iterable[Path] = (), signer: Signer | None = None,
        buckets: Buckets | None = None,
    ) -> None:  # fmt: skip
        self.hosts = tuple(_pattern(h) for h in hosts)
        self.folders = tuple(Path(f).resolve() for f in folders)
        self.signer, self.buckets = signer, buckets
        self._queries: dict[str, str] = {}
        self._resolved: dict[Path, Path] = {}

    def __call__(self, href: str) -> str:
        """What to open now. Raises BadInput for a place that is not allowed, or a signature that has expired."""
        local = self._local(href)
        if local is not None:
            return str(local)
        parts = self._remote(href)
        if parts.scheme == "s3":
            if self.buckets is None:
                raise _refused(href, "s3:// is not read here")
            return self.buckets.url(parts.netloc, unquote(parts.path).lstrip("/"))
        query = self._queries.get(href)
        if query is not None:
            require_unexpired(query, href)
            return f"{href}?{query}"
        return href if self.signer is None else self.signer.sign(href)

    def check(self, href: str) -> None:
        """Raise BadInput unless `href` (or a redirect to it) is allowed. Nothing is opened."""
        if self._local(href) is None:
            self._remote(href)

    def renew(self, href: str, failed: str = "") -> None:
        """After 401 or 403 for the address `failed`: its signature is not used again."""
        if self.signer is not None:
            self.signer.renew(href, failed)

    def without_secrets(self, href: str) -> str:
        """The href as it may be stored: a signature in its query is taken off, and put on again when it is read.

        Raises BadInput for a signature that has expired, where no signer would replace it.
        """
        parts = urlsplit(href)
        keys = {pair.partition("=")[0].lower() for pair in parts.query.split("&")}
        if parts.scheme not in ("http", "https") or not keys & SECRETS:
            return href
        plain = bare(href)
        if self.signer is None or not self.signer.signs(plain):
            require_unexpired(parts.query, plain)
            self._queries[plain] = parts.query
        return plain

    # -- what is allowed ---------------------------------------------------------------------------------------------

    def _local(self, href: str) -> Path | None:
        """The file that an href means, or None for an address. Raises BadInput for a file that is not allowed."""
        if _CONTROL.search(href):
            raise _refused(href, "it holds control characters")
        if "://" not in href[:12] and not href.lower().startswith(("file:", "/vsi")) and Path(href).is_absolute():
            path = Path(href)
        else:
            parts = _split(href)
            if parts.scheme != "file":
                return None
            if parts.netloc not in ("", "localhost"):
                raise _refused(href, "it names a file of another machine")
            path = Path(unquote(parts.path))
        if not self.folders:
            raise _refused(href, "it is a local file, and the items came from elsewhere")
        folder = self._resolved.get(path.parent)
        if folder is not None and path.name not in ("", "..") and not path.is_symlink():
            return folder / path.name
        found = path.resolve()
        if not any(found.is_relative_to(folder) for folder in self.folders):
            raise _refused(href, "it is a local file outside the folder of the item list")
        if not path.is_symlink() and any(found.parent.is_relative_to(folder) for folder in self.folders):
            self._resolved[path.parent] = found.parent  # a run asks for thousands of files of a few folders
        return found

    def _remote(self, href: str) -> SplitResult:
        parts = _split(href)
        if parts.scheme not in ("http", "https", "s3"):
            said = f"scheme '{parts.scheme}'" if parts.scheme else "no scheme"
            raise _refused(href, f"{said}; http, https and s3 are read")
        if parts.username is not None or parts.password is not None:
            raise _refused(href, "it carries a user name or password")
        if not set(_names(parts)).intersection(self.hosts) and not self._wildcard(parts):
            raise BadInput(
                f"the items point at '{_place(parts)}', a host that this dataset does not allow", where=bare(href),
                todo="if you trust it, write in the catalog entry"
                f"  source: args: allowed_hosts: [{_place(parts)}, ...]",
            )  # fmt: skip
        return parts

    def _wildcard(self, parts: SplitResult) -> bool:
        host = (parts.hostname or "").rstrip(".").lower()
        return parts.scheme != "s3" and any(h.startswith("*.") and host.endswith(h[1:]) for h in self.hosts)


def _split(href: str) -> SplitResult:
    """Parts of an address; refuses what two parsers could read in two ways."""
    if "\\" in href or any(c.isspace() for c in href):
        raise _refused(href, "it holds blanks or backslashes")
    try:
        parts = urlsplit(href)
        _ = parts.port
    except ValueError as e:
        raise _refused(href, str(e)) from None
    if parts.scheme in ("http", "https", "s3") and not parts.hostname:
        raise _refused(href, "it names no host")
    return parts


def _names(parts: SplitResult) -> list[str]:
    """The names under which an address may be allowed."""
    if parts.scheme == "s3":
        return [f"s3://{parts.netloc}"]
    host = (parts.hostname or "").rstrip(".").lower()
    names = [host, f"{host}:{parts.port or {'http': 80, 'https': 443}[parts.scheme]}"]
    bucket = S3_HOST.fullmatch(host)
    return [*names, f"s3://{bucket['bucket']}"] if bucket else names


def _netloc(parts: SplitResult) -> str:
    host = (parts.hostname or "").lower()
    return f"{host}:{parts.port}" if parts.port else host


def _place(parts: SplitResult) -> str:
    return f"s3://{parts.netloc}" if parts.scheme == "s3" else _netloc(parts)


def _pattern(text: str) -> str:
    """One entry of allowed_hosts, normalised; a whole URL counts as its host. Raises BadInput."""
    text = str(text).strip()
    if text.startswith("s3://"):
        return f"s3://{urlsplit(text).netloc}"
    found = _netloc(urlsplit(text if "://" in text else f"//{text}"))
    good = re.fullmatch(r"(\*\.)?[a-z0-9\[]([a-z0-9.:\]-]*[a-z0-9\]])?", found)
    if not good or (found.startswith("*.") and "." not in found[2:]):
        raise BadInput(
            f"'{text}' is not a host", where="source.args.allowed_hosts",
            todo="write host, host:port, *.domain.org or s3://bucket",
        )  # fmt: skip
    return found


def _refused(href: str, why: str) -> BadInput:
    shown = bare(href) if href.startswith(("http://", "https://")) else href
    return BadInput(
        f"the items point at a place that is not read: {why}", where=repr(shown[:200])[1:-1],
        todo="check where the items come from; nothing was opened",
    )  # fmt: skip


# -- signatures that came with the item ------------------------------------------------------------------------------


def expiry(query: str) -> float | None:
    """When a signed query expires (seconds since 1970), if it says so: Azure, Amazon and Google styles."""
    from datetime import UTC, datetime, timedelta
    from urllib.parse import parse_qsl

    q = {k.lower(): v for k, v in parse_qsl(query)}
    try:
        if "se" in q:
            when = datetime.fromisoformat(q["se"])
            return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
        for style in ("amz", "goog"):
            if f"x-{style}-date" in q and f"x-{style}-expires" in q:
                start = datetime.strptime(q[f"x-{style}-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
                return (start + timedelta(seconds=int(q[f"x-{style}-expires"]))).timestamp()
        return float(q["expires"]) if "expires" in q else None
    except (ValueError, OverflowError):
        return None


def require_unexpired(query: str, href: str, now: Callable[[], float] = time.time) -> None:
    """Raise BadInput if the signature in a query says that it has expired."""
    end = expiry(query)
    if end is not None and end <= now():
        said = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(end))
        raise BadInput(
            f"the signature of the address expired at {said}", where=bare(href),
            todo="search again for fresh items, or let eoflow sign when it reads"
            " (source: args: sign: planetary-computer)",
        )  # fmt: skip


def join(base: str, href: str) -> str:
    """An href made absolute: against the address or the local path that it was found in."""
    if "://" in href[:12] or href.startswith("file:") or Path(href).is_absolute():
        return href
    if "://" in base[:12]:
        return urljoin(base, href)
    return os.path.normpath(Path(base).parent / href)  # without "..", so that a loop of links is seen
