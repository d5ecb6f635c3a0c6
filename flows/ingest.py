"""Prefect flow: fetch what the schedule of a dataset expects and its archive lacks."""

from __future__ import annotations

import sys

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from eoflow.flowkit import RETRY_IF_TRANSIENT, publish


@task(cache_policy=NO_CACHE, **RETRY_IF_TRANSIENT)
def ingest_dataset(dataset: str, workspace: str | None = None, period: str | None = None) -> str:
    """Ingest from the end of the archive to now (or `period`); the id of the snapshot that the archive is at."""
    from eoflow.ingest.run import gaps
    from eoflow.ingest.run import ingest as run
    from eoflow.workspace import Workspace

    ws = Workspace(workspace)
    report = run(dataset, period=period, workspace=ws)
    publish(f"ingest-{dataset}", f"Ingest of {dataset}", report)
    publish(f"coverage-{dataset}", f"Coverage of {dataset}", gaps(dataset, workspace=ws))
    return str(report.snapshot)


@flow(name="ingest", retries=0, persist_result=False)
def ingest(dataset: str, workspace: str | None = None, period: str | None = None) -> str:
    """Bring the archive of `dataset` up to date. Doing it again changes nothing."""
    return ingest_dataset(dataset, workspace, period)


if __name__ == "__main__":
    ingest(*sys.argv[1:])  # type: ignore[call-overload]  # Prefect reads the strings
