"""Composites of a cube: pixels, layers, metadata, the same again, Dask, areas, words for what is wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr
from cubes import grid, make_cube

import eoflow.composite
from eoflow.composite.run import composite, cut
from eoflow.errors import BadInput
from eoflow.quality import Quality

TIMES = [f"2021-0{m}-{d:02}T10:30" for m in (5, 6) for d in (3, 13, 23)]
SHAPE = (90, 100)


def scenes(seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Two bands (T, y, x), and quality: clouds, a corner that is never clear, one step that is missing."""
    rng = np.random.default_rng(seed)
    bands = {b: rng.integers(1, 9000, (6, *SHAPE)).astype("u2") for b in ("B04", "B08")}
    quality = rng.choice([int(q) for q in Quality if q > 0], (6, *SHAPE)).astype("u1")
    quality[:, :10, :10] = Quality.CLOUD
    quality[3] = Quality.MISSING
    bands["B08"][1, 40:50] = 0  # nodata in one band alone
    return bands, quality


@pytest.fixture
def cube(workspace):
    bands, quality = scenes()
    return make_cube(workspace, "s2", {"T1": bands}, TIMES, quality={"T1": quality})


def opened(report, tile="T1", **how):
    return xr.open_zarr(report.path, group=f"tiles/{tile}", **how)


def test_median_of_what_is_clear(workspace, cube):
    report = eoflow.composite("s2", "2021-05-10/2021-06-30", workspace=workspace)
    assert report.made
    bands, quality = scenes()
    inside = slice(1, 6)
    clear = np.isin(quality, [Quality.CLEAR, Quality.WATER, Quality.SNOW]) & (bands["B04"] > 0) & (bands["B08"] > 0)
    clear = clear[inside]
    ds = opened(report, mask_and_scale=False).load()
    np.testing.assert_array_equal(ds["count"], clear.sum(0))
    for b in bands:
        with np.errstate(invalid="ignore"), pytest.warns(RuntimeWarning, match="All-NaN"):
            expected = np.rint(np.nanmedian(np.where(clear, bands[b][inside].astype("f8"), np.nan), axis=0))
        np.testing.assert_array_equal(ds[b], np.where(np.isnan(expected), 0, expected))
        assert ds[b].dtype == "u2"
    void = clear.sum(0) == 0
    assert void[:10, :10].all()
    assert report.tiles["T1"]["unobserved"] == void.mean() == report.unobserved
    assert (ds["age"].values[void] == -1).all()
    assert (ds["source"].values[void] == -1).all()
    newest = 4 - clear[::-1].argmax(0)
    days = np.array([48, 38, 27, 17, 7])  # to the last instant of the period
    np.testing.assert_array_equal(ds["age"].values[~void], days[newest][~void])
    assert len(ds["source_time"]) == 5
    assert json.loads(str(ds["source_items"].values[0]))[0]["id"] == "T1-1"
    assert ds["source_items"].values[2] == "[]"  # the step that is missing keeps its place


def test_it_opens_in_physical_units_with_its_crs(workspace, cube):
    report = composite("s2", "2021-05/2021-06", "medoid", workspace=workspace)
    ds = opened(report)
    raw = opened(report, mask_and_scale=False)
    seen = raw["count"].values > 0
    np.testing.assert_allclose(ds["B04"].values[seen], raw["B04"].values[seen] * 1e-4 - 0.1, rtol=1e-5)
    assert np.isnan(ds["B04"].values[~seen]).all()
    assert ds["age"].dtype.kind == "f"
    assert "epsg" in ds.spatial_ref.attrs["crs_wkt"].lower()
    said = json.loads(ds.attrs["eoflow_provenance"])
    assert said["archive_snapshot"] == cube.snapshot
    assert said["method"] == "medoid"
    source = ds["source"].values[seen].astype(int)
    bands, _ = scenes()
    rows, columns = np.nonzero(seen)
    np.testing.assert_array_equal(raw["B08"].values[seen], bands["B08"][source, rows, columns])


def files(path):
    from pathlib import Path

    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(Path(path).rglob("*")) if p.is_file()}


def test_the_same_again_changes_nothing(workspace, cube):
    first = composite("s2", "2021-05/2021-06", workspace=workspace)
    before = files(first.path)
    again = composite("s2", "2021-05/2021-06", workspace=workspace)
    assert (first.made, again.made) == (True, False)
    assert (again.path, again.tiles) == (first.path, first.tiles)
    assert files(first.path) == before
    with cube.archive.transaction("elsewhere", {"what": "test"}, "main") as tx:
        tx.group.attrs["note"] = "a commit that touches no scene"
    assert not composite("s2", "2021-05/2021-06", workspace=workspace).made
    others = [composite("s2", p, m, workspace=workspace, **how) for p, m, how in (
        ("2021-05/2021-06", "mean", {}), ("2021-05", "median", {}), ("2021-05/2021-06", "median", {"bands": ["B08"]}),
        ("2021-05/2021-06", "median", {"classes": (Quality.CLEAR,)}))]  # fmt: skip
    assert len({r.id for r in (first, *others)}) == 5
    names = workspace.names("products", "composite", "s2")
    assert sorted(names) == sorted(f"{r.id}.zarr" for r in (first, *others))


