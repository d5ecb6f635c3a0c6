"""What the windows of a batch come to: totals of each scene, shares of valid pixels, overviews."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from eoflow.errors import BadInput, EoflowError
from eoflow.ingest.scenes.plan import Step
from eoflow.ingest.scenes.work import Outcome, Unit
from eoflow.ingest.scenes.writing import Overviews
from eoflow.sources.radiometry import check_sample
from eoflow.sources.scene import Grid

Array = np.ndarray[Any, Any]
Arrays = Callable[[Any, str, int], dict[str, Any]]
"""(root group, tile, factor) -> the arrays of an overview."""


@dataclass
class Done:
    """What became of the steps of a batch: totals by (step index, scene id), and the fractions of each step."""

    digest: dict[tuple[int, str], int] = field(default_factory=dict)
    valid: dict[tuple[int, str], int] = field(default_factory=dict)
    samples: dict[tuple[str, str], list[Array]] = field(default_factory=dict)
    fractions: dict[int, Array] = field(default_factory=dict)
    nbytes: dict[int, int] = field(default_factory=dict)
    errors: dict[str, EoflowError] = field(default_factory=dict)

    def put(self, other: Done, places: dict[int, int]) -> None:
        """Take what another says of the steps `places` (its index -> ours)."""
        for mine, theirs in ((self.digest, other.digest), (self.valid, other.valid)):
            mine.update({(places[i], s): v for (i, s), v in theirs.items() if i in places})
        self.fractions.update({places[i]: v for i, v in other.fractions.items() if i in places})
        self.nbytes.update({places[i]: v for i, v in other.nbytes.items() if i in places})

    def check_samples(self, schema: Any) -> None:
        """Note the scenes whose values cannot be in the units that are said of them."""
        for (scene, name), parts in self.samples.items():
            try:
                check_sample(np.concatenate(parts), schema.band(name), schema.sensor, where=scene)
            except BadInput as e:
                self.errors.setdefault(scene, e)


class Collector:
    """Takes the outcomes of units one after the other; opened: gives the arrays that overviews are written to."""

    def __init__(self, steps: Sequence[Step], opened: Arrays, progress: Callable[[Unit], None]) -> None:
        self.steps, self.opened, self.progress = steps, opened, progress
        self.done = Done()
        self._overviews: dict[int, Overviews] = {}

    def take(self, out: Outcome, root: Any) -> None:
        """One outcome; root: the group to write overviews to, or None."""
        unit, done = out.unit, self.done
        for scene, error in out.errors:
            done.errors.setdefault(scene, error)
        for scene, part in out.parts.items():
            key = (unit.step, scene)
            done.digest[key] = (done.digest.get(key, 0) + part.digest) & 0xFFFFFFFFFFFFFFFF
            done.valid[key] = done.valid.get(key, 0) + part.valid
            for name, sample in part.sample.items():
                done.samples.setdefault((scene, name), []).append(sample)
        done.nbytes[unit.step] = done.nbytes.get(unit.step, 0) + out.nbytes
        grid = self.steps[unit.step].grid
        if out.fractions is not None:
            _paste(done.fractions, grid, unit, out.fractions)
        if out.coarse and root is not None:
            if unit.step not in self._overviews:
                above = {f: self.opened(root, unit.tile, f) for f in unit.factors}
                self._overviews[unit.step] = Overviews(grid.shape, above, unit.slot)
            self._overviews[unit.step].add(unit.rows, unit.columns, out.coarse)
        out.coarse = {}
        self.progress(unit)


def _paste(into: dict[int, Array], grid: Grid, unit: Unit, part: Array) -> None:
    cy, cx = unit.chunk
    if unit.step not in into:
        into[unit.step] = np.zeros([-(-n // c) for n, c in zip(grid.shape, unit.chunk, strict=True)], "f4")
    y, x = unit.rows.start // cy, unit.columns.start // cx
    into[unit.step][y : y + part.shape[0], x : x + part.shape[1]] = part
