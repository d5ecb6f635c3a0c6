"""The raster reader: exact windows, warping, limits, damaged files, and a server that fails in every way."""

from __future__ import annotations

import pickle
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rangeserver import RangeServer
from rasterio.transform import from_origin
from rasterio.warp import Resampling, reproject
from rasters import write

from eoflow.errors import BadInput
from eoflow.sources import raster_http
from eoflow.sources.base import AssetCorrupt, AssetMissing, AssetTransient
from eoflow.sources.raster import RasterReader, bbox_of, fill_in, grid_of, same_crs
from eoflow.sources.scene import Grid, RasterBand

UTM = "EPSG:32633"


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> tuple[Path, np.ndarray]:
    """200 x 150 pixels, 3 bands uint16, no compression: damage is where it is made."""
    data = np.random.default_rng(3).integers(1, 10_000, (3, 200, 150), dtype=np.uint16)
    path = tmp_path_factory.mktemp("scene") / "scene.tif"
    write(path, data, nodata=0, compress=None, interleave="band")
    return path, data


def part(grid: Grid, row: int, column: int, height: int, width: int) -> Grid:
    """The grid of a window."""
    a, b, c, d, e, f = grid.transform
    return Grid(grid.crs, (a, b, c + a * column + b * row, d, e, f + d * column + e * row), (height, width))


def band_of(reader: RasterReader, href: str, index: int = 1, **known) -> RasterBand:
    return fill_in(RasterBand(href, index, **known), reader.header(href, index))


# --- reading -------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(row=st.integers(-40, 220), column=st.integers(-40, 170), height=st.integers(1, 90), width=st.integers(1, 90))
def test_an_aligned_window_is_an_exact_copy(scene, row, column, height, width):
    path, data = scene
    reader = RasterReader()
    band = band_of(reader, str(path), 2)
    want = np.zeros((height, width), np.uint16)
    r0, r1, c0, c1 = max(row, 0), min(row + height, 200), max(column, 0), min(column + width, 150)
    if r0 < r1 and c0 < c1:
        want[r0 - row : r1 - row, c0 - column : c1 - column] = data[1, r0:r1, c0:c1]
    got = reader.read(band, part(band.grid, row, column, height, width))
    assert got.dtype == np.uint16
    np.testing.assert_array_equal(got, want)


def test_outside_takes_nodata_then_fill_then_nan(tmp_path):
    reader = RasterReader()
    ones = np.ones((64, 64), np.float32)
    plain = band_of(reader, str(write(tmp_path / "plain.tif", ones)))
    beyond = part(plain.grid, -2, 0, 4, 4)
    assert np.isnan(reader.read(plain, beyond)[:2]).all()
    assert (reader.read(plain, beyond, fill=-5)[:2] == -5).all()
    with_nodata = band_of(reader, str(write(tmp_path / "nodata.tif", ones, nodata=-9999)))
    assert (reader.read(with_nodata, beyond, fill=-5)[:2] == -9999).all()
    unsigned = band_of(reader, str(write(tmp_path / "u8.tif", ones.astype(np.uint8))), nodata=-9999.0)
    assert (reader.read(unsigned, beyond)[:2] == 0).all()  # a nodata that the dtype cannot hold is not used


