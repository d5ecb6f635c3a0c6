"""Aerial images of one place on several dates, and the truth: roofs of each date and what changed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from . import layout
from .layout import Plan
from .render import Renderer, window
from .things import BUILT
from .view import View, view

Mask = NDArray[np.bool_]
Image = NDArray[np.uint8]
VERSION = 2
"""Raise when the same seed gives other images."""
MARGIN = 32
"""Pixels around the image that are drawn as well, so that what stands outside throws its shadow into it."""


@dataclass(frozen=True, eq=False)
class Series:
    """images (T, y, x, 3) uint8; built (T, y, x) bool: roofs, on coarse images built-up land; change (T, y, x) bool:
    since the first date; gsd: metres of a pixel.
    """

    images: Image
    built: Mask
    change: Mask
    gsd: float


def resolution(seed: int, place: int) -> float:
    """Metres of a pixel of a place: half a metre for most, 1.2 to 2.6 m for the others."""
    gen = np.random.default_rng([seed, place, 1])
    return round(float(gen.uniform(0.38, 0.72) if gen.random() < 0.6 else gen.uniform(1.2, 2.6)), 3)


def series(
    seed: int, place: int, size: int = 256, *, dates: int = 2, gsd: float | None = None, only: int | None = None
) -> Series:
    """The place number `place` of a seed on so many dates: `size` x `size` pixels of `gsd` metres.

    only: give this date alone (T = 1), which takes less time.
    """
    metres = resolution(seed, place) if gsd is None else gsd
    gen = np.random.default_rng([seed, place])
    n = size + 2 * MARGIN
    n += -n % 64
    plan = layout.plan(gen, n, metres, dates)
    views = [view(gen, metres) for _ in range(dates)]
    own = int(gen.integers(1 << 30))
    images, built, change = [], [], []
    for k in range(dates) if only is None else (only,):
        r = Renderer(plan, views[k], k, own)
        images.append(_framed(r.image(), views[k], size))
        built.append(_framed(_built(r), views[k], size))
        change.append(_change(plan, r, k, views, size))
    return Series(np.stack(images), np.stack(built), np.stack(change), metres)


def _framed(x: NDArray, v: View, size: int) -> NDArray:
    """The middle of a canvas, moved by the view's shift."""
    at = (x.shape[0] - size) // 2
    (y, fy), (c, fx) = ((int(np.floor(-s)), np.float32(-s - np.floor(-s))) for s in v.shift)
    part = x[at + y : at + y + size + 1, at + c : at + c + size + 1].astype("f4")
    part = part[:-1] * (1 - fy) + part[1:] * fy
    part = part[:, :-1] * (1 - fx) + part[:, 1:] * fx
    return part > 0.5 if x.dtype == bool else (part + 0.5).astype(x.dtype)


def _settled(r: Renderer, date: int) -> Mask:
    """Blocks that are built up on a date."""
    out = np.zeros((r.n, r.n), bool)
    for k in np.unique(r.cell):
        b = r.plan.blocks[int(k)]
        if b.use(date) in BUILT and b.share(date) > 0.4:
            out |= (r.cell == k) & (r.u > b.u0) & (r.u < b.u1) & (r.v > b.v0) & (r.v < b.v1)
    return out


def _built(r: Renderer) -> Mask:
    """Roofs; on coarse images the land that is built up."""
    return _joined(_settled(r, r.date_no) | r.canvas.roof, r.gsd) if r.plan.coarse else r.canvas.roof


def _joined(mask: Mask, gsd: float) -> Mask:
    """Closed over what is narrower than a road."""
    k = max(1, round(12.0 / gsd))
    wide = np.pad(mask, 2 * k)
    wide = ndimage.maximum_filter(wide, 2 * k + 1)
    return np.asarray(ndimage.minimum_filter(wide, 2 * k + 1)[2 * k : -2 * k, 2 * k : -2 * k])


def _change(plan: Plan, r: Renderer, date: int, views: list[View], size: int) -> Mask:
    """Roofs that came or went since the first date (where they are seen); on coarse images also blocks whose land was
    built on or cleared.
    """
    moved = [np.zeros((r.n, r.n), bool) for _ in (0, 1)]
    both = (views[0], views[date])
    for b in plan.buildings:
        if b.here(0) != b.here(date):
            late = int(b.here(date))
            lean = np.asarray(both[late].lean) * b.eaves
            w = window(r.n, b.x + lean[0], b.y + lean[1], r.reach(b))
            if w is not None:
                moved[late][w] |= r.rise(w, b, b.x + lean[0], b.y + lean[1]) >= 0
    if plan.coarse:
        before, after = _settled(r, 0), _settled(r, date)
        moved[0] = _joined(moved[0] | (before & ~after), r.gsd)
        moved[1] = _joined(moved[1] | (after & ~before), r.gsd) & ~before
    masks = [_framed(m, v, size) for m, v in zip(moved, both)]
    return np.asarray(masks[0] | masks[1])
