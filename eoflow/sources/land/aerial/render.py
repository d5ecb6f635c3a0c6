"""A plan on a date -> image, and which pixels are roofs.

Ground, then what lies on it, then shadows of everything that stands (one height map, seen along the sun), then walls,
roofs and crowns, lit by their own slope.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .ground import ASPHALT, CONCRETE, DUST, POOL, SOIL, Painter, Textures, _vary
from .layout import Plan
from .things import BUILT, Building, Slab
from .view import View, photograph

Array = NDArray[np.floating[Any]]
Window = tuple[slice, slice]


@dataclass(eq=False)
class Canvas:
    """What is painted on: colour (y, x, 3), height (m), and masks."""

    colour: Array
    height: Array
    roof: NDArray[np.bool_]
    footprint: NDArray[np.int32]


def window(n: int, x: float, y: float, reach: float) -> Window | None:
    """Pixels within `reach` of a place, cut at the image; None where there are none."""
    y0, y1 = max(0, int(y - reach)), min(n, int(y + reach) + 2)
    x0, x1 = max(0, int(x - reach)), min(n, int(x + reach) + 2)
    return (slice(y0, y1), slice(x0, x1)) if y1 > y0 and x1 > x0 else None


def local(w: Window, x: float, y: float, angle: float, gsd: float) -> tuple[Array, Array]:
    """Metres from (x, y) along and across `angle`, of the pixels of a window."""
    dx = (np.arange(w[1].start, w[1].stop, dtype="f4") - np.float32(x)) * np.float32(gsd)
    dy = (np.arange(w[0].start, w[0].stop, dtype="f4") - np.float32(y))[:, None] * np.float32(gsd)
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return dx * c + dy * s, dy * c - dx * s


class Renderer:
    """Draws one date of a plan."""

    def __init__(self, plan: Plan, view: View, date: int, seed: int) -> None:
        self.plan, self.view, self.date_no, self.seed = plan, view, date, seed
        n = self.n = plan.frame.n
        self.gsd = plan.frame.gsd
        self.date = np.random.default_rng([seed, 7, date])
        textures = Textures.of(np.random.default_rng([seed, 5]), self.date, n)
        self.paint = Painter(textures, view, self.date)
        self.canvas = Canvas(
            np.zeros((n, n, 3), "f4"), np.zeros((n, n), "f4"), np.zeros((n, n), bool), np.zeros((n, n), np.int32)
        )
        y, x = np.mgrid[:n, :n].astype("f4")
        self.u, self.v = plan.frame.plan(x, y)
        self.cell = self._cells()

    def _cells(self) -> NDArray[np.int32]:
        """Number of the block of each pixel; roads are in the block they border, and found by their own distance."""
        iu, iv = (np.clip(np.searchsorted(line, w) - 1, 0, len(line) - 2)
                  for line, w in zip(self.plan.lines, (self.u, self.v)))  # fmt: skip
        return (iu * (len(self.plan.lines[1]) - 1) + iv).astype(np.int32)

    # -- ground ----------------------------------------------------------------------------------------------------

    def ground(self) -> None:
        """Blocks, roads, and what lies on the ground."""
        for k in np.unique(self.cell):
            block = self.plan.blocks[int(k)]
            at = np.nonzero(self.cell == k)
            place = np.random.default_rng([self.seed, 11, int(k)])
            use = block.use(self.date_no)
            if use in BUILT:
                self.canvas.colour[at] = self._yard(block.yard, use, place, at)
            else:
                where = self.u[at], self.v[at]
                self.canvas.colour[at] = self.paint.land(use, block, place, at, *where, coarse=self.plan.coarse)
        self._roads()
        for block in self.plan.blocks:
            for s in block.slabs:
                if s.here(self.date_no):
                    self._slab(s)
        self._cars()

    def _yard(self, yard: str, use: str, place: np.random.Generator, at: Any) -> Array:
        """Ground of a built block between the buildings."""
        if use == "site":
            yard = "dirt"
        if yard == "grass":
            return self.paint.grass(at, self.view.green + 0.1 * float(place.normal()))
        if yard == "dirt":
            tone = np.float32(place.random())
            return self.paint.soil(at, (np.asarray(SOIL, "f4") * (1 - tone) + np.asarray(DUST, "f4") * tone), 1.2)
        return self.paint.paved(at, _vary(place, ASPHALT if yard == "asphalt" else CONCRETE, 0.12))

    def _roads(self) -> None:
        """Roads between blocks where one of both is built on, and main roads; with a centre line or lanes."""
        p, d = self.plan, self.date_no
        place = np.random.default_rng([self.seed, 13])
        asphalt, light = _vary(place, ASPHALT, 0.15), _vary(place, CONCRETE, 0.1)
        colour = light if place.random() < 0.3 else asphalt
        colour = colour * np.float32(1 + self.date.normal(0, 0.08))
        curb, dashes = place.random() < 0.5, place.random() < 0.5
        rows = len(p.lines[1]) - 1
        for axis, (w, other) in enumerate(((self.u, self.v), (self.v, self.u))):
            near = np.clip(np.searchsorted((p.lines[axis][1:] + p.lines[axis][:-1]) / 2, w), 0, len(p.lines[axis]) - 1)
            gap = np.abs(w - p.lines[axis][near])
            half = p.halves[axis][near]
            on = gap < half
            cu, cv = self.cell // rows, self.cell % rows
            here = np.array([b.use(d) in BUILT for b in p.blocks], bool).reshape(-1, rows)
            i = cu if axis == 0 else cv
            last = here.shape[axis] - 1
            side = np.clip(np.where(i >= near, near - 1, near), 0, last)
            beyond = here[side, cv] if axis == 0 else here[cu, side]
            on &= here[cu, cv] | beyond | p.main[axis][near]
            at = np.nonzero(on)
            if not at[0].size:
                continue
            self.canvas.colour[at] = self.paint.paved(at, colour)
            if curb:
                rim = np.nonzero(on & (gap > half - max(0.5, 0.6 * self.gsd)))
                self.canvas.colour[rim] = 0.4 * self.canvas.colour[rim] + 0.6 * light
            if dashes and self.gsd < COARSE_LINES:
                dash = on & p.main[axis][near] & (gap < 0.5 * max(0.4, self.gsd)) & ((other % 9) < 4)
                self.canvas.colour[dash] = 0.75

    def _slab(self, s: Slab) -> None:
        w = window(self.n, s.x, s.y, np.hypot(s.a, s.b) / self.gsd + 1)
        if w is None:
            return
        a, b = local(w, s.x, s.y, s.angle, self.gsd)
        inside = (a / s.a) ** 2 + (b / s.b) ** 2 < 1 if s.round else (np.abs(a) < s.a) & (np.abs(b) < s.b)
        if s.what == "fence":
            if self.gsd > 1.0:
                return
            inside &= (np.abs(a) > s.a - 0.9 * max(0.4, self.gsd)) | (np.abs(b) > s.b - 0.9 * max(0.4, self.gsd))
            self.canvas.height[w][inside] = np.maximum(self.canvas.height[w][inside], 1.8)
            self.canvas.colour[w][inside] *= 0.75
            return
        yy, xx = np.nonzero(inside)
        at = (yy + w[0].start, xx + w[1].start)
        gen = np.random.default_rng([self.seed, int(abs(s.x * 31 + s.y * 17)), 3])
        if s.what.startswith("lawn"):
            if s.what == "lawn-dirt":
                colour = self.paint.soil(at, _vary(gen, SOIL, 0.15))
            else:
                more = 0.25 if s.what == "lawn-grass" else -0.3
                colour = self.paint.grass(at, self.view.green + more + 0.15 * float(gen.normal()), 0.6)
        elif s.what == "pool":
            colour = np.broadcast_to(_vary(gen, POOL, 0.1), (yy.size, 3)).astype("f4")
        elif s.what == "parking":
            colour = self.paint.paved(at, _vary(gen, ASPHALT, 0.15))
            if self.gsd < COARSE_LINES:
                lane = ((b[inside] % 2.7) < 0.5 * max(0.3, self.gsd)) & ((np.abs(a[inside]) % 12) < 5)
                colour[lane] = 0.5 * colour[lane] + 0.35
        else:
            colour = self.paint.paved(at, _vary(gen, CONCRETE, 0.08))
        self.canvas.colour[at] = colour
        if s.what == "parking":
            self._park(s)

    def _park(self, s: Slab) -> None:
        """Cars in a parking lot."""
        full = self.date.uniform(0, 0.8)
        for a in np.arange(-s.a + 3, s.a - 2, 6.0):
            for b in np.arange(-s.b + 1.5, s.b - 1, 2.7):
                if self.date.random() < full:
                    c, z = np.cos(s.angle), np.sin(s.angle)
                    self._car(s.x + (a * c - b * z) / self.gsd, s.y + (a * z + b * c) / self.gsd, s.angle)

    def _cars(self) -> None:
        """Cars on roads, other ones each date."""
        for axis in (0, 1):
            for line, half in zip(self.plan.lines[axis], self.plan.halves[axis]):
                for _ in range(int(self.date.poisson(self.n * self.gsd / 70))):
                    along = self.date.uniform(-0.7, 0.7) * self.n * self.gsd
                    at = line + self.date.choice([-0.6, 0.6]) * half
                    u, v = (at, along) if axis == 0 else (along, at)
                    x, y, angle = self.plan.frame.image(float(u), float(v))
                    if 0 <= x < self.n and 0 <= y < self.n and self._is_road(x, y):
                        self._car(x, y, angle + (np.pi / 2 if axis == 0 else 0.0))

    def _is_road(self, x: float, y: float) -> bool:
        c = self.canvas.colour[int(y), int(x)]
        return bool(c.max() - c.min() < 0.09)

    def _car(self, x: float, y: float, angle: float) -> None:
        w = window(self.n, x, y, 3.2 / self.gsd + 1)
        if w is None:
            return
        a, b = local(w, x, y, angle, self.gsd)
        body = (np.abs(a) < 2.3) & (np.abs(b) < 0.95)
        grey = self.date.choice([0.1, 0.2, 0.45, 0.7, 0.9])
        colour = np.clip(grey + self.date.normal(0, 0.02, 3), 0.03, 1)
        if self.date.random() < 0.15:
            colour = self.date.choice([[0.6, 0.1, 0.1], [0.1, 0.2, 0.5]])
        self.canvas.colour[w][body] = colour
        self.canvas.height[w][body] = np.maximum(self.canvas.height[w][body], 1.4)

    # -- what stands -----------------------------------------------------------------------------------------------

    def rise(self, w: Window, b: Building, x: float, y: float) -> Array:
        """Height of the roof's surface above its eaves (m), below 0 outside."""
        a, c = local(w, x, y, b.angle, self.gsd)
        best = np.full(a.shape, -1.0, "f4")
        slope = b.pitch if b.pitch > 0 else 0.02
        for pu, pv, ha, hc in b.parts:
            du, dv = ha - np.abs(a - pu), hc - np.abs(c - pv)
            inside = np.minimum(du, dv)
            rise = (du if ha < hc else dv) if b.gable and b.pitch > 0 else inside
            best = np.where(inside >= 0, np.maximum(best, np.float32(slope) * rise), best)
        return best

    def stand(self) -> None:
        """Heights of buildings and crowns, for their shadows; then the shadows."""
        height = self.canvas.height
        for k, b in enumerate(self.plan.buildings):
            if b.here(self.date_no):
                w = window(self.n, b.x, b.y, self.reach(b))
                if w is None:
                    continue
                rise = self.rise(w, b, b.x, b.y)
                on = rise >= 0
                height[w][on] = np.maximum(height[w][on], b.eaves + rise[on])
                self.canvas.footprint[w][on] = k + 1
        ground = np.zeros_like(height)
        for t in self.plan.trees:
            if t.here(self.date_no):
                r = self._radius(t)
                w = window(self.n, t.x, t.y, r / self.gsd)
                if w is None:
                    continue
                u, v = local(w, t.x, t.y, 0.0, self.gsd)
                dome = 1 - (u * u + v * v) / (r * r)
                crown = np.where(dome > 0, t.height * (0.45 + 0.55 * np.sqrt(np.maximum(dome, 0))), 0)
                thin = 1.0 if t.evergreen or self.view.leaves > 0.5 else 0.5
                ground[w] = np.maximum(ground[w], crown * thin)
        solid = np.maximum(height, ground)
        dark = self._shadow(solid)
        light = 1 - (1 - np.float32(self.view.sky) * np.array([0.92, 1.0, 1.12], "f4")) * dark[..., None]
        self.canvas.colour *= light

    def reach(self, b: Building) -> float:
        """Pixels from a building's centre to its farthest corner, and two more."""
        return max(np.hypot(abs(p[0]) + p[2], abs(p[1]) + p[3]) for p in b.parts) / self.gsd + 2

    def _radius(self, t: Any) -> float:
        return float(t.radius * (t.grown if self.date_no >= t.when else 1.0))

    def _shadow(self, height: Array) -> Array:
        """0..1: how much of the sun is taken, from heights along the way to it."""
        top = float(height.max())
        if top <= 0:
            return np.zeros_like(height)
        tan = np.tan(self.view.elevation)
        east, up = np.sin(self.view.azimuth), np.cos(self.view.azimuth)
        dark = np.zeros_like(height)
        far = min(top / tan / self.gsd, 160.0)
        step = max(1.0, far / 60.0)
        at = step
        while at <= far:
            dy, dx = round(-up * at), round(east * at)
            rise = np.float32(at * self.gsd * tan)
            moved = _shifted(height, dy, dx) - rise - height
            np.maximum(dark, np.clip(moved / np.float32(0.5 + 0.3 * self.gsd), 0, 1), out=dark)
            at += step
        return np.asarray(ndimage.uniform_filter(dark, 2), "f4") if self.gsd < 1 else dark

    def roofs(self) -> None:
        """Walls and roofs, low ones first."""
        sun = np.array([np.sin(self.view.azimuth), -np.cos(self.view.azimuth)]) * np.cos(self.view.elevation)
        up = np.sin(self.view.elevation)
        order = sorted((b.eaves, k) for k, b in enumerate(self.plan.buildings) if b.here(self.date_no))
        for _, k in order:
            b = self.plan.buildings[k]
            lean = np.asarray(self.view.lean) * b.eaves
            for part in np.linspace(0, 1, max(2, int(np.hypot(*lean)) + 1))[:-1] if np.hypot(*lean) > 0.7 else ():
                w = window(self.n, b.x + lean[0] * part, b.y + lean[1] * part, self.reach(b))
                if w is not None:
                    on = self.rise(w, b, b.x + lean[0] * part, b.y + lean[1] * part) >= 0
                    self.canvas.colour[w][on] = np.asarray(b.roof(self.date_no)[0], "f4") * 0.55 + 0.12
            w = window(self.n, b.x + lean[0], b.y + lean[1], self.reach(b))
            if w is None or min(w[0].stop - w[0].start, w[1].stop - w[1].start) < 2:
                continue
            rise = self.rise(w, b, b.x + lean[0], b.y + lean[1])
            on = rise >= 0
            gy, gx = np.gradient(np.where(on, rise, np.maximum(rise, 0)) / self.gsd)
            inner = ndimage.binary_erosion(on)
            if b.pitch > 0:
                gy, gx = (np.where(inner, g, 0) for g in (gy, gx))
                normal = np.sqrt(1 + gx * gx + gy * gy)
                lit = np.clip((up - gx * sun[0] - gy * sun[1]) / normal, 0, None) / up
            else:
                lit = np.ones(on.shape)
                lit[on & ~inner] = 0.8
            shade = self.view.sky + (1 - self.view.sky) * lit
            self.canvas.colour[w][on] = self._roof(b, w, shade)[on]
            self.canvas.roof[w] |= on

    def _roof(self, b: Building, w: Window, shade: Array) -> Array:
        """Colour of a roof's pixels: its cover, its furniture, and the light on its slopes."""
        gen = np.random.default_rng([b.seed, 1])
        t = self.paint.t
        a, c = local(w, b.x, b.y, b.angle, self.gsd)
        texture = 1 + 0.035 * t.fine[w] + 0.02 * t.now[w] + 0.03 * t.low[w]
        colour, cover = b.roof(self.date_no)
        if cover == "metal" and self.gsd < COARSE_LINES:
            texture = texture + 0.025 * np.sign(np.sin(c * np.float32(2 * np.pi / gen.uniform(1.5, 6))))
        out = np.asarray(colour, "f4") * (texture * shade)[..., None].astype("f4")
        if b.pitch == 0 or cover != "shingle":
            for _ in range(int(gen.integers(0, 14)) if max(p[2] * p[3] for p in b.parts) > 120 else 0):
                u, v = gen.uniform(-0.9, 0.9) * b.parts[0][2], gen.uniform(-0.9, 0.9) * b.parts[0][3]
                s = gen.uniform(0.6, 2)
                unit = (np.abs(a - u) < s) & (np.abs(c - v) < s * gen.uniform(0.6, 1.6))
                out[unit] *= gen.choice([0.5, 0.75, 1.25])
        return out * np.float32(1 + self.date.normal(0, 0.03))

    def crowns(self) -> None:
        """Trees, low ones first: a dome of leaves, or bare twigs."""
        sun = np.array([np.sin(self.view.azimuth), -np.cos(self.view.azimuth)]) * np.cos(self.view.elevation)
        up = np.sin(self.view.elevation)
        t = self.paint.t
        tone = _vary(self.date, (0.19, 0.25, 0.13), 0.12)
        bare = _vary(self.date, (0.34, 0.31, 0.28), 0.1)
        lumps = 0.5 * t.fine + 0.45 * t.mid
        for tree in sorted((x for x in self.plan.trees if x.here(self.date_no)), key=lambda x: x.height):
            r = self._radius(tree)
            x, y = tree.x + self.view.lean[0] * tree.height / 2, tree.y + self.view.lean[1] * tree.height / 2
            w = window(self.n, x, y, r / self.gsd + 1)
            if w is None:
                continue
            a, b = local(w, x, y, 0.0, self.gsd)
            d2 = (a * a + b * b) / np.float32(r * r) * (1 + 0.35 * lumps[w])
            on = d2 < 1
            z = np.sqrt(np.maximum(1 - d2, 0.05))
            lit = np.clip(up * z + (a * sun[0] + b * sun[1]) / np.float32(r), 0, None)
            shade = self.view.sky * 0.7 + (1 - self.view.sky * 0.5) * lit + 0.22 * lumps[w]
            leafy = 1.0 if tree.evergreen else self.view.leaves
            colour = tone * np.array([1 + 0.16 * tree.hue, 1 + 0.05 * tree.hue, 1 - 0.05 * tree.hue], "f4")
            colour = colour * np.float32(leafy) + bare * np.float32(1 - leafy)
            cover = np.float32(0.35 + 0.65 * leafy) * np.clip((1 - d2) * 5, 0, 1)[..., None]
            out = colour * np.clip(shade, 0.15, 1.6)[..., None]
            part = self.canvas.colour[w]
            part[on] = (part * (1 - cover) + out * cover)[on]

    def image(self) -> NDArray[np.uint8]:
        """All of it, as the camera saw it: (y, x, 3) uint8."""
        self.ground()
        self.stand()
        self.roofs()
        self.crowns()
        return photograph(self.canvas.colour, self.view)


COARSE_LINES = 0.9
"""Metres of a pixel up to which road markings are drawn."""


def _shifted(x: Array, dy: int, dx: int) -> Array:
    """x[i + dy, j + dx], 0 outside."""
    out = np.zeros_like(x)
    h, w = x.shape
    ys, xs = slice(max(0, dy), min(h, h + dy)), slice(max(0, dx), min(w, w + dx))
    yd, xd = slice(max(0, -dy), min(h, h - dy)), slice(max(0, -dx), min(w, w - dx))
    if ys.stop > ys.start and xs.stop > xs.start:
        out[yd, xd] = x[ys, xs]
    return out
