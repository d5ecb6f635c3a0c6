from __future__ import annotations

import numpy as np
import pytest
import torch

from eoflow import catalog
from eoflow.catalog_images import ImageRecipe
from eoflow.checkpoint_images import ImageCheckpoint
from eoflow.contract_images import setting
from eoflow.errors import BadInput
from eoflow.models.lee import Lee
from eoflow.models.merlin import Merlin
from eoflow.models.uncrtaints import UncrtainTs
from eoflow.prepare.scenes.normalize import BandNormalizer
from eoflow.quality import Quality
from eoflow.tasks.despeckling import IntensityOf, require_complex
from eoflow.verify import images as reference


def scaled(one):
    """The setting's normaliser with another mean and spread in each band."""
    n = len(one.normalizer.channels)
    mean, std = tuple(0.1 + 0.02 * i for i in range(n)), tuple(0.03 + 0.01 * i for i in range(n))
    none = (None,) * n
    names, units = one.normalizer.channels, one.normalizer.units
    return BandNormalizer(names, mean, std, std, none, units, ("zscore",) * n, none, none)


def clouds(name="uncrtaints", network=UncrtainTs, **options):
    one = setting(network, catalog.recipe(name), name)
    ref = one.recipe.network.model_copy(update={"options": {**one.recipe.network.options, **options}})
    normalizer = scaled(one)
    recipe = one.recipe.model_copy(update={"network": ref})
    targets = normalizer.select(recipe.patches.targets)
    model = setting(network, recipe, name).model().eval()
    return one, ImageCheckpoint(recipe, model.signature, one.schema, normalizer, targets, model)


SMALL = {"width": 16, "blocks": 1}


def test_scores_of_restored_images_are_those_of_the_scorecard():
    one, made = clouds(**SMALL)
    sample = one.sample((16, 20))
    sample.target_quality[0, :4] = int(Quality.CLOUD)
    image = sample.target + 0.3 * torch.randn(sample.target.shape, generator=torch.Generator().manual_seed(4))
    scored = one.task.score(made, {"image": image}, sample)
    normalizer = made.target_normalizer
    a, b = (normalizer.decode(x.double().numpy()) for x in (image, sample.target))
    valid = sample.target_quality.numpy() == int(Quality.CLEAR)
    cloudy = valid & (sample.quality.numpy() == int(Quality.CLOUD)).any(1)
    for name in ("psnr", "sam", "mae"):
        for where, mask in (("all", valid), ("cloudy", cloudy)):
            expected = getattr(reference, name)(a, b, mask)
            np.testing.assert_allclose(scored[f"{name}_{where}"], expected, rtol=1e-6)
            row = one.task.summary(made, scored)["reflectance", f"{name}_{where}"]
            assert row == pytest.approx(expected.mean())


def test_a_composite_that_says_nothing_does_not_win_by_it():
    one, made = clouds(**SMALL)
    sample = one.sample((16, 16))
    image = sample.target.clone()
    perfect = one.task.summary(made, one.task.score(made, {"image": image}, sample))
    image[:, :, :8] = torch.nan
    partly = one.task.summary(made, one.task.score(made, {"image": image}, sample))
    assert partly["reflectance", "psnr_all"] < perfect["reflectance", "psnr_all"]
    image[:] = torch.nan
    assert all(np.isfinite(v) for v in one.task.summary(made, one.task.score(made, {"image": image}, sample)).values())


def test_a_restored_image_comes_back_in_physical_units():
    one, made = clouds(**SMALL)
    normalizer = made.target_normalizer
    n = len(normalizer.channels)
    image = np.random.default_rng(0).normal(size=(n, 4, 5)).astype("f4")
    usable = np.zeros((3, 4, 5), bool)
    usable[:2, 1:] = True
    image[:, 3] = np.nan
    out = one.task.decode(made, {"image": image, "log_variance": np.full(image.shape, np.log(4.0), "f4")}, usable)
    np.testing.assert_allclose(out["image"], normalizer.decode(image), rtol=1e-6)
    for c, std in enumerate(normalizer.std):
        np.testing.assert_allclose(out["std"][c], 2 * std, rtol=1e-5)
    assert out["count"][0, :, 0].tolist() == [0, 2, 2, 2]
    assert out["filled"][0, :, 0].tolist() == [1, 0, 0, 255]
    assert [x.name for x in one.task.layers(made)] == ["image", "std", "count", "filled"]
    assert {x.name: out[x.name].dtype for x in one.task.layers(made)} == {
        x.name: np.dtype(x.dtype) for x in one.task.layers(made)
    }


