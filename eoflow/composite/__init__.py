"""One image of a period from its clear observations. The room itself is callable: `eoflow.composite(...)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eoflow._callable import make_callable

if TYPE_CHECKING:
    from eoflow.composite.run import CompositeReport as CompositeReport
    from eoflow.composite.run import composite as composite
    from eoflow.composite.run import last_days as last_days

__all__ = ["CompositeReport", "composite", "last_days"]

make_callable(__name__, "eoflow.composite.run:composite")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'eoflow.composite' has no attribute '{name}'")
    from eoflow.composite import run

    return getattr(run, name)
