"""Small real things to read: files written by other libraries, and a loopback HTTP server that answers ranges."""

from __future__ import annotations

import functools
import http.server
import re
import threading
from pathlib import Path

import numpy as np
import pytest

from eoflow.sources.base import SourceContext


@pytest.fixture
def context(tmp_path: Path) -> SourceContext:
    return SourceContext(cache=tmp_path / "cache", now=np.datetime64("2026-01-01", "ns"))


class RangeHandler(http.server.SimpleHTTPRequestHandler):
    """Static files with single byte ranges; logs requests; `faults[path]`: status codes to answer first."""

    def __init__(self, *args, log, faults, **kwargs):
        self.request_log, self.faults = log, faults
        super().__init__(*args, **kwargs)

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        self.request_log.append((self.path, self.headers.get("Range")))
        waiting = self.faults.get(self.path)
        if waiting:
            self.send_error(waiting.pop(0))
            return
        file = Path(self.translate_path(self.path))
        m = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not m or not file.is_file():
            super().do_GET()
            return
        data = file.read_bytes()
        first, last = int(m[1]), min(int(m[2] or len(data) - 1), len(data) - 1)
        if first >= len(data):
            self.send_error(416)
            return
        body = data[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def list_directory(self, path):
        self.send_error(404)


class Server:
    def __init__(self, root: Path) -> None:
        self.root, self.log, self.faults = root, [], {}
        handler = functools.partial(RangeHandler, directory=str(root), log=self.log, faults=self.faults)
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()


@pytest.fixture
def server(tmp_path: Path):
    root = tmp_path / "www"
    root.mkdir()
    s = Server(root)
    yield s
    s.http.shutdown()
    s.http.server_close()


def grib_message(
    short_name: str,
    values: np.ndarray,
    *,
    level: int = 0,
    level_type: str = "surface",
    date: int = 20240301,
    hour: int = 0,
    step: int = 0,
    edition: int = 2,
    missing: float | None = None,
    south_first: bool = False,
    **keys,
) -> bytes:
    """One GRIB message over a global latitude-longitude grid, written by eccodes; values (nj, ni)."""
    import eccodes

    nj, ni = values.shape
    handle = eccodes.codes_grib_new_from_samples(f"regular_ll_pl_grib{edition}")
    try:
        d = 180.0 / (nj - 1)
        first, last = (-90.0, 90.0) if south_first else (90.0, -90.0)
        for key, value in {
            "dataDate": date,
            "dataTime": hour * 100,
            "stepUnits": 1,
            "step": step,
            "typeOfLevel": level_type,
            "level": level,
            "Ni": ni,
            "Nj": nj,
            "jScansPositively": int(south_first),
            "latitudeOfFirstGridPointInDegrees": first,
            "longitudeOfFirstGridPointInDegrees": 0.0,
            "latitudeOfLastGridPointInDegrees": last,
            "longitudeOfLastGridPointInDegrees": 360.0 - 360.0 / ni,
            "iDirectionIncrementInDegrees": 360.0 / ni,
            "jDirectionIncrementInDegrees": d,
            "shortName": short_name,
            **keys,
        }.items():
            eccodes.codes_set(handle, key, value)
        if missing is not None:
            eccodes.codes_set(handle, "bitmapPresent", 1)
            eccodes.codes_set(handle, "missingValue", missing)
        eccodes.codes_set(handle, "bitsPerValue", 24)
        eccodes.codes_set_values(handle, values.astype(np.float64).ravel())
        return eccodes.codes_get_message(handle)
    finally:
        eccodes.codes_release(handle)


@pytest.fixture(scope="session")
def make_grib():
    pytest.importorskip("eccodes")
    return grib_message