@pytest.mark.parametrize("resampling", ["nearest", "bilinear", "cubic", "average"])
@pytest.mark.parametrize("nodata", [None, 0.0])
def test_another_grid_is_warped_as_gdal_does(tmp_path, resampling, nodata):
    data = np.random.default_rng(0).integers(100, 5000, (120, 130)).astype(np.float32)
    data[30:40, 30:50] = 0
    path = write(tmp_path / "a.tif", data, nodata=nodata)
    reader = RasterReader()
    band = band_of(reader, str(path))
    west, south, east, north = bbox_of(band.grid)
    grid = Grid("EPSG:4326", ((east - west) / 80, 0, west - 0.001, 0, -(north - south) / 70, north + 0.001), (75, 85))
    got = reader.read(band, grid, resampling, fill=-1)
    outside = -1.0 if nodata is None else nodata
    want = np.full(grid.shape, outside, np.float32)
    with rasterio.open(path) as ds:
        reproject(
            rasterio.band(ds, 1), want, dst_crs="EPSG:4326", dst_transform=rasterio.Affine(*grid.transform),
            src_nodata=np.nan if nodata is None else nodata, dst_nodata=np.nan if nodata is None else nodata,
            resampling=Resampling[resampling], init_dest_nodata=False,
        )  # fmt: skip
    assert (want == outside).sum() > 50
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_nan_does_not_spread_when_warped(tmp_path):
    data = np.full((64, 64), 5, np.float32)
    data[20, 20] = np.nan
    band = band_of(RasterReader(), str(write(tmp_path / "a.tif", data)))
    a, b, c, d, e, f = band.grid.transform
    got = RasterReader().read(band, Grid(UTM, (a, b, c + 5, d, e, f - 5), (60, 60)), "bilinear")
    assert np.isnan(got).sum() <= 1  # the pixel itself
    np.testing.assert_allclose(got[np.isfinite(got)], 5)


