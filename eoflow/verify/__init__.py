"""Verification: metrics, scorecards, the gate. `eoflow.verify(...)` is a function of the same name as this room."""

from __future__ import annotations

from eoflow._callable import make_callable

make_callable(__name__, "eoflow.verify.dispatch:verify")
