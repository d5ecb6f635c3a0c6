from __future__ import annotations

import pickle
import re

import numpy as np
import pytest
import torch
from chipfiles import changes, floods, radar, series, write

from eoflow.catalog_images import ImageRecipe
from eoflow.errors import BadInput
from eoflow.prepare.chips import ChipOptions, chip_bands, open_chips
from eoflow.prepare.scenes.normalize import BandNormalizer
from eoflow.prepare.scenes.samples import Samples, days
from eoflow.quality import Quality

TASKS = {
    "segmentation": {"labels": {"band": "water"}},
    "change-detection": {"labels": {"band": "change"}, "dates": 2, "pick": "pairs"},
    "cloud-removal": {"pick": "clear-target", "dates": 3},
}


def recipe(task="segmentation", bands=("VV", "VH"), targets=(), **patches):
    keys = {"patch": 16, "normalize": {"scheme": "none"}, **TASKS[task], **patches}
    return ImageRecipe.model_validate(
        {"name": "r", "title": "r", "task": task, "network": {"name": "unet"},
         "patches": {"bands": bands, "targets": targets, **keys}}
    )  # fmt: skip


@pytest.fixture
def flood_folder(tmp_path):
    return tmp_path / "chips", floods(tmp_path / "chips")


def test_windows_hold_what_the_files_hold(flood_folder):
    folder, labels = flood_folder
    found = open_chips(folder, recipe(stride=11))["all"]
    assert isinstance(found, Samples)
    for i in (0, 5, len(found) - 1):
        about, sample = found.describe(i), found.batch([i])
        import rasterio

        with rasterio.open(folder / "S1" / f"{about['tile']}_S1Hand.tif") as ds:
            expected = ds.read()
        y, x = about["y"], about["x"]
        np.testing.assert_array_equal(sample.inputs[0, 0].numpy(), expected[:, y : y + 16, x : x + 16])
        np.testing.assert_array_equal(sample.labels[0, 0].numpy(), labels[about["tile"]][y : y + 16, x : x + 16])
    whole = found.whole()
    assert len(whole) == 4
    assert whole.batch([0, 1]).inputs.shape == (2, 1, 2, 48, 48)


def test_a_split_never_parts_a_chip_or_an_event(tmp_path):
    floods(tmp_path, ("Ghana", "India", "Spain", "Peru"))
    write(tmp_path / "S1" / "Ghana_7_S1Hand.tif", np.full((2, 48, 48), -9, np.float32), names=("VV", "VH"))
    write(tmp_path / "Label" / "Ghana_7_LabelHand.tif", np.zeros((48, 48), np.int16))
    for seed in range(6):
        sets = open_chips(tmp_path, recipe(), seed=seed)
        places = {n: {c.place for c in sets[n].chips} for n in ("train", "valid", "test")}
        assert all(places.values())
        assert sum(len(p) for p in places.values()) == 4
        assert sum(len(sets[n]) for n in places) == len(sets["all"])
        again = open_chips(tmp_path, recipe(), seed=seed)
        assert {n: s.key for n, s in sets.items()} == {n: s.key for n, s in again.items()}
    named = [frozenset(c.name for c in open_chips(tmp_path, recipe(), seed=s)["valid"].chips) for s in range(12)]
    assert len(set(named)) > 1


def test_validation_shows_both_classes_where_a_chip_does(tmp_path):
    floods(tmp_path, ("Ghana",))
    for place in ("India", "Spain", "Peru", "Chad"):
        write(tmp_path / "S1" / f"{place}_1_S1Hand.tif", np.full((2, 48, 48), -9, np.float32), names=("VV", "VH"))
        write(tmp_path / "Label" / f"{place}_1_LabelHand.tif", np.zeros((48, 48), np.int16))
    for seed in range(5):
        assert [c.place for c in open_chips(tmp_path, recipe(), seed=seed)["valid"].chips] == ["ghana"]


def test_the_folders_own_split_is_kept(tmp_path):
    for split, n in (("train", 2), ("val", 1), ("test", 2)):
        changes(tmp_path / split, n)
    sets = open_chips(tmp_path, recipe("change-detection", ("red", "green", "blue")))
    assert {n: len(s.whole()) for n, s in sets.items()} == {"train": 2, "valid": 1, "test": 2, "all": 5}


