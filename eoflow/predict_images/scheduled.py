"""What the scheduled flows call: a task's model on the newest days of a dataset, and which tasks a dataset serves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eoflow.holdings import kind_of
from eoflow.predict_images.store import KINDS
from eoflow.workspace import Workspace

if TYPE_CHECKING:
    from eoflow.bands import BandSpec
    from eoflow.predict_images.report import ProductReport

TASKS = {verb: task for task, verb in KINDS.items() if task != "despeckling"}
"""Verb -> task, of those that have a flow; radar is despeckled when somebody asks."""


def predict_last(
    verb: str, dataset: str, days: int, *, model: str | None = None, workspace: Workspace | str | None = None
) -> ProductReport | None:
    """Run `flood`, `change` or `clouds` over the last `days` days that the cube holds; None: nothing was ingested yet.

    The same scenes again change nothing. Raises BadInput for a model that does not fit the bands.
    """
    from eoflow.composite.run import last_days
    from eoflow.predict_images.run import predict_dataset

    ws = Workspace.of(workspace)
    if kind_of(ws, dataset) is None:
        return None
    return predict_dataset(
        TASKS[verb], dataset, model=model, period=last_days(dataset, days, ws), workspace=ws,
        command=f"flow {verb} of {dataset}, last {days} days",
    )  # fmt: skip


def verbs_of(dataset: str, workspace: Workspace | str | None = None) -> list[str]:
    """The verbs for which a trained or shipped model fits the bands of a dataset, held or only in the catalog."""
    from eoflow.checkpoint_images import candidates

    ws = Workspace.of(workspace)
    bands = _bands(dataset, ws)
    return [verb for verb, task in TASKS.items() if bands and candidates(ws, task, bands, dataset)]


def _bands(dataset: str, ws: Workspace) -> list[BandSpec]:
    from eoflow import catalog
    from eoflow.bands import BandSpec
    from eoflow.cube import Cube

    if kind_of(ws, dataset) == "scenes":
        return list(Cube.load(ws, dataset).schema.bands)
    entry = catalog.entry(dataset, ws)
    listed = getattr(entry, "bands", None) or {}
    return [
        BandSpec(name=name, dtype=b.dtype or "float32", units=b.units, common_name=b.common_name)
        for name, b in listed.items()
        if b.units
    ]


def recipes_of(dataset: str, workspace: Workspace | str | None = None) -> list[str]:
    """Recipes whose labels (or targets) a dataset holds, one a task: of the model that `verbs_of` would use."""
    from eoflow import catalog, checkpoint
    from eoflow.checkpoint_images import candidates

    ws = Workspace.of(workspace)
    bands = _bands(dataset, ws)
    known = {name for b in bands for name in (b.name, b.common_name) if name}
    found = []
    for task in TASKS.values():
        fitting = candidates(ws, task, bands, dataset) if bands else []
        config = checkpoint.read_config(fitting[0]) if fitting else None
        if config is None or config["recipe"]["name"] not in catalog.names("models", ws):
            continue
        patches = config["recipe"]["patches"]
        needed = {*patches.get("targets", ()), *filter(None, [(patches.get("labels") or {}).get("band")])}
        if needed and needed <= known:
            found.append(str(config["recipe"]["name"]))
    return found
