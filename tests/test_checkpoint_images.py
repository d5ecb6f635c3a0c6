from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from eoflow import catalog, checkpoint
from eoflow.bands import BandSpec, SceneSchema
from eoflow.catalog import validate
from eoflow.catalog_images import ImageRecipe
from eoflow.checkpoint import Checkpoint
from eoflow.checkpoint_images import (
    ImageCheckpoint,
    build,
    candidates,
    matched,
    plain_normalizer,
    reduced,
    resolve_images,
    same_band,
    task_of,
)
from eoflow.errors import BadInput, SchemaMismatch
from eoflow.prepare.scenes.normalize import BandNormalizer


def band(name, units="1", common=None):
    return BandSpec(name=name, dtype="float32", units=units, common_name=common)


def schema(*bands, sensor="sentinel-2"):
    return SceneSchema(bands=bands, sensor=sensor, level="L2", tiles="{}", quality="{}")


RADAR = schema(band("VV", "dB"), band("VH", "dB"), sensor="sentinel-1")
OPTICAL = schema(band("B03", common="green"), band("B08", common="nir"), band("B11", common="swir16"))


def made(where=RADAR, name="unet", mean=-10.0, task="segmentation", **patches):
    names = where.names
    recipe = validate(
        {"name": name, "title": "A net", "task": task,
         "network": {"name": "unet", "options": {"width": 4, "depth": 1}},
         "patches": {"bands": names, "labels": {"band": "water"}, **patches}},
        ImageRecipe, "here",
    )  # fmt: skip
    n = len(names)
    units = tuple(b.units for b in where.bands)
    normalizer = BandNormalizer(names, (mean,) * n, (5.0,) * n, (5.0,) * n, (None,) * n, units, ("zscore",) * n,
                                (None,) * n, (None,) * n)  # fmt: skip
    signature = task_of(recipe).signature(recipe)
    torch.manual_seed(0)
    model = build(recipe, signature, where, normalizer).eval()
    return ImageCheckpoint(recipe, signature, where, normalizer, None, model, {"train": "3 samples"}, {"dataset": "d"},
                           "# a card", [{"metric": "iou", "value": 0.5}])  # fmt: skip


def test_round_trip_and_tampering(tmp_path):
    one = made()
    folder = one.save_pretrained(tmp_path / "a")
    two = ImageCheckpoint.from_pretrained(folder)
    assert two.hash == one.hash
    assert (two.recipe, two.signature, two.schema, two.normalizer) == (
        one.recipe, one.signature, one.schema, one.normalizer)  # fmt: skip
    assert (two.card, two.scores, two.splits, two.location) == (one.card, one.scores, one.splits, str(folder))
    x = torch.randn(1, 1, 2, 9, 7)
    torch.testing.assert_close(one.model(x)["logits"], two.model(x)["logits"], rtol=0, atol=0)
    file = folder / "config.json"
    config = json.loads(file.read_text())
    assert config["kind"] == "images"
    config["normalizer"]["mean"][0] += 1
    file.write_text(json.dumps(config))
    with pytest.raises(BadInput, match="changed after"):
        ImageCheckpoint.from_pretrained(folder)


def test_half_precision_survives_its_own_hash(tmp_path):
    one = made()
    one.save_pretrained(tmp_path / "a", half=True)
    assert ImageCheckpoint.from_pretrained(tmp_path / "a").hash == one.hash


def test_the_two_kinds_are_told_apart(tmp_path):
    folder = made().save_pretrained(tmp_path / "a")
    with pytest.raises(BadInput, match="task segmentation"):
        Checkpoint.from_pretrained(folder)
    with pytest.raises(BadInput, match="task forecast"):
        ImageCheckpoint.from_pretrained(checkpoint.SHIPPED / "puyun-sample-atmosphere")


def test_weights_that_do_not_fit(tmp_path):
    folder = made().save_pretrained(tmp_path / "a")
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config["recipe"]["network"]["options"]["width"] = 8
    file.write_text(json.dumps(config))
    with pytest.raises(BadInput, match="do not fit each other"):
        ImageCheckpoint.from_pretrained(folder)


def test_outputs_and_uncertainty():
    one = made()
    assert one.outputs == ("logits",)
    assert not one.tells_uncertainty