@pytest.mark.parametrize("prefixed", [True, False])
def test_names_that_train_on_one_class_alone_are_not_followed(tmp_path, prefixed):
    changes(tmp_path / "train", 1)
    changes(tmp_path / "test", 4)
    made = next((tmp_path / "train" / "label").iterdir())
    write(made, np.zeros((40, 40), np.uint8))  # the only one to train on shows no change
    if prefixed:  # the split in the names of the files, as LEVIR-CD's crops have it
        for path in list(tmp_path.rglob("*.png")):
            split, part = path.relative_to(tmp_path).parts[:2]
            (tmp_path / part).mkdir(exist_ok=True)
            path.rename(tmp_path / part / f"{split if path.stem != '1_3' else 'val'}_{path.name}")
    sets = open_chips(tmp_path, recipe("change-detection", ("red", "green", "blue")))
    counts = {n: len(s.whole()) for n, s in sets.items()}
    assert counts == {"train": 3, "valid": 1, "test": 1, "all": 5}
    assert any("not as the names say" in n for n in sets["all"].notes)
    train = sets["train"].whole()
    assert any(int(train.batch([i]).labels.max()) == 1 for i in range(3))


def test_normaliser_of_the_train_chips_alone(flood_folder):
    folder, _ = flood_folder
    sets = open_chips(folder, recipe(normalize={"scheme": "zscore"}))
    raw = open_chips(folder, recipe())["train"].whole()
    values = np.concatenate([raw.batch([i]).inputs.numpy().reshape(2, -1) for i in range(len(raw))], axis=1)
    np.testing.assert_allclose(sets["train"].normalizer.mean, values.mean(1), rtol=1e-5)
    np.testing.assert_allclose(sets["train"].normalizer.std, values.std(1), rtol=1e-4)
    given = open_chips(folder, recipe(), normalizer=sets["train"].normalizer)
    torch.testing.assert_close(given["valid"].batch([0]).inputs, sets["valid"].batch([0]).inputs)


def test_a_chip_without_a_value_has_no_label(tmp_path):
    floods(tmp_path, ("Ghana", "India"))
    write(tmp_path / "S1" / "Ghana_100_S1Hand.tif", np.full((2, 48, 48), np.nan, np.float32), names=("VV", "VH"))
    whole = open_chips(tmp_path, recipe())["all"].whole()
    i = [whole.describe(k)["tile"] for k in range(len(whole))].index("Ghana_100")
    sample = whole.batch([i])
    assert (sample.quality == int(Quality.NODATA)).all()
    assert (sample.labels == -1).all()
    assert (sample.inputs == 0).all()


def test_radar_without_a_value_needs_no_unit_and_says_so(tmp_path):
    write(tmp_path / "S1" / "Void_1_S1Hand.tif", np.full((2, 48, 48), np.nan, np.float32), names=("VV", "VH"))
    write(tmp_path / "Label" / "Void_1_LabelHand.tif", np.ones((48, 48), np.int16))
    found = open_chips(tmp_path, recipe())["all"].whole()
    sample = found.batch([0])
    assert (sample.quality == int(Quality.NODATA)).all()
    assert (sample.labels == -1).all()
    assert sum("no chip holds a value" in n for n in found.notes) == 2


def test_padding_of_a_small_chip(tmp_path):
    floods(tmp_path, size=20)
    sample = open_chips(tmp_path, recipe(patch=32))["all"].batch([0])
    assert (sample.quality[..., 20:, :] == int(Quality.MISSING)).all()
    assert (sample.labels[..., 20:] == -1).all()


def test_workers_can_have_it(flood_folder):
    found = open_chips(flood_folder[0], recipe())["train"]
    other = pickle.loads(pickle.dumps(found))
    torch.testing.assert_close(other.batch([1, 0]).inputs, found.batch([1, 0]).inputs)


def test_memory_is_bounded(flood_folder):
    found = open_chips(flood_folder[0], recipe(), memory_mb=1)["all"]
    found.cache.limit = 40_000  # less than two chips
    for i in range(len(found)):
        found.batch([i])
    assert len(found.cache._kept) == 1


