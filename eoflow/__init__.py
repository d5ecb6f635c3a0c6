"""eoflow: Earth-observation and weather data from source to verified forecast.

The verbs of the command line are functions here: `eoflow.ingest(...)`, `eoflow.prepare(...)`,
`eoflow.train(...)`, `eoflow.forecast(lead="10d")`, `eoflow.verify(...)`, `eoflow.open("forecast")`,
`eoflow.composite(...)`, `eoflow.export(...)`, `eoflow.why(...)`, `eoflow.flood(...)`, `eoflow.change(...)`,
`eoflow.clouds(...)`, `eoflow.despeckle(...)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_LAZY = {
    "open": ("eoflow.products", "open_product"),
    "forecast": ("eoflow.predict", "forecast"),
    "flood": ("eoflow.predict_images.verbs", "flood"),
    "change": ("eoflow.predict_images.verbs", "change"),
    "clouds": ("eoflow.predict_images.verbs", "clouds"),
    "despeckle": ("eoflow.predict_images.verbs", "despeckle"),
    "gaps": ("eoflow.ingest.run", "gaps"),
    "backfill": ("eoflow.ingest.run", "backfill"),
    "history": ("eoflow.ingest.run", "history"),
    "rollback": ("eoflow.ingest.run", "rollback"),
    "Workspace": ("eoflow.workspace", "Workspace"),
}
_ROOMS = ("ingest", "prepare", "train", "verify", "demo", "composite", "export", "why")

if TYPE_CHECKING:  # to a type checker a verb is its function, and not the room of that name
    from eoflow import products
    from eoflow.composite.run import composite as composite
    from eoflow.demo import demo as demo
    from eoflow.export.run import export as export
    from eoflow.ingest.run import backfill as backfill
    from eoflow.ingest.run import gaps as gaps
    from eoflow.ingest.run import history as history
    from eoflow.ingest.run import ingest as ingest
    from eoflow.ingest.run import rollback as rollback
    from eoflow.predict import forecast as forecast
    from eoflow.predict_images.verbs import change as change
    from eoflow.predict_images.verbs import clouds as clouds
    from eoflow.predict_images.verbs import despeckle as despeckle
    from eoflow.predict_images.verbs import flood as flood
    from eoflow.prepare.run import prepare as prepare
    from eoflow.train import train as train
    from eoflow.verify.dispatch import verify as verify
    from eoflow.why import why as why
    from eoflow.workspace import Workspace as Workspace

    open = products.open_product

__all__ = ["__version__", *_LAZY, *_ROOMS]


def __getattr__(name: str) -> Any:
    import importlib

    if name in _LAZY:
        module, attr = _LAZY[name]
        return getattr(importlib.import_module(module), attr)
    if name in _ROOMS:
        return importlib.import_module(f"eoflow.{name}")
    raise AttributeError(f"module 'eoflow' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
