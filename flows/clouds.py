"""Prefect flow: the newest cloudy scenes of a dataset, filled."""

from __future__ import annotations

import sys

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from eoflow.flowkit import RETRY_IF_TRANSIENT, publish


@task(cache_policy=NO_CACHE, **RETRY_IF_TRANSIENT)
def clouds_of(dataset: str, days: int = 10, model: str | None = None, workspace: str | None = None) -> str:
    """Fill the clouds of the scenes of the last `days` days that the cube holds; where the product lies."""
    from eoflow.predict_images.scheduled import predict_last
    from eoflow.workspace import Workspace

    ws = Workspace(workspace)
    report = predict_last("clouds", dataset, days, model=model, workspace=ws)
    if report is None:
        publish(f"clouds-{dataset}", f"Clouds of {dataset}", "Nothing has been ingested yet.")
        return "nothing yet"
    publish(f"clouds-{dataset}", f"Clouds of {dataset}", report)
    return report.path or "nothing to do"


@flow(name="clouds", retries=0, persist_result=False)
def clouds(dataset: str, days: int = 10, model: str | None = None, workspace: str | None = None) -> str:
    """Fill the clouds of the scenes of the last `days` days that the cube holds.

    The same scenes again change nothing.
    """
    return clouds_of(dataset, days, model, workspace)


if __name__ == "__main__":
    clouds(*sys.argv[1:])  # type: ignore[call-overload]  # Prefect reads the strings
