"""Trying again after transient errors, with growing, jittered pauses."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from eoflow.config import settings
from eoflow.sources.base import AssetTransient

T = TypeVar("T")
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
sleep = time.sleep


def call(fn: Callable[[], T], tries: int | None = None) -> T:
    """`fn()`; tried again after AssetTransient, ConnectionError or TimeoutError, `settings().retries` times."""
    tries = settings().retries if tries is None else tries
    for attempt in range(tries + 1):
        try:
            return fn()
        except (AssetTransient, ConnectionError, TimeoutError) as e:
            if attempt == tries:
                if isinstance(e, AssetTransient):
                    raise
                raise AssetTransient(f"could not be reached: {e or type(e).__name__}", todo="try again later") from e
            # full jitter: many workers that failed together must not come back together
            sleep(random.uniform(0.1, 1.0) * min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**attempt))
    raise AssertionError("the loop returns or raises")
