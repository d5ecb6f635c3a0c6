"""Prefect flow: statistics, splits with their proof, and the training set of a scene dataset."""

from __future__ import annotations

import sys

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from eoflow.flowkit import RETRY_IF_TRANSIENT, publish


@task(cache_policy=NO_CACHE, **RETRY_IF_TRANSIENT)
def prepare_patches(dataset: str, recipe: str | None = None, workspace: str | None = None) -> str:
    """Prepare what has come in; the key of the training set."""
    from eoflow.holdings import kind_of
    from eoflow.prepare.scenes import PatchRecipe, load_recipe
    from eoflow.prepare.scenes import prepare_patches as run
    from eoflow.workspace import Workspace

    ws = Workspace(workspace)
    if kind_of(ws, dataset) is None:
        publish(f"prepare-{dataset}", f"Training set of {dataset}", "Nothing has been ingested yet.")
        return "nothing yet"
    done = run(dataset, load_recipe(recipe) if recipe else PatchRecipe(), workspace=ws)
    publish(f"prepare-{dataset}", f"Training set of {dataset}", done)
    return done.key


@flow(name="prepare", retries=0, persist_result=False)
def prepare(dataset: str, recipe: str | None = None, workspace: str | None = None) -> str:
    """Prepare `dataset` by a patch recipe (a YAML file; the defaults if left out). Doing it again changes nothing."""
    return prepare_patches(dataset, recipe, workspace)


if __name__ == "__main__":
    prepare(*sys.argv[1:])  # type: ignore[call-overload]  # Prefect reads the strings
