"""Aerial scenes: the same every time; the label is what changed; season and light are no change."""

from __future__ import annotations

import numpy as np
import pytest

from eoflow.sources.land import aerial
from eoflow.sources.land.aerial import layout, render, scene
from eoflow.sources.land.aerial.things import BUILT, Building
from eoflow.sources.land.aerial.view import photograph, view

SIZE = 96


def still(seed: int, size: int = SIZE, gsd: float = 0.5) -> layout.Plan:
    """A place where nothing is built or pulled down."""
    plan = layout.plan(np.random.default_rng(seed), size, gsd)
    for thing in (*plan.buildings, *plan.trees, *(s for b in plan.blocks for s in b.slabs)):
        thing.there = (thing.there[1], thing.there[1])
    for block in plan.blocks:
        block.before, block.shares = block.after, (block.shares[1], block.shares[1])
    return plan


def test_the_same_every_time_and_another_place_is_another():
    a, b, c = aerial.series(3, 1, SIZE), aerial.series(3, 1, SIZE), aerial.series(3, 2, SIZE)
    assert all(np.array_equal(getattr(a, n), getattr(b, n)) for n in ("images", "built", "change"))
    assert not np.array_equal(a.images, c.images)
    assert a.images.shape == (2, SIZE, SIZE, 3)
    assert a.images.dtype == np.uint8
    assert not a.change[0].any()


@pytest.mark.parametrize("gsd", [0.5, 2.0])
def test_without_events_season_light_and_cars_differ_and_nothing_changed(gsd):
    plan = still(4, SIZE, gsd)
    gen = np.random.default_rng(0)
    views = [view(gen, gsd) for _ in range(2)]
    drawn = [render.Renderer(plan, v, k, 5) for k, v in enumerate(views)]
    first, second = (r.image().astype(float) for r in drawn)
    assert np.abs(first - second).mean() > 5
    assert not scene._change(plan, drawn[0], 1, views, SIZE - 2 * scene.MARGIN).any()


def test_a_new_house_is_the_label():
    plan = still(4)
    for b in plan.buildings:
        b.there = (False, False)
    grey, parts = (0.4, 0.4, 0.4), ((0.0, 0.0, 6.0, 4.0),)
    house = Building(48.0, 48.0, 0.3, parts, 3.0, 0.5, False, grey, "shingle", (False, True), 1)
    plan.buildings.append(house)
    straight = [view(np.random.default_rng(k), 0.5) for k in range(2)]
    object.__setattr__(straight[1], "lean", (0.0, 0.0))
    for v in straight:
        object.__setattr__(v, "shift", (0.0, 0.0))
    first = render.Renderer(plan, straight[0], 0, 5)
    found = scene._change(plan, first, 1, straight, SIZE)
    assert found.sum() == pytest.approx(12.0 * 8.0 / 0.25, rel=0.08)
    rows, columns = np.nonzero(found)
    assert abs(rows.mean() - 48) < 1
    assert abs(columns.mean() - 48) < 1
    second = render.Renderer(plan, straight[1], 1, 5)
    second.image()
    roof = np.asarray(second.canvas.roof)
    both = tuple(slice(0, min(n)) for n in zip(roof.shape, found.shape, strict=True))
    assert (roof[both] != found[both]).sum() < 0.08 * found.sum()  # to the pixels of an edge


@pytest.mark.parametrize(("gsd", "places"), [(0.5, (0, 3, 6)), (2.0, (0, 2, 3))])
def test_change_is_where_what_is_built_differs(gsd, places):
    for place in places:
        s = aerial.series(21, place, SIZE, gsd=gsd)
        differ = s.built[0] != s.built[1]
        assert s.change[1].mean() > 0.1
        assert (s.change[1] & differ).sum() > 0.9 * s.change[1].sum()


def test_on_coarse_places_blocks_change_not_roofs():
    s = aerial.series(21, 3, SIZE, gsd=2.0)
    plan = layout.plan(np.random.default_rng([21, 3]), SIZE + 2 * scene.MARGIN + 32, 2.0)
    assert plan.coarse
    assert any(b.before not in BUILT and b.after in BUILT for b in plan.blocks)
    after = render.Renderer(plan, view(np.random.default_rng(0), 2.0), 1, 5)
    after.image()
    assert s.change[1].mean() > after.canvas.roof.mean()


def test_a_new_roof_on_a_house_that_stays_is_seen_and_is_no_change():
    plan = still(6, SIZE, 2.0)
    house = Building(48.0, 48.0, 0.0, ((0.0, 0.0, 20.0, 20.0),), 3.0, 0.0, False, (0.3, 0.3, 0.3), "membrane",
                     (True, True), 1, again=((0.2, 0.3, 0.9), "metal"))  # fmt: skip
    plan.buildings[:], plan.trees[:] = [house], []
    views = [view(np.random.default_rng(1), 2.0)] * 2
    drawn = [render.Renderer(plan, v, k, 5) for k, v in enumerate(views)]
    first, second = (r.image()[46:50, 46:50].reshape(-1, 3).mean(0) for r in drawn)
    assert first.max() - first.min() < 0.3 * first.max()
    assert second[2] > 1.5 * second[0]
    assert not scene._change(plan, drawn[0], 1, views, SIZE - 2 * scene.MARGIN).any()


def test_around_cities_some_houses_get_new_roofs_and_no_other_place_does():
    again = {
        gsd: [b.again for k in range(12) for b in layout.plan(np.random.default_rng(k), SIZE, gsd).buildings]
        for gsd in (0.5, 2.0)
    }
    assert not any(again[0.5])
    assert 0.02 < np.mean([a is not None for a in again[2.0]]) < 0.5


def test_more_dates_change_one_after_the_other():
    s = aerial.series(5, 3, SIZE, dates=4, gsd=0.6)
    assert s.images.shape[0] == 4
    areas = s.change.mean(axis=(1, 2))
    assert areas[0] == 0
    assert areas[-1] >= areas[1]


def test_plan_and_image_coordinates_are_inverse():
    frame = layout.Frame(256, 0.5, 0.7, ((12.0, 0.02, 1.0), (4.0, 0.015, 2.0)))
    x, y, _ = frame.image(20.0, -33.0)
    u, v = frame.plan(np.float32(x), np.float32(y))
    assert float(u) == pytest.approx(20.0, abs=0.1)
    assert float(v) == pytest.approx(-33.0, abs=0.1)


def test_shadows_fall_away_from_the_sun_and_are_as_long_as_they_should_be():
    plan = still(4)
    v = view(np.random.default_rng(1), 0.5)
    object.__setattr__(v, "azimuth", np.pi)  # from below
    object.__setattr__(v, "elevation", np.pi / 4)
    r = render.Renderer(plan, v, 0, 5)
    height = np.zeros((SIZE, SIZE), np.float32)
    height[60:64, 40:56] = 8.0
    dark = r._shadow(height)
    assert dark[50:58, 48].min() > 0.9
    assert dark[66:, 48].max() == 0
    assert 13 <= (dark[:60, 48] > 0.5).sum() <= 17  # 8 m are 16 pixels


def test_a_camera_of_gain_1_changes_nothing():
    v = view(np.random.default_rng(1), 0.5)
    plain = {"gain": (1.0,) * 3, "haze": (0.0,) * 3, "gamma": 1.0, "saturation": 1.0}
    plain |= dict.fromkeys(("blur", "noise", "sharp"), 0.0)
    for k, value in plain.items():
        object.__setattr__(v, k, value)
    image = np.random.default_rng(0).random((8, 8, 3)).astype("f4")
    assert np.abs(photograph(image, v) / 255.0 - image).max() < 0.003
