"""Wrong scenes through the command line: what, where and what to do; exit code 2; the workspace as it was."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401
from commandline import CommandLine
from rangeserver import RangeServer
from rasters import UTM, write

from eoflow.cube import Cube
from eoflow.workspace import Workspace

SIZE = 160
BANDS = ("B02", "B03", "B04")
HOW = ("--set", "units=1", "--set", "scale=0.0001", "--set", "offset=0", "--set", "nodata=0")


def pixels(seed: int = 0, bands: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(300, 4000, (bands, SIZE, SIZE)).astype("u2")


def image(folder, day: int, data=None, **how):
    data = pixels(day) if data is None else data
    return write(folder / f"site_2020-06-{day:02d}.tif", data, **{"nodata": 0, "descriptions": BANDS, **how})


@pytest.fixture(scope="module")
def based(tmp_path_factory):
    """A workspace with the scene dataset `base`: three dates of one tile. Refused input leaves it as it is."""
    import eoflow

    folder = tmp_path_factory.mktemp("based")
    ws = Workspace(folder / "workspace")
    overrides = {"units": "1", "scale": 0.0001, "offset": 0, "nodata": 0}
    files = [image(folder, day) for day in (1, 2, 3)]
    eoflow.ingest("base", files, overrides=overrides, workspace=ws)
    return ws


@pytest.fixture
def cli(based, capsys):
    return CommandLine(based, capsys)


# -- files given by hand ---------------------------------------------------------------------------------------------


def truncated(folder):
    path = image(folder, 10)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path


def damaged_block(folder):
    """Whole by its header, and a block in the middle cannot be decoded."""
    path = image(folder, 10)
    raw = bytearray(path.read_bytes())
    middle = len(raw) // 2
    raw[middle : middle + 400] = b"\xff" * 400
    path.write_bytes(bytes(raw))
    return path


def without_crs(folder):
    return image(folder, 10, crs=None)


def fewer_bands(folder):
    return image(folder, 10, pixels(1, 2), descriptions=BANDS[:2])


def float_with_nan_nodata(folder):
    """Reflectance as floats with NaN for no value, where the cube holds integers with 0."""
    return image(folder, 10, pixels(1).astype("f4") / 1e4, nodata=np.nan)


def same_day_twice(folder):
    return [image(folder, 3, pixels(99))]


def no_date(folder):
    return write(folder / "undated.tif", pixels(1), nodata=0, descriptions=BANDS)


def empty_file(folder):
    path = folder / "site_2020-06-12.tif"
    path.write_bytes(b"")
    return path


def not_a_raster(folder):
    path = folder / "site_2020-06-12.tif"
    path.write_text("this is no image")
    return path


def zip_bomb(folder):
    """A few kilobytes that declare a million by a million pixels."""
    path = folder / "site_2020-06-13.tif"
    options = {
        "tiled": True,
        "blockxsize": 512,
        "blockysize": 512,
        "sparse_ok": True,
        "BIGTIFF": "YES",
        "compress": "deflate",
    }
    with rasterio.open(
        path, "w", driver="GTiff", width=1_000_000, height=1_000_000, count=1, dtype="uint8", crs=UTM,
        transform=rasterio.transform.from_origin(5e5, 4.6e6, 10, 10), **options,
    ):  # fmt: skip
        pass
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (truncated, ("site_2020-06-10.tif",)),
        (damaged_block, ("site_2020-06-10.tif",)),
        (without_crs, ("CRS", "site_2020-06-10.tif")),
        (fewer_bands, ("2 bands", "site_2020-06-10.tif")),
        (float_with_nan_nodata, ("float32",)),
        (no_date, ("undated.tif", "--time")),
        (empty_file, ("site_2020-06-12.tif",)),
        (not_a_raster, ("site_2020-06-12.tif",)),
        (same_day_twice, ("--rewrite",)),
    ],
)
def test_files_are_refused(cli, tmp_path, make, words):
    path = make(tmp_path)
    files = path if isinstance(path, list) else [path]
    cli.refused("ingest", *files, "--as", "base", words=words)
    assert Cube.load(cli.workspace, "base").times(Cube.load(cli.workspace, "base").tiles()[0]).size == 3


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (without_crs, ("CRS",)),
        (truncated, ("site_2020-06-10.tif",)),
        (zip_bomb, ("1000000 x 1000000", "site_2020-06-13.tif")),
    ],
)
def test_a_first_ingest_leaves_nothing_behind(cli, tmp_path, make, words):
    cli.refused("ingest", make(tmp_path), "--as", "fresh", *HOW, words=words)
    assert "fresh" not in cli.workspace.names("archives")


def test_units_must_be_known(cli, tmp_path):
    cli.refused("ingest", image(tmp_path, 10, nodata=0), "--as", "fresh", words=("units", "--set"))


def test_mixed_baselines_without_metadata(cli, tmp_path):
    """Two conventions in one folder: dark pixels far apart, and nothing in the files that says which is which."""
    rng = np.random.default_rng(3)
    scene = rng.integers(150, 1500, (13, SIZE, SIZE)).astype("u2")
    old = write(tmp_path / "s2_2021-11-10.tif", scene, nodata=0)
    new = write(tmp_path / "s2_2022-03-10.tif", scene + 1000, nodata=0)
    cli.refused("ingest", old, new, "--as", "mixed", words=("baseline",))


def test_wrong_words(cli):
    cli.refused("composite", "base", "--period", "2021-01-01/2021-02-01", words=("2020",))
    cli.refused("composite", "base", "--period", "2020-06-01/2020-06-03", "--method", "mediod", words=("medoid",))
    cli.refused("composite", "base", "--period", "2020-06-01/2020-06-03", "--area", "10,50,11", words=("W,S,E,N",))
    cli.refused("why", "base", "--at", "0,0", "--time", "2020-06-01", words=("tile",))
    cli.refused("export", "composite:base", "x.tif", words=("composite",))
    cli.refused("forecast", "--dataset", "base", words=("scenes",))


# -- a STAC catalog --------------------------------------------------------------------------------------------------


def items(folder, hrefs: dict[str, str], **properties) -> str:
    """An item collection with one item a href."""
    features = []
    for name, href in hrefs.items():
        day = 1 + len(features)
        features.append({
            "type": "Feature", "stac_version": "1.0.0", "stac_extensions": [], "id": name, "collection": "c",
            "bbox": [15.0, 41.5, 15.1, 41.6], "geometry": {"type": "Point", "coordinates": [15.05, 41.55]}, "links": [],
            "properties": {"datetime": f"2020-06-0{day}T10:00:00Z", **properties},
            "assets": {"B02": {"href": href, "type": "image/tiff; application=geotiff", "roles": ["data"]}},
        })  # fmt: skip
    path = folder / "items.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return str(path)


def entry(folder, listing: str, *, hosts=()) -> str:
    """A catalog entry for them."""
    path = folder / "far.yaml"
    args = {"items": listing, "allowed_hosts": list(hosts)}
    path.write_text(
        "kind: scenes\nname: far\ntitle: t\nsensor: other\nlevel: L2\n"
        f"source: {{driver: stac, args: {json.dumps(args)}}}\nschedule: {{start: 2020-01-01, end: 2020-12-31}}\n"
        "bands: {B02: {units: '1', scale: 0.0001, offset: 0, nodata: 0}}\n"
    )
    return str(path)


@pytest.fixture
def empty(tmp_path, capsys):
    return CommandLine(Workspace(tmp_path / "empty"), capsys)


@pytest.mark.parametrize("href", ["file:///etc/passwd", "/etc/passwd", "../../../etc/passwd", "http://10.0.0.1/x.tif"])
def test_hrefs_that_leave_what_is_allowed(empty, tmp_path, href):
    listing = items(tmp_path, {"a": href})
    empty.refused("ingest", entry(tmp_path, listing, hosts=["127.0.0.1"]), words=("a",))


def served(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    for n in "abc":
        write(folder / f"{n}.tif", pixels(ord(n), 1), nodata=0)
    return RangeServer(folder)


def test_a_broken_asset_is_named_and_the_rest_goes_on(empty, tmp_path):
    """A 404 in the middle: recorded, reported; the other scenes are stored, and a backfill fetches it later."""
    with served(tmp_path) as server:
        listing = items(tmp_path, {n: f"{server.url}/{n}.tif" for n in "abc"})
        server.fault("/b.tif", 404, times=10_000)
        done = empty("--json", "ingest", entry(tmp_path, listing, hosts=["127.0.0.1"]))
        assert done.code == 0
        assert (done.document["new"], done.document["absent"], done.document["failed"]) == (2, 1, 0)
        (problem,) = done.document["problems"]
        assert "b" in problem["asset"]
        found = empty.ok("--json", "gaps", "far").document
        assert found["present"] == 2
        assert "404" in found["gaps"][0]["reason"] or "not there" in found["gaps"][0]["reason"]
        server.clear()
        again = empty.ok("--json", "backfill", "far").document
    assert again["new"] == 1
    cube = Cube.load(empty.workspace, "far")
    assert sum(cube.times(t).size for t in cube.tiles()) == 3


def test_a_503_that_passes_is_tried_again(empty, tmp_path):
    with served(tmp_path) as server:
        listing = items(tmp_path, {n: f"{server.url}/{n}.tif" for n in "abc"})
        server.fault("/b.tif", 503, after=2, times=1)
        done = empty.ok("--json", "ingest", entry(tmp_path, listing, hosts=["127.0.0.1"])).document
        assert server.met == [("/b.tif", 503)]
        assert len(server.requests("/b.tif")) > 3, "it was asked for again after the third"
    assert (done["new"], done["failed"]) == (3, 0)


def test_an_ingest_that_only_fails_says_so_to_its_schedule(empty, tmp_path):
    """A 503 that stays: exit 1 where nothing comes, 0 where something does."""
    with served(tmp_path) as server:
        far = entry(tmp_path, items(tmp_path, {n: f"{server.url}/{n}.tif" for n in "ab"}), hosts=["127.0.0.1"])
        for n in "ab":
            server.fault(f"/{n}.tif", 503, times=10_000)
        done = empty("--json", "ingest", far)
        assert done.code == 1
        assert "HTTP 503" in done.document["error"]
        server.clear()
        server.fault("/b.tif", 503, times=10_000)
        done = empty("--json", "ingest", far)
        assert (done.code, done.document["new"], done.document["failed"]) == (0, 1, 1)
        done = empty("--json", "backfill", "far")
        assert (done.code, done.document["new"], done.document["failed"]) == (1, 0, 1)
        assert "503" in str(done.document["problems"])


# -- the edges of the map --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("crs", "origin", "res"),
    [
        ("EPSG:3413", (-500.0, 500.0), 10.0),  # around the pole
        ("EPSG:3031", (200_000.0, 1_000_000.0), 10.0),
        ("EPSG:32760", (812_000.0, 7_800_000.0), 100.0),  # UTM zone 60, over the antimeridian
        ("EPSG:3832", (3_338_000.0, 0.0), 100.0),  # PDC Mercator, centred on 150 E, over the antimeridian
    ],
)
def test_poles_and_antimeridian_are_kept_as_they_are(empty, tmp_path, crs, origin, res):
    """Every tile has its own CRS, so nothing is torn; a pixel is found again by its longitude and latitude."""
    from pyproj import Transformer

    path = image(tmp_path, 10, crs=crs, origin=origin, res=res)
    empty.ok("ingest", path, "--as", "edge", *HOW)
    cube = Cube.load(empty.workspace, "edge")
    (tile,) = cube.tiles()
    ds = cube.open(tile)
    assert ds.rio.crs == rasterio.crs.CRS.from_string(crs)
    stored = ds["B02"].isel(time=0)
    with rasterio.open(path) as f:
        np.testing.assert_array_equal(stored.values, f.read(1))
    row, column = 140, 20
    there = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(ds.x.values[column], ds.y.values[row])
    found = empty.ok("--json", "why", "edge", "--at", f"{there[0]},{there[1]}", "--time", "2020-06-10").document
    (pixel,) = found["pixels"]
    assert (pixel["tile"], pixel["row"], pixel["column"]) == (tile, row, column)