def test_a_swath_with_control_points_is_warped(tmp_path):
    """A raster turned by 10 degrees that only knows its corners: values are where the affine says they are."""
    from rasterio.control import GroundControlPoint

    rows, columns = np.mgrid[:80, :100]
    turned = rasterio.Affine.translation(13, 45) @ rasterio.Affine.rotation(10) @ rasterio.Affine.scale(0.01, -0.01)
    points = [GroundControlPoint(r, c, *(turned @ (c, r))) for r in (0, 40, 80) for c in (0, 50, 100)]
    path = tmp_path / "swath.tif"
    with rasterio.open(path, "w", driver="GTiff", height=80, width=100, count=1, dtype="float32", nodata=-1) as ds:
        ds.gcps = (points, rasterio.CRS.from_epsg(4326))
        ds.write((rows * 1000 + columns).astype(np.float32), 1)
    reader = RasterReader()
    band = band_of(reader, str(path))
    assert band.grid.crs == "EPSG:4326"
    west, south, east, north = bbox_of(band.grid)
    assert west <= 13 <= east
    assert south <= 45 <= north
    got = reader.read(band, band.grid)
    a, _, c, _, e, f = band.grid.transform
    seen = np.argwhere(got >= 0)
    assert len(seen) > 5000
    for i, j in seen[:: len(seen) // 50]:
        column, row = ~turned @ (c + a * (j + 0.5), f + e * (i + 0.5))
        value = int(got[i, j])
        assert abs(value // 1000 + 0.5 - row) <= 0.8
        assert abs(value % 1000 + 0.5 - column) <= 0.8


def test_a_truncated_jpeg_2000_is_not_read_as_zeros(tmp_path):
    data = np.random.default_rng(7).integers(1, 4000, (1, 512, 512), dtype=np.uint16)
    with rasterio.open(
        tmp_path / "a.jp2", "w", driver="JP2OpenJPEG", height=512, width=512, count=1, dtype="uint16", crs=UTM,
        transform=from_origin(0, 0, 10, 10), QUALITY="100", REVERSIBLE="YES", blockxsize=128, blockysize=128,
    ) as ds:  # fmt: skip
        ds.write(data)
    reader = RasterReader()
    band = band_of(reader, str(tmp_path / "a.jp2"))
    np.testing.assert_array_equal(reader.read(band, band.grid), data[0])
    whole = (tmp_path / "a.jp2").read_bytes()
    (tmp_path / "a.jp2").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(AssetCorrupt):
        reader.read(band, band.grid)


def test_a_coarser_grid_is_read_from_the_overviews(tmp_path):
    data = np.arange(512 * 512, dtype=np.float32).reshape(512, 512)
    path = write(tmp_path / "a.tif", data)
    with rasterio.open(path, "r+") as ds:
        ds.build_overviews([2, 4], Resampling.average)
    reader = RasterReader()
    header = reader.header(str(path))
    assert header.overviews == (2, 4)
    a, b, c, d, e, f = header.transform
    coarse = Grid(UTM, (4 * a, b, c, d, 4 * e, f), (128, 128))
    got = reader.read(fill_in(RasterBand(str(path)), header), coarse, "average")
    np.testing.assert_allclose(got, data.reshape(128, 4, 128, 4).mean((1, 3)))


def test_bands_of_one_file_come_together(scene):
    path, data = scene
    reader = RasterReader()
    bands = {f"b{i}": band_of(reader, str(path), i) for i in (3, 1)}
    got = reader.read_bands(bands, part(bands["b1"].grid, 10, 20, 70, 80))
    assert list(got) == ["b3", "b1"]
    np.testing.assert_array_equal(got["b3"], data[2, 10:80, 20:100])
    np.testing.assert_array_equal(got["b1"], data[0, 10:80, 20:100])


def test_header_and_what_it_fills_in(tmp_path):
    path = write(tmp_path / "a.tif", np.ones((2, 70, 80), np.int16), nodata=-1, descriptions=("red", None))
    with rasterio.open(path, "r+") as ds:
        ds.scales, ds.offsets, ds.units = (1e-4, 1.0), (-0.1, 0.0), ("1", None)
        ds.update_tags(SENSOR="x")
    reader = RasterReader()
    first, second = reader.header(str(path)), reader.header(str(path), 2)
    assert (first.crs, first.shape, first.blocks, first.dtype, first.nodata) == (UTM, (70, 80), (64, 64), "int16", -1)
    assert (first.scale, first.offset, first.units) == (1e-4, -0.1, "1")
    assert (second.scale, second.offset, second.units) == (None, None, None)
    assert first.descriptions == ("red", None)
    assert first.tags["SENSOR"] == "x"
    assert first.etag.startswith(str(path.stat().st_size))
    band = fill_in(RasterBand(str(path), nodata=-7.0, scale=2.0), first)
    assert (band.nodata, band.scale, band.offset, band.units, band.grid) == (-7.0, 2.0, -0.1, "1", grid_of(first))


def test_a_file_that_was_written_again_is_opened_again(tmp_path):
    path = write(tmp_path / "a.tif", np.full((64, 64), 1, np.uint8))
    reader = RasterReader()
    band = band_of(reader, str(path))
    assert reader.read(band, band.grid).max() == 1
    path.unlink()
    write(path, np.full((64, 64), 2, np.uint8), compress="lzw")
    assert reader.read(band, band.grid).min() == 2


def test_threads_and_copies_read_the_same(tmp_path):
    data = np.random.default_rng(1).integers(0, 255, (256, 256), dtype=np.uint8)
    hrefs = [str(write(tmp_path / f"{i}.tif", data + np.uint8(i))) for i in range(5)]
    reader: RasterReader = pickle.loads(pickle.dumps(RasterReader(open_files=2)))
    bands = [band_of(reader, h) for h in hrefs]
    problems: list[object] = []

    def work(k: int) -> None:
        try:
            for i in range(20):
                j = (i * 3 + k) % 5
                got = reader.read(bands[j], part(bands[j].grid, k * 20, i, 64, 64))
                np.testing.assert_array_equal(got, (data + np.uint8(j))[k * 20 : k * 20 + 64, i : i + 64])
                assert len(reader._files) <= 2
            if k == 0:
                reader.close()
        except BaseException as e:
            problems.append(e)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not problems


def test_where_a_grid_lies():
    assert bbox_of(Grid("EPSG:4326", (1, 0, 10, 0, -1, 50), (5, 7))) == pytest.approx((10, 45, 17, 50))
    west, _, east, _ = bbox_of(Grid("EPSG:32701", (1000, 0, 100_000, 0, -1000, 8_000_000), (100, 200)))  # Fiji
    assert west > 170
    assert east < -170
    polar = bbox_of(Grid("EPSG:3413", (1000, 0, -500_000, 0, -1000, 500_000), (1000, 1000)))
    assert polar[0] == -180
    assert polar[2] == 180
    assert polar[3] == pytest.approx(90)
    with pytest.raises(BadInput, match="place on the Earth"):
        bbox_of(Grid("EPSG:32633", (1e9, 0, 1e12, 0, -1e9, 1e12), (10, 10)))


def test_same_crs_under_two_names():
    assert same_crs("EPSG:32633", rasterio.CRS.from_epsg(32633).to_wkt())
    assert not same_crs("EPSG:32633", "EPSG:32634")


# --- what is refused -----------------------------------------------------------------------------------------------


def test_no_georeference(tmp_path):
    path = str(write(tmp_path / "a.tif", np.ones((8, 8), np.uint8), crs=None))
    with pytest.raises(AssetCorrupt, match="has no CRS") as e:
        RasterReader().header(path)
    assert e.value.where == path
    reader = RasterReader(need_crs=False)
    band = band_of(reader, path)
    assert reader.header(path).crs is None
    assert reader.read(band, band.grid).sum() == 64
    with pytest.raises(AssetCorrupt, match="only be read on its own pixel grid"):
        reader.read(band, Grid(UTM, (10, 0, 0, 0, -10, 0), (4, 4)))


def test_crs_without_transform(tmp_path):
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", height=8, width=8, count=1, dtype="uint8", crs=UTM
    ) as ds:
        ds.write(np.ones((1, 8, 8), np.uint8))
    with pytest.raises(AssetCorrupt, match="no geotransform"):
        RasterReader().header(str(tmp_path / "a.tif"))


def test_a_band_that_the_file_does_not_have(scene):
    with pytest.raises(AssetCorrupt, match="has 3 bands, and band 4 is asked for"):
        RasterReader().header(str(scene[0]), 4)


def test_a_bomb_is_refused_from_its_header(tmp_path):
    with rasterio.open(
        tmp_path / "bomb.tif", "w", driver="GTiff", height=10**6, width=10**6, count=1, dtype="uint8", crs=UTM,
        transform=from_origin(0, 0, 1, 1), tiled=True, sparse_ok=True, compress="deflate", BIGTIFF="YES",
        blockxsize=4096, blockysize=4096,
    ):  # fmt: skip
        pass
    tracemalloc.start()
    with pytest.raises(AssetCorrupt, match="1000000 x 1000000 pixels"):
        RasterReader().header(str(tmp_path / "bomb.tif"))
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_one_huge_block_is_refused(tmp_path):
    with rasterio.open(
        tmp_path / "strip.tif", "w", driver="GTiff", height=30_000, width=30_000, count=1, dtype="uint16", crs=UTM,
        transform=from_origin(0, 0, 1, 1), sparse_ok=True, compress="deflate", blockysize=30_000,
    ):  # fmt: skip
        pass
    with pytest.raises(AssetCorrupt, match="one block"):
        RasterReader().header(str(tmp_path / "strip.tif"))


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda p: None, AssetMissing, "no such file"),
        (lambda p: p.write_bytes(b""), AssetCorrupt, "empty"),
        (lambda p: p.mkdir(), AssetCorrupt, "folder"),
        (lambda p: p.write_text("<html>404</html>"), AssetCorrupt, "begins with '<html>404"),
        (lambda p: p.write_text('<VRTDataset rasterXSize="1" rasterYSize="1"/>'), AssetCorrupt, "not a GeoTIFF"),
    ],
)
def test_what_is_no_raster(tmp_path, make, error, says):
    path = tmp_path / "a.tif"
    make(path)
    with pytest.raises(error, match=says) as e:
        RasterReader().header(str(path))
    assert e.value.where == str(path)
    assert e.value.todo


