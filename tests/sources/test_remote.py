import pytest

from eoflow.sources import remote
from eoflow.sources.base import AssetMissing, AssetTransient


@pytest.fixture
def waits(monkeypatch):
    found = []
    monkeypatch.setattr(remote.time, "sleep", found.append)
    return found


def test_ranges_and_whole_files(server, waits):
    (server.root / "a.bin").write_bytes(bytes(range(100)))
    assert remote.read(f"{server.url}/a.bin", 10, 20) == bytes(range(10, 20))
    assert remote.read(f"{server.url}/a.bin") == bytes(range(100))
    assert remote.read(f"{server.url}/a.bin", 90) == bytes(range(90, 100))


def test_retries_wait_longer_each_time(server, waits):
    (server.root / "a.bin").write_bytes(b"abc")
    server.faults["/a.bin"] = [500, 503, 502]
    assert remote.read(f"{server.url}/a.bin", wait=1.0) == b"abc"
    assert len(waits) == 3
    assert all(0.5 * 2**i <= w <= 1.5 * 2**i for i, w in enumerate(waits))


def test_not_found_is_not_tried_again(server, waits):
    with pytest.raises(AssetMissing):
        remote.read(f"{server.url}/none")
    assert waits == []
    assert len(server.log) == 1


def test_no_server_is_transient(waits):
    with pytest.raises(AssetTransient):
        remote.read("http://127.0.0.1:9/x")
    assert len(waits) == 4


def test_public_google_buckets_are_read_over_https():
    assert remote.resolve("gs://weatherbench2/a/b.zarr") == (
        "https://storage.googleapis.com/weatherbench2/a/b.zarr",
        {},
    )
    assert remote.resolve("gs://private/a", {"token": "x"}) == ("gs://private/a", {"token": "x"})
