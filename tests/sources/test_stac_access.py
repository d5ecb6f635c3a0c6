"""What the driver does not read, and what it signs."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from rangeserver import RangeServer
from stacserver import PIXELS, StacServer, asset, listed, pair, rustac, s2, source, write_cog

from eoflow.errors import BadInput
from eoflow.sources.base import AssetTransient
from eoflow.sources.raster import RasterReader

pytest.importorskip("pystac_client")
pytestmark = pytest.mark.skipif(rustac() is None, reason="rustac is not installed")


@pytest.fixture
def cogs(tmp_path):
    folder = tmp_path / "cogs"
    write_cog(folder / "B04.tif", PIXELS)
    write_cog(folder / "SCL.tif", np.full((50, 60), 4, "u1"), step=20)
    with RangeServer(folder) as server:
        yield server


# -- what is not read ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "href", ["file:///etc/passwd", "/etc/passwd", "https://evil.example/B04.tif", "/vsicurl/http://x"]
)
def test_hrefs_that_leave_the_allowed_places(tmp_path, cogs, href):
    items = [s2("i", 1, {**pair(cogs.url), "B04": asset(href)})]
    with StacServer(tmp_path / "api", items) as api, pytest.raises(BadInput, match="item i, asset 'B04'") as e:
        source(tmp_path, {"api": api.url, "collections": ["sentinel-2-l2a"]}).plan(None)
    assert e.value.exit_code == 2
    assert not cogs.log


def test_redirects_to_other_hosts(tmp_path, cogs):
    src = listed(tmp_path, cogs, s2("i", 1, pair(cogs.url)), s2("j", 6, pair(cogs.url)))
    one, two = src.plan(None)
    cogs.redirects["/B04.tif"] = cogs.url.replace("127.0.0.1", "localhost") + "/B04.tif"
    with pytest.raises(BadInput, match="'localhost:"):
        src.header(one)
    cogs.redirects.clear()
    src.header(one)
    cogs.redirects["/B04.tif"] = "http://localhost:9/B04.tif"
    with pytest.raises(BadInput, match="'localhost:9'"):  # also where only the ETag is asked for
        src.header(two)


def test_files_of_a_local_list_stay_in_its_folder(tmp_path, cogs):
    src = listed(tmp_path, cogs, s2("i", 1, {"B04": asset("cogs/B04.tif"), "SCL": asset("./cogs/SCL.tif")}))
    (scene,) = src.plan(None)
    assert src.header(scene).bands["B04"].grid.shape == (100, 120)
    write_cog(tmp_path.parent / "outside.tif", PIXELS)
    with pytest.raises(BadInput, match=r"(?s)outside the folder.*item i, asset 'B04'"):
        listed(tmp_path, cogs, s2("i", 1, {"B04": asset("../outside.tif")})).plan(None)


# -- signing ---------------------------------------------------------------------------------------------------------


def test_signed_when_read_and_once_more_when_it_expired(tmp_path, cogs):
    valid = {"sig": "T1"}
    lock = threading.Lock()
    (cogs.root / "token").mkdir()
    tokens: list[str] = []

    def rule(path: str, query: dict[str, list[str]]) -> int | None:
        if path.startswith("/token/"):
            with lock:
                tokens.append(f"T{len(tokens) + 1}")
                valid["sig"] = tokens[-1]
                body = {"token": f"se=x&sig={tokens[-1]}", "msft:expiry": "2999-01-01T00:00:00Z"}
                file = cogs.root / path.lstrip("/")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(body))
            return None
        return None if query.get("sig") == [valid["sig"]] else 403

    cogs.rule = rule
    container = cogs.root / "container"
    for name in ("B04.tif", "SCL.tif"):
        write_cog(
            container / name,
            PIXELS if name == "B04.tif" else np.full((50, 60), 4, "u1"),
            step=10 if name == "B04.tif" else 20,
        )
    signing = {"sign": "planetary-computer", "token_endpoint": f"{cogs.url}/token", "sign_hosts": [cogs.host]}
    stale = pair(f"{cogs.url}/container")
    stale["B04"]["href"] += "?se=2020-01-01T00:00:00Z&sig=STALE"
    src = listed(tmp_path, cogs, s2("i", 1, stale), s2("j", 6, pair(f"{cogs.url}/container")), **signing)
    one, two = src.plan(None)
    assert not tokens  # planning signs nothing
    filled = src.header(one)
    assert tokens == ["T1"]
    text = filled.to_json()
    assert "sig=" not in text
    assert "STALE" not in text
    reader = RasterReader(src.readable, sleep=lambda _: None)
    b = filled.bands["B04"]
    np.testing.assert_array_equal(reader.read(b, b.grid), PIXELS)
    valid["sig"] = "another"  # the server no longer takes T1
    src.header(two)
    assert tokens == ["T1", "T2"]
    valid["sig"] = "another"
    fresh = RasterReader(src.readable, sleep=lambda _: None)
    np.testing.assert_array_equal(fresh.read(b, b.grid), PIXELS)
    assert tokens == ["T1", "T2", "T3"]
    valid["sig"] = "another"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: RasterReader(src.readable, sleep=lambda _: None).read(b, b.grid), range(8)))
    assert len(tokens) <= 5  # not one for each thread


def test_a_refusal_that_signing_does_not_mend(tmp_path, cogs):
    cogs.rule = lambda path, query: 403
    src = listed(tmp_path, cogs, s2("i", 1, pair(cogs.url)))
    with pytest.raises(AssetTransient, match=r"(?s)403.*item i, asset 'B04'"):
        src.header(src.plan(None)[0])
    assert len(cogs.requests("B04.tif")) == 2


def test_an_expired_signature_of_the_item_itself(tmp_path, cogs):
    old = pair(cogs.url)
    old["B04"]["href"] += "?se=2020-01-01T00:00:00Z&sp=r&sig=SECRET"
    with pytest.raises(BadInput, match=r"(?s)expired at 2020-01-01T00:00:00Z.*item i, asset 'B04'.*search again") as e:
        listed(tmp_path, cogs, s2("i", 1, old)).plan(None)
    assert "SECRET" not in str(e.value)


def test_s3_buckets(tmp_path, cogs):
    write_cog(cogs.root / "bucket" / "B04.tif", PIXELS)
    args = {"aws_no_sign_request": True, "s3_endpoint": cogs.url, "allowed_hosts": ["s3://bucket"]}
    src = listed(tmp_path, cogs, s2("i", 1, {"B04": asset("s3://bucket/B04.tif")}), **args)
    src = source(tmp_path, src.args, mask=False)
    (scene,) = src.plan(None)
    filled = src.header(scene)
    assert filled.bands["B04"].href == "s3://bucket/B04.tif"
    b = filled.bands["B04"]
    np.testing.assert_array_equal(RasterReader(src.readable).read(b, b.grid), PIXELS)
    with pytest.raises(BadInput, match="'s3://other'"):
        listed(tmp_path, cogs, s2("i", 1, {"B04": asset("s3://other/B04.tif")}), **args).plan(None)
