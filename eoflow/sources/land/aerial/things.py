"""What an aerial scene is made of: blocks, buildings, trees, slabs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Kind = Literal[
    "bare", "meadow", "scrub", "woods", "fields", "water", "suburb", "halls", "apartments", "village", "site"
]
BUILT: frozenset[str] = frozenset({"suburb", "halls", "apartments", "village", "site"})
Colour = tuple[float, float, float]
Dates = tuple[bool, bool]
"""Whether something is there before, and after."""


class Thing:
    """Something that is there before or after date number `when`, or both."""

    there: Dates
    when: int

    def here(self, date: int) -> bool:
        """Whether it is there on a date."""
        return self.there[int(date >= self.when)]


@dataclass
class Slab(Thing):
    """A flat thing on the ground: centre, angle, half sides (m); `what` it is made of; round or rectangular."""

    x: float
    y: float
    angle: float
    a: float
    b: float
    what: str
    there: Dates
    round: bool = False
    when: int = 1


@dataclass
class Block:
    """Land between roads: inner edges in plan metres, use before and after date `when`, share of lots built on."""

    u0: float
    u1: float
    v0: float
    v1: float
    before: Kind
    after: Kind
    shares: tuple[float, float] = (0.0, 0.0)
    land: Kind = "bare"
    yard: str = "grass"
    slabs: list[Slab] = field(default_factory=list)
    when: int = 1

    def use(self, date: int) -> Kind:
        """What it is used for on a date."""
        return self.after if date >= self.when else self.before

    def share(self, date: int) -> float:
        """The share of its lots that is built on."""
        return self.shares[int(date >= self.when)]


@dataclass
class Building(Thing):
    """Rectangles (offset u, v; half sides a, b; m) around a centre in the image, under one roof.

    pitch: rise over run of the roof, 0 for a flat one. gable: the ends of the roof are upright. seed: of its details.
    again: colour and cover of the new roof that it gets at date `when`; None if it keeps the old one.
    """

    x: float
    y: float
    angle: float
    parts: tuple[tuple[float, float, float, float], ...]
    eaves: float
    pitch: float
    gable: bool
    colour: Colour
    cover: str
    there: Dates
    seed: int
    when: int = 1
    again: tuple[Colour, str] | None = None

    def roof(self, date: int) -> tuple[Colour, str]:
        """Colour and cover of its roof on a date."""
        return self.again if self.again and date >= self.when else (self.colour, self.cover)


@dataclass
class Tree(Thing):
    """A crown: place in pixels, radius and height in m; evergreen; hue -1..1; size afterwards."""

    x: float
    y: float
    radius: float
    height: float
    evergreen: bool
    hue: float
    there: Dates
    grown: float = 1.0
    when: int = 1
