from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from eoflow.errors import BadInput
from eoflow.sources.hosts import Access, default_hosts, expiry, join, open_data_hosts, require_unexpired
from eoflow.sources.signing import S3

COG = "https://data.example.org/a/b.tif"


@pytest.mark.parametrize(
    "href",
    [
        "https://data.example.org/a.tif",
        "http://DATA.example.org:8080/a.tif?v=1",
        "https://data.example.org./a.tif",
        "https://tiles.mirror.org/x.tif",
        "https://one.port.org:8443/x.tif",
        "https://bucket.s3.us-west-2.amazonaws.com/x.tif",
        "https://bucket.s3.amazonaws.com/x.tif",
    ],
)
def test_allowed_hosts(href):
    access = Access(["data.example.org", "*.mirror.org", "one.port.org:8443", "s3://bucket"])
    access.check(href)
    assert access(href) == href


@pytest.mark.parametrize(
    "href",
    [
        "https://evil.example/a.tif",
        "https://data.example.org.evil.example/a.tif",
        "https://evil.example/data.example.org/a.tif",
        "https://data.example.org@evil.example/a.tif",
        "https://user:secret@data.example.org/a.tif",
        "https://data.example.org\\@evil.example/a.tif",
        "https://data.example.org /a.tif",
        "https://data.example.org/a\n.tif",
        "https://mirror.org/x.tif",
        "https://xmirror.org/x.tif",
        "https://one.port.org/x.tif",
        "https://one.port.org:99999/x.tif",
        "https:///x.tif",
        "https://other.s3.us-west-2.amazonaws.com/x.tif",
        "https://bucket.s3.evil.com/x.tif",
        "s3://other/x.tif",
        "ftp://data.example.org/a.tif",
        "gs://bucket/x.tif",
        "/vsicurl/https://data.example.org/a.tif",
        "/vsizip//etc/x.zip",
        "VRT:<VRTDataset/>",
        "a.tif",
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "file://data.example.org/etc/passwd",
        "/etc/passwd",
        "http://169.254.169.254/latest/meta-data",
    ],
)
def test_everything_else_is_refused(href):
    access = Access(["data.example.org", "*.mirror.org", "one.port.org:8443", "s3://bucket"])
    for act in (access.check, access):
        with pytest.raises(BadInput) as e:
            act(href)
        assert e.value.exit_code == 2
        assert "secret" not in str(e.value)


def test_the_message_says_what_to_write():
    with pytest.raises(BadInput, match=r"(?s)'evil\.example:81'.*allowed_hosts: \[evil\.example:81"):
        Access(["data.example.org"]).check("https://evil.example:81/a.tif?sig=abc")


def test_files_only_inside_the_folder(tmp_path: Path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "a b.tif").write_bytes(b"x")
    (inside / "link.tif").symlink_to(outside / "a b.tif")
    access = Access([], [inside])
    assert access(str(inside / "a b.tif")) == str((inside / "a b.tif").resolve())
    assert access((inside / "a b.tif").as_uri()) == str((inside / "a b.tif").resolve())
    for href in (str(outside / "a b.tif"), f"{inside}/../out/a b.tif", str(inside / "link.tif"), "file:///etc/passwd"):
        with pytest.raises(BadInput, match="outside the folder"):
            access(href)


@pytest.mark.parametrize("text", ["", "a b.org", "*", "*.org", "https://", "a/b"])
def test_bad_patterns(text):
    if text == "a/b":  # a path after the host is left off
        assert Access([text]).hosts == ("a",)
        return
    with pytest.raises(BadInput, match="not a host"):
        Access([text])


def test_hosts_of_endpoints():
    hosts = default_hosts("https://planetarycomputer.microsoft.com/api/stac/v1")
    Access(hosts).check("https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/x.tif")
    Access(default_hosts("https://earth-search.aws.element84.com/v1")).check(
        "https://e84-earth-search-sentinel-data.s3.us-west-2.amazonaws.com/sentinel-2-c1-l2a/B04.tif"
    )
    assert default_hosts("http://127.0.0.1:7822") == ("127.0.0.1",)
    assert set(hosts[1:]) <= set(open_data_hosts())
    with pytest.raises(BadInput):
        Access(hosts).check("https://anybody.blob.core.windows.net/x.tif")


def test_s3_is_read_over_https(monkeypatch):
    def plain(bucket: str, **options) -> str:
        return Access([f"s3://{bucket}"], buckets=S3(unsigned=True, **options))(
            f"s3://{bucket}/a/b c.tif".replace(" ", "%20")
        )

    assert plain("bucket", region="us-west-2") == "https://bucket.s3.us-west-2.amazonaws.com/a/b%20c.tif"
    assert plain("bucket") == "https://bucket.s3.amazonaws.com/a/b%20c.tif"
    assert plain("my.bucket", region="eu-west-1") == "https://s3.eu-west-1.amazonaws.com/my.bucket/a/b%20c.tif"
    assert plain("bucket", endpoint="http://127.0.0.1:9000/") == "http://127.0.0.1:9000/bucket/a/b%20c.tif"
    with pytest.raises(BadInput, match="s3:// is not read"):
        Access(["s3://bucket"])("s3://bucket/a.tif")


def test_signatures_of_items_are_not_stored():
    access = Access(["data.example.org"])
    signed = f"{COG}?se=2999-01-01T00%3A00%3A00Z&sig=SECRET"
    stored = access.without_secrets(signed)
    assert stored == COG
    assert access(stored) == signed
    assert pickle.loads(pickle.dumps(access))(stored) == signed  # to a worker
    assert access.without_secrets(f"{COG}?v=2") == f"{COG}?v=2"


@pytest.mark.parametrize(
    ("query", "seconds"),
    [
        ("se=2020-01-01T00%3A00%3A00Z&sig=x", 1577836800),
        ("X-Amz-Date=20200101T000000Z&X-Amz-Expires=3600&X-Amz-Signature=x", 1577840400),
        ("X-Goog-Date=20200101T000000Z&X-Goog-Expires=60&X-Goog-Signature=x", 1577836860),
        ("Expires=1577836800&Signature=x", 1577836800),
        ("se=nonsense&sig=x", None),
        ("sig=x", None),
    ],
)
def test_expiry(query, seconds):
    assert expiry(query) == seconds
    if seconds is not None:
        require_unexpired(query, COG, lambda: seconds - 1.0)
        with pytest.raises(BadInput, match="expired at 2020-01-01T0") as e:
            Access(["data.example.org"]).without_secrets(f"{COG}?{query}")
        assert "sig" not in str(e.value).partition("to do")[0].replace("signature", "")


def test_join():
    assert join("https://a.org/x/item.json", "../y/B04.tif") == "https://a.org/y/B04.tif"
    assert join("/data/x/item.json", "B04.tif") == "/data/x/B04.tif"
    assert join("/data/x/item.json", "https://a.org/B04.tif") == "https://a.org/B04.tif"
    assert join("https://a.org/x/item.json", "/etc/passwd") == "/etc/passwd"  # and is refused as a file
