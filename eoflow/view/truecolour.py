"""Bands as colours: which ones make a picture, and the stretch that shows the surface and not the clouds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from eoflow.bands import BandSpec

Array = np.ndarray[Any, Any]
RED_GREEN_BLUE = (("red", "B04", "B4", "SR_B4", "R"), ("green", "B03", "B3", "SR_B3", "G"),
                  ("blue", "B02", "B2", "SR_B2", "B"))  # fmt: skip
CO, CROSS = ("VV", "HH"), ("VH", "HV")
PERCENTILES = (1.0, 99.0)
FEW = 64
"""A stretch is not taken from fewer pixels than this."""


@dataclass(frozen=True)
class Colours:
    """What makes a picture. names: the bands to read; kind: `true colour`, `radar` or `grey`."""

    names: tuple[str, ...]
    kind: str

    @property
    def title(self) -> str:
        """`true colour (B04, B03, B02)`."""
        kind = {"grey": self.names[0], "radar": "radar, dB"}.get(self.kind, self.kind)
        return kind if self.kind == "grey" else f"{kind} ({', '.join(self.names)})"


def colours_of(bands: Sequence[BandSpec]) -> Colours:
    """Red, green and blue by common name or usual name; else the polarisations of a radar; else the first band."""
    named = {b.common_name: b.name for b in reversed(bands) if b.common_name} | {b.name: b.name for b in bands}
    found = [next((named[n] for n in names if n in named), None) for names in RED_GREEN_BLUE]
    if all(found):
        return Colours(tuple(str(f) for f in found), "true colour")
    upper = {b.name.upper(): b.name for b in bands}
    polarised = [next((upper[p] for p in some if p in upper), None) for some in (CO, CROSS)]
    if any(polarised):
        return Colours(tuple(p for p in polarised if p), "radar")
    return Colours((bands[0].name,), "grey")


def picture(stored: Mapping[str, Array], bands: Mapping[str, BandSpec], colours: Colours, *bases: Array) -> Array:
    """float32 (y, x, 4), 0 to 1: red, green, blue and opacity (0 where a band has no value).

    stored: (y, x) by name. bases: bool (y, x); the stretch is taken from the first that has pixels, else from all.
    Three reflectances share the width of the stretch, so that grey stays grey, and begin each at its own darkest
    percent, which takes off the blue of the air. Radar shows co-polarised, cross-polarised and their ratio, each by
    itself.
    """
    layers = [bands[n].physical(stored[n]) for n in colours.names]
    shared = colours.kind == "true colour"
    if colours.kind == "radar":
        layers = [_decibel(v, bands[n].units) for v, n in zip(layers, colours.names, strict=True)]
        layers = [*layers, layers[0] - layers[1]] if len(layers) == 2 else layers
    stack = np.stack(layers if len(layers) == 3 else [layers[0]] * 3)
    there = np.isfinite(stack).all(axis=0)
    base = next((b & there for b in bases if int((b & there).sum()) >= FEW), there)
    limits = [_limits(layer[base]) for layer in stack]
    widest = max(high - low for low, high in limits)
    out = np.zeros((*there.shape, 4), "f4")
    for k, (low, high) in enumerate(limits):
        out[..., k] = np.clip((np.nan_to_num(stack[k]) - low) / (widest if shared else high - low), 0, 1)
    if shared:
        out[..., :3] **= np.float32(1 / 1.3)  # dark land beside bright roofs
    out[..., 3] = there
    return out


def _decibel(values: Array, units: str) -> Array:
    if units == "dB":
        return values
    with np.errstate(divide="ignore", invalid="ignore"):
        out: Array = 10 * np.log10(values)
    return np.where(np.isfinite(out), out, np.nan)


def _limits(values: Array) -> tuple[float, float]:
    if values.size == 0:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(values, PERCENTILES))
    return (low, high) if high > low else (low - 0.5, high + 0.5)
