"""What stands in a block: houses on lots, halls in yards, slabs of flats, dense villages, building sites, woods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .things import Block, Building, Colour, Dates, Slab, Tree

if TYPE_CHECKING:
    from .layout import Frame

Generator = np.random.Generator
GREYS: tuple[Colour, ...] = (
    (0.42, 0.40, 0.37), (0.34, 0.33, 0.31), (0.50, 0.47, 0.43), (0.28, 0.27, 0.27), (0.46, 0.40, 0.34),
    (0.38, 0.36, 0.38), (0.55, 0.53, 0.50),
)  # fmt: skip
WARM: tuple[Colour, ...] = ((0.52, 0.33, 0.26), (0.58, 0.42, 0.32), (0.45, 0.30, 0.25), (0.62, 0.50, 0.40))
METAL: tuple[Colour, ...] = (
    (0.80, 0.82, 0.83), (0.90, 0.90, 0.90), (0.66, 0.68, 0.70), (0.30, 0.42, 0.70), (0.38, 0.50, 0.72),
    (0.78, 0.30, 0.28), (0.55, 0.60, 0.58), (0.45, 0.55, 0.52), (0.72, 0.68, 0.60),
)  # fmt: skip


ROOFS: tuple[Colour, ...] = (GREYS[0], GREYS[1], GREYS[4], GREYS[6], WARM[0], WARM[1], METAL[2], METAL[1])
"""Around large cities."""


@dataclass(frozen=True)
class Style:
    """The hand of one builder: roofs that are alike, pitch, sizes, gardens."""

    roofs: tuple[Colour, ...]
    spread: float
    pitch: float
    lot: float
    setback: float
    trees: float
    pools: float


def style(gen: Generator, coarse: bool) -> Style:
    """The estate's style."""
    pool = GREYS if gen.random() < 0.7 else WARM if gen.random() < 0.6 else GREYS + WARM + METAL[:3]
    count = 1 if gen.random() < 0.5 else int(gen.integers(2, 5))
    roofs = tuple(pool[int(k)] for k in gen.integers(0, len(pool), count))
    if coarse:
        roofs = tuple(ROOFS[int(k)] for k in gen.choice(len(ROOFS), int(gen.integers(2, 6)), replace=False))
    return Style(
        roofs, float(gen.uniform(0.01, 0.08)), float(gen.uniform(0.3, 0.8)), float(gen.uniform(15, 26)),
        float(gen.uniform(5, 9)), float(gen.choice([0.2, 0.8, 2.0])), float(gen.choice([0.0, 0.05, 0.25])),
    )  # fmt: skip


def build(
    gen: Generator, frame: Frame, b: Block, s: Style, buildings: list[Building], trees: list[Tree], coarse: bool
) -> None:
    """Fill a block: buildings, trees and slabs of both dates are appended."""
    b.yard = str(gen.choice(["grass", "grass", "dirt", "concrete", "asphalt"]))
    use = b.after if b.shares[1] >= b.shares[0] else b.before
    made = len(buildings)
    if use == "suburb":
        _suburb(gen, frame, b, s, buildings, trees)
    elif use == "halls":
        _halls(gen, frame, b, buildings, coarse)
    elif use == "apartments":
        _apartments(gen, frame, b, s, buildings, coarse)
    elif use in ("village", "site"):
        _village(gen, frame, b, s, buildings, 0.94 if use == "village" else float(gen.uniform(0.1, 0.35)))
    if coarse:
        _rows_of_trees(gen, frame, b, trees)
    built = [(x.x, x.y, max(max(abs(p[0]) + p[2], abs(p[1]) + p[3]) for p in x.parts), x.there)
             for x in buildings[made:]]  # fmt: skip
    _plants(gen, frame, b, s, built, trees)


