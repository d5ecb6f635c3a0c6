"""Labels of the ground: a layer for each date behind the label, where a recipe asks for it."""

from __future__ import annotations

import numpy as np
import pytest
from memory_cube import LABEL, NIR, RED, memory_cube, utm

from eoflow.catalog_patches import LabelRecipe, NormalizeRecipe, PatchRecipe, SplitRecipe
from eoflow.errors import EoflowError
from eoflow.prepare.scenes import build
from eoflow.prepare.scenes.normalize import BandNormalizer
from eoflow.prepare.scenes.patches import build_index
from eoflow.prepare.scenes.trainset import PatchSet


def recipe(**label):
    return PatchRecipe(
        patch=16, dates=2, pick="pairs", min_valid=0.0, split=SplitRecipe(fractions=(1, 0, 0)),
        normalize=NormalizeRecipe(scheme="none"), labels=LabelRecipe(band="water", classes=(0, 1), **label),
    )  # fmt: skip


def test_each_date_has_its_ground(tmp_path):
    cube = memory_cube({"a": utm(shape=(40, 33))}, (RED, NIR, LABEL), times=3, cloud=0.2)
    asked = recipe(ground="water")
    assert asked.inputs(cube.schema.names) == ("red", "nir")
    index, _ = build_index(cube, asked)
    normalizer = BandNormalizer.of(asked.normalize, cube.schema, ("red", "nir"))
    build.write(tmp_path / "set.zarr", cube, asked, index, normalizer, "set", {"dataset": "t"})
    samples = PatchSet(tmp_path / "set.zarr")
    assert len(samples) > 4
    batch = samples.batch(range(len(samples)))
    assert batch.labels.shape[1] == 3
    times, group = cube.times("a"), cube.group("a")
    for i in range(len(samples)):
        where = samples.describe(i)
        y, x = where["y"], where["x"]
        for layer, time in enumerate(where["times"]):
            slot = int(np.flatnonzero(times == np.datetime64(time))[0])
            there = np.asarray(group["water"][slot, y : y + 16, x : x + 16]).astype(int)
            expected = np.full((16, 16), -1)
            expected[: there.shape[0], : there.shape[1]] = np.where(there == 255, -1, there)
            assert np.array_equal(batch.labels[i, 1 + layer].numpy(), expected)
    assert np.array_equal(batch.labels[:, 0].numpy(), batch.labels[:, 2].numpy())
    assert samples.with_split("train").batch([0]).labels.shape[1] == 3


def test_a_ground_that_is_not_there_is_said_before_the_work():
    cube = memory_cube({"a": utm(shape=(40, 33))}, (RED, NIR, LABEL), times=3)
    with pytest.raises((EoflowError, KeyError), match="roofs"):
        build_index(cube, recipe(ground="roofs"))
