"""A threaded HTTP server on loopback: files with byte ranges, ETags, and faults that a test programs.

`with RangeServer(folder) as server: server.fault("a.tif", 503, after=2)` answers the third request for a.tif with 503,
once; the file lies at `f"{server.url}/a.tif"`.
"""

from __future__ import annotations

import hashlib
import http.server
import re
import threading
import urllib.parse
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

Rule = Callable[[str, dict[str, list[str]]], int | None]


class RangeServer:
    """Serves `root`. `log`: (method, path with query, Range header) of every request, in order of arrival. `met`:
    (path, status) of every programmed fault that was answered.

    rule: called with (path, query) for each request; a status code that it returns is the answer (None: serve it).
    """

    def __init__(self, root: Path, rule: Rule | None = None) -> None:
        self.root, self.rule = Path(root), rule
        self.log: list[tuple[str, str, str | None]] = []
        self.met: list[tuple[str, int]] = []
        self.redirects: dict[str, str] = {}
        self.headers: dict[str, dict[str, str]] = defaultdict(dict)
        self._faults: dict[str, list[list[int]]] = defaultdict(list)
        self._lock = threading.Lock()
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"server_": self}))
        self.http.daemon_threads = True
        self.host = f"127.0.0.1:{self.http.server_address[1]}"
        self.url = f"http://{self.host}"

    def __enter__(self) -> RangeServer:
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    def fault(self, path: str, status: int, *, after: int = 0, times: int = 1) -> None:
        """Answer `status` to `times` requests for a path, after `after` requests were served. status 0: hang up."""
        with self._lock:
            self._faults["/" + path.lstrip("/")].append([status, after, times])

    def requests(self, path: str) -> list[tuple[str, str, str | None]]:
        """The requests for a path (without its query)."""
        return [r for r in self.log if urllib.parse.urlsplit(r[1]).path == "/" + path.lstrip("/")]

    def clear(self) -> None:
        """Forget faults and log."""
        with self._lock:
            self._faults.clear()
            self.log.clear()
            self.met.clear()

    def _status(self, path: str, query: dict[str, list[str]]) -> int | None:
        with self._lock:
            for fault in self._faults[path]:
                if fault[1] > 0:
                    fault[1] -= 1
                    continue
                if fault[2] > 0:
                    fault[2] -= 1
                    self.met.append((path, fault[0]))
                    return fault[0]
        return self.rule(path, query) if self.rule else None


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_: RangeServer

    def log_message(self, *args: object) -> None:
        pass

    def handle(self) -> None:
        try:
            super().handle()
        except (BrokenPipeError, ConnectionResetError):  # clients may hang up in the middle
            self.close_connection = True

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        server = self.server_
        parts = urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(parts.path)
        server.log.append((self.command, self.path, self.headers.get("Range")))
        status = server._status(path, urllib.parse.parse_qs(parts.query))
        if status == 0:
            self.close_connection = True
            return
        if status is not None:
            self._short(status, server.headers[path])
            return
        if path in server.redirects:
            self._short(302, {"Location": server.redirects[path]})
            return
        file = (server.root / path.lstrip("/")).resolve()
        if not file.is_file() or not file.is_relative_to(server.root.resolve()):
            self._short(404, {})
            return
        data = file.read_bytes()
        m = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        first, last = 0, len(data) - 1
        if m and m[1]:
            first, last = int(m[1]), min(int(m[2] or last), last)
        elif m and m[2]:
            first = max(0, len(data) - int(m[2]))
        if first > last:
            self._short(416, {"Content-Range": f"bytes */{len(data)}"})
            return
        chunk = data[first : last + 1]
        self.send_response(206 if m else 200)
        if m:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(len(chunk)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{hashlib.md5(data).hexdigest()}"')
        for key, value in server.headers[path].items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            try:
                self.wfile.write(chunk)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

    def _short(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", "0")
        self.end_headers()
