"""Where things are in an aerial scene, before and after: roads, blocks of land, what stands on them, trees.

Lengths are metres in a frame (u, v) that is turned and gently bent against the image; `Frame` converts. A block is
land between roads; it is used for one thing on each of two dates. Buildings, trees and pools say on which dates they
are there: what changed is known by construction.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import estates
from .things import BUILT, Block, Building, Kind, Tree

Array = NDArray[np.floating[Any]]
COARSE = 1.1
"""Metres of a pixel from which on single houses are too small to be told apart: whole blocks are what changes."""


@dataclass(frozen=True)
class Frame:
    """Image (x, y) in pixels <-> plan (u, v) in metres: a turn by `angle`, and two bends of some metres."""

    n: int
    gsd: float
    angle: float
    bends: tuple[tuple[float, float, float], ...]
    """(metres, waves a metre, phase) of the bend of u along v, and of v along u."""

    def plan(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Plan coordinates of pixels."""
        half = self.n / 2.0
        dx, dy = (x - half) * self.gsd, (y - half) * self.gsd
        c, s = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        u, v = dx * c + dy * s, dy * c - dx * s
        (a, k, p), (b, m, q) = self.bends
        return u + a * np.sin(k * v + p), v + b * np.sin(m * u + q)

    def image(self, u: float, v: float) -> tuple[float, float, float]:
        """(x, y) in pixels of a place of the plan and the angle of its u axis there."""
        (a, k, p), (b, m, q) = self.bends
        s, t = u, v
        for _ in range(4):
            s, t = u - a * np.sin(k * t + p), v - b * np.sin(m * s + q)
        c, z = np.cos(self.angle), np.sin(self.angle)
        half = self.n / 2.0
        x, y = (s * c - t * z) / self.gsd + half, (s * z + t * c) / self.gsd + half
        return float(x), float(y), float(self.angle - a * k * np.cos(k * t + p))


@dataclass(eq=False)
class Plan:
    """One place on all dates. lines: positions of the roads along u and along v, with their half widths."""

    frame: Frame
    lines: tuple[Array, Array]
    halves: tuple[Array, Array]
    main: tuple[NDArray[np.bool_], NDArray[np.bool_]]
    blocks: list[Block]
    buildings: list[Building] = field(default_factory=list)
    trees: list[Tree] = field(default_factory=list)

    @property
    def coarse(self) -> bool:
        """Whether whole blocks are what changes."""
        return self.frame.gsd >= COARSE

    def at(self, iu: int, iv: int) -> Block:
        """The block in column iu and row iv."""
        return self.blocks[iu * (len(self.lines[1]) - 1) + iv]


# Land, what is built on it, and how often, in towns (fine) and around large cities (coarse).
OPEN: dict[str, tuple[tuple[Kind, float], ...]] = {
    "fine": (("bare", 0.30), ("meadow", 0.26), ("scrub", 0.25), ("woods", 0.16), ("fields", 0.03)),
    "coarse": (("fields", 0.56), ("bare", 0.16), ("meadow", 0.12), ("scrub", 0.06), ("woods", 0.06), ("water", 0.04)),
}
LEFT: tuple[tuple[Kind, float], ...] = (("meadow", 0.4), ("scrub", 0.3), ("bare", 0.3))
"""Farmland that waits for a town to come."""
BUILDINGS: dict[str, tuple[tuple[Kind, float], ...]] = {
    "suburb": (("suburb", 0.86), ("halls", 0.07), ("apartments", 0.07)),
    "town": (("suburb", 0.35), ("halls", 0.40), ("apartments", 0.25)),
    "coarse": (("village", 0.42), ("halls", 0.31), ("apartments", 0.22), ("site", 0.05)),
}


