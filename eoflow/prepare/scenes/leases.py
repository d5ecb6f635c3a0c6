"""Which training sets are still used, and the removal of those that are not.

Every set has a small file beside it, KEY.use. Whoever has the set open holds a shared lock on it, which ends with the
process at the latest; its time is that of the last use.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

KEPT = 2
"""Sets of one recipe that stay: the one that was asked for last, and the one before it."""


def hold(target: Path) -> IO[bytes] | None:
    """Say that a set is used, from now until the file that is returned is closed. None: this system has no such locks,
    and nothing is ever removed."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    file = _beside(target).open("ab")
    fcntl.flock(file, fcntl.LOCK_SH)
    os.utime(file.fileno())
    return file


def remove_old(folder: Path, recipe_hash: str, keep: int = KEPT) -> list[str]:
    """Remove the sets of a recipe that were used longest ago, but for the last `keep` and those that somebody holds
    (also on another machine, where the file system shares its locks); returns their keys."""
    found = []
    for path in folder.glob("*.zarr"):
        if not path.name.endswith(".index.zarr") and _recipe(path) == recipe_hash and _beside(path).exists():
            found.append((_beside(path).stat().st_mtime_ns, path))
    gone = []
    for _, path in sorted(found, reverse=True)[keep:]:
        with _alone(path) as free:
            if free:
                away = path.with_suffix(".gone")
                path.rename(away)  # nobody opens a half of it
                shutil.rmtree(away)
                _beside(path).unlink()
                gone.append(path.stem)
    return gone


def _beside(target: Path) -> Path:
    return target.with_suffix(".use")


def _recipe(path: Path) -> str | None:
    try:
        attributes = json.loads((path / "zarr.json").read_text(encoding="utf-8"))["attributes"]
        return str(attributes["provenance"]["recipe_hash"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def _alone(target: Path) -> Iterator[bool]:
    """Whether nobody holds a set; nobody can take hold of it inside."""
    import fcntl

    with _beside(target).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