@pytest.mark.parametrize(
    "href", ["http://example.com/a.tif", "s3://b/a.tif", "/vsicurl/http://example.com/a.tif", "vrt:///a.tif?bands=1",
             "GTIFF_DIR:1:a.tif", "zip://a.zip!a.tif"],
)  # fmt: skip
def test_the_plain_reader_opens_files_only(href):
    with pytest.raises(BadInput, match="not a path of this machine"):
        RasterReader().header(href)


def test_truncated_is_seen_in_the_header_and_named(scene, tmp_path):
    whole = scene[0].read_bytes()
    short = tmp_path / "short.tif"
    short.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(AssetCorrupt, match=r"truncated: it has \d+ bytes, and band 3 reaches to byte") as e:
        RasterReader().header(str(short))
    assert e.value.where == str(short)


def test_damage_in_the_middle_names_file_band_and_window(tmp_path):
    data = np.random.default_rng(5).integers(0, 9999, (200, 150), dtype=np.uint16)
    path = write(tmp_path / "a.tif", data)
    with rasterio.open(path) as ds:
        at, n = (int(ds.get_tag_item(f"BLOCK_{k}_1_1", "TIFF", bidx=1)) for k in ("OFFSET", "SIZE"))
    raw = bytearray(path.read_bytes())
    raw[at : at + n] = b"\xff" * n
    path.write_bytes(raw)
    reader = RasterReader()
    band = band_of(reader, str(path))
    np.testing.assert_array_equal(reader.read(band, part(band.grid, 0, 0, 64, 64)), data[:64, :64])
    with pytest.raises(AssetCorrupt, match="damaged") as e:
        reader.read(band, part(band.grid, 60, 64, 60, 32))
    assert e.value.where == f"{path}, band 1, rows 60..119, columns 64..95"


