"""Giving freed memory back to the system between batches.

glibc keeps freed blocks in one arena a thread; over a long ingest with many threads (ours, zarr's, icechunk's) that
fragmentation alone reaches a gigabyte. Elsewhere this does nothing.
"""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache
from typing import Any


@lru_cache(maxsize=1)
def _libc() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    try:
        libc = ctypes.CDLL(None)
        return libc if hasattr(libc, "malloc_trim") else None
    except OSError:
        return None


def release() -> None:
    """Hand free memory back (glibc's malloc_trim)."""
    libc = _libc()
    if libc is not None:
        libc.malloc_trim(0)
