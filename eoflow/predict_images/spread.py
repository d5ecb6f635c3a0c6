"""Is the standard deviation of a filled image right on this very series? Known dates are left out and asked for.

A network that learnt its uncertainty elsewhere is too sure of one place and not sure enough of another. What it would
have said of a few clear dates of the series, hidden as the wanted one is, is compared with what was seen there: the
factor by which its standard deviation has to be multiplied for 68 % of the values to lie within it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from eoflow.predict_images.choose import targets_of
from eoflow.predict_images.dates import Want, float_day
from eoflow.predict_images.network import days_asked
from eoflow.predict_images.stack import Encode, Frames

if TYPE_CHECKING:
    from eoflow.checkpoint_images import ImageCheckpoint

Array = np.ndarray[Any, Any]
SIDE, PLACES = 192, ((1, 1), (3, 3))
"""Pixels of the squares that are looked at, and where they lie, in quarters of the scene."""
FACTOR = "std_factor"
"""Array (time) of a product."""
DATES = 5
"""Dates that are left out in each square, those nearest to the wanted one."""
CLEAR = 0.6
LEAST = 0.05
"""Share of a square that has to be known of a date, and hidden of it."""
ENOUGH = 3
"""Dates that have to have been asked for."""
ONE = 0.6827
FURTHEST = 10.0
"""The factor stays between this and its inverse."""


@dataclass(frozen=True)
class _Square:
    """Some frames of one square, read once. values: (N, C, h, w) physical, NaN for none; seen: (N, h, w)."""

    values: Array
    seen: Array


def spread_factor(
    checkpoint: ImageCheckpoint, frames: Frames, times: Array, want: Want, normalizer: Any
) -> tuple[float, str | None]:
    """(factor of the standard deviation, a sentence of how it was found); (1, None) for models that say none, (1, the
    reason) where the series shows too little.

    times: (N,) datetime64 of the frames. Deterministic: it depends on the frames and on what is wanted alone.
    """
    if not checkpoint.tells_uncertainty:
        return 1.0, None
    ratios: dict[int, list[Array]] = {}
    near = np.sort(np.argsort(np.abs(times - want.time), kind="stable")[: 4 * max(DATES, len(want.dates))])
    target = None if want.target is None else int(np.searchsorted(near, want.target))
    here = Want(want.time, want.dates, target)
    for square in _squares(frames, near):
        for k, ratio in _asked(checkpoint, frames, times[near], here, normalizer, square):
            ratios.setdefault(k, []).append(ratio)
    if len(ratios) < ENOUGH:
        return 1.0, f"The standard deviation is the model's own: {len(ratios)} dates could be left out to check it."
    every = np.concatenate([r for some in ratios.values() for r in some])
    inside = float((every <= 1).mean())
    factor = float(np.clip(np.quantile(every, ONE), 1 / FURTHEST, FURTHEST))
    return factor, (
        f"Standard deviation times {factor:.2f}: on {len(ratios)} dates of this series that were left out, "
        f"{inside:.0%} of the values lay within what the model says (68 % should)."
    )


def add_factors(group: Any, count: int) -> None:
    """The array of the factors of a tile's images, which are not known yet."""
    attrs = {"long_name": "factor of the standard deviation, from dates that were left out", "units": "1"}
    group.create_array(FACTOR, shape=(count,), chunks=(count,), dtype="f4", fill_value=np.nan,
                       dimension_names=("time",), attributes=attrs)  # fmt: skip


def _squares(frames: Frames, near: Array) -> Iterator[_Square]:
    """Some squares of the scene, of the frames at `near`."""
    height, width = frames.grid.shape
    tall, wide = min(SIDE, height), min(SIDE, width)
    for y, x in sorted({(y * (height - tall) // 4, x * (width - wide) // 4) for y, x in PLACES}):
        found = [frames.frame(int(k), slice(y, y + tall), slice(x, x + wide)) for k in near]
        yield _Square(np.stack([values for values, _ in found]), np.stack([seen for _, seen in found]))


def _asked(
    checkpoint: ImageCheckpoint, frames: Frames, times: Array, want: Want, normalizer: Any, square: _Square
) -> Iterator[tuple[int, Array]]:
    """(frame, |error| / standard deviation) of each date that is left out of a square."""
    hidden = np.ones(square.seen.shape[1:], bool) if want.target is None else ~square.seen[want.target]
    own = want.target is not None and LEAST <= hidden.mean() <= 1 - LEAST
    if not own:
        hidden = np.ones_like(hidden)
    clear = np.flatnonzero(square.seen.mean((1, 2)) >= CLEAR)
    left = [k for k in clear[np.argsort(np.abs(times[clear] - want.time), kind="stable")] if k != want.target][:DATES]
    for k in left:
        known = hidden & square.seen[k]
        others = [i for i in np.flatnonzero(square.seen.any((1, 2))) if i not in (k, want.target)]
        others.sort(key=lambda i: abs(times[i] - times[k]))
        chosen = sorted([*others[: len(want.dates) - own], *([k] if own else [])])
        if known.mean() < LEAST or len(chosen) - own < 1:
            continue
        layers = _run(checkpoint, times, k, chosen, len(want.dates), hidden, normalizer, square)
        truth = square.values[k][list(targets_of(checkpoint, frames.specs))]
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = (np.abs(layers["image"] - truth) / layers["std"])[:, known]
        ratio = ratio[np.isfinite(ratio)]
        if ratio.size:
            yield int(k), ratio


def _run(
    checkpoint: ImageCheckpoint, times: Array, k: int, chosen: Sequence[int], dates: int, hidden: Array,
    normalizer: Any, square: _Square,
) -> dict[str, Array]:  # fmt: skip
    """Layers of the image of frame k from the chosen ones, frame k itself without what is hidden."""
    model = checkpoint.model
    missing = 0 if getattr(model, "any_dates", False) else dates - len(chosen)
    stack = np.full((len(chosen) + missing, square.values.shape[1] + 1, *hidden.shape), np.nan, np.float32)
    for t, i in enumerate(chosen):
        stack[t, :-1] = square.values[i]
        stack[t, -1][square.seen[i] & ~(hidden & (i == k))] = 1
        stack[t, :-1, hidden & (i == k)] = np.nan
    encoded = Encode(normalizer)(stack)
    images = torch.from_numpy(np.nan_to_num(encoded[:, :-1]))[None]
    usable = torch.from_numpy(encoded[:, -1] > 0.5)[None]
    days = [float_day(times[i]) for i in [*chosen, *[k] * missing]]
    with torch.inference_mode():
        found = model(images, usable, *days_asked(model, days, float_day(times[k])))
    outputs = {n: v[0].float().numpy() for n, v in found.items()}
    return dict(checkpoint.task.decode(checkpoint, outputs, usable[0].numpy()))