def test_a_failure_leaves_nothing(workspace, cube, monkeypatch):
    from eoflow.composite import blocks

    def fail(*_):
        raise RuntimeError("out of paper")

    with monkeypatch.context() as m:
        m.setattr(blocks, "reduce", fail)
        with pytest.raises(RuntimeError):
            composite("s2", "2021-05/2021-06", workspace=workspace)
    assert list(workspace.path("products", "composite", "s2").iterdir()) == []
    assert composite("s2", "2021-05/2021-06", workspace=workspace).made


def test_dask_and_small_memory_give_the_same_bytes(workspace, cube, tmp_path, monkeypatch):
    import distributed

    from eoflow.config import settings

    one = composite("s2", "2021-05/2021-06", "medoid", workspace=workspace)
    monkeypatch.setattr(settings(), "memory_mb", 1)
    strips = composite("s2", "2021-05/2021-06", "medoid", out=tmp_path / "strips.zarr", workspace=workspace)
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster,
        distributed.Client(cluster),
    ):
        many = composite("s2", "2021-05/2021-06", "medoid", out=tmp_path / "many.zarr", workspace=workspace)
    for other in (strips, many):
        a, b = files(one.path), files(other.path)
        assert {k for k in a if a[k] != b.get(k)} <= {k for k in a if k.endswith("zarr.json")}  # `created` differs
        assert a.keys() == b.keys()
        assert other.tiles == one.tiles


def test_area_cuts_tiles(workspace):
    bands, quality = scenes()
    cube = make_cube(workspace, "s2", {"T1": bands, "T2": bands}, TIMES, quality={"T1": quality, "T2": quality})
    west, south = cube.grid("T1").geobox.extent.to_crs("EPSG:4326").boundingbox[:2]
    area = (west, south, west + 0.003, south + 0.002)
    report = composite("s2", "2021-05/2021-06", "last-clear", area=area, workspace=workspace)
    assert list(report.tiles) == ["T1"]
    small = opened(report, mask_and_scale=False)
    assert small.sizes["y"] < 40
    assert small.sizes["x"] < 40
    full = opened(composite("s2", "2021-05/2021-06", "last-clear", workspace=workspace), mask_and_scale=False)
    xr.testing.assert_equal(small["B04"].load(), full["B04"].sel(y=small.y, x=small.x).load())
    assert list(composite("s2", "2021-05/2021-06", workspace=workspace).tiles) == ["T1", "T2"]


@pytest.mark.parametrize(
    ("crs", "left", "top", "area", "inside"),
    [
        ("EPSG:32601", 400_000, 7_000_000, (179, 60, -179, 64), True),  # across the antimeridian
        ("EPSG:32660", 600_000, 7_000_000, (179, 60, -179, 64), True),
        ("EPSG:32632", 500_000, 5_000_000, (179, 60, -179, 64), False),
        ("EPSG:3413", -5_000, 5_000, (-180, 80, 180, 90), True),  # the pole
        ("EPSG:4326", 9, 46, (9.2, 45.2, 9.5, 45.5), True),
    ],
)
def test_area_anywhere_on_earth(crs, left, top, area, inside):
    res = 100.0 if crs != "EPSG:4326" else 0.01
    assert (cut(grid((100, 100), left, top, res, crs), area) is not None) is inside


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"method": "mode"}, "no method"),
        ({"period": "1999"}, "2021-05-03T10:30 to 2021-06-23T10:30"),
        ({"bands": ["B4"]}, "B04"),
        ({"bands": ["B04", "B04"]}, "each band once"),
        ({"area": (0, 0, 1, 1)}, "no tile"),
        ({"area": (0, 1, 1, 0)}, "W,S,E,N"),
        ({"dataset": "nothing"}, "nothing"),
    ],
)
def test_what_is_wrong_is_said(workspace, cube, how, words):
    how = {"dataset": "s2", "period": "2021-05/2021-06", **how}
    with pytest.raises(BadInput, match=words):
        composite(how.pop("dataset"), how.pop("period"), workspace=workspace, **how)
    assert not workspace.names("products", "composite")


def test_last_days_and_the_report_as_rows(workspace, cube):
    from eoflow.composite import last_days

    assert last_days("s2", 10, workspace) == "2021-06-14/2021-06-23"
    assert last_days("s2", 1, workspace) == "2021-06-23/2021-06-23"
    report = composite("s2", last_days("s2", 11, workspace), "last-clear", workspace=workspace)
    assert report.tiles["T1"]["scenes"] == 2
    row = json.loads(json.dumps(report.to_dict()))["tiles"][0]
    assert (row["tile"], row["pixels"], row["unobserved"]) == ("T1", 9000, report.unobserved)
    with pytest.raises(BadInput, match="1 or more"):
        last_days("s2", 0, workspace)


def test_out_is_not_overwritten(workspace, cube, tmp_path):
    (tmp_path / "out.zarr").mkdir()
    (tmp_path / "out.zarr" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    with pytest.raises(BadInput, match="something else"):
        composite("s2", "2021-05/2021-06", out=tmp_path / "out.zarr", workspace=workspace)
