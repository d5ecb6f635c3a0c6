from __future__ import annotations

import numpy as np
import pytest
from affine import Affine
from imagescenes import UTM, pair, radar, read, series, tif
from PIL import Image

from eoflow.errors import BadInput
from eoflow.predict_images.files import predict_files


@pytest.fixture
def ws(workspace):
    return workspace


def test_flood_of_several_scenes_one_output_each(tmp_path, ws):
    files = [tif(tmp_path / f"{n}_S1Hand.tif", radar(seed=i)) for i, n in enumerate("ab")]
    report = predict_files("segmentation", files, model="otsu", out=tmp_path / "out", workspace=ws)
    for n in "ab":
        values, profile, _ = read(tmp_path / "out" / f"{n}_S1Hand.tif")
        assert profile["dtype"] == "uint8"
        assert profile["nodata"] == 255
        assert profile["count"] == 1
        assert profile["crs"].to_epsg() == 32632
        assert profile["transform"] == UTM[1]
        np.testing.assert_array_equal(values[0, :30], 1)
        np.testing.assert_array_equal(values[0, 30:], 0)
        chance, other, _ = read(tmp_path / "out" / f"{n}_S1Hand_prob.tif")
        assert other["dtype"] == "float32"
        assert np.isnan(other["nodata"])
        assert chance[0, :30].min() > 0.5 > chance[0, 30:].max()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "a_S1Hand.tif", "a_S1Hand_prob.tif", "b_S1Hand.tif", "b_S1Hand_prob.tif"]  # fmt: skip
    assert report.areas[0]["water_km2"] == pytest.approx(30 * 90 * 1e-4, rel=2e-3)
    assert any("Sen1Floods11" in m for m in report.messages)


def test_what_is_not_known_is_refused_with_the_line_to_write(tmp_path, ws):
    file = tif(tmp_path / "scene.tif", radar())
    with pytest.raises(BadInput, match="not known") as e:
        predict_files("segmentation", [file], model="otsu", out=tmp_path / "out", workspace=ws)
    assert "--bands VV,VH --set units=dB" in e.value.todo
    with pytest.raises(BadInput, match="without units") as e:
        predict_files("segmentation", [file], bands=["VV", "VH"], model="otsu", out=tmp_path / "out", workspace=ws)
    assert "--set units=dB" in e.value.todo
    with pytest.raises(BadInput, match="2 bands of the file"):
        predict_files("segmentation", [file], bands=["VV"], out=tmp_path / "out", workspace=ws)
    with pytest.raises(BadInput, match="cannot be backscatter"):
        predict_files("segmentation", [file], bands=["VV", "VH"], said={"units": "1"}, model="otsu",
                      out=tmp_path / "out", workspace=ws)  # fmt: skip
    assert not (tmp_path / "out").exists()
    report = predict_files("segmentation", [file], bands=["VV", "VH"], said={"units": "dB"}, model="otsu",
                           out=tmp_path / "out", workspace=ws)  # fmt: skip
    assert report.tiles[0]["water"] == pytest.approx(30 / 70)


def test_linear_power_is_the_same_map(tmp_path, ws):
    power = (10 ** (radar().astype("f8") / 10)).astype("f4")
    tif(tmp_path / "p.tif", power, names=["VV", "VH"])
    tif(tmp_path / "q.tif", radar(), names=["VV", "VH"])
    for name, units in (("p", "1"), ("q", "dB")):
        predict_files("segmentation", [tmp_path / f"{name}.tif"], said={"units": units}, model="otsu",
                      out=tmp_path / "out", workspace=ws)  # fmt: skip
    np.testing.assert_array_equal(read(tmp_path / "out/p.tif")[0], read(tmp_path / "out/q.tif")[0])


