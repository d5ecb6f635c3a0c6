"""Signatures made when a pixel is read: tokens of the Planetary Computer, fetched, kept for a while, never stored."""

from __future__ import annotations

import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlsplit

from eoflow.config import settings
from eoflow.errors import BadInput, MissingExtra
from eoflow.sources.base import AssetCorrupt, AssetTransient
from eoflow.sources.hosts import expiry
from eoflow.sources.raster_http import TIMEOUT_S, Sleep, bare, retrying

ENDPOINT = "https://planetarycomputer.microsoft.com/api/sas/v1/token"
AZURE = ".blob.core.windows.net"
MARGIN_S = 120.0
"""A token is replaced this long before it expires: a read that has begun must be able to end."""
LARGEST_BYTES = 256 * 2**20
S3_VALID_S = 3600
Place = tuple[str, str]
"""(account, container)"""


class PlanetaryComputer:
    """Signs addresses of Azure blob storage with a token for each (account, container).

    endpoint: `{endpoint}/{account}/{container}` answers {"token", "msft:expiry"}. hosts: further hosts (`host:port`)
    whose first path element is a container, for a mirror. The account is the first label of the host. A subscription
    key is taken from the environment (PC_SDK_SUBSCRIPTION_KEY). Picklable without its tokens; safe in threads.
    """

    def __init__(
        self, endpoint: str = ENDPOINT, hosts: tuple[str, ...] = (), *,
        clock: Callable[[], float] = time.time, sleep: Sleep = time.sleep,
    ) -> None:  # fmt: skip
        self.endpoint, self.hosts, self._clock, self._sleep = endpoint.rstrip("/"), hosts, clock, sleep
        self._start()

    def _start(self) -> None:
        self._tokens: dict[Place, tuple[str, float]] = {}
        self._locks: dict[Place, threading.Lock] = {}
        self._lock = threading.Lock()
        self._mine = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_tokens", "_locks", "_lock", "_mine")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def _container(self, url: str) -> Place | None:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        container = parts.path.lstrip("/").partition("/")[0]
        if not container or not (host.endswith(AZURE) or {host, f"{host}:{parts.port}"} & set(self.hosts)):
            return None
        return (host.removesuffix(AZURE) if host.endswith(AZURE) else host), container

    def signs(self, url: str) -> bool:
        """Whether `url` lies where tokens are needed."""
        return self._container(url) is not None

    def sign(self, url: str) -> str:
        """`url` with the token of its container; unchanged if it is on no such host.

        Raises AssetTransient if the endpoint cannot be reached, AssetCorrupt or BadInput if it answers nonsense.
        """
        place = self._container(url)
        if place is None:
            return url
        token = self._token(place)
        self._mine.__dict__["/".join(place)] = token
        return f"{bare(url)}?{token}"

    def renew(self, url: str, failed: str = "") -> None:
        """Forget the token of the url's container if it is that of the address `failed`, or (without) the one that
        this thread got last.

        Where many threads are refused at once, the first fetches a new token and the others find it.
        """
        place = self._container(url)
        if place is None:
            return
        with self._lock:
            held = self._tokens.get(place)
            refused = failed.partition("?")[2] or self._mine.__dict__.get("/".join(place))
            if held is not None and held[0] == refused:
                del self._tokens[place]

    def _token(self, place: Place) -> str:
        with self._lock:
            lock = self._locks.setdefault(place, threading.Lock())
        with lock:  # one request a container, however many threads ask
            held = self._tokens.get(place)
            if held is None or held[1] - MARGIN_S <= self._clock():
                held = self._fetch(place)
                self._tokens[place] = held
            return held[0]

    def _fetch(self, place: Place) -> tuple[str, float]:
        url = f"{self.endpoint}/{quote(place[0], safe='')}/{quote(place[1], safe='')}"
        key = os.environ.get("PC_SDK_SUBSCRIPTION_KEY")
        headers = {"Ocp-Apim-Subscription-Key": key} if key and url.startswith("https://") else {}
        answer = fetch_json(url, headers=headers, what="the token endpoint", sleep=self._sleep)
        try:
            token = str(answer["token"])
            until = expiry(f"se={quote(str(answer['msft:expiry']))}")
        except (KeyError, TypeError):
            token, until = "", None
        if not token or until is None:
            raise AssetCorrupt(
                "the token endpoint gave no token with an expiry",
                where=bare(url),
                todo="check source.args.token_endpoint",
            )
        return token, until


