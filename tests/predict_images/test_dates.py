from __future__ import annotations

import numpy as np
import pytest

from eoflow.errors import BadInput
from eoflow.predict_images.dates import Frames, around, each, pairs
from eoflow.times import Period


def frames(usable: list[float], covered: list[float] | None = None) -> Frames:
    """A date every ten days of May 2024."""
    times = np.datetime64("2024-05-01T10:30:20", "ns") + np.arange(len(usable)) * np.timedelta64(10, "D")
    seen = np.array(covered or [1.0] * len(usable))
    use = np.array(usable)
    return Frames(times, seen, use, seen - use)


def test_every_scene_that_is_stored():
    wants = each(frames([1, 0, 1]), Period.parse("2024-05-05/2024-06"), np.array([True, True, False]))
    assert [w.dates for w in wants] == [((1,),)]


def test_change_takes_the_first_and_last_date_that_shows_the_ground():
    found = frames([0.1, 0.9, 0.2, 0.8, 0.0])
    (want,) = pairs(found, None, None, None, every=False)
    assert want.dates == ((1,), (3,))
    assert want.time == found.times[3]
    assert [w.dates for w in pairs(frames([1, 0.2, 1, 1]), None, None, None, every=True)] == [
        ((0,), (2,)), ((2,), (3,))]  # fmt: skip
    assert pairs(found, None, "2024-05-11", "2024-05-21/2024-05-31", every=False)[0].dates == ((1,), (2, 3))
    assert pairs(found, None, "2024-05-11T10:30", None, every=False)[0].dates == ((1,), (3,))
    (clouds,) = pairs(frames([0, 0, 0]), None, None, None, every=False)
    assert clouds.dates == ((0,), (2,))


@pytest.mark.parametrize(
    ("before", "after", "every", "what"),
    [
        ("2024-05-21", "2024-05-21", False, "one date"),
        ("2024-05-31", "2024-05-11", False, "not before"),
        ("2024-06-20", None, False, "no scene at"),
        ("2024-05-01", None, True, "--every"),
    ],
)
def test_dates_of_change_that_make_no_sense(before, after, every, what):
    with pytest.raises(BadInput, match=what):
        pairs(frames([1, 1, 1, 1]), None, before, after, every=every)


def test_one_date_is_no_change():
    with pytest.raises(BadInput, match="two dates"):
        pairs(frames([1]), None, None, None, every=False)


def test_a_cloudy_date_is_filled_from_the_nearest_that_saw_something():
    found = frames([1, 0.0, 0.4, 0.0, 1, 1], [1, 1, 1, 0, 1, 1])
    wants = around(found, None, None, dates=3)
    assert [w.target for w in wants] == [1, 2]  # 3 holds nothing at all
    assert wants[0].dates == ((0,), (2,), (4,))
    assert wants[1].dates == ((0,), (2,), (4,))
    assert [len(w.dates) for w in around(found, None, None, dates=0, wanted=2)] == [2, 2]
    assert around(found, None, None, dates=0)[0].dates == ((0,), (1,), (2,), (4,), (5,))
    with pytest.raises(BadInput, match="takes 3 dates"):
        around(found, None, None, dates=3, wanted=4)


def test_dates_that_are_missing_are_seen_by_nobody():
    (want,) = around(frames([0.2, 0.9], [1, 1]), None, "2024-05-11", dates=4)
    assert want.dates == ((0,), (1,), (), ())
    (want,) = around(frames([1, 1]), None, "2024-05-05T00:00", dates=2)
    assert want.target is None
    assert want.time == np.datetime64("2024-05-05", "ns")


def test_clear_dates_need_nothing():
    assert around(frames([1, 1, 0.99]), None, None, dates=3) == []