def plan(gen: np.random.Generator, n: int, gsd: float, dates: int = 2) -> Plan:
    """A place of n x n pixels of `gsd` metres, seen on so many dates; each block changes between two of them."""
    coarse = gsd >= COARSE
    theme = "coarse" if coarse else ("suburb" if gen.random() < 0.72 else "town")
    bent = 0.0 if coarse or gen.random() < 0.3 else 1.0
    bends = (
        (bent * gen.uniform(0, 22), 2 * np.pi / gen.uniform(180, 400), gen.uniform(0, 7)),
        (bent * gen.uniform(0, 8), 2 * np.pi / gen.uniform(200, 500), gen.uniform(0, 7)),
    )
    angle = gen.normal(0, 0.12) if coarse and gen.random() < 0.7 else gen.uniform(0, 2 * np.pi)
    frame = Frame(n, gsd, float(angle), bends)
    reach = 0.75 * n * gsd + 60
    near, far = ((85, 260), (100, 330)) if coarse else ((56, 92), (90, 240))
    if theme == "town":
        near, far = (70, 150), (80, 200)
    lines = tuple(_lines(gen, reach, *span) for span in (near, far))
    main = tuple(gen.random(len(x)) < (0.35 if coarse else 0.15) for x in lines)
    wide = 1.3 if coarse else 1.0
    halves = tuple(
        (np.where(m, gen.uniform(4, 9), gen.uniform(2.2, 4.5)) * wide).astype("f4")
        for m in main
    )
    p = Plan(frame, (lines[0], lines[1]), (halves[0], halves[1]), (main[0], main[1]), [])
    _blocks(gen, p, theme)
    style = estates.style(gen, coarse)
    for block in p.blocks:
        if _visible(frame, block):
            built, grown = len(p.buildings), len(p.trees)
            estates.build(gen, p.frame, block, style, p.buildings, p.trees, coarse)
            if coarse:
                estates.roofed_again(gen, p.buildings[built:])
            block.when = int(gen.integers(1, dates))
            for thing in (*block.slabs, *p.buildings[built:], *p.trees[grown:]):
                thing.when = block.when
    return p


def _lines(gen: np.random.Generator, reach: float, near: float, far: float) -> Array:
    """Positions from -reach to reach, `near` to `far` apart."""
    steps = gen.uniform(near, far, int(2 * reach / near) + 2)
    at = -reach - gen.uniform(0, near) + np.cumsum(steps)
    return np.concatenate([[-reach - far], at[at < reach], [reach + far]]).astype("f4")


def _blocks(gen: np.random.Generator, p: Plan, theme: str) -> None:
    """Uses of every block on both dates."""
    coarse = p.coarse
    lands, built = OPEN["coarse" if coarse else "fine"], BUILDINGS[theme]
    mostly: Kind = _pick(gen, lands)
    first = gen.choice([0.0, 0.25, 0.5, 0.9], p=[0.4, 0.28, 0.2, 0.12])  # how much is built before
    often = (0.25, 0.35, 0.28, 0.12) if coarse else (0.09, 0.21, 0.34, 0.36)
    grows = gen.choice([0.0, 0.3, 0.6, 0.95], p=often)  # how much of the rest is built between
    left = _pick(gen, LEFT) if coarse and gen.random() < 0.4 else None  # what all fields lie as until they are built on
    (us, vs), (hu, hv) = p.lines, p.halves
    for i in range(len(us) - 1):
        for j in range(len(vs) - 1):
            land = mostly if gen.random() < 0.6 else _pick(gen, lands)
            use = _pick(gen, built)
            later = land if gen.random() < (0.6 if coarse else 0.75) else _pick(gen, lands)
            later = left if left and land == "fields" and gen.random() < 0.85 else later
            b = Block(
                float(us[i] + hu[i]), float(us[i + 1] - hu[i + 1]), float(vs[j] + hv[j]),
                float(vs[j + 1] - hv[j + 1]), land, later,
            )  # fmt: skip
            if gen.random() < first:
                b.before, b.after = use, use
                b.shares = (1.0, 1.0) if gen.random() < 0.6 else (float(gen.uniform(0.1, 0.8)), 1.0)
                if gen.random() < 0.06:
                    b.after, b.shares = later if later in ("bare", "meadow") else "bare", (1.0, 0.0)
            elif gen.random() < grows:
                b.after = use
                b.shares = (0.0, 1.0 if gen.random() < 0.65 else float(gen.uniform(0.3, 0.9)))
                if not coarse and use == "suburb" and gen.random() < 0.45:
                    b.before = use  # streets and lots are there, houses are not
            elif gen.random() < 0.1:  # ground is paved, nothing is built on it
                b.after = "halls"
            b.land = land
            p.blocks.append(b)


def _pick(gen: np.random.Generator, table: tuple[tuple[Kind, float], ...]) -> Kind:
    weights = np.array([w for _, w in table])
    return table[int(gen.choice(len(table), p=weights / weights.sum()))][0]


def _visible(frame: Frame, b: Block) -> bool:
    half = 0.5 * np.hypot(b.u1 - b.u0, b.v1 - b.v0) / frame.gsd + 40 / frame.gsd
    x, y, _ = frame.image((b.u0 + b.u1) / 2, (b.v0 + b.v1) / 2)
    return -half < x < frame.n + half and -half < y < frame.n + half


__all__ = ["BUILT", "COARSE", "Frame", "Plan", "plan"]
