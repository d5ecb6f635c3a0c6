"""Prefect flow: score every forecast whose truth has arrived, or image models on a test split, beside baselines."""

from __future__ import annotations

import sys

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from eoflow.flowkit import RETRY_IF_TRANSIENT, publish

SHOWN_LEADS_H = (24, 72, 120, 240)


@task(cache_policy=NO_CACHE, **RETRY_IF_TRANSIENT)
def score(
    dataset: str, models: list[str] | None = None, period: str | None = None, workspace: str | None = None
) -> str:  # fmt: skip
    """Score the forecasts of a dataset of fields, or image models on the test split of one of scenes; where it lies."""
    from eoflow.errors import NotYet
    from eoflow.holdings import kind_of
    from eoflow.verify.dispatch import verify as run
    from eoflow.workspace import Workspace

    ws = Workspace(workspace)
    if kind_of(ws, dataset) is None:
        publish(f"verify-{dataset}", f"Scores of {dataset}", "Nothing has been ingested yet.")
        return "nothing yet"
    try:
        card = run(dataset, models, period, workspace=ws)
    except NotYet as e:  # on the first days no truth has arrived: the schedule goes on
        publish(f"verify-{dataset}", f"Scores of {dataset}", str(e))
        return "nothing to score yet"
    says = [{"model": m, "skill": text} for m in getattr(card, "asked", card.models) for text in card.statements(m)]
    rows = [r for r in card.row_dicts() if r.get("lead_hours") in (None, *SHOWN_LEADS_H)]
    fields = [r for r in rows if "lead_hours" not in r or r["metric"] in ("rmse", "acc")]
    publish(f"verify-{dataset}", f"Scores of {dataset}", {**card.header, "skill": says, "scores": fields})
    task = card.header.get("task")
    return ws.url("products", "scorecards", dataset, task, "scores.json") if task else ws.url(
        "scores", dataset, "scores.json")  # fmt: skip


@flow(name="verify", retries=0, persist_result=False)
def verify(
    dataset: str, models: list[str] | None = None, period: str | None = None, workspace: str | None = None
) -> str:  # fmt: skip
    """Score the forecast cube of `dataset`, or image models on its scenes."""
    return score(dataset, models, period, workspace)


if __name__ == "__main__":
    verify(*sys.argv[1:])  # type: ignore[call-overload]  # Prefect reads the strings
