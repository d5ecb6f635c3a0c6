"""Open raster files between two uses, shared by threads: what a header was read from, the pixels are read from."""

from __future__ import annotations

import threading
from collections import OrderedDict

from eoflow.sources.raster_open import Opened

SHARE = 4
"""At most one in so many of the file handles that this process may have."""


def handles(wanted: int) -> int:
    """How many files may stay open: as many as wanted, as far as the process's limit goes."""
    try:
        import resource

        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    except ImportError:  # not on Windows
        return min(wanted, 64)
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft // SHARE))


class OpenFiles:
    """Files that nobody uses now, at most `limit`. One thread has a file at a time: `take` it, and `give` it back.

    When it is full, the file whose pixels were read longest ago is closed; if there is none, the one that comes in: of
    files of which only the header was read, the first are the next to be needed.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._idle: dict[str, list[Opened]] = {}
        self._used: OrderedDict[str, None] = OrderedDict()
        self._count = self._generation = 0
        self._guard = threading.Lock()

    def __len__(self) -> int:
        return self._count

    @property
    def generation(self) -> int:
        """Grows with `close`; a file that was taken before is not kept when it comes back."""
        return self._generation

    def take(self, href: str) -> Opened | None:
        """An open file of this href, or None."""
        with self._guard:
            return self._pop(href)

    def _pop(self, href: str) -> Opened | None:
        files = self._idle.get(href)
        if not files:
            return None
        opened = files.pop()
        self._count -= 1
        if not files:
            del self._idle[href]
            self._used.pop(href, None)
        return opened

    def give(self, href: str, opened: Opened, generation: int, used: bool) -> None:
        """Keep a file for its next use. used: its pixels were read."""
        with self._guard:
            out: Opened | None = opened
            if generation == self._generation and self.limit > 0:
                if self._count >= self.limit:
                    out = self._pop(next(iter(self._used))) if self._used else opened
                else:
                    out = None
                if out is not opened:
                    self._idle.setdefault(href, []).append(opened)
                    self._count += 1
                    if used:
                        self._used[href] = None
                        self._used.move_to_end(href)
        if out is not None:
            out.close()

    def drop(self, href: str) -> None:
        """Close what is open of this href."""
        with self._guard:
            gone = []
            while (opened := self._pop(href)) is not None:
                gone.append(opened)
        for opened in gone:
            opened.close()

    def close(self) -> None:
        """Close all that nobody uses now; the others when they come back."""
        with self._guard:
            gone = [o for files in self._idle.values() for o in files]
            self._idle.clear()
            self._used.clear()
            self._count = 0
            self._generation += 1
        for opened in gone:
            opened.close()
