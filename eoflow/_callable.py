"""Lets a module be called: `eoflow.ingest(...)` is a function of the same name as its room."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class _CallableModule(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module, _, name = str(self.__dict__["_eoflow_call"]).partition(":")
        return getattr(importlib.import_module(module), name)(*args, **kwargs)


def make_callable(module: str, target: str) -> None:
    """Calling `module` calls `target` (`package.module:function`), imported at the first call."""
    m = sys.modules[module]
    m.__dict__["_eoflow_call"] = target
    m.__class__ = _CallableModule