def _rows_of_trees(gen: Generator, frame: Frame, b: Block, trees: list[Tree]) -> None:
    """Trees between the houses of a village, and along the edges of some land: on both dates, where nothing is built
    meanwhile."""
    there = (True, b.before == b.after or gen.random() < 0.3)
    if b.use(1) == "village" and gen.random() < 0.5:
        if b.before != "village":
            there = (False, True)
        for _ in range(int((b.u1 - b.u0) * (b.v1 - b.v0) / gen.uniform(100, 500))):
            x, y, _ = frame.image(gen.uniform(b.u0, b.u1), gen.uniform(b.v0, b.v1))
            trees.append(_tree(gen, x, y, float(gen.uniform(2, 4.5)), there))
    if gen.random() < 0.3:
        at, apart = gen.choice([b.u0, b.u1]), gen.uniform(5, 12)
        for v in np.arange(b.v0, b.v1, apart):
            if gen.random() < 0.85:
                x, y, _ = frame.image(float(at), float(v))
                trees.append(_tree(gen, x, y, float(gen.uniform(2, 4)), there))


def _there(gen: Generator, b: Block) -> Dates:
    """Dates of a building: with a share f of the lots built on, the same lots stay built on."""
    draw = gen.random()
    return bool(draw < b.shares[0]), bool(draw < b.shares[1])


def _colour(gen: Generator, base: Colour, spread: float) -> Colour:
    light = gen.normal(0, spread)
    r, g, b = (float(np.clip(c + light + gen.normal(0, spread / 3), 0.08, 0.97)) for c in base)
    return r, g, b


def _house(gen: Generator, width: float, depth: float) -> tuple[tuple[float, float, float, float], ...]:
    """Parts of a house of at most that width (along v) and depth (along u): a main block and some wings."""
    a, c = depth / 2 * gen.uniform(0.7, 1.0), width / 2 * gen.uniform(0.8, 1.0)
    parts = [(0.0, 0.0, a * gen.uniform(0.7, 1.0), c)]
    for _ in range(int(gen.integers(0, 4))):
        wa, wc = a * gen.uniform(0.3, 0.7), c * gen.uniform(0.25, 0.6)
        su, sv = gen.choice([-1, 1]), gen.uniform(-1, 1)
        parts.append((su * (a - wa * gen.uniform(0.2, 0.9)), sv * (c - wc), wa, wc))
    return tuple((float(p), float(q), float(r), float(t)) for p, q, r, t in parts)


def _suburb(
    gen: Generator, frame: Frame, b: Block, s: Style, buildings: list[Building], trees: list[Tree]
) -> None:
    """Two rows of houses, back to back, with drives, yards, fences, pools."""
    deep = (b.u1 - b.u0) / 2
    rows = 2 if deep > 19 else 1
    depth_lot = deep if rows == 2 else 2 * deep
    fence = gen.random() < 0.6
    walk = gen.random() < 0.7
    for row in range(rows):
        v = b.v0 + gen.uniform(0, 6)
        side = 1.0 if row == 0 else -1.0
        front = b.u0 if row == 0 else b.u1
        while v + 11 < b.v1:
            width = min(s.lot * gen.uniform(0.85, 1.25), b.v1 - v)
            there = _there(gen, b)
            if gen.random() < 0.04:
                there = (False, False)
            depth = min(depth_lot - s.setback - 4, gen.uniform(14, 25))
            if any(there) and depth > 7 and width > 9:
                u = front + side * (s.setback + depth / 2)
                vc = v + width / 2
                x, y, angle = frame.image(u, vc)
                parts = _house(gen, width - gen.uniform(1.5, 4.5), depth)
                buildings.append(
                    Building(x, y, angle + gen.normal(0, 0.02), parts, float(gen.uniform(2.5, 6)),
                             s.pitch * gen.uniform(0.8, 1.2), bool(gen.random() < 0.3),
                             _colour(gen, s.roofs[int(gen.integers(len(s.roofs)))], s.spread), "shingle", there,
                             int(gen.integers(1 << 30)))
                )  # fmt: skip
                dx, dy, _ = frame.image(front + side * (s.setback / 2 + 0.5), vc + gen.uniform(-0.3, 0.3) * width)
                b.slabs.append(Slab(dx, dy, angle, s.setback / 2 + 1.5, gen.uniform(1.6, 3.6), "concrete", there))
                back, room = front + side * (s.setback + depth), depth_lot - s.setback - depth
                _yard(gen, frame, b, s, back, side, vc, there, room, width, angle, trees)
            yard = ("grass", "grass", "dry", "dirt")[int(gen.integers(4))]
            x, y, angle = frame.image(front + side * depth_lot / 2, v + width / 2)
            made = there if any(there) else (False, False)
            b.slabs.insert(0, Slab(x, y, angle, depth_lot / 2, width / 2, f"lawn-{yard}", made))
            if fence and any(there):
                x, y, angle = frame.image(front + side * (s.setback + (depth_lot - s.setback) / 2 + 4), v + width / 2)
                b.slabs.append(Slab(x, y, angle, (depth_lot - s.setback) / 2 - 4, width / 2, "fence", there))
            v += width
        if walk:
            x, y, angle = frame.image(front + side * 0.9, (b.v0 + b.v1) / 2)
            made = (b.before == "suburb", b.after == "suburb")
            if abs(frame.bends[0][0]) < 3:
                b.slabs.append(Slab(x, y, angle, 0.7, (b.v1 - b.v0) / 2, "concrete", made))


