"""Prefect flow: fetch again what is missing, failed or partial inside an archive."""

from __future__ import annotations

import sys

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from eoflow.flowkit import RETRY_IF_TRANSIENT, publish


@task(cache_policy=NO_CACHE, **RETRY_IF_TRANSIENT)
def backfill_dataset(dataset: str, workspace: str | None = None, period: str | None = None) -> str:
    """Try every gap again; the id of the snapshot that the archive is at."""
    from eoflow.holdings import kind_of
    from eoflow.ingest.run import backfill as run
    from eoflow.ingest.run import gaps
    from eoflow.workspace import Workspace

    ws = Workspace(workspace)
    if kind_of(ws, dataset) is None:
        publish(f"backfill-{dataset}", f"Backfill of {dataset}", "Nothing has been ingested yet.")
        return "nothing yet"
    report = run(dataset, period=period, workspace=ws)
    publish(f"backfill-{dataset}", f"Backfill of {dataset}", report)
    publish(f"coverage-{dataset}", f"Coverage of {dataset}", gaps(dataset, workspace=ws))
    return str(report.snapshot)


@flow(name="backfill", retries=0, persist_result=False)
def backfill(dataset: str, workspace: str | None = None, period: str | None = None) -> str:
    """Fill the gaps of `dataset`. Doing it again changes nothing."""
    return backfill_dataset(dataset, workspace, period)


if __name__ == "__main__":
    backfill(*sys.argv[1:])  # type: ignore[call-overload]  # Prefect reads the strings