# --- over http -----------------------------------------------------------------------------------------------------


class Waits(list):
    """Notes how long the reader would have slept."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


@pytest.fixture
def www(tmp_path):
    """(server, pixels of a.tif), a COG-like file of 1024 x 1024 in blocks of 256, larger than GDAL's first request."""
    root = tmp_path / "www"
    root.mkdir()
    data = np.random.default_rng(2).integers(0, 65535, (1024, 1024), dtype=np.uint16)
    write(root / "a.tif", data, blockxsize=256, blockysize=256, compress=None)
    with RangeServer(root) as server:
        yield server, data


def at(band: RasterBand, i: int, j: int) -> Grid:
    return part(band.grid, i * 256, j * 256, 256, 256)


def remote(server: RangeServer, waits: Waits | None = None, sign=lambda url: url) -> tuple[RasterReader, str]:
    return RasterReader(sign, sleep=Waits() if waits is None else waits), f"{server.url}/a.tif"


def test_ranges_of_a_remote_file(www):
    server, data = www
    reader, href = remote(server)
    band = band_of(reader, href)
    np.testing.assert_array_equal(reader.read(band, at(band, 3, 2)), data[768:, 512:768])
    assert band.etag
    asked = [r[2] for r in server.log if r[0] == "GET"]
    assert all(asked)
    assert sum(int(b) - int(a) + 1 for a, b in (r.removeprefix("bytes=").split("-") for r in asked)) < 400_000


def test_a_503_in_the_middle_is_tried_again(www):
    server, data = www
    waits = Waits()
    reader, href = remote(server, waits)
    band = band_of(reader, href)
    server.fault("a.tif", 503, times=3)
    np.testing.assert_array_equal(reader.read(band, at(band, 1, 1)), data[256:512, 256:512])
    assert 1 <= len(waits) <= 3
    assert all(0 < w <= 20 for w in waits)


@pytest.mark.parametrize("status", [503, 429, 500, 0])
def test_a_server_that_stays_down_is_transient_and_not_remembered(www, status):
    server, data = www
    waits = Waits()
    reader, href = remote(server, waits)
    band = band_of(reader, href)
    server.fault("a.tif", status, times=10**6)
    with pytest.raises(AssetTransient) as e:
        reader.read(band, at(band, 2, 2))
    assert len(waits) == 3
    assert "band 1, rows 512..767, columns 512..767" in str(e.value.where)
    server.clear()
    np.testing.assert_array_equal(reader.read(band, at(band, 2, 2)), data[512:768, 512:768])


def test_retry_after_is_kept(www):
    server, _ = www
    waits = Waits()
    reader, href = remote(server, waits)
    server.headers["/a.tif"]["Retry-After"] = "7"
    server.fault("a.tif", 429, times=1)
    reader.header(href)
    assert waits == [7.0]


def test_a_404_is_missing_at_once(www):
    server, _ = www
    waits = Waits()
    reader, _ = remote(server, waits)
    with pytest.raises(AssetMissing, match="HTTP 404") as e:
        reader.header(f"{server.url}/nothing.tif?sig=secret")
    assert waits == []
    assert "secret" not in str(e.value)
    (server.root / "nothing.tif").write_bytes((server.root / "a.tif").read_bytes())
    assert reader.header(f"{server.url}/nothing.tif").count == 1