# -- bands -----------------------------------------------------------------------------------------------------------


def test_a_band_is_known_by_its_common_name_before_its_name():
    landsat = [band("B3", common="green"), band("B5", common="nir"), band("B4", common="red")]
    assert same_band(band("B03", common="green"), landsat).name == "B3"
    assert same_band(band("B4", common="nir"), landsat).name == "B5"
    assert same_band(band("B3"), landsat).name == "B3"
    assert same_band(band("vv"), RADAR.bands).name == "VV"
    assert same_band(band("B3", common="swir16"), landsat) is None


def test_decibels_and_power_are_the_same_in_other_numbers():
    one = made()
    power = schema(band("vv"), band("vh"), sensor="sentinel-1")
    fitted = one.fitted(power)
    assert fitted.channels == ("vv", "vh")
    linear = np.array([[[0.1]], [[0.01]]])
    np.testing.assert_allclose(fitted.encode(linear), one.normalizer.encode(10 * np.log10(linear)))
    back, problems = matched(power.bands, fitted, RADAR.bands)
    assert not problems
    np.testing.assert_allclose(back.encode(10 * np.log10(linear)), fitted.encode(linear))


def test_what_does_not_fit_is_said_of_each_band():
    other = schema(band("VV", "DN"), band("B03", common="green"))
    with pytest.raises(SchemaMismatch, match=r"VV is in 'DN', and the model was trained in 'dB'; VH is missing"):
        made().fitted(other)


# -- which one -------------------------------------------------------------------------------------------------------


def test_the_datasets_own_first_then_most_bands(workspace):
    both = schema(*RADAR.bands, *OPTICAL.bands)
    two, five, own = made(), made(both, "big"), made(OPTICAL, "optic")
    checkpoint.store(two, workspace, "a")
    checkpoint.store(five, workspace, "b")
    own.provenance["dataset"] = "c"
    checkpoint.store(own, workspace, "c")
    checkpoint.store(made(task="change-detection", name="ch", dates=2, pick="pairs"), workspace, "a")

    def names(have, **how):
        found = candidates(workspace, "segmentation", have.bands, **how)
        found = [f for f in found if not f.is_relative_to(checkpoint.SHIPPED)]
        return [ImageCheckpoint.from_pretrained(f).name for f in found]

    assert names(both) == ["big", "optic", "unet"]
    assert names(both, dataset="c") == ["optic", "big", "unet"]
    assert names(RADAR) == ["unet"]
    assert names(both, name="unet") == ["unet"]
    assert resolve_images(workspace, "c", None, "segmentation", both).name == "optic"
    assert resolve_images(workspace, None, "big", "segmentation", both).hash == five.hash
    path = str(checkpoint.current(workspace, "a", "unet"))
    assert resolve_images(workspace, None, path, "segmentation", RADAR).hash == two.hash
    with pytest.raises(BadInput, match="for segmentation, not for change"):
        resolve_images(workspace, None, path, "change-detection", RADAR)


def test_nothing_fits(workspace):
    where = schema(band("VV", "DN"), sensor="sentinel-1")
    checkpoint.store(made(), workspace, "a")
    with pytest.raises(SchemaMismatch, match=r"(?s)unet: VV is in 'DN'.*VH is missing.*eoflow train unet --dataset w"):
        raise_with_todo(workspace, "w", "unet", where)
    with pytest.raises(BadInput, match="did you mean 'unetplusplus'"):
        resolve_images(workspace, "w", "unetpluspus", "segmentation", RADAR)


def raise_with_todo(workspace, dataset, model, where):
    try:
        resolve_images(workspace, dataset, model, "segmentation", where)
    except SchemaMismatch as e:
        raise SchemaMismatch(f"{e.what} {e.todo}") from None


def test_a_model_without_weights_is_found_by_its_name(workspace):
    found = resolve_images(workspace, None, "otsu", "segmentation", RADAR)
    assert found.normalizer.channels == ("VV",)
    with pytest.raises(BadInput, match="is for segmentation"):
        resolve_images(workspace, None, "otsu", "cloud-removal", RADAR)


# -- without weights -------------------------------------------------------------------------------------------------


