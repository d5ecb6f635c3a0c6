"""The standard deviation of filled images, set by dates of the series that are left out."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cubes import grid
from imagescenes import read, series, tif

import eoflow
from eoflow.bands import BandSpec
from eoflow.checkpoint_images import plain_normalizer
from eoflow.predict_images.dates import Want
from eoflow.predict_images.spread import spread_factor

NOISE, SAID = 0.02, 0.1
SPECS = tuple(BandSpec(name=n, dtype="float32", units="1") for n in ("B03", "B04"))
SHAPE = (200, 210)


class Days:
    """Ground that stays, with noise of each day; `lost`: (frame, rows that it did not see)."""

    specs = SPECS

    def __init__(self, count, lost=()):
        rng = np.random.default_rng(0)
        ground = rng.uniform(0.05, 0.4, (2, *SHAPE))
        self.days = (ground + rng.normal(0, NOISE, (count, 2, *SHAPE))).astype("f4")
        self.seen = np.ones((count, *SHAPE), bool)
        for k, rows in lost:
            self.seen[k, rows] = False
        self.grid = grid(SHAPE)
        self.times = np.datetime64("2024-05-01", "ns") + np.arange(count) * np.timedelta64(5, "D")

    def __len__(self):
        return len(self.days)

    def frame(self, k, rows, columns):
        return self.days[k][:, rows, columns], self.seen[k][rows, columns]


class Mean:
    """The mean of the usable dates, and always the same standard deviation; remembers what it was given."""

    any_dates, needs_times = True, True

    def __init__(self):
        self.given = []

    def __call__(self, images, usable, times, when):
        self.given.append((images, usable, times, when))
        weights = usable[:, :, None].float()
        image = (images * weights).sum(1) / weights.sum(1)
        return {"image": image, "std": torch.full_like(image, SAID)}


def checkpoint(model):
    schema = SimpleNamespace(band=lambda n: next(s for s in SPECS if s.name == n))
    normalizer = plain_normalizer(schema, ["B03", "B04"])
    task = SimpleNamespace(decode=lambda c, outputs, usable: outputs)
    patches = SimpleNamespace(targets=("B04", "B03"))
    found = SimpleNamespace(model=model, task=task, normalizer=normalizer, tells_uncertainty=True,
                            recipe=SimpleNamespace(patches=patches))  # fmt: skip
    return found, normalizer


class Swapped(Mean):
    """The same, in the order of the targets."""

    def __call__(self, *given):
        return {n: v[:, [1, 0]] for n, v in super().__call__(*given).items()}


@pytest.mark.parametrize("inputs", [2, 4])
def test_the_factor_is_that_of_the_errors_of_dates_that_were_left_out(inputs):
    frames, model = Days(7), Swapped()
    found, normalizer = checkpoint(model)
    want = Want(frames.times[3] + np.timedelta64(1, "D"), tuple((k,) for k in range(inputs)))
    factor, said = spread_factor(found, frames, frames.times, want, normalizer)
    assert factor == pytest.approx(NOISE * (1 + 1 / inputs) ** 0.5 / SAID, rel=0.02)  # normal errors of a mean
    assert f"{factor:.2f}" in said
    assert "5 dates" in said
    for _, usable, times, when in model.given:
        assert usable.shape[1] == inputs
        assert float(when) not in times.tolist()  # the date itself is not there


def test_a_date_is_hidden_where_the_wanted_one_is_and_its_other_pixels_are_given():
    rows = slice(0, 90)
    frames, model = Days(7, lost=[(3, rows)]), Swapped()
    found, normalizer = checkpoint(model)
    want = Want(frames.times[3], tuple((k,) for k in range(3)), target=3)
    factor, _ = spread_factor(found, frames, frames.times, want, normalizer)
    assert factor == pytest.approx(NOISE * (1 + 1 / 2) ** 0.5 / SAID, rel=0.03)
    own = 0
    for images, usable, times, when in model.given:
        at = times.tolist().index(float(when))
        hidden = ~usable[0, at]
        assert 0.2 < hidden.float().mean() < 0.9
        assert hidden.any(1).equal(hidden.all(1))  # whole rows
        assert (images[0, at, :, hidden] == 0).all()
        own += 1
    assert own


def test_few_dates_leave_the_models_own_and_say_so():
    frames = Days(3)
    found, normalizer = checkpoint(Swapped())
    want = Want(frames.times[2], ((0,), (1,)), target=2)
    assert spread_factor(found, frames, frames.times, want, normalizer) == (
        1.0, "The standard deviation is the model's own: 2 dates could be left out to check it.")  # fmt: skip
    silent = SimpleNamespace(tells_uncertainty=False)
    assert spread_factor(silent, frames, frames.times, want, normalizer) == (1.0, None)


def test_files_have_their_bands_in_the_order_that_was_given_and_a_set_standard_deviation(tmp_path, workspace):
    files, given = series(tmp_path, dates=6)
    report = eoflow.clouds(files, out=tmp_path / "f.tif", model="clouds-s2", workspace=workspace)
    values, _, names = read(tmp_path / "f.tif")
    assert names == ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
    seen = read(tmp_path / "f_filled.tif")[0][0] == 0
    std, _, described = read(tmp_path / "f_std.tif")
    assert described == tuple(f"std_{n}" for n in names)
    clear = (std == 0).all(0)
    np.testing.assert_array_equal(values[:, clear], given[-1][:, clear])
    assert np.abs(values[:, :16, :16].astype(int) - given[0][:, :16, :16])[:, seen[:16, :16]].max() < 60
    assert any(m.startswith("Standard deviation times") for m in report.messages)


def test_files_that_call_their_bands_otherwise(tmp_path, workspace):
    files, given = series(tmp_path, dates=6)
    names, index = ["swir16", "nir", "red", "green", "blue"], [11, 7, 3, 2, 1]
    days = zip(files, given, strict=True)
    again = [tif(tmp_path / f"place_{f.stem[-10:]}.tif", v[index], names=names) for f, v in days]
    said = {"units": "1", "scale": 1e-4, "offset": 0.0}
    eoflow.clouds(again, out=tmp_path / "f.tif", model="clouds-s2", said=said, workspace=workspace)
    values, _, found = read(tmp_path / "f.tif")
    std, _, described = read(tmp_path / "f_std.tif")
    assert list(found) == names
    assert list(described) == [f"std_{n}" for n in names]
    clear = (std == 0).all(0)
    assert clear.any()
    np.testing.assert_array_equal(values[:, clear], given[-1][index][:, clear])