@pytest.mark.parametrize(("values", "units", "expected"), [
    (lambda x: x / 10000, "dB/10000", lambda x: x), (lambda x: 10 ** (x / 10), "1", lambda x: 10 ** (x / 10)),
])  # fmt: skip
def test_radar_in_other_numbers_is_told_by_its_values(tmp_path, values, units, expected):
    labels = floods(tmp_path)
    db = {}
    for name, label in labels.items():
        db[name] = radar(np.random.default_rng(1), label)
        write(tmp_path / "S1" / f"{name}_S1Hand.tif", values(db[name]).astype(np.float32), names=("VV", "VH"))
    whole = open_chips(tmp_path, recipe())["all"].whole()
    np.testing.assert_allclose(whole.batch([0]).inputs[0, 0], expected(db[whole.describe(0)["tile"]]), rtol=1e-4)
    wanted = BandNormalizer(("VV", "VH"), (0.0, 0.0), (1.0, 1.0), (1.0, 1.0), (None, None), ("dB", "dB"),
                            ("none", "none"), (None, None), (None, None))  # fmt: skip
    again = open_chips(tmp_path, recipe(), normalizer=wanted)["all"].whole()
    np.testing.assert_allclose(again.batch([0]).inputs[0, 0], db[again.describe(0)["tile"]], atol=2e-3)


def test_two_kinds_of_radar_in_one_folder_are_refused(tmp_path):
    labels = floods(tmp_path)
    name = next(iter(labels))
    x = radar(np.random.default_rng(1), labels[name])
    write(tmp_path / "S1" / f"{name}_S1Hand.tif", (x / 10000).astype(np.float32), names=("VV", "VH"))
    with pytest.raises(BadInput, match="looks like decibel") as e:
        open_chips(tmp_path, recipe())
    assert e.value.where.count(".tif") == 2


def test_image_without_label_is_left_out_with_a_note_and_none_is_an_error(flood_folder):
    folder, _ = flood_folder
    (folder / "Label" / "Spain_102_LabelHand.tif").unlink()
    found = open_chips(folder, recipe())["all"]
    assert len(found.chips) == 3
    assert any("Spain_102_S1Hand.tif" in n for n in found.notes)
    for path in (folder / "Label").iterdir():
        path.unlink()
    with pytest.raises(BadInput, match="no image has a label") as e:
        open_chips(folder, recipe())
    assert "Ghana_100_S1Hand.tif" in e.value.where


def test_sizes_that_differ_are_refused_by_name(flood_folder):
    folder, _ = flood_folder
    write(folder / "Label" / "Peru_103_LabelHand.tif", np.zeros((47, 48), np.int16))
    with pytest.raises(BadInput, match="47 x 48 and 48 x 48") as e:
        open_chips(folder, recipe())
    assert "Peru_103_LabelHand.tif" in e.value.where
    assert "Peru_103_S1Hand.tif" in e.value.where


@pytest.mark.parametrize(("values", "classes", "expected"), [
    ((0, 1), (0, 1), {0: 0, 1: 1}), ((0, 255), (0, 1), {0: 0, 255: 1}), ((0, 1, 255), (0, 1), {0: 0, 1: 1, 255: -1}),
    ((-1, 0, 1), (0, 1), {-1: -1, 0: 0, 1: 1}), ((10, 30), (30, 10), {10: 1, 30: 0}),
])  # fmt: skip
def test_codings_of_labels(tmp_path, values, classes, expected):
    floods(tmp_path, ("Ghana",))
    label = np.resize(np.array(values, np.int16), (48, 48))
    write(tmp_path / "Label" / "Ghana_100_LabelHand.tif", label)
    sample = open_chips(tmp_path, recipe(labels={"band": "water", "classes": classes}))["all"].whole().batch([0])
    np.testing.assert_array_equal(sample.labels[0, 0].numpy(), np.vectorize(expected.get)(label))


def test_a_value_that_is_no_class_is_refused(flood_folder):
    folder, labels = flood_folder
    write(folder / "Label" / "Peru_103_LabelHand.tif", np.where(labels["Peru_103"] == 1, 7, 0).astype(np.int16))
    with pytest.raises(BadInput, match="the value 7") as e:
        open_chips(folder, recipe())
    assert "Peru_103" in e.value.where
    assert "patches.labels.classes" in e.value.todo


