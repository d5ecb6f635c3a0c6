"""Prefect flow: train a recipe on an archive; the gate decides whether the checkpoint is promoted."""

from __future__ import annotations

import sys

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from eoflow.flowkit import publish


@task(cache_policy=NO_CACHE)
def train_recipe(recipe: str, dataset: str, workspace: str | None = None, train_period: str | None = None) -> str:
    """Train; the folder of the checkpoint. An interrupted run goes on from its last state."""
    from eoflow.train import train as run
    from eoflow.workspace import Workspace

    report = run(recipe, dataset, train_period=train_period, workspace=Workspace(workspace))
    publish(f"train-{dataset}-{recipe}", f"Training of {recipe} on {dataset}", report)
    return str(report.folder)


@flow(name="train", retries=0, persist_result=False)
def train(
    dataset: str, recipe: str = "puyun", workspace: str | None = None, train_period: str | None = None
) -> str:  # fmt: skip
    """Train `recipe` on the archive of `dataset`."""
    return train_recipe(recipe, dataset, workspace, train_period)


if __name__ == "__main__":
    train(*sys.argv[1:])  # type: ignore[call-overload]  # Prefect reads the strings
