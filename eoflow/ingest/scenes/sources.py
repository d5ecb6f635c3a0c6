"""The source of a scene entry."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from eoflow.catalog_scenes import SceneEntry
from eoflow.errors import BadInput
from eoflow.sources.base import SourceContext
from eoflow.sources.scene import SceneSource


def open_source(entry: SceneEntry, cache: Path, now: np.datetime64) -> SceneSource:
    """The source that the entry names. Raises BadInput where its driver gives no scenes."""
    from eoflow import registry

    kind = registry.load("sources", entry.source.driver)
    if getattr(kind, "gives", "fields") != "scenes":
        raise BadInput(f"the source '{entry.source.driver}' gives fields, and '{entry.name}' is a dataset of scenes",
                       todo="correct `source.driver` in the catalog entry")  # fmt: skip
    source: SceneSource = kind(entry, SourceContext(cache, now))
    return source
