"""Prepare: grid, statistics, normalisation, splits and training sets. Calling the package is `prepare.run.prepare`."""

from eoflow._callable import make_callable

make_callable(__name__, "eoflow.prepare.run:prepare")
