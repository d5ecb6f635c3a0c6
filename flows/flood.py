"""Prefect flow: water and flood of the newest scenes of a dataset."""

from __future__ import annotations

import sys

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from eoflow.flowkit import RETRY_IF_TRANSIENT, publish


@task(cache_policy=NO_CACHE, **RETRY_IF_TRANSIENT)
def flood_of(dataset: str, days: int = 10, model: str | None = None, workspace: str | None = None) -> str:
    """Map water and flood of the scenes of the last `days` days that the cube holds; where the product lies."""
    from eoflow.predict_images.scheduled import predict_last
    from eoflow.workspace import Workspace

    ws = Workspace(workspace)
    report = predict_last("flood", dataset, days, model=model, workspace=ws)
    if report is None:
        publish(f"flood-{dataset}", f"Flood of {dataset}", "Nothing has been ingested yet.")
        return "nothing yet"
    publish(f"flood-{dataset}", f"Flood of {dataset}", report)
    return report.path or "nothing to do"


@flow(name="flood", retries=0, persist_result=False)
def flood(dataset: str, days: int = 10, model: str | None = None, workspace: str | None = None) -> str:
    """Map water and flood of the scenes of the last `days` days that the cube holds.

    The same scenes again change nothing.
    """
    return flood_of(dataset, days, model, workspace)


if __name__ == "__main__":
    flood(*sys.argv[1:])  # type: ignore[call-overload]  # Prefect reads the strings
