"""The past of a planet on disk: 6-hourly states in segments, made when first asked for and continued later.

A segment is a ``.npy`` file of 120 states (30 days, 0.7 MB), written beside and renamed into place: a reader sees a
whole segment or none, and a process that dies leaves at most a stray temporary file. Every segment starts from the
last state of the one before it, so that the history does not depend on who asked for which part of it when.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import threading
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from .dynamics import LEVELS, STEP_HOURS, Dynamics
from .forcing import Parameters
from .world import STEP, Planet, Times

SEGMENT = 120  # states
_VERSION = 1  # raise when the equations, the geography or the noise change
_lock = threading.RLock()


@lru_cache(maxsize=1)
def _dynamics() -> Dynamics:
    return Dynamics()


@lru_cache(maxsize=4)  # keeps the matrices that the planet makes on first use
def _planet(seed: int, start: str) -> Planet:
    return Planet(seed, np.datetime64(start), _dynamics())


@dataclass(frozen=True)
class History:
    """The states of ``Planet(seed, start)``, kept in a folder. A small value: hashable, and it can be pickled.

    seed: which weather. start: ISO time of the first state. folder: cache folder, safe to delete.
    """

    seed: int
    start: str
    folder: str

    @property
    def planet(self) -> Planet:
        """The planet of this history."""
        return _planet(self.seed, self.start)

    @property
    def path(self) -> Path:
        """Where the segments of this history lie."""
        what = repr((_VERSION, STEP_HOURS, SEGMENT, sorted(asdict(Parameters()).items()), self.start))
        key = hashlib.sha256(what.encode()).hexdigest()[:12]
        return Path(self.folder) / "planet" / f"seed{self.seed}-{key}"

    def index(self, times: Times) -> NDArray[np.int64]:
        """Step numbers of times. Raises ValueError for a time before the start or off the 6-hourly step."""
        since = np.asarray(times, "datetime64[ns]") - np.datetime64(self.start, "ns")
        step = since // STEP.astype("timedelta64[ns]")
        if np.any(since % STEP.astype("timedelta64[ns]") != np.timedelta64(0)) or np.any(step < 0):
            raise ValueError(f"the planet has 6-hourly states from {self.start} on only")
        return np.asarray(step, np.int64)

    def segment(self, number: int) -> NDArray[np.float32]:
        """States (120, level, mode) of one segment, from disk or made now (with all those before it)."""
        with _lock:
            first = number
            while first >= 0 and self._read(first) is None:
                first -= 1
            for k in range(first + 1, number + 1):
                self._make(k)
            found = self._read(number)
        assert found is not None
        return found

    def states(self, times: Times) -> torch.Tensor:
        """States (time, level, mode), float32, at 6-hourly times from the start on, in any order."""
        steps = self.index(times)
        out = np.empty((steps.size, LEVELS, _dynamics().modes.count), np.float32)
        for number in np.unique(steps // SEGMENT):
            here = steps // SEGMENT == number
            out[here] = self.segment(int(number))[steps[here] % SEGMENT]
        return torch.from_numpy(out)

    def fields(self, times: Times) -> dict[str, NDArray[np.float32]]:
        """Maps of ``z``, ``u``, ``v`` (time, level, latitude, longitude); see `Planet.expand`."""
        steps = self.index(times)
        out: dict[str, NDArray[np.float32]] = {}
        for number in np.unique(steps // SEGMENT):
            here = steps // SEGMENT == number
            for name, values in _expanded(self, int(number)).items():
                out.setdefault(name, np.empty((steps.size, *values.shape[1:]), np.float32))
                out[name][here] = values[steps[here] % SEGMENT]
        return out

    def _file(self, number: int) -> Path:
        return self.path / f"{number:06d}.npy"

    def _read(self, number: int) -> NDArray[np.float32] | None:
        try:
            states: NDArray[np.float32] = np.load(self._file(number), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None  # absent, or damaged on disk: made again
        whole = states.shape == (SEGMENT, LEVELS, _dynamics().modes.count) and states.dtype == np.float32
        return states if whole and np.isfinite(states).all() else None

    def _make(self, number: int) -> None:
        planet = self.planet
        if number == 0:
            initial = planet.initial()
            states = torch.cat([initial[None], planet.advance(initial, planet.start, SEGMENT - 1)])
        else:
            before = self._read(number - 1)
            assert before is not None
            last = planet.start + (number * SEGMENT - 1) * STEP
            states = planet.advance(torch.from_numpy(before[-1]), last, SEGMENT)
        _write(self._file(number), states.numpy())


def _write(path: Path, array: NDArray[np.float32]) -> None:
    """Save an array so that the file is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
    try:
        with os.fdopen(fd, "wb") as f:
            np.save(f, array, allow_pickle=False)
            f.flush()
            os.fsync(f.fileno())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


def _expanded(history: History, number: int) -> dict[str, NDArray[np.float32]]:
    with _lock:  # one thread expands, the others find it done
        return _expand(history, number)


@lru_cache(maxsize=4)
def _expand(history: History, number: int) -> dict[str, NDArray[np.float32]]:
    return history.planet.expand(torch.from_numpy(history.segment(number)))