def _yard(
    gen: Generator, frame: Frame, b: Block, s: Style, back: float, side: float, v: float, there: Dates, room: float,
    width: float, angle: float, trees: list[Tree],
) -> None:  # fmt: skip
    """Patio, pool and trees behind and before a house."""
    late = (there[0] and bool(gen.random() < 0.7), there[1])
    if room > 5:
        x, y, _ = frame.image(back + side * 1.5, v + gen.uniform(-0.2, 0.2) * width)
        b.slabs.append(Slab(x, y, angle, gen.uniform(1, 2.2), gen.uniform(1.5, 3.5), "concrete", there))
        if gen.random() < s.pools:
            x, y, _ = frame.image(back + side * min(room - 2.5, 5.0), v + gen.uniform(-0.2, 0.2) * width)
            b.slabs.append(Slab(x, y, angle, gen.uniform(2, 3), gen.uniform(3, 5), "pool", late, True))
    for _ in range(int(gen.poisson(s.trees))):
        back_yard = gen.random() < 0.7 and room > 4
        u = back + side * gen.uniform(1, max(room, 2)) if back_yard else back - side * (room * 0 + 24)
        x, y, _ = frame.image(u, v + gen.uniform(-0.5, 0.5) * width)
        trees.append(_tree(gen, x, y, gen.uniform(1.0, 3.8), late, gen.uniform(1.0, 1.5)))


def _tree(gen: Generator, x: float, y: float, r: float, there: Dates, grown: float = 1.0) -> Tree:
    return Tree(x, y, r, r * gen.uniform(1.4, 2.2), bool(gen.random() < 0.4), gen.normal(0, 0.5), there, grown)


def _metal(gen: Generator) -> tuple[Colour, str]:
    pick = METAL[int(gen.integers(len(METAL)))] if gen.random() < 0.75 else GREYS[int(gen.integers(len(GREYS)))]
    return _colour(gen, pick, 0.04), str(gen.choice(["metal", "metal", "membrane"]))


