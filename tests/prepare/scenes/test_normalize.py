from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from memory_cube import NIR, RED, VV, memory_cube, schema, utm

from eoflow.bands import BandSpec
from eoflow.catalog_patches import NormalizeRecipe, PatchRecipe, SplitRecipe
from eoflow.errors import BadInput, SchemaMismatch
from eoflow.prepare.normalize import Normalizer, inverse_transform, transform
from eoflow.prepare.scenes import reading, statistics
from eoflow.prepare.scenes.normalize import BandNormalizer, transforms_of
from eoflow.prepare.scenes.splits import divide

ALL = SplitRecipe(fractions=(1, 0, 0))


def fitted(recipe: NormalizeRecipe, bands=(RED, NIR, VV), seed=0):
    """(normaliser, cube, physical values of every usable pixel a band)."""
    cube = memory_cube({"a": utm(shape=(70, 90))}, bands, 2, 0.2, seed)
    r = PatchRecipe(patch=32, split=ALL, normalize=recipe)
    stats = statistics.update(cube, r, divide(r, reading.tiles(cube)), transforms=transforms_of(recipe, bands))
    group = cube.group("a")
    usable = np.isin(group["quality"][...], [5, 6, 7])
    values = {}
    for b in bands:
        x = b.physical(group[b.name][...])
        values[b.name] = x[usable & np.isfinite(x)].astype("f8")
    return BandNormalizer.of(recipe, cube.schema, [b.name for b in bands], stats), cube, values


def test_zscore_and_db_have_mean_0_and_spread_1():
    made, _, values = fitted(NormalizeRecipe(bands={"vv": "db"}))
    for i, (name, x) in enumerate(values.items()):
        y = made.select([name]).encode(x[None, None])
        assert abs(y.mean()) < 1e-4, name
        assert y.std() == pytest.approx(1, abs=1e-4)
        assert made.schemes[i] == ("db" if name == "vv" else "zscore")


@pytest.mark.parametrize("clip", [True, False])
def test_percentiles_go_to_0_and_1(clip):
    made, _, values = fitted(NormalizeRecipe(scheme="percentile", low=5, high=90, clip=clip), (RED, NIR))
    x = values["red"]
    y = made.select(["red"]).encode(x[None, None])
    low, high = np.percentile(x, [5, 90])
    expected = (x - low) / (high - low)
    np.testing.assert_allclose(y[0, 0], np.clip(expected, 0, 1) if clip else expected, atol=1e-6)
    assert (y.min() < 0) != clip


def test_db_then_percentile():
    made, _, values = fitted(NormalizeRecipe(scheme="db", after="percentile"), (VV,))
    y = made.encode(values["vv"][None, None])
    assert y.min() == 0
    assert y.max() == 1
    assert 0.01 < (y == 0).mean() < 0.03


@pytest.mark.parametrize("recipe", [
    NormalizeRecipe(), NormalizeRecipe(scheme="percentile", clip=False), NormalizeRecipe(scheme="none"),
    NormalizeRecipe(scheme="constants", bands={"vv": "db"}),
], ids=lambda r: r.scheme)  # fmt: skip
def test_the_inverse_gives_physical_values_back(recipe):
    made, cube, _ = fitted(recipe)
    stored = np.stack([cube.group("a")[b.name][0] for b in (RED, NIR, VV)]).astype("f4")
    physical = np.stack([b.physical(cube.group("a")[b.name][0]) for b in (RED, NIR, VV)])
    for x in (physical.astype("f8"), torch.from_numpy(physical.astype("f8"))):
        np.testing.assert_allclose(np.asarray(made.decode(made.encode(x))), physical, rtol=1e-6, atol=1e-9)
    ok = np.isfinite(physical)
    got = made.encode_stored(stored[None], cube.schema)[0]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got[ok], made.encode(physical.astype("f8"))[ok], rtol=1e-4, atol=1e-4)


def test_stored_integers_and_physical_values_give_the_same_numbers():
    made, cube, _ = fitted(NormalizeRecipe(scheme="percentile"), (RED, NIR))
    stored = np.stack([cube.group("a")[b][...] for b in ("red", "nir")], axis=1)
    physical = np.stack([RED.physical(stored[:, 0]), NIR.physical(stored[:, 1])], axis=1)
    ok = np.isfinite(physical)
    np.testing.assert_allclose(made.encode_stored(stored, cube.schema)[ok], made.encode(physical)[ok], atol=1e-5)
    out = np.empty(stored.shape, np.float32)
    assert made.encode_stored(stored, cube.schema, out) is out


