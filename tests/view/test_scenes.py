"""Figures of cubes and what the report says of them."""

from __future__ import annotations

import io
import shutil

import numpy as np
import pytest
from cubes import grid, make_cube
from matplotlib.image import imread

from eoflow.composite.run import composite
from eoflow.errors import BadInput
from eoflow.export.product import find
from eoflow.ingest.ledger import Status
from eoflow.ingest.scenes.gaps import SceneGaps
from eoflow.quality import Quality
from eoflow.view import scenes
from eoflow.view.report import build
from eoflow.view.style import png

TIMES = ["2021-05-03T10:30", "2021-05-13T10:30", "2021-05-23T10:30"]
SHAPE = (96, 128)


def values(seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Three bands and a quality layer of 3 times; the last time is missing."""
    rng = np.random.default_rng(seed)
    bands = {b: rng.integers(1100, 3000, (3, *SHAPE)).astype("u2") for b in ("B02", "B03", "B04")}
    quality = np.full((3, *SHAPE), Quality.CLEAR, "u1")
    quality[:, :24, :32] = Quality.CLOUD
    quality[0, 40:60] = Quality.SHADOW
    quality[2] = Quality.MISSING
    return bands, quality


@pytest.fixture
def cube(workspace):
    made = [values(k) for k in (0, 1)]
    tiles = {f"T{k}": bands for k, (bands, _) in enumerate(made)}
    return make_cube(workspace, "s2", tiles, TIMES, quality={f"T{k}": q for k, (_, q) in enumerate(made)})


def titles(figure):
    return [t for ax in figure.axes for t in [ax.get_title(loc="left")] if t]


def drawn(figure):
    data = png(figure, dpi=50)
    assert imread(io.BytesIO(data))[..., :3].std() > 0.02
    return data


def test_scene_beside_its_quality(cube):
    assert scenes.newest_scene(cube) == ("T1", np.datetime64("2021-05-13T10:30", "ns")), "the third holds nothing"
    figure = scenes.scene_figure(cube, "T0", "2021-05-03")
    assert titles(figure) == ["true colour (B04, B03, B02), pixels of 10 m", "quality: 73 % usable"]
    shares = [t.get_text() for t in figure.legends[0].get_texts()]
    assert shares == ["cloud 6 %", "shadow 21 %", "clear 73 %"]
    shown = figure.axes[1].get_images()[0].get_array()
    np.testing.assert_array_equal(shown, values(0)[1][0])
    assert figure.axes[0].get_images()[0].get_extent() == [500.0, 501.28, 5000 - 0.96, 5000.0]
    assert figure.get_suptitle() == "s2 T0, 2021-05-03 10:30 UTC"
    drawn(figure)
    assert drawn(scenes.scene_figure(cube, "T1")) == drawn(scenes.scene_figure(cube, "T1", TIMES[1]))


def test_scene_that_is_not_there(cube):
    with pytest.raises(BadInput, match=r"holds no scene at 2021-05-23"):
        scenes.scene_figure(cube, "T0", "2021-05-23")
    with pytest.raises(BadInput, match="no tile 'T9'"):
        scenes.scene_figure(cube, "T9")


def test_large_tiles_are_read_from_their_overview(workspace, monkeypatch):
    rng = np.random.default_rng(0)
    bands = {"b": rng.integers(1, 99, (1, 256, 320)).astype("u2")}
    cube = make_cube(workspace, "wide", {"T": bands}, TIMES[:1], overviews=(4,))
    monkeypatch.setattr(scenes, "PIXELS", 80)
    figure = scenes.scene_figure(cube, "T")
    assert titles(figure)[0] == "b, pixels of 40 m"
    assert figure.axes[1].get_images()[0].get_array().shape == (64, 80)
    monkeypatch.setattr(scenes, "PIXELS", 40)
    figure = scenes.scene_figure(cube, "T")
    assert titles(figure)[0] == "b, pixels of 80 m"
    assert figure.axes[1].get_images()[0].get_array().shape == (32, 40)


def test_scenes_in_degrees(workspace):
    bands, quality = values()
    where = grid(SHAPE, left=12.0, top=46.0, res=1e-4, crs="EPSG:4326")
    cube = make_cube(workspace, "deg", {"T": bands}, TIMES, quality={"T": quality}, grids={"T": where})
    figure = scenes.scene_figure(cube, "T")
    assert figure.axes[0].get_xlabel() == "longitude (°)"
    assert titles(figure)[0] == "true colour (B04, B03, B02)"
    drawn(figure)


def test_scene_file_lies_in_the_pictures(workspace, cube):
    where = scenes.scene_file(workspace, "s2", "T0", "2021-05-03")
    assert where == str(workspace.path("pictures", "s2-T0-20210503T1030.png"))
    assert workspace.path("pictures", "s2-T0-20210503T1030.png").read_bytes().startswith(b"\x89PNG")
    assert scenes.scene_file(workspace, "s2").endswith("s2-T1-20210513T1030.png")


def test_composite_with_count_and_age(workspace, cube):
    composite("s2", "2021-05-01/2021-05-31", "last-clear", workspace=workspace)
    product = find("composite:s2", workspace)
    figure = scenes.composite_figure(product, "T1")
    assert titles(figure) == ["true colour (B04, B03, B02), pixels of 10 m", "clear observations", "age (days)"]
    assert figure.get_suptitle().startswith("s2 T1: last-clear of 2021-05-01 to 2021-05-31; 6.2 % without")
    count, age = (figure.axes[k].get_images()[0].get_array() for k in (1, 2))
    quality = values(1)[1]
    np.testing.assert_array_equal(count.filled(0), (quality == Quality.CLEAR).sum(0))
    assert age.mask[:24, :32].all()
    assert set(np.unique(age.compressed())) == {18}
    drawn(figure)
    with pytest.raises(BadInput, match="no tile 'T9'"):
        scenes.composite_figure(product, "T9")


def found(tiles, times, status, reasons=()):
    return SceneGaps("s2", np.array(times, "datetime64[ns]"), np.array(status, "u1"), tuple(reasons), "scenes",
                     tuple(f"{t}-{k}" for k, t in enumerate(tiles)), tuple(tiles))  # fmt: skip


def test_coverage_by_tile():
    failed, present, absent = int(Status.FAILED), int(Status.PRESENT), int(Status.ABSENT_AT_SOURCE)
    times = ["2021-05-01T10:00", "2021-05-01T10:05", "2021-05-04T10:00", "2021-05-11T10:00"]
    figure = scenes.scene_coverage_figure(found(["B", "B", "A", ""], times, [failed, present, present, absent]))
    ax = figure.axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["not known", "A", "B"]
    cells = ax.collections[0].get_array()
    assert cells.shape == (3, 11)
    assert cells[2, 0] == failed, "the worst of a day shows"
    assert (cells[1, 3], cells[0, 10]) == (present, absent)
    assert cells.mask.sum() == 3 * 11 - 3
    texts = [t.get_text() for t in figure.legends[0].get_texts()]
    assert texts == ["present (2)", "absent at source (1)", "failed (1)"]
    assert figure.get_suptitle() == "s2: 2 of 4 scenes present (50.00 %)"
    drawn(figure)
    with pytest.raises(BadInput, match="no scene was listed"):
        scenes.scene_coverage_figure(found([], [], []))


def test_coverage_of_many_tiles_and_years_stays_a_picture():
    tiles = [f"T{k:03}" for k in range(100)]
    days = np.datetime64("2015-01-01", "ns") + np.arange(40) * np.timedelta64(90, "D")
    status = np.ones(4000, "u1")
    status[-40:] = int(Status.FAILED)
    figure = scenes.scene_coverage_figure(found(np.repeat(tiles, 40), np.tile(days, 100), status))
    ax = figure.axes[0]
    rows = [t.get_text() for t in ax.get_yticklabels()]
    assert len(rows) == scenes.MAX_TILES
    assert rows[-1] == "T099", "the one with gaps is among them"
    assert ax.collections[0].get_array().shape[1] <= scenes.MAX_CELLS
    assert "40 of 100 tiles" in figure.get_suptitle()


def test_report_of_both_kinds_and_a_damaged_composite(workspace, cube, truth, tmp_path):
    from eoflow.ingest.run import ingest

    truth[["msl"]].isel(time=slice(0, 8)).to_netcdf(tmp_path / "toy.nc")
    ingest("toy", [tmp_path / "toy.nc"], workspace=workspace)
    report = composite("s2", "2021-05-01/2021-05-31", workspace=workspace)
    html = build(workspace)
    assert "every 12h" in html
    for words in ("sentinel-2 L2A", "stored x 0.0001 - 0.1", "Newest scene: T1, 2021-05-13T10:30", "EPSG:32632",
                  f"eoflow export composite:s2:{report.id} FILE.tif", "archive snapshot"):  # fmt: skip
        assert words in html
    shutil.rmtree(workspace.path("products", "composite", "s2", f"{report.id}.zarr", "tiles"))
    damaged = build(workspace)
    assert "cannot be shown" in damaged
    assert "Newest scene: T1" in damaged
    assert "every 12h" in damaged