class S3:
    """s3://bucket/key as an https address: plain (`unsigned`, public buckets) or signed now with the credentials of
    the environment. endpoint: of a service that is not Amazon's (path style). Picklable."""

    def __init__(
        self, *, unsigned: bool = False, region: str | None = None, endpoint: str | None = None
    ) -> None:  # fmt: skip
        self.unsigned, self.region, self.endpoint = unsigned, region, endpoint
        self._client: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_client": None}

    def url(self, bucket: str, key: str) -> str:
        """Where the object is read. Raises BadInput without credentials, MissingExtra without botocore."""
        if not self.unsigned:
            return self._presigned(bucket, key)
        zone = f".{self.region}" if self.region else ""
        if self.endpoint:
            return f"{self.endpoint.rstrip('/')}/{bucket}/{quote(key)}"
        # a dot in the name would not match the certificate of the bucket's own host
        head = f"s3{zone}.amazonaws.com/{bucket}" if "." in bucket else f"{bucket}.s3{zone}.amazonaws.com"
        return f"https://{head}/{quote(key)}"

    def _presigned(self, bucket: str, key: str) -> str:
        try:
            import botocore.session
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError
        except ImportError as e:
            raise MissingExtra("botocore", "cloud") from e
        try:
            if self._client is None:
                style = "path" if self.endpoint else "virtual"
                self._client = botocore.session.get_session().create_client(
                    "s3", region_name=self.region or "us-east-1", endpoint_url=self.endpoint,
                    config=Config(signature_version="s3v4", s3={"addressing_style": style}),
                )  # fmt: skip
            what = {"Bucket": bucket, "Key": key}
            return str(self._client.generate_presigned_url("get_object", Params=what, ExpiresIn=S3_VALID_S))
        except BotoCoreError as e:
            raise BadInput(
                f"the address cannot be signed: {e}", where=f"s3://{bucket}/{key}",
                todo="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, or write for a public bucket"
                "  source: args: aws_no_sign_request: true",
            ) from None  # fmt: skip


class _SameHost(urllib.request.HTTPRedirectHandler):
    """Follows redirects only to where `check` agrees."""

    def __init__(self, check: Callable[[str], None]) -> None:
        self.check = check

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        self.check(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch_json(
    url: str, *, check: Callable[[str], None] | None = None, headers: dict[str, str] | None = None,
    what: str = "the server", sleep: Sleep = time.sleep,
) -> Any:  # fmt: skip
    """The JSON at an http(s) address, tried again after transient errors; redirects stay where `check` agrees.

    check: default, the host of `url` only. Raises AssetTransient, or BadInput (refused, not found, not JSON).
    """
    own = urlsplit(url)

    def same(target: str) -> None:
        if urlsplit(target)[:2] != own[:2]:
            raise BadInput(
                f"{what} sends on to another host, '{bare(target)}'", where=bare(url), todo="check the address"
            )

    opener = urllib.request.build_opener(_SameHost(check or same))

    def work(_: int) -> Any:
        request = urllib.request.Request(url, headers={"User-Agent": "eoflow", **(headers or {})})
        try:
            with opener.open(request, timeout=TIMEOUT_S) as answer:
                text = answer.read(LARGEST_BYTES + 1)
        except urllib.error.HTTPError as e:
            with e:
                raise _status(e.code, what, url) from None
        except (OSError, ValueError) as e:
            reason = getattr(e, "reason", e)
            raise AssetTransient(
                f"{what} cannot be reached: {reason}", where=bare(url), todo="try again later"
            ) from None
        if len(text) > LARGEST_BYTES:
            raise BadInput(f"{what} answers with more than {LARGEST_BYTES >> 20} MiB", where=bare(url))
        try:
            return json.loads(text)
        except ValueError:
            raise BadInput(f"{what} does not answer in JSON", where=bare(url), todo="check the address") from None

    return retrying(work, settings().retries, sleep)


def _status(code: int, what: str, url: str) -> AssetTransient | BadInput:
    if code == 429 or code >= 500 or code == 408:
        return AssetTransient(f"{what} answers HTTP {code}", where=bare(url), todo="try again later")
    return BadInput(f"{what} answers HTTP {code}", where=bare(url), todo="check the address and your access to it")