def test_constants_need_no_data_and_know_their_sensor():
    s2 = schema(RED, NIR)
    made = BandNormalizer.of(NormalizeRecipe(scheme="constants"), s2, ["red", "nir"])
    dn = np.full((1, 2, 2, 2), 3000, np.uint16)  # baseline 04.00: reflectance 0.2, 2000 before it
    np.testing.assert_allclose(made.encode_stored(dn, s2), 0.2, rtol=1e-6)
    s1 = schema(BandSpec(name="vv", dtype="float32", units="dB")).model_copy(update={"sensor": "sentinel-1"})
    vv = BandNormalizer.of(NormalizeRecipe(scheme="constants"), s1, ["vv"])
    np.testing.assert_allclose(vv.encode(np.array([[[-25.0, -12.5, 0.0]]])), [[[0, 0.5, 1]]])
    for bad, match in ((s2.model_copy(update={"sensor": "planet"}), "no constants for band red of planet"),
                       (schema(BandSpec(name="red", dtype="uint16", units="DN")), "in 'DN'")):  # fmt: skip
        with pytest.raises(BadInput, match=match):
            BandNormalizer.of(NormalizeRecipe(scheme="constants"), bad, ["red"])


def test_bands_that_are_missing_or_reordered_are_refused():
    made, cube, _ = fitted(NormalizeRecipe(), (RED, NIR))
    x = np.zeros((2, 4, 4))
    for wrong in (["nir", "red"], ["red"], ["red", "nir", "swir"]):
        with pytest.raises(SchemaMismatch, match=r"do not fit the normaliser(.|\n)*given"):
            made.encode(x, wrong)
    with pytest.raises(SchemaMismatch, match="does not have 2 channels"):
        made.encode(np.zeros((3, 4, 4)))
    swapped = made.select(["nir", "red"])
    np.testing.assert_array_equal(swapped.encode(x), made.encode(x)[::-1])
    with pytest.raises(SchemaMismatch, match="knows no swir"):
        made.select(["swir"])
    with pytest.raises(SchemaMismatch, match="needs statistics of band"):
        BandNormalizer.of(NormalizeRecipe(), cube.schema, ["red"])
    with pytest.raises(SchemaMismatch, match="red is in 'dB'"):
        made.require_units(schema(RED.model_copy(update={"units": "dB"}), NIR))
    db = schema(BandSpec(name="vv", dtype="float32", units="dB"))
    with pytest.raises(BadInput, match="no power"):
        BandNormalizer.of(NormalizeRecipe(scheme="db"), db, ["vv"])


def test_the_hash_names_the_numbers_and_json_keeps_them():
    made, _, _ = fitted(NormalizeRecipe(scheme="percentile"), (RED, NIR))
    again = BandNormalizer.from_dict(json.loads(json.dumps(made.to_dict())))
    assert again == made
    assert again.hash == made.hash
    other, _, _ = fitted(NormalizeRecipe(scheme="percentile"), (RED, NIR), seed=9)
    assert other.hash != made.hash
    assert made.select(["red"]).hash != made.hash
    with pytest.raises(BadInput, match="not a normaliser"):
        BandNormalizer.from_dict({"channels": ["a"]})
    plain = Normalizer(("a",), (0.0,), (1.0,), (1.0,), (None,))
    assert set(plain.to_dict()) == {"channels", "mean", "std", "tendency_std", "transforms"}


def test_db_and_back():
    x = np.array([1e-3, 0.5, 2.0])
    np.testing.assert_allclose(transform(x, "db"), 10 * np.log10(x))
    np.testing.assert_allclose(inverse_transform(transform(x, "db"), "db"), x)
    assert np.isnan(transform(np.array([0.0, -1.0]), "db")).all()
    t = torch.tensor([0.5, -1.0])
    assert transform(t, "db")[0] == pytest.approx(-3.0103, abs=1e-4)
    assert torch.isnan(transform(t, "db")[1])
