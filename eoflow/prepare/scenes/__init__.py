"""Prepare of scene datasets: statistics, normalisation, patch index, splits that do not leak, training sets.

    from eoflow.prepare.scenes import PatchRecipe, PatchLoader, prepare_patches
    done = prepare_patches("s2", PatchRecipe(patch=128, labels={"band": "water"}))
    for batch in PatchLoader(done.train, 16, seed=0, workers=2): ...

The names below are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eoflow.catalog_patches import PatchRecipe, load_recipe
    from eoflow.prepare.scenes.augment import Augment
    from eoflow.prepare.scenes.leaks import SplitReport, check_splits
    from eoflow.prepare.scenes.loading import PatchLoader
    from eoflow.prepare.scenes.normalize import BandNormalizer
    from eoflow.prepare.scenes.patches import PatchIndex, build_index
    from eoflow.prepare.scenes.run import PreparedPatches, prepare_patches, splits_check
    from eoflow.prepare.scenes.trainset import Patches, PatchSet

_WHERE = {
    "Augment": "augment", "BandNormalizer": "normalize", "PatchIndex": "patches", "PatchLoader": "loading",
    "PatchRecipe": "eoflow.catalog_patches", "PatchSet": "trainset", "Patches": "trainset", "PreparedPatches": "run",
    "SplitReport": "leaks", "build_index": "patches", "check_splits": "leaks", "load_recipe": "eoflow.catalog_patches",
    "prepare_patches": "run", "splits_check": "run",
}  # fmt: skip

__all__ = [
    "Augment", "BandNormalizer", "PatchIndex", "PatchLoader", "PatchRecipe", "PatchSet", "Patches", "PreparedPatches",
    "SplitReport", "build_index", "check_splits", "load_recipe", "prepare_patches", "splits_check",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    where = _WHERE[name]
    return getattr(import_module(where if "." in where else f"{__name__}.{where}"), name)