def _halls(gen: Generator, frame: Frame, b: Block, buildings: list[Building], coarse: bool) -> None:
    """Large roofs in a paved yard, with parking."""
    b.yard = str(gen.choice(["asphalt", "concrete", "asphalt", "dirt"]))
    wide, long = b.u1 - b.u0, b.v1 - b.v0
    count = int(gen.integers(1, 4 if not coarse else 6))
    cuts = np.sort(gen.uniform(0.15, 0.85, count - 1))
    edges = np.concatenate([[0.0], cuts, [1.0]]) * long + b.v0
    alike = _metal(gen)
    for k in range(count):
        room = edges[k + 1] - edges[k]
        if room < 16 or wide < 16:
            continue
        a, c = wide / 2 * gen.uniform(0.35, 0.85), room / 2 * gen.uniform(0.55, 0.9)
        u, v = b.u0 + wide * gen.uniform(0.45, 0.55), (edges[k] + edges[k + 1]) / 2
        x, y, angle = frame.image(u, v)
        parts = [(0.0, 0.0, a, c)]
        for _ in range(int(gen.integers(0, 3))):
            wa, wc = a * gen.uniform(0.1, 0.5), c * gen.uniform(0.1, 0.5)
            parts.append((gen.choice([-1, 1]) * (a - wa * 0.2), gen.uniform(-1, 1) * (c - wc), wa, wc))
        colour, cover = alike if gen.random() < 0.6 else _metal(gen)
        pitch = float(gen.choice([0.0, 0.0, 0.12, 0.25]))
        buildings.append(
            Building(x, y, angle, tuple((float(p), float(q), float(r), float(t)) for p, q, r, t in parts),
                     gen.uniform(4, 11), pitch, True, colour, cover, _there(gen, b), int(gen.integers(1 << 30)))
        )  # fmt: skip
        if gen.random() < 0.8:
            side = gen.choice([-1, 1])
            gap = wide / 2 - a
            px, py, _ = frame.image(u + side * (a + gap / 2), v)
            made = (b.before == "halls", b.after == "halls")
            b.slabs.append(Slab(px, py, angle, max(gap / 2 - 1, 2), c, "parking", made))


def _apartments(gen: Generator, frame: Frame, b: Block, s: Style, buildings: list[Building], coarse: bool) -> None:
    """Rows of equal slabs."""
    b.yard = str(gen.choice(["grass", "concrete", "dirt"]))
    half, length = gen.uniform(5, 8), gen.uniform(9, 32)
    height = gen.uniform(12, 60) if coarse and gen.random() < 0.6 else gen.uniform(5, 14)
    gap = 2 * half + max(10.0, 0.6 * height) * gen.uniform(0.9, 1.4)
    flat = gen.random() < 0.5
    base = s.roofs[0] if gen.random() < 0.5 else (WARM + GREYS)[int(gen.integers(len(WARM) + len(GREYS)))]
    u = b.u0 + half + gen.uniform(4, 9)
    while u + half + 3 < b.u1:
        v = b.v0 + length + gen.uniform(4, 8)
        there = _there(gen, b)
        while v + length + 2 < b.v1:
            x, y, angle = frame.image(u, v)
            parts = [(0.0, 0.0, half, length)]
            for k in range(int(gen.integers(0, 4))):
                parts.append((half * gen.choice([-0.7, 0.7]), (k / 2 - 0.5) * length, half * 0.5, length * 0.18))
            buildings.append(
                Building(x, y, angle, tuple((float(p), float(q), float(r), float(t)) for p, q, r, t in parts), height,
                         0.0 if flat else s.pitch, False, _colour(gen, base, 0.02), "membrane" if flat else "shingle",
                         there, int(gen.integers(1 << 30)))
            )  # fmt: skip
            v += 2 * length + gen.uniform(6, 16)
        u += gap
    if gen.random() < 0.6:
        x, y, angle = frame.image((b.u0 + b.u1) / 2, b.v0 + 5)
        made = (b.before == "apartments", b.after == "apartments")
        b.slabs.append(Slab(x, y, angle, (b.u1 - b.u0) / 2 - 2, 5, "parking", made))