def test_what_the_target_does_not_hold_teaches_nothing():
    one, made = clouds(**SMALL)
    sample = one.sample((16, 16))
    sample.target_quality[:, :8] = int(Quality.CLOUD)
    image = torch.zeros_like(sample.target).requires_grad_()
    outputs = {"image": image, "log_variance": torch.zeros_like(image)}
    one.task.loss(made.recipe, made.normalizer, outputs, sample, 0.0).backward()
    assert not bool(image.grad[:, :, :8].any())
    assert bool(image.grad[:, :, 8:].all())


def test_radar_is_a_group_behind_the_optical_bands():
    recipe = catalog.recipe("uncrtaints")
    bands = ("blue", "green", "red", "nir", "vv", "vh")

    def signature(bands, targets=bands[:4]):
        patches = recipe.patches.model_copy(update={"bands": bands, "targets": targets})
        return setting(UncrtainTs, recipe, "uncrtaints").task.signature(recipe.model_copy(update={"patches": patches}))

    assert signature(bands).groups == (4, 2)
    with pytest.raises(BadInput, match="come last"):
        signature(("blue", "vv", "green"), ("blue",))
    with pytest.raises(BadInput, match="first input bands"):
        signature(bands, ("red", "green"))


# -- despeckling -----------------------------------------------------------------------------------------------------


def speckled(shape, looks=1, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=rng) * 0.5**0.5


def test_ratio_of_a_perfect_estimate_is_speckle():
    one = setting(Merlin, catalog.recipe("merlin"), "merlin")
    made = ImageCheckpoint(one.recipe, one.task.signature(one.recipe), one.schema, one.normalizer, None, None)
    sample = one.sample((64, 64), batch=4)
    level = 400.0
    sample = sample._replace(inputs=speckled(sample.inputs.shape) * level**0.5)
    estimate = torch.full((4, 1, 64, 64), level)
    rows = one.task.summary(made, one.task.score(made, {"image": estimate}, sample))
    assert rows["intensity", "ratio_mean"] == pytest.approx(1, abs=0.02)
    assert rows["intensity", "ratio_variance"] == pytest.approx(1, abs=0.06)
    parts = estimate.log().expand(-1, 2, -1, -1)
    right, wrong = (one.task.summary(made, one.task.score(made, {"image": estimate, "log_parts": parts + d}, sample))
                    for d in (0.0, 1.0))  # fmt: skip
    assert right["intensity", "nll"] < wrong["intensity", "nll"]


def test_detected_images_are_refused_with_the_reason():
    require_complex(speckled((3, 2, 40, 40)))
    amplitude = speckled((3, 2, 40, 40)).abs()
    with pytest.raises(BadInput, match="phases point one way"):
        require_complex(amplitude)


def test_a_lee_filter_of_complex_data_filters_the_intensity():
    recipe = catalog.recipe("lee")
    one = setting(Lee, recipe, "lee")
    model = one.model()
    assert isinstance(model, IntensityOf)
    x = speckled((1, 1, 2, 20, 20))
    plain = recipe.model_copy(update={"patches": recipe.patches.model_copy(update={"bands": ("intensity",)})})
    alone = setting(Lee, ImageRecipe.model_validate(plain.model_dump()), "lee").model()
    torch.testing.assert_close(model(x)["image"], alone(x.square().sum(2, keepdim=True))["image"])


def test_a_lee_filter_of_decibels_filters_the_power():
    recipe = catalog.recipe("lee")
    one = setting(Lee, recipe.model_copy(update={"patches": recipe.patches.model_copy(update={"bands": ("vv", "hh")})}),
                  "lee")  # fmt: skip
    assert [one.schema.band(b).units for b in ("vv", "hh")] == ["dB", "dB"]
    x = 4 * torch.randn(1, 1, 2, 20, 20, generator=torch.Generator().manual_seed(1)) - 12
    model = one.model()
    found = model(x)["image"]
    assert found.shape == (1, 2, 20, 20)
    torch.testing.assert_close(found, Lee(model.signature)(10 ** (x / 10))["image"])


def test_a_network_that_learns_from_the_phase_is_refused_without_one():
    recipe = catalog.recipe("merlin")
    for bands, why in ((("VV", "VH"), "lost the phase"), (("VV",), "does not accept"), (("a", "b", "c"), "not accept")):
        asked = recipe.model_copy(update={"patches": recipe.patches.model_copy(update={"bands": bands})})
        with pytest.raises(BadInput, match=why):
            setting(Merlin, asked, "merlin").model()
