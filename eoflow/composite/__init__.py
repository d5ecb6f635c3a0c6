"""One image of a period from its clear observations. The room itself is callable: `eoflow.composite(...)`."""

from eoflow._callable import make_callable

make_callable(__name__, "eoflow.composite.run:composite")
