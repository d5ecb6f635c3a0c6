"""The change process of Changen2 on masks (arXiv 2406.17998): objects are created, removed and edited, step
after step.

From the paper and its released code: `create` copies a random object of more than 64 pixels to a random free
place (at most 50 tries, no overlap); `remove` takes random objects away; `edit` gives an object another class
with probability 0.3, from a table of transitions; masks without classes lose each object with probability 0.1
(`fade`); a sequence repeats the steps; the contours of the next date are those of the last without what
changed.
Our choices: objects keep their identity, and every step says what happened to which object and where it went,
so that an image can be composited from it. Small objects stay as they are (the released `edit` drops them).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]
MIN_AREA = 64
TRIES = 50


@dataclass(frozen=True)
class Objects:
    """Objects on one date.

    instances (H, W) int32: which object a pixel belongs to, 0 for none. kinds (N + 1,) int32: class of each
    object; kinds[0] is the background's. An object that was removed keeps its number, which no other one
    gets.
    """

    instances: Ids
    kinds: Ids

    def classes(self) -> Ids:
        """(H, W) class of each pixel."""
        return np.asarray(self.kinds[self.instances], dtype=np.int32)

    def large(self, min_area: int = MIN_AREA) -> Ids:
        """Numbers of the objects with more than `min_area` pixels, ascending."""
        area = np.bincount(self.instances.ravel(), minlength=len(self.kinds))
        area[0] = 0
        return np.flatnonzero(area > min_area).astype(np.int32)


@dataclass(frozen=True)
class Event:
    """What happened to one object: kind 'create', 'remove' or 'edit'; its number; its class before and after.

    A created object is a copy of `source`, moved by `shift` = (rows, columns); class 'before' is the
    background's.
    """

    kind: str
    instance: int
    before: int
    after: int
    source: int = 0
    shift: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Step:
    """Objects of a date, and the events since the date before it (none for the first)."""

    objects: Objects
    events: tuple[Event, ...] = ()


def objects_of(classes: NDArray, background: int = 0) -> Objects:
    """Objects of a class map (H, W): connected (8 neighbours) pixels of one class that is not the
    background's.
    """
    from scipy import ndimage

    instances = np.zeros(classes.shape, dtype=np.int32)
    kinds = [background]
    for kind in np.unique(classes):
        if kind == background:
            continue
        found, count = ndimage.label(classes == kind, structure=np.ones((3, 3), dtype=bool))
        instances[found > 0] = found[found > 0] + len(kinds) - 1
        kinds += [int(kind)] * int(count)
    return Objects(instances, np.asarray(kinds, dtype=np.int32))


def create(
    objects: Objects, rng: np.random.Generator, count: int, *, min_area: int = MIN_AREA, tries: int = TRIES
) -> Step:
    """Copies of up to `count` different objects at free places; fewer where there is no room or no object."""
    instances, kinds, events = objects.instances.copy(), objects.kinds.tolist(), []
    for source in _some(objects.large(min_area), rng, count):
        rows, columns = np.nonzero(objects.instances == source)
        shift = _free_shift(instances, rows, columns, rng, tries)
        if shift is None:
            continue
        instances[rows + shift[0], columns + shift[1]] = len(kinds)
        kind = int(kinds[source])
        events.append(Event("create", len(kinds), int(kinds[0]), kind, int(source), shift))
        kinds.append(kind)
    return Step(Objects(instances, np.asarray(kinds, dtype=np.int32)), tuple(events))


def remove(objects: Objects, rng: np.random.Generator, count: int, *, min_area: int = MIN_AREA) -> Step:
    """Without up to `count` of the objects of more than `min_area` pixels."""
    return _without(objects, _some(objects.large(min_area), rng, count))


def fade(objects: Objects, rng: np.random.Generator, *, p: float = 0.1) -> Step:
    """Without each object of any size with probability `p`: for masks whose classes are unknown."""
    present = objects.large(0)
    return _without(objects, present[rng.random(len(present)) < p])


def edit(
    objects: Objects,
    rng: np.random.Generator,
    transitions: Mapping[int, Sequence[int]],
    *,
    p: float = 0.3,
    min_area: int = MIN_AREA,
) -> Step:
    """Each object of more than `min_area` pixels becomes, with probability `p`, one of its class's
    `transitions`.

    A class that the table does not name stays. The shape stays too.
    """
    kinds, events = objects.kinds.copy(), []
    for i in objects.large(min_area):
        choices = [k for k in transitions.get(int(kinds[i]), ()) if k != kinds[i]]
        if rng.random() < p and choices:
            after = int(choices[rng.integers(len(choices))])
            events.append(Event("edit", int(i), int(kinds[i]), after))
            kinds[i] = after
    return Step(Objects(objects.instances, kinds), tuple(events))


def sequence(
    objects: Objects,
    rng: np.random.Generator,
    dates: int,
    *,
    kinds: Sequence[str] = ("remove", "create"),
    fewest: int = 1,
    most: int = 5,
    transitions: Mapping[int, Sequence[int]] | None = None,
    edit_p: float = 0.3,
    fade_p: float = 0.1,
    min_area: int = MIN_AREA,
) -> list[Step]:
    """`dates` dates, the first as given; between two of them the events of `kinds` happen, in that order.

    kinds: of 'remove', 'create' (each `fewest` to `most` objects, drawn anew for every date), 'edit' (needs
    `transitions`) and 'fade'. The same generator state gives the same sequence.
    """
    unknown = set(kinds) - {"remove", "create", "edit", "fade"}
    if unknown:
        raise ValueError(f"no such events: {', '.join(sorted(unknown))}")
    if "edit" in kinds and transitions is None:
        raise ValueError("edit events need a table of transitions")
    if not 0 <= fewest <= most:
        raise ValueError(f"from {fewest} to {most} objects is no range")
    steps = [Step(objects)]
    for _ in range(dates - 1):
        events: tuple[Event, ...] = ()
        now = steps[-1].objects
        for kind in kinds:
            if kind == "edit":
                step = edit(now, rng, transitions or {}, p=edit_p, min_area=min_area)
            elif kind == "fade":
                step = fade(now, rng, p=fade_p)
            else:
                happen = create if kind == "create" else remove
                step = happen(now, rng, int(rng.integers(fewest, most + 1)), min_area=min_area)
            now, events = step.objects, events + step.events
        steps.append(Step(now, events))
    return steps


def change_mask(before: Objects, after: Objects) -> NDArray[np.bool_]:
    """(H, W): where the class differs."""
    return np.asarray(before.classes() != after.classes())


def contours(instances: NDArray) -> NDArray[np.bool_]:
    """(H, W): pixels on both sides of every border between two different objects, or object and
    background.
    """
    edge = np.zeros(instances.shape, dtype=bool)
    down, right = instances[1:] != instances[:-1], instances[:, 1:] != instances[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= right
    edge[:, :-1] |= right
    return edge


def next_contours(before: Objects, after: Objects) -> NDArray[np.bool_]:
    """Contours of the second date as a condition for image synthesis: the first date's, without what changed.

    The changed mask is opened (specks are no change) and then dilated by 3 x 3, so that no border of what
    went stays.
    """
    from scipy import ndimage

    change = ndimage.binary_opening(change_mask(before, after))
    wide = ndimage.binary_dilation(change, structure=np.ones((3, 3), dtype=bool))
    return np.asarray(contours(before.instances) & ~wide)


def _some(ids: Ids, rng: np.random.Generator, count: int) -> Ids:
    """Up to `count` different ones of `ids`, in random order."""
    return np.asarray(rng.permutation(ids)[:count], dtype=np.int32)


def _without(objects: Objects, gone: Ids) -> Step:
    """Objects without the ones numbered `gone`."""
    instances = np.where(np.isin(objects.instances, gone), 0, objects.instances).astype(np.int32)
    background = int(objects.kinds[0])
    events = tuple(Event("remove", int(i), int(objects.kinds[i]), background) for i in gone)
    return Step(Objects(instances, objects.kinds), events)


def _free_shift(
    instances: Ids, rows: NDArray, columns: NDArray, rng: np.random.Generator, tries: int
) -> tuple[int, int] | None:
    """A random shift that keeps the pixels inside the image and off every object; None after `tries`
    attempts.
    """
    height, width = instances.shape
    for _ in range(tries):
        down = int(rng.integers(-rows.min(), height - rows.max()))
        right = int(rng.integers(-columns.min(), width - columns.max()))
        if not instances[rows + down, columns + right].any():
            return down, right
    return None
