"""Prefect flow: a cloud-free composite of the last days of a scene dataset."""

from __future__ import annotations

import sys

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from eoflow.flowkit import RETRY_IF_TRANSIENT, publish


@task(cache_policy=NO_CACHE, **RETRY_IF_TRANSIENT)
def composite_of(dataset: str, days: int = 30, method: str = "median", workspace: str | None = None) -> str:
    """Composite of the last `days` days that the cube holds; where it lies."""
    from eoflow.composite import composite as run
    from eoflow.composite import last_days
    from eoflow.holdings import kind_of
    from eoflow.workspace import Workspace

    ws = Workspace(workspace)
    if kind_of(ws, dataset) is None:
        publish(f"composite-{dataset}", f"Composite of {dataset}", "Nothing has been ingested yet.")
        return "nothing yet"
    report = run(dataset, last_days(dataset, days, ws), method=method, workspace=ws)
    publish(f"composite-{dataset}", f"Composite of {dataset}", report)
    return report.path


@flow(name="composite", retries=0, persist_result=False)
def composite(dataset: str, days: int = 30, method: str = "median", workspace: str | None = None) -> str:
    """Make the composite of `dataset`. Doing it again on the same state changes nothing."""
    return composite_of(dataset, days, method, workspace)


if __name__ == "__main__":
    composite(*sys.argv[1:])  # type: ignore[call-overload]  # Prefect reads the strings
