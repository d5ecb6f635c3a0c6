"""Publishing on a local disk: written beside, renamed into place. A reader sees the old thing or the new one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eoflow.errors import BadInput


def refuse_existing(dest: Path, overwrite: bool) -> None:
    """Raise BadInput where `dest` exists and must not be replaced."""
    if not overwrite and dest.exists():
        raise BadInput(f"{dest} exists already", todo="give another place, or say that it may be replaced")


def into_place(temp: Path, dest: Path, overwrite: bool = False) -> Path:
    """Rename a finished file or folder to `dest`; an old folder there is moved aside first and then removed.

    Raises BadInput if `dest` exists and `overwrite` is not set.
    """
    refuse_existing(dest, overwrite)
    dest.parent.mkdir(parents=True, exist_ok=True)
    if not dest.is_dir():
        temp.replace(dest)
        return dest
    aside = dest.with_name(f".old-{dest.name}-{os.getpid()}")
    dest.rename(aside)
    temp.rename(dest)
    shutil.rmtree(aside)
    return dest


@contextmanager
def beside(dest: Path, overwrite: bool = False) -> Iterator[Path]:
    """A path beside `dest`, with the same suffix, to write a file or folder at; renamed to `dest` when the block ends,
    removed where it fails."""
    refuse_existing(dest, overwrite)
    dest.parent.mkdir(parents=True, exist_ok=True)
    temp = dest.with_name(f".tmp-{os.getpid()}-{dest.name}")
    remove(temp)
    try:
        yield temp
        into_place(temp, dest, overwrite)
    finally:
        remove(temp)


def remove(path: Path) -> None:
    """Remove a file or folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