def test_one_file_a_band_is_one_scene(tmp_path, ws):
    rng = np.random.default_rng(0)
    water = np.zeros((40, 50), bool)
    water[:, :20] = True
    for band, wet, dry in (("B03", 0.08, 0.09), ("B08", 0.02, 0.35), ("B11", 0.01, 0.25)):
        values = (np.where(water, wet, dry) * 1e4 + rng.normal(0, 20, water.shape) + 5).astype("u2")
        tif(tmp_path / f"T32_20240501_{band}.tif", values[None])
    report = predict_files("segmentation", sorted(tmp_path.glob("*.tif")), model="ndwi", out=tmp_path / "out",
                           said={"sensor": "sentinel-2", "level": "L2A", "offset": 0.0}, workspace=ws)  # fmt: skip
    assert len(report.tiles) == 1
    assert report.tiles[0]["time"] == "2024-05-01"
    values, _, _ = read(report.files[0])
    np.testing.assert_array_equal(values[0] == 1, water)


def test_nothing_seen_no_water_and_a_tiny_scene(tmp_path, ws):
    void = tif(tmp_path / "void_S1Hand.tif", np.full((2, 20, 20), np.nan, "f4"))
    rng = np.random.default_rng(0)
    dry = tif(tmp_path / "dry_S1Hand.tif", (-8 + rng.normal(0, 0.5, (2, 20, 20)) - [[[0]], [[7]]]).astype("f4"))
    tiny = tif(tmp_path / "tiny_S1Hand.tif", radar((3, 5))[:, :1, :1])
    report = predict_files("segmentation", [void, dry, tiny], model="band-thresholds", out=tmp_path / "o", workspace=ws)
    assert set(np.unique(read(tmp_path / "o/void_S1Hand.tif")[0])) == {255}
    assert np.isnan(read(tmp_path / "o/void_S1Hand_prob.tif")[0]).all()
    assert set(np.unique(read(tmp_path / "o/dry_S1Hand.tif")[0])) == {0}
    assert read(tmp_path / "o/tiny_S1Hand.tif")[0].tolist() == [[[1]]]
    text = "\n".join(report.messages)
    assert "void_S1Hand: no pixel could be judged" in text
    assert "dry_S1Hand: no water was found" in text


def test_flood_beside_permanent_water(tmp_path, ws):
    scene = tif(tmp_path / "a_S1Hand.tif", radar())
    lake = np.zeros((1, 70, 90), np.uint8)
    lake[0, :10] = 1
    tif(tmp_path / "lake.tif", lake)
    report = predict_files("segmentation", [scene], model="otsu", out=tmp_path / "o", workspace=ws,
                           permanent=tmp_path / "lake.tif")  # fmt: skip
    values = read(tmp_path / "o/a_S1Hand_flood.tif")[0][0]
    assert (values[:10] == 2).all()
    assert (values[10:30] == 1).all()
    assert (values[30:] == 0).all()
    (row,) = report.areas
    assert row["flood_km2"] == pytest.approx(2 * row["permanent_water_km2"], rel=1e-4)


def test_change_of_photographs_keeps_pixel_coordinates(tmp_path, ws):
    before, after = pair(tmp_path)
    report = predict_files("change-detection", [before, after], model="image-difference", out=tmp_path / "c.tif",
                           workspace=ws)  # fmt: skip
    values, profile, _ = read(tmp_path / "c.tif")
    expected = np.zeros((60, 80), bool)
    expected[10:25, 30:50] = True
    np.testing.assert_array_equal(values[0] == 1, expected)
    assert profile["crs"] is None
    assert profile["nodata"] == 255
    assert (tmp_path / "c_prob.tif").exists()
    assert report.areas == []
    assert any("pixel coordinates" in m for m in report.messages)
    same = predict_files("change-detection", [before, _copy(before)], model="image-difference", out=tmp_path / "d.tif",
                         workspace=ws)  # fmt: skip
    assert set(np.unique(read(tmp_path / "d.tif")[0])) == {0}
    assert any("no change was found" in m for m in same.messages)


def _copy(path):
    other = path.with_name("copy" + path.suffix)
    other.write_bytes(path.read_bytes())
    return other


