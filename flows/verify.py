"""Prefect flow: score every forecast whose truth has arrived, beside the baselines."""

from __future__ import annotations

import sys

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from eoflow.flowkit import RETRY_IF_TRANSIENT, publish

SHOWN_LEADS_H = (24, 72, 120, 240)


@task(cache_policy=NO_CACHE, **RETRY_IF_TRANSIENT)
def verify_cube(
    dataset: str, models: list[str] | None = None, period: str | None = None, workspace: str | None = None
) -> str:  # fmt: skip
    """Score; where `scores.json` lies."""
    from eoflow.errors import NotYet
    from eoflow.verify.run import verify as run
    from eoflow.workspace import Workspace

    ws = Workspace(workspace)
    try:
        card = run(dataset, models=models, period=period, workspace=ws)
    except NotYet as e:  # on the first days no truth has arrived: the schedule goes on
        publish(f"verify-{dataset}", f"Scores of {dataset}", str(e))
        return "nothing to score yet"
    says = [{"model": m, "skill": text} for m in card.models for text in card.statements(m)]
    rows = [r for r in card.row_dicts() if r["metric"] in ("rmse", "acc") and r["lead_hours"] in SHOWN_LEADS_H]
    publish(f"verify-{dataset}", f"Scores of {dataset}", {**card.header, "skill": says, "scores": rows})
    return ws.url("scores", dataset, "scores.json")


@flow(name="verify", retries=0, persist_result=False)
def verify(
    dataset: str, models: list[str] | None = None, period: str | None = None, workspace: str | None = None
) -> str:  # fmt: skip
    """Score the forecast cube of `dataset`."""
    return verify_cube(dataset, models, period, workspace)


if __name__ == "__main__":
    verify(*sys.argv[1:])
