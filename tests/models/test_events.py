from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eoflow.models.events import (
    change_mask,
    contours,
    create,
    edit,
    fade,
    next_contours,
    objects_of,
    remove,
    sequence,
)


def town(seed=0, size=96, houses=5, kinds=(1, 2)):
    """Separate rectangles of 81 pixels and more, and one of 64, which is too small to take part."""
    rng = np.random.default_rng(seed)
    classes = np.zeros((size, size), dtype=np.int32)
    classes[0:8, 0:8] = kinds[0]
    for i in range(houses):
        row, column = 16 + 16 * (i // 4), 2 + 22 * (i % 4)
        height, width = rng.integers(9, 13, 2)
        classes[row : row + height, column : column + width] = kinds[i % len(kinds)]
    return objects_of(classes)


def areas(objects):
    return {int(i): int(n) for i, n in zip(*np.unique(objects.instances, return_counts=True)) if i}


def shape(objects, i):
    """The pixels of an object relative to its upper left corner."""
    rows, columns = np.nonzero(objects.instances == i)
    return {(int(r), int(c)) for r, c in zip(rows - rows.min(), columns - columns.min())}


def rng(seed=0):
    return np.random.default_rng(seed)


def test_objects_are_connected_pixels_of_one_class():
    classes = np.array([[1, 0, 2, 2], [0, 1, 1, 2], [0, 0, 0, 0], [1, 0, 3, 0]])
    found = objects_of(classes)
    assert np.array_equal(found.classes(), classes)
    assert sorted(areas(found).values()) == [1, 1, 3, 3]  # two diagonal 1s are one object with their neighbour
    assert np.array_equal(objects_of(np.full((3, 3), 7), background=7).instances, np.zeros((3, 3)))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 8))
def test_a_created_object_is_a_copy_on_free_ground(seed, count):
    before = town()
    step = create(before, rng(seed), count)
    after = step.objects
    old = before.instances > 0
    assert np.array_equal(after.instances[old], before.instances[old])
    assert len(step.events) <= count
    assert len({e.source for e in step.events}) == len(step.events)
    for e in step.events:
        rows, columns = np.nonzero(before.instances == e.source)
        assert e.kind == "create"
        assert len(rows) > 64
        assert bool((after.instances[rows + e.shift[0], columns + e.shift[1]] == e.instance).all())
        assert shape(after, e.instance) == shape(before, e.source)
        assert (e.before, e.after) == (0, before.kinds[e.source])
    created = sum(areas(after)[e.instance] for e in step.events)
    assert int(change_mask(before, after).sum()) == created  # nothing overlaps, nothing else moved


def test_created_objects_reach_every_border():
    single = objects_of(np.pad(np.ones((9, 9), dtype=int), ((0, 11), (0, 11))))
    shifts = [e.shift for s in range(400) for e in create(single, rng(s), 1).events]
    rows, columns = np.array(shifts).T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (0, 11, 0, 11)


def test_no_room_means_no_event():
    full = objects_of(np.ones((20, 20), dtype=int))
    assert create(full, rng(), 3).events == ()
    assert np.array_equal(create(full, rng(), 3).objects.instances, full.instances)
    nothing = objects_of(np.zeros((20, 20), dtype=int))
    for step in (create(nothing, rng(), 2), remove(nothing, rng(), 2), fade(nothing, rng())):
        assert step.events == ()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 8))
def test_removed_objects_leave_background_and_small_ones_stay(seed, count):
    before = town()
    step = remove(before, rng(seed), count)
    gone = {e.instance for e in step.events}
    assert len(gone) == len(step.events) == min(count, 5)
    assert areas(step.objects) == {i: n for i, n in areas(before).items() if i not in gone}
    assert all(areas(before)[i] > 64 for i in gone)
    assert all(e.kind == "remove" and (e.before, e.after) == (before.kinds[e.instance], 0) for e in step.events)


def test_edit_follows_the_table_at_the_probability():
    before = town(houses=12, kinds=(1, 2, 3))
    table = {1: (4, 5), 2: (2, 6)}
    events = [e for s in range(400) for e in edit(before, rng(s), table).events]
    assert {(e.before, e.after) for e in events} == {(1, 4), (1, 5), (2, 6)}  # never to itself, 3 has no entry
    assert len(events) / 400 == pytest.approx(0.3 * 8, rel=0.1)
    step = edit(before, rng(1), table, p=1.0)
    assert np.array_equal(step.objects.instances, before.instances)
    assert {e.instance for e in step.events} == {int(i) for i in before.large() if before.kinds[i] in (1, 2)}
    assert before.kinds.max() == 3  # the given objects are not touched


def test_fade_takes_objects_of_any_size():
    before = town(houses=12)
    count = [len(fade(before, rng(s)).events) for s in range(500)]
    assert np.mean(count) == pytest.approx(0.1 * 13, rel=0.15)


def test_a_sequence_tells_its_own_story():
    steps = sequence(town(), rng(4), 6, kinds=("remove", "create", "edit"), transitions={1: (2,), 2: (1,)}, most=3)
    assert len(steps) == 6
    assert steps[0].events == ()
    assert {e.kind for s in steps for e in s.events} == {"create", "remove", "edit"}
    for last, step in pairwise(steps):
        present = set(areas(last.objects))
        for e in step.events:
            if e.kind == "create":
                present.add(e.instance)
            elif e.kind == "remove":
                present.remove(e.instance)
        assert set(areas(step.objects)) == present
        edited = {e.instance: e.after for e in step.events if e.kind == "edit"}
        assert all(step.objects.kinds[i] == k for i, k in edited.items())
    numbers = [e.instance for s in steps for e in s.events if e.kind == "create"]
    assert len(numbers) == len(set(numbers))  # a number is never given twice


def test_the_seed_decides_the_sequence():
    a, b, c = (sequence(town(), rng(s), 5) for s in (3, 3, 4))
    assert all(np.array_equal(x.objects.instances, y.objects.instances) for x, y in zip(a, b))
    assert [x.events for x in a] == [x.events for x in b] != [x.events for x in c]


def test_contours_follow_the_borders_on_both_sides():
    instances = np.zeros((7, 7), dtype=np.int32)
    instances[2:5, 2:5] = 1
    by_hand = np.zeros((7, 7), dtype=bool)
    by_hand[1:6, 2:5] = by_hand[2:5, 1:6] = True
    by_hand[3, 3] = False
    assert np.array_equal(contours(instances), by_hand)


def test_the_next_contours_forget_what_went_and_keep_the_rest():
    before = town()
    step = remove(before, rng(2), 1)
    gone = before.instances == step.events[0].instance
    left = next_contours(before, step.objects)
    assert not (left & contours(np.where(gone, 1, 0))).any()
    assert np.array_equal(left, contours(step.objects.instances))
    assert np.array_equal(next_contours(before, before), contours(before.instances))


def test_wrong_orders_are_refused():
    with pytest.raises(ValueError, match="explode"):
        sequence(town(), rng(), 2, kinds=("explode",))
    with pytest.raises(ValueError, match="transitions"):
        sequence(town(), rng(), 2, kinds=("edit",))
    with pytest.raises(ValueError, match="range"):
        sequence(town(), rng(), 2, fewest=3, most=2)
