"""Image models at work: `eoflow clouds | change | flood` over the tiles of a dataset, and straight on files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eoflow.predict_images.files import predict_files as predict_files
    from eoflow.predict_images.report import ProductReport as ProductReport
    from eoflow.predict_images.run import predict_dataset as predict_dataset
    from eoflow.predict_images.verbs import change as change
    from eoflow.predict_images.verbs import clouds as clouds
    from eoflow.predict_images.verbs import flood as flood

_WHERE = {
    "predict_files": "files", "ProductReport": "report", "predict_dataset": "run",
    "change": "verbs", "clouds": "verbs", "flood": "verbs",
}  # fmt: skip
__all__ = ["ProductReport", "change", "clouds", "flood", "predict_dataset", "predict_files"]


def __getattr__(name: str) -> Any:
    import importlib

    if name not in _WHERE:
        raise AttributeError(f"module 'eoflow.predict_images' has no attribute '{name}'")
    return getattr(importlib.import_module(f"eoflow.predict_images.{_WHERE[name]}"), name)