def test_pictures_are_brightness_and_names_are_common_ones(tmp_path):
    changes(tmp_path)
    sets = open_chips(tmp_path, recipe("change-detection", ("B04", "B03", "B02")))
    sample = sets["all"].whole().batch([0])
    assert sample.inputs.shape == (1, 2, 3, 40, 40)
    assert sample.labels.sum() == 12 * 14
    assert float(sample.inputs[0, 1].max()) == pytest.approx(220 / 255)
    assert sets["all"].recipe.bands == ("red", "green", "blue")
    assert [b.name for b in chip_bands(tmp_path, "change-detection")[0].bands] == ["red", "green", "blue"]


def test_pairs_by_the_last_number(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("Italy", "yellow_A"):
        for part in ("1", "2"):
            write(tmp_path / f"{name}_{part}.bmp", rng.integers(0, 255, (1, 30, 41)).astype(np.uint8))
        gt = np.zeros((30, 41), np.uint8)
        gt[3:9], gt[0, 0] = 255, 34
        write(tmp_path / f"{name}_gt.bmp", gt)
    found = open_chips(tmp_path, recipe("change-detection", ("red", "green", "blue")))["all"]
    sample = found.whole().batch([0])
    assert sorted(c.name for c in found.chips) == ["Italy", "yellow_A"]
    assert int((sample.labels == -1).sum()) == 1
    assert int((sample.labels == 1).sum()) == 6 * 41
    assert any("neither 0 nor 255" in n for n in found.notes)


def test_bands_that_nothing_names_are_asked_for(tmp_path):
    for i in range(3):
        write(tmp_path / "images" / f"{i}.tif", np.full((4, 20, 20), 500 + i, np.int16))
        write(tmp_path / "labels" / f"{i}.png", np.resize(np.array([0, 1], np.uint8), (20, 20)))
    wanted = recipe(bands=("green", "nir"))
    with pytest.raises(BadInput, match="which of the 4 bands is which") as e:
        open_chips(tmp_path, wanted)
    assert "chips.yaml" in e.value.todo
    names = ("B02", "B03", "B04", "B08")
    with pytest.raises(BadInput, match="units unknown") as e:
        open_chips(tmp_path, recipe(bands=("a", "b")), options=ChipOptions(bands=("a", "b", "c", "d")))
    found = open_chips(tmp_path, wanted, options=ChipOptions(bands=names, offset=0.0))["all"].whole()
    assert float(found.batch([0]).inputs.max()) == pytest.approx(0.05)
    (tmp_path / "chips.yaml").write_text("bands: [B02, B03, B04, B08]\nscale: 0.001\noffset: 0\n")
    assert float(open_chips(tmp_path, wanted)["all"].whole().batch([0]).inputs.max()) == pytest.approx(0.5)
    (tmp_path / "chips.yaml").write_text("band: [B02]\n")
    with pytest.raises(BadInput, match=re.escape("no key 'band' (did you mean 'bands'?)")):
        open_chips(tmp_path, wanted)


# -- clouds ------------------------------------------------------------------------------------------------------------


def test_each_clear_date_is_a_target_of_its_neighbours(tmp_path):
    ground = series(tmp_path)
    bands = ("B02", "B03", "B04", "B08")
    found = open_chips(tmp_path, recipe("cloud-removal", bands, bands))["all"].whole()
    about = [found.describe(i) for i in range(len(found))]
    assert [a["target"] for a in about] == ["2019-05-06T00:00:00", "2019-05-21T00:00:00", "2019-05-31T00:00:00"]
    for i, a in enumerate(about):
        assert a["target"] not in a["times"]
        assert a["times"] == sorted(a["times"])
        sample = found.batch([i])
        day = int((np.datetime64(a["target"]) - np.datetime64("2019-05-01")) / np.timedelta64(5, "D"))
        expected = np.floor(ground[[1, 2, 3, 7]] * (1 + 0.02 * day)) / 10000
        np.testing.assert_allclose(sample.target[0], expected, atol=1e-6)
    assert about[1]["times"] == ["2019-05-11T00:00:00", "2019-05-16T00:00:00", "2019-05-26T00:00:00"]
    cloudy = found.batch([1]).quality[0, 0]  # 2019-05-11 has a cloud over its upper half
    assert (cloudy[:20] == int(Quality.CLOUD)).all()
    assert (cloudy[24:] == int(Quality.CLEAR)).all()
    times, when = days(found, [1])
    assert times.shape == (1, 3)
    assert when[0] - times[0, 2] == -5


def test_the_list_of_cloud_shares_beside_the_series_counts(tmp_path):
    series(tmp_path / "dates")
    rows = ["scene,patch,time,cloud_percentage", "9,0,2019-05-06,0.9", "1,0,2019-05-21,0.01"]
    (tmp_path / "list.csv").write_text("\n".join(rows).replace("9,0,", "0,0,").replace("1,0,", "0,0,"))
    bands = ("B02", "B03", "B04")
    found = open_chips(tmp_path / "dates", recipe("cloud-removal", bands, bands))["all"].whole()
    # no number 0 but that of the patch stands in every name: 06 is said to be cloudy and is no target
    assert [found.describe(i)["target"][:10] for i in range(len(found))] == ["2019-05-21", "2019-05-31"]


def test_cloudy_and_clear_pairs_are_padded_with_missing_dates(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(2):
        clear = rng.integers(200, 900, (13, 24, 24)).astype(np.uint16)
        cloudy = clear.copy()
        cloudy[:, :10] = 7000
        write(tmp_path / f"ROIs_s2_cloudy_{i}_p1.tif", cloudy)
        write(tmp_path / f"ROIs_s2_{i}_p1.tif", clear)
    bands = ("red", "green", "blue")
    sample = open_chips(tmp_path, recipe("cloud-removal", bands, bands))["all"].whole().batch([0])
    assert sample.inputs.shape == (1, 3, 3, 24, 24)
    assert float(sample.target.max()) < 0.1
    assert (sample.quality[0, 1:] == int(Quality.MISSING)).all()
    assert (sample.quality[0, 0, :10] == int(Quality.CLOUD)).all()


def test_input_target_and_mask_with_radar_in_front(tmp_path):
    rng = np.random.default_rng(0)
    optical = rng.uniform(0.02, 0.3, (13, 24, 24))
    both = np.concatenate([radar(rng, np.zeros((24, 24))) / 10000, optical + 0.2]).astype(np.float32)
    mask = np.zeros((24, 24), np.float32)
    mask[:6] = 1
    write(tmp_path / "7_input.tif", both)
    write(tmp_path / "7_target.tif", optical.astype(np.float32))
    write(tmp_path / "7_mask.tif", mask)
    wanted = recipe("cloud-removal", ("B04", "VV"), ("B04",), dates=1)
    sample = open_chips(tmp_path, wanted)["all"].whole().batch([0])
    assert -20 < float(sample.inputs[0, 0, 1].mean()) < -8
    np.testing.assert_array_equal(sample.quality[0, 0] == int(Quality.CLOUD), mask == 1)
    np.testing.assert_allclose(sample.target[0, 0], optical[3], atol=1e-6)


# -- real files --------------------------------------------------------------------------------------------------------


@pytest.mark.realdata
@pytest.mark.parametrize(("folder", "wanted", "chips", "dates"), [
    ("flood/sen1floods11", recipe(), 7, 1), ("flood/sen1floods11", recipe(bands=("green", "nir")), 1, 1),
    ("change/levir_cd", recipe("change-detection", ("red", "green", "blue")), 6, 2),
    ("change/dsifn_cd", recipe("change-detection", ("red", "green", "blue")), 5, 2),
    ("change/inlpg", recipe("change-detection", ("red", "green", "blue")), 3, 2),
    ("s2_cloud/sen12mscr_pairs", recipe("cloud-removal", ("red",), ("red",)), 4, 3),
    ("s2_cloud/sen12mscr_s1s2_triplets", recipe("cloud-removal", ("red", "VV"), ("red",)), 1, 3),
    ("s2_cloud/ts_ROIs2017_146_patch0", recipe("cloud-removal", ("red",), ("red",)), 7, 3),
])  # fmt: skip
def test_real_folders(realdata, folder, wanted, chips, dates):
    whole = open_chips(realdata / folder, wanted)["all"].whole()
    assert len(whole) == chips
    sample = whole.batch([chips - 1])
    assert sample.inputs.shape[1] == dates
    assert torch.isfinite(sample.inputs).all()