def test_a_file_that_goes_away_in_the_middle(www):
    server, _ = www
    reader, href = remote(server)
    band = band_of(reader, href)
    (server.root / "a.tif").unlink()
    with pytest.raises(AssetMissing, match="404"):
        reader.read(band, at(band, 3, 3))


class Signer:
    """Signs with a token that the server takes until it is withdrawn."""

    def __init__(self) -> None:
        self.good, self.mine, self.renewed = "1", "1", 0

    def sign(self, href: str) -> str:
        return href if "token=" in href else f"{href}?token={self.mine}"

    def renew(self, href: str, failed: str = "") -> None:
        assert failed == f"{href}?token={self.mine}"
        self.renewed += 1
        self.mine = self.good

    def rule(self, path: str, query: dict[str, list[str]]) -> int | None:
        return None if query.get("token") == [self.good] else 403


@pytest.mark.parametrize("moment", ["opening", "middle"])
def test_an_expired_signature_is_renewed_once(www, moment):
    server, data = www
    signer = Signer()
    server.rule = signer.rule
    waits = Waits()
    reader, href = remote(server, waits, signer.sign)
    band = band_of(reader, href)
    if moment == "opening":
        reader.close()
    signer.good = "2"
    np.testing.assert_array_equal(reader.read(band, at(band, 1, 3)), data[256:512, 768:])
    assert (signer.renewed, waits) == (1, [])


def test_a_signature_that_is_refused_for_good(www):
    server, _ = www
    signer = Signer()
    server.rule = lambda path, query: 403
    waits = Waits()
    reader, href = remote(server, waits, signer.sign)
    with pytest.raises(AssetTransient, match="403") as e:
        reader.header(href)
    assert (signer.renewed, waits) == (1, [])
    assert "token" not in str(e.value)


def test_redirects_are_checked(www):
    server, _ = www

    def allowed(url: str) -> str:
        if not url.startswith((server.url, "/")):
            raise BadInput("this host is not allowed", where=url)
        return url

    reader, _ = remote(server, sign=allowed)
    server.redirects["/to-a.tif"] = f"{server.url}/a.tif"
    server.redirects["/out.tif"] = "http://169.254.169.254/latest"
    server.redirects["/file.tif"] = "file:///etc/passwd"
    assert reader.header(f"{server.url}/to-a.tif").shape == (1024, 1024)
    with pytest.raises(BadInput, match="not allowed"):
        reader.header(f"{server.url}/out.tif")
    with pytest.raises(BadInput, match="no http address"):
        reader.header(f"{server.url}/file.tif")


def test_damage_on_the_server_is_corrupt_and_not_tried_for_ever(www):
    server, _ = www
    raw = (server.root / "a.tif").read_bytes()
    (server.root / "a.tif").write_bytes(raw[: len(raw) // 2])
    waits = Waits()
    reader, href = remote(server, waits)
    with pytest.raises(AssetCorrupt, match="truncated"):
        reader.header(href)
    (server.root / "a.tif").write_text("<html>sorry</html>" * 99)
    with pytest.raises(AssetCorrupt):
        reader.header(href)
    assert len(waits) <= 1


def test_a_published_correction_is_not_mixed_with_the_old_bytes(www):
    server, data = www
    reader, href = remote(server)
    band = band_of(reader, href)
    reader.read(band, at(band, 0, 0))
    write(server.root / "a.tif", data + np.uint16(1), blockxsize=256, blockysize=256, compress=None)
    reader.close()
    np.testing.assert_array_equal(reader.read(band, at(band, 0, 0)), data[:256, :256] + np.uint16(1))


def test_nothing_listens():
    waits = Waits()
    with pytest.raises(AssetTransient, match="connection failed"):
        RasterReader(lambda u: u, sleep=waits, tries=2).header("http://127.0.0.1:9/a.tif")
    assert len(waits) == 2


def test_secrets_are_hidden():
    said = raster_http.hide("open /vsicurl/https://me:pw@host/a.tif?sig=abc#f failed")
    assert said == "open https://host/a.tif failed"
