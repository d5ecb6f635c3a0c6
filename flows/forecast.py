"""Prefect flow: forecast from the latest analysis into the forecast cube, and publish the run."""

from __future__ import annotations

import sys

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from eoflow.flowkit import RETRY_IF_TRANSIENT, publish


@task(cache_policy=NO_CACHE, **RETRY_IF_TRANSIENT)
def forecast_cube(
    dataset: str, lead: str, model: str | None, init: str, members: int, workspace: str | None = None
) -> str:  # fmt: skip
    """Roll out and publish; where the latest run lies."""
    from eoflow.predict import forecast as run
    from eoflow.workspace import Workspace

    report = run(lead, dataset=dataset, model=model, init=init, members=members, workspace=Workspace(workspace))
    publish(f"forecast-{dataset}", f"Forecast of {dataset}", report)
    return str(report.latest)


@flow(name="forecast", retries=0, persist_result=False)
def forecast(
    dataset: str, lead: str = "10d", model: str | None = None, init: str = "latest", members: int = 1,
    workspace: str | None = None,
) -> str:  # fmt: skip
    """Forecast `dataset` from `init` for `lead`. The same init again changes nothing."""
    return forecast_cube(dataset, lead, model, init, members, workspace)


if __name__ == "__main__":
    forecast(*sys.argv[1:])  # type: ignore[call-overload]  # Prefect reads the strings