def test_change_on_another_grid_is_warped_onto_the_first(tmp_path, ws):
    rng = np.random.default_rng(2)
    before = rng.normal(-8, 0.3, (2, 60, 60)).astype("f4")
    after = before.copy()
    after[:, 20:30, 20:40] = -18
    crs, at = UTM
    tif(tmp_path / "a.tif", before, names=["VV", "VH"])
    tif(tmp_path / "b.tif", after[:, 6:], place=(crs, at @ Affine.translation(0, 6)), names=["VV", "VH"])
    report = predict_files("change-detection", [tmp_path / "a.tif", tmp_path / "b.tif"], said={"units": "dB"},
                           model="image-difference", out=tmp_path / "c.tif", workspace=ws)  # fmt: skip
    values, profile, _ = read(tmp_path / "c.tif")
    assert profile["transform"] == at
    assert values.shape == (1, 60, 60)
    assert (values[0, :5] == 255).all()
    assert (values[0, 21:29, 21:39] == 1).all()
    assert (values[0, 40:] == 0).all()
    assert any("warped" in m for m in report.messages)


def test_change_of_what_does_not_fit(tmp_path, ws):
    before, after = pair(tmp_path)
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "small.png")
    Image.fromarray(np.zeros((60, 80), np.uint8)).save(tmp_path / "grey.png")
    for files, what in (
        ([before], "two images"), ([before, tmp_path / "small.png"], "do not lie on each other"),
        ([before, tmp_path / "grey.png"], "different bands"), ([before, tmp_path / "none.png"], "no such file"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=what):
            predict_files("change-detection", files, model="image-difference", out=tmp_path / "c.tif", workspace=ws)
        assert not list(tmp_path.glob("*c.tif*"))
    broken = tmp_path / "broken.tif"
    broken.write_bytes(b"II*\x00 no image")
    with pytest.raises(BadInput):
        predict_files("change-detection", [before, broken], out=tmp_path / "c.tif", workspace=ws)
    (tmp_path / "c.tif").write_text("mine")
    with pytest.raises(BadInput, match="exists already"):
        predict_files("change-detection", [before, after], out=tmp_path / "c.tif", workspace=ws)
    assert (tmp_path / "c.tif").read_text() == "mine"
    predict_files("change-detection", [before, after], model="image-difference", out=tmp_path / "c.tif", workspace=ws,
                  overwrite=True)  # fmt: skip
    assert read(tmp_path / "c.tif")[0].max() == 1
    for name in ("a", "b"):
        tif(tmp_path / f"{name}.tif", radar(), names=["VV", "VH"])
    with pytest.raises(BadInput, match="replace an input"):
        predict_files("change-detection", [tmp_path / "a.tif", tmp_path / "b.tif"], out=tmp_path / "a.tif",
                      said={"units": "dB"}, workspace=ws, model="image-difference", overwrite=True)  # fmt: skip
    assert read(tmp_path / "a.tif")[0].shape == (2, 70, 90)


def test_clouds_in_the_bands_dtype_and_scaling_of_the_input(tmp_path, ws):
    files, stack = series(tmp_path)
    report = predict_files("cloud-removal", files, model="median-composite", out=tmp_path / "clear.tif", workspace=ws)
    values, profile, names = read(tmp_path / "clear.tif")
    assert profile["dtype"] == "uint16"
    assert profile["count"] == 13
    assert profile["transform"] == UTM[1]
    assert names[:3] == ("B01", "B02", "B03")
    np.testing.assert_array_equal(values[:, 20:], stack[-1][:, 20:])  # what the date itself saw
    middle = np.median(stack[:-1, :, :16, :16], axis=0)
    np.testing.assert_allclose(values[:, :16, :16], middle, atol=0.51)
    assert read(tmp_path / "clear_count.tif")[0][0, 0, 0] == 5
    assert (read(tmp_path / "clear_filled.tif")[0] == 0).all()
    assert [r["cloud"] > 0.05 for r in report.tiles] == [False] * 5 + [True]
    assert not (tmp_path / "clear_std.tif").exists()
    early = predict_files("cloud-removal", files, model="median-composite", out=tmp_path / "e.tif", at="2024-05-02",
                          workspace=ws)  # fmt: skip
    np.testing.assert_array_equal(read(tmp_path / "e.tif")[0], stack[1])
    assert any("is clear" in m for m in early.messages)


def test_clouds_everywhere_and_clouds_by_masks(tmp_path, ws):
    (tmp_path / "lost").mkdir()
    files, _ = series(tmp_path / "lost", dates=3, lost=True)
    report = predict_files("cloud-removal", files, model="median-composite", out=tmp_path / "l.tif", workspace=ws)
    assert (read(tmp_path / "l.tif")[0] == 0).all()
    assert (read(tmp_path / "l_count.tif")[0] == 0).all()
    assert any("No date saw the ground" in m for m in report.messages)
    (tmp_path / "ok").mkdir()
    files, stack = series(tmp_path / "ok", dates=3)
    masks = []
    for k in range(3):
        mask = np.zeros((1, 48, 56), np.uint8)
        mask[0, :24] = k == 2
        masks.append(tif(tmp_path / f"m{k}.tif", mask))
    predict_files("cloud-removal", files, model="nearest-clear", out=tmp_path / "m.tif", masks=masks, workspace=ws)
    values, _, _ = read(tmp_path / "m.tif")
    np.testing.assert_array_equal(values[:, :24], stack[1][:, :24])
    np.testing.assert_array_equal(values[:, 24:], stack[2][:, 24:])
    with pytest.raises(BadInput, match="2 masks for 3 scenes"):
        predict_files("cloud-removal", files, out=tmp_path / "x.tif", masks=masks[:2], workspace=ws)


def test_clouds_in_photographs_need_masks(tmp_path, ws):
    before, after = pair(tmp_path)
    with pytest.raises(BadInput, match="clouds cannot be found") as e:
        predict_files("cloud-removal", [before, after], model="median-composite", out=tmp_path / "c.tif", workspace=ws)
    assert "--masks" in e.value.todo
    assert not (tmp_path / "c.tif").exists()


def test_a_run_that_was_killed_goes_on(tmp_path, ws, monkeypatch):
    from eoflow.predict_images import file_output as module

    scene = tif(tmp_path / "a_S1Hand.tif", radar((300, 300)))
    plan = module.windows_of

    def small(model, shape, dates, bands):
        from eoflow.windows import Plan

        return Plan.of(shape, core=128), 1

    monkeypatch.setattr(module, "windows_of", small)
    wrote, calls = module.PackSink.write, []

    def fails(self, box, values):
        calls.append(box)
        if len(calls) == 7:
            raise KeyboardInterrupt
        wrote(self, box, values)

    monkeypatch.setattr(module.PackSink, "write", fails)
    with pytest.raises(KeyboardInterrupt):
        predict_files("segmentation", [scene], model="otsu", out=tmp_path / "o", workspace=ws)
    assert not (tmp_path / "o/a_S1Hand.tif").exists()
    monkeypatch.setattr(module.PackSink, "write", wrote)
    report = predict_files("segmentation", [scene], model="otsu", out=tmp_path / "o", workspace=ws)
    assert 3 <= report.resumed < 9
    windows, _, _ = read(tmp_path / "o/a_S1Hand.tif")
    monkeypatch.setattr(module, "windows_of", plan)
    predict_files("segmentation", [scene], model="otsu", out=tmp_path / "w", workspace=ws)
    np.testing.assert_array_equal(windows, read(tmp_path / "w/a_S1Hand.tif")[0])  # the scene's one threshold


# -- real files --------------------------------------------------------------------------------------------------------


@pytest.mark.realdata
def test_real_floods_by_otsu(realdata, tmp_path, ws):
    folder = realdata / "flood" / "sen1floods11"
    files = sorted((folder / "S1").glob("*_S1Hand.tif"))
    predict_files("segmentation", files, model="otsu", out=tmp_path, workspace=ws)
    both = either = 0
    for f in files:
        made, truth = read(tmp_path / f.name)[0][0], read(folder / "Label" / f.name.replace("S1", "Label"))[0][0]
        known = (made != 255) & (truth >= 0)
        both += int(((made == 1) & (truth == 1) & known).sum())
        either += int((((made == 1) | (truth == 1)) & known).sum())
    print(f"IoU of Otsu over {len(files)} chips: {both / either:.3f}")
    assert both / either > 0.4
    assert (read(tmp_path / "Paraguay_34417_S1Hand.tif")[0] == 255).all()


@pytest.mark.realdata
def test_real_pairs_by_image_difference(realdata, tmp_path, ws):
    folder = realdata / "change" / "levir_cd"
    hit = said = true = 0
    for before in sorted((folder / "A").glob("*.png")):
        out = tmp_path / f"{before.stem}.tif"
        predict_files("change-detection", [before, folder / "B" / before.name], model="image-difference", out=out,
                      workspace=ws)  # fmt: skip
        made = read(out)[0][0] == 1
        with Image.open(folder / "label" / before.name) as f:
            truth = np.asarray(f.convert("L")) > 0
        assert made.shape == truth.shape
        hit, said, true = hit + (made & truth).sum(), said + made.sum(), true + truth.sum()
    print(f"F1 of the image difference: {2 * hit / (said + true):.3f}")
    assert 0.1 < 2 * hit / (said + true) < 0.7


@pytest.mark.realdata
def test_real_series_by_median(realdata, tmp_path, ws):
    files = sorted((realdata / "s2_cloud" / "ts_ROIs2017_146_patch0").glob("*.tif"))
    out = tmp_path / "clear.tif"
    predict_files("cloud-removal", files, model="median-composite", out=out, at="2018-03-07", workspace=ws)
    values, profile, _ = read(out)
    clear = read(next(f for f in files if "2018-06-10" in f.name))[0]
    cloudy = read(next(f for f in files if "2018-03-07" in f.name))[0]
    assert profile["dtype"] == "uint16"
    assert values.shape == clear.shape
    filled = read(tmp_path / "clear_filled.tif")[0][0]
    assert (filled == 255).mean() < 0.02
    kept = filled == 0
    error = [np.abs(x[:4, kept].astype(float) - clear[:4, kept]).mean() / 1e4 for x in (values, cloudy)]
    print(f"mean absolute error of blue to red against a clear date: {error[0]:.4f}, of the cloudy one {error[1]:.4f}")
    assert error[0] < 0.4 * error[1]


def test_in_python_the_verbs_take_files_too(tmp_path, ws):
    import eoflow

    before, after = pair(tmp_path)
    report = eoflow.change(before, after, model="image-difference", out=tmp_path / "c.tif", workspace=ws)
    assert report.verb == "change"
    scene = tif(tmp_path / "a_S1Hand.tif", radar())
    assert eoflow.flood(scene, out=tmp_path / "o", model="otsu", workspace=ws).files[0].endswith("o/a_S1Hand.tif")
    with pytest.raises(BadInput, match="does not go with files"):
        eoflow.flood(scene, out=tmp_path / "p", period="2024", workspace=ws)


def test_a_scene_classification_beside_the_bands_is_its_mask(tmp_path, ws):
    scl = np.full((1, 40, 50), 4, np.uint8)
    scl[0, :, 25:] = 9  # cloud
    tif(tmp_path / "T32_20240501_SCL.tif", scl)
    for band, value in (("B03", 900), ("B08", 200)):
        tif(tmp_path / f"T32_20240501_{band}.tif", np.full((1, 40, 50), value, "u2"))
    report = predict_files("segmentation", sorted(tmp_path.glob("*.tif")), model="ndwi", out=tmp_path / "o",
                           said={"sensor": "sentinel-2", "level": "L2A", "offset": 0.0}, workspace=ws)  # fmt: skip
    values, _, _ = read(report.files[0])
    assert set(np.unique(values[0, :, :25])) == {1}
    assert set(np.unique(values[0, :, 25:])) == {255}


def test_one_image_given_twice_has_not_changed(tmp_path, workspace):
    before, _ = pair(tmp_path)
    for model in ("image-difference", "change-vector", "ir-mad"):
        out = tmp_path / f"{model}.tif"
        predict_files("change-detection", [before, before], model=model, out=out, workspace=workspace)
        assert not (read(out)[0] == 1).any()
