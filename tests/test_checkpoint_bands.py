"""A network of any bands, widened to the bands of other data; every other checkpoint stays what it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from eoflow.bands import BandSpec, SceneSchema
from eoflow.catalog import NetworkRef
from eoflow.catalog_images import ImageRecipe
from eoflow.catalog_patches import PatchRecipe
from eoflow.checkpoint_bands import widened
from eoflow.checkpoint_images import ImageCheckpoint, build, plain_normalizer, task_of
from eoflow.errors import SchemaMismatch

OWN = ("blue", "red", "nir")


def schema(*bands):
    specs = tuple(BandSpec(name=n, dtype="float32", units=u, common_name=c) for n, c, u in bands)
    return SceneSchema(bands=specs, sensor="s", level="L1C", tiles="{}", quality="{}")


def checkpoint(network="temporal-attention", scale=1.0):
    patches = PatchRecipe(bands=OWN, targets=OWN, dates=3, pick="clear-target")
    recipe = ImageRecipe(name="r", title="r", task="cloud-removal", network=NetworkRef(name=network), patches=patches)
    own = schema(*((n, n, "1") for n in OWN))
    normalizer = plain_normalizer(own, OWN)
    normalizer = replace(normalizer, std=(scale,) * 3)
    signature = task_of(recipe).signature(recipe)
    model = build(recipe, signature, own, normalizer).eval()
    return ImageCheckpoint(recipe, signature, own, normalizer, normalizer, model)


OTHER = schema(
    ("B08", "nir", "1"), ("B01", "coastal", "1"), ("B04", "red", "1"), ("T", None, "K"), ("B02", "blue", "1")
)


def test_its_own_bands_come_first_and_all_of_its_units_follow():
    wide = widened(checkpoint(), OTHER)
    assert wide.recipe.patches.bands == wide.recipe.patches.targets == ("B02", "B04", "B08", "B01")
    assert wide.normalizer.channels == wide.target_normalizer.channels == ("B02", "B04", "B08", "B01")
    assert wide.schema.names == ("B02", "B04", "B08", "B01")
    assert wide.fitted(OTHER).channels == wide.normalizer.channels
    images = torch.rand(1, 2, 4, 8, 8)
    out = wide.model(images, torch.ones(1, 2, 8, 8, dtype=torch.bool))["image"]
    narrow = checkpoint().model(images[:, :, :3], torch.ones(1, 2, 8, 8, dtype=torch.bool))["image"]
    assert out.shape == (1, 4, 8, 8)
    torch.testing.assert_close(out[:, :3], narrow)


@pytest.mark.parametrize("options", [{"network": "uncrtaints"}, {"scale": 0.1}])
def test_what_takes_its_own_bands_only_stays(options):
    given = checkpoint(**options)
    assert widened(given, OTHER) is given


def test_nothing_to_add_and_something_missing():
    own = checkpoint()
    assert widened(own, schema(*((n, n, "1") for n in OWN))) is own
    with pytest.raises(SchemaMismatch, match="nir is missing"):
        widened(own, schema(("B02", "blue", "1"), ("B04", "red", "1"), ("B01", "coastal", "1")))
