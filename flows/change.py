"""Prefect flow: what changed between the first and the last usable scene of the newest days of a dataset."""

from __future__ import annotations

import sys

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from eoflow.flowkit import RETRY_IF_TRANSIENT, publish


@task(cache_policy=NO_CACHE, **RETRY_IF_TRANSIENT)
def change_of(dataset: str, days: int = 60, model: str | None = None, workspace: str | None = None) -> str:
    """Map what changed within the last `days` days that the cube holds; where the product lies."""
    from eoflow.predict_images.scheduled import predict_last
    from eoflow.workspace import Workspace

    ws = Workspace(workspace)
    report = predict_last("change", dataset, days, model=model, workspace=ws)
    if report is None:
        publish(f"change-{dataset}", f"Change of {dataset}", "Nothing has been ingested yet.")
        return "nothing yet"
    publish(f"change-{dataset}", f"Change of {dataset}", report)
    return report.path or "nothing to do"


@flow(name="change", retries=0, persist_result=False)
def change(dataset: str, days: int = 60, model: str | None = None, workspace: str | None = None) -> str:
    """Map what changed within the last `days` days that the cube holds.

    The same scenes again change nothing.
    """
    return change_of(dataset, days, model, workspace)


if __name__ == "__main__":
    change(*sys.argv[1:])  # type: ignore[call-overload]  # Prefect reads the strings