def _village(gen: Generator, frame: Frame, b: Block, s: Style, buildings: list[Building], dense: float) -> None:
    """Small houses wall to wall around courtyards, metal roofs between."""
    b.yard = str(gen.choice(["dirt", "concrete", "dirt"]))
    metal = gen.uniform(0.0, 0.4)
    whole = gen.random() < 0.8  # the village grows as one, or house by house
    one = _there(gen, b)
    deep = gen.uniform(8, 13)
    u = b.u0 + deep / 2
    while u + deep / 2 <= b.u1:
        v = b.v0 + gen.uniform(0, 4)
        while v < b.v1 - 5:
            length = gen.uniform(7, 18)
            if gen.random() < dense and v + length < b.v1:
                x, y, angle = frame.image(u + gen.normal(0, 0.7), v + length / 2)
                blue = gen.random() < metal
                colour = METAL[int(gen.choice([3, 4, 0, 1]))] if blue else s.roofs[int(gen.integers(len(s.roofs)))]
                buildings.append(
                    Building(x, y, angle, ((0.0, 0.0, deep / 2 * gen.uniform(0.5, 0.9), length / 2 - 0.5),),
                             gen.uniform(3, 9), 0.0 if gen.random() < 0.5 else 0.4, True, _colour(gen, colour, 0.06),
                             "metal" if blue else "membrane", one if whole else _there(gen, b),
                             int(gen.integers(1 << 30)))
                )  # fmt: skip
            v += length + (gen.uniform(0, 1) if gen.random() < 0.8 else gen.uniform(3, 9))
        u += deep + (0.5 if gen.random() < 0.6 else gen.uniform(3, 6))


def roofed_again(gen: Generator, buildings: list[Building]) -> None:
    """New roofs between the dates on houses that stay: on none, some or most of a block. No change of what is there."""
    share = float(gen.choice([0.0, 0.15, 0.4, 0.85], p=[0.25, 0.25, 0.2, 0.3]))
    every = METAL + GREYS + WARM
    alike = METAL[int(gen.choice([3, 4, 0, 5]))] if gen.random() < 0.5 else None
    for b in buildings:
        if all(b.there) and gen.random() < share:
            pick = alike if alike and gen.random() < 0.6 else every[int(gen.integers(len(every)))]
            b.again = _colour(gen, pick, 0.06), str(gen.choice(["metal", "membrane"]))


DENSITY = {"woods": 1 / 28.0, "scrub": 1 / 110.0, "meadow": 1 / 1500.0, "fields": 1 / 6000.0, "bare": 1 / 6000.0}
"""Trees a square metre."""


def _plants(
    gen: Generator, frame: Frame, b: Block, s: Style, built: list[tuple[float, float, float, Dates]], trees: list[Tree]
) -> None:  # fmt: skip
    """Trees of the open land before and after; those that stand where houses come are felled."""
    area = (b.u1 - b.u0) * (b.v1 - b.v0)
    keep = gen.uniform(0, 0.35)
    lands = [b.use(k) if b.use(k) in DENSITY else b.land for k in (0, 1)]
    wide = [DENSITY.get(k, 1 / 800.0) for k in lands]
    if frame.gsd > 1.0:
        wide = [w * 0.35 for w in wide]
    built_on = [b.use(k) not in DENSITY for k in (0, 1)]
    places = np.array([[p[0], p[1], p[2]] for p in built], np.float32).reshape(-1, 3)
    clumps = gen.uniform(0, 1, (4, 3))
    for _ in range(min(int(gen.poisson(area * max(wide))), 2500)):
        fu, fv = gen.random(), gen.random()
        if lands[0] == "scrub" and gen.random() < 0.8 and np.abs(clumps[:, :2] - [fu, fv]).sum(1).min() > 0.25:
            continue
        x, y, _ = frame.image(b.u0 + fu * (b.u1 - b.u0), b.v0 + fv * (b.v1 - b.v0))
        if not (-12 < x < frame.n + 12 and -12 < y < frame.n + 12):
            continue
        mark = gen.random() * max(wide)
        there = [bool(mark < wide[k]) and (not built_on[k] or gen.random() < keep) for k in (0, 1)]
        if built_on[0] and not built_on[1]:
            there[1] = there[0]
        elif not built_on[0] and built_on[1]:
            there[1] = there[0] and there[1]
        r = float(gen.gamma(6.0, 0.45)) * (1.0 if frame.gsd < 1 else 1.35)
        if len(places):
            close = np.hypot(places[:, 0] - x, places[:, 1] - y) * frame.gsd < places[:, 2] + r
            for k in np.flatnonzero(close):
                there = [t and not w for t, w in zip(there, built[int(k)][3])]
        if any(there):
            trees.append(_tree(gen, x, y, r, (there[0], there[1])))
