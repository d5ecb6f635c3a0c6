from __future__ import annotations

import numpy as np
import pytest
import torch

from eoflow.bands import BandSpec
from eoflow.models.difference import ChangeVector, ImageDifference
from eoflow.models.images import ImageSignature
from eoflow.models.irmad import IrMad
from eoflow.models.thresholds import Otsu, WaterIndex
from eoflow.predict_images.stack import Stack
from eoflow.predict_images.whole import fitted, is_whole, sample, whole_plan
from eoflow.tiling import Grid
from eoflow.windows import Input


class Memory:
    """Frames from an array (T, C, y, x)."""

    def __init__(self, values: np.ndarray, seen: np.ndarray | None = None) -> None:
        self.values = values.astype(np.float32)
        self.seen = np.isfinite(values).all(axis=1) if seen is None else seen
        self.grid = Grid("", (1.0, 0.0, 0.0, 0.0, -1.0, 0.0), values.shape[-2:])
        self.specs = tuple(BandSpec(name=f"b{i}", dtype="float32", units="1") for i in range(values.shape[1]))

    def __len__(self) -> int:
        return len(self.values)

    def frame(self, k, rows, columns):
        return self.values[k][:, rows, columns], self.seen[k][rows, columns]


def scene(dates: int, bands: int, shape=(120, 140), seed: int = 0) -> Memory:
    """Land and water (below row 40), other noise a date; on the last date something new at rows 70..90."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 0.05, (dates, bands, *shape)) + 1.0
    values[:, :, :40] -= 0.8
    values[:, :, :40] += 0.1 * rng.normal(0, 1, (dates, bands, 40, shape[1]))
    values[-1, :, 70:90, 20:60] += 0.7
    return Memory(values)


def run(model, frames, dates):
    stack = Stack(frames, [(k,) for k in range(dates)])
    whole = torch.from_numpy(np.nan_to_num(stack.read(slice(0, 120), slice(0, 140))))[None]
    model = model.eval()
    return stack, model(whole[:, :, :-1], whole[:, :, -1] > 0.5)


HOW = Input(None, 0.0, "all")


def test_which_models_need_the_whole_scene():
    one, two = ImageSignature(2, 1), ImageSignature(2, 1, 2)
    assert is_whole(Otsu(one))
    assert is_whole(ImageDifference(two))
    assert is_whole(IrMad(two))
    assert not is_whole(WaterIndex(one, first=0, second=1))
    assert whole_plan(Otsu(one), (3000, 3000)) is None
    assert len(whole_plan(Otsu(one), (300, 400))) == 1
    other = torch.nn.Identity()
    other.whole_scene = True
    assert is_whole(other)
    assert len(whole_plan(other, (3000, 3000))) == 1


@pytest.mark.parametrize("smooth", [1, 3])
def test_otsu_of_a_thinned_scene_cuts_where_the_whole_does(smooth):
    frames = scene(1, 2)
    model = Otsu(ImageSignature(2, 1), smooth=smooth, bins=0)
    stack, want = run(model, frames, 1)
    one = fitted(model, stack, HOW)
    x = torch.from_numpy(stack.read(slice(0, 120), slice(0, 140)))[None]
    got = one(x[:, :, :-1], x[:, :, -1] > 0.5)
    np.testing.assert_allclose(got["logits"], want["logits"], rtol=1e-5, atol=1e-5)
    part = one(x[:, :, :-1, :30], x[:, :, -1, :30] > 0.5)["logits"]
    inner = slice(0, 30 - smooth)
    np.testing.assert_allclose(part[:, :, inner], got["logits"][:, :, inner], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("kind", [ImageDifference, ChangeVector])
def test_difference_of_a_thinned_scene(kind, centred):
    frames = scene(2, 3)
    frames.values[1] += 0.2
    model = kind(ImageSignature(3, 1, 2), centred=centred)
    stack, want = run(model, frames, 2)
    one = fitted(model, stack, HOW)
    assert model.split is None
    assert model.centred is centred
    x = torch.from_numpy(stack.read(slice(0, 120), slice(0, 140)))[None]
    got = one(x[:, :, :-1], x[:, :, -1] > 0.5)
    np.testing.assert_allclose(got["logits"], want["logits"], rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("significance", [None, 0.01])
def test_ir_mad_gives_its_maps_back(significance):
    frames = scene(2, 3)
    frames.seen[0, :10] = False
    model = IrMad(ImageSignature(3, 1, 2), significance=significance)
    stack, want = run(model, frames, 2)
    one = fitted(model, stack, HOW)
    x = torch.from_numpy(np.nan_to_num(stack.read(slice(0, 120), slice(0, 140))))[None]
    got = one(x[:, :, :-1], x[:, :, -1] > 0.5)
    seen = frames.seen.all(axis=0)
    np.testing.assert_allclose(got["score"][0].numpy()[seen], want["score"][0].numpy()[seen], rtol=1e-4, atol=1e-4)
    agree = (got["logits"][0, 0].numpy()[seen] > 0) == (want["logits"][0, 0].numpy()[seen] > 0)
    assert agree.mean() > 0.9999


def test_a_thinned_scene_takes_every_nth_pixel_of_the_scene():
    frames = scene(1, 1)
    frames.seen[:, :, 100:] = False
    stack = Stack(frames, [(0,)])
    found, step = sample(stack, HOW, lambda images, usable: images[0, 0].where(usable[0], torch.nan), pixels=2000)
    assert step == 3
    want = np.where(frames.seen[0], frames.values[0, 0], np.nan)[::3, ::3]
    np.testing.assert_array_equal(found[0].numpy(), want)


def test_nothing_seen_has_no_threshold():
    frames = scene(1, 1)
    frames.values[:] = np.nan
    frames.seen[:] = False
    one = fitted(Otsu(ImageSignature(1, 1)), Stack(frames, [(0,)]), HOW)
    assert one(torch.zeros(1, 1, 1, 4, 4), torch.zeros(1, 1, 4, 4, dtype=torch.bool))["logits"].abs().max() == 0