def water(one, values):
    """Where a closed-form model sees water in physical values (C, H, W)."""
    images = torch.from_numpy(one.normalizer.encode(np.asarray(values, np.float32)))[None, None]
    return (one.model(images)["logits"][0, 0] > 0).numpy()


def test_thresholds_work_in_physical_units_whatever_the_normaliser():
    rng = np.random.default_rng(0)
    vv, vh = rng.uniform(-25, -5, (2, 30, 30))
    expected = (vv < -15) & (vh < -22)
    one = made()
    beside = ImageCheckpoint.closed_form("band-thresholds", one.recipe, one.schema, normalizer=one.normalizer)
    np.testing.assert_array_equal(water(beside, [vv, vh]), expected)
    alone = ImageCheckpoint.closed_form("band-thresholds", None, RADAR)
    np.testing.assert_array_equal(water(alone, [vv, vh]), expected)
    power = ImageCheckpoint.closed_form("band-thresholds", None, schema(band("vh"), band("vv")))
    assert power.normalizer.transforms == ("db", "db")
    away = np.minimum(np.abs(vv + 15), np.abs(vh + 22)) > 1e-3  # what rounding decides is not compared
    stacked = [vv, vh] if power.normalizer.channels == ("vv", "vh") else [vh, vv]
    np.testing.assert_array_equal(water(power, 10 ** (np.array(stacked) / 10))[away], expected[away])


def test_water_index_finds_its_bands_by_common_name():
    one = ImageCheckpoint.closed_form("ndwi", None, OPTICAL)
    assert one.normalizer.channels == ("B03", "B08")
    green, nir = np.random.default_rng(1).uniform(0.01, 0.5, (2, 20, 20))
    np.testing.assert_array_equal(water(one, [green, nir]), green > nir)
    swir = schema(band("B11", common="swir16"), band("B03", common="green"))
    second = ImageCheckpoint.closed_form("ndwi", None, swir, ["swir16", "green"])
    np.testing.assert_array_equal(water(second, [nir, green]), green > nir)
    with pytest.raises(BadInput, match="needs green"):
        ImageCheckpoint.closed_form("ndwi", None, RADAR)
    with pytest.raises(BadInput, match="need VV or VH"):
        ImageCheckpoint.closed_form("band-thresholds", None, OPTICAL)


def test_composites_take_all_bands():
    one = ImageCheckpoint.closed_form("median-composite", None, OPTICAL)
    assert one.recipe.patches.targets == OPTICAL.names
    x = torch.rand(1, 3, 3, 4, 4)
    torch.testing.assert_close(one.model(x)["image"], x.median(1).values)
    assert one.target_normalizer.channels == OPTICAL.names


def test_a_closed_form_checkpoint_can_be_kept(tmp_path):
    one = ImageCheckpoint.closed_form("otsu", None, RADAR)
    two = ImageCheckpoint.from_pretrained(one.save_pretrained(tmp_path / "otsu"))
    assert two.hash == one.hash
    with pytest.raises(BadInput, match="has weights"):
        ImageCheckpoint.closed_form("unet", None, RADAR)


@pytest.mark.parametrize(
    "name", [n for n in catalog.names("models") if getattr(catalog.recipe(n), "task", "") != "forecast"]
)
def test_every_recipe_of_images_builds(name):
    recipe = catalog.recipe(name)
    names = dict.fromkeys((*recipe.patches.bands, *recipe.patches.targets))
    where = schema(*(band(n, "dB" if n.lower() in ("vv", "vh") else "1", n.lower()) for n in names))
    normalizer = plain_normalizer(where, recipe.patches.bands)
    model = build(recipe, task_of(recipe).signature(recipe), reduced(where, recipe.patches.bands), normalizer)
    assert model.signature.channels == len(recipe.patches.bands) + (recipe.task == "synthesis")  # the map of classes


def test_a_forecast_network_is_no_image_model():
    recipe = ImageRecipe.model_validate(made().recipe.model_dump() | {"network": {"name": "puyun"}})
    with pytest.raises(BadInput, match="no image model"):
        build(recipe, task_of(recipe).signature(recipe), RADAR, plain_normalizer(RADAR, RADAR.names))
