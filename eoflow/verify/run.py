"""`eoflow verify`: score every run of the cube whose truth has arrived, with the baselines beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow import catalog, checkpoint
from eoflow.archive import Archive
from eoflow.errors import BadInput, NotYet
from eoflow.predict import DEFAULT_MODEL, forecast, load_model, only_dataset, present_times
from eoflow.products import ForecastCube, cubes
from eoflow.times import Cadence, Period, format_duration, iso, year_and_day_fraction
from eoflow.workspace import Workspace

if TYPE_CHECKING:
    import xarray as xr

    from eoflow.checkpoint import Checkpoint
    from eoflow.schema import Channel
    from eoflow.verify.results import Scorecard

Progress = Callable[[float, float, str], None]
BASELINES = ("persistence", "climatology", "eof-ridge")
CEILING = "ceiling"


def verify(
    dataset: str | None = None, models: str | list[str] | None = None, period: str | None = None, *,
    baselines: bool = True, workspace: Workspace | str | None = None, progress: Progress | None = None,
) -> Scorecard:  # fmt: skip
    """Score the forecasts of a dataset by lead, with intervals, and write scores.json and the figure.

    models: names (a list, or with commas); by default the main one (puyun) and those that share its initial times.
    baselines: also run and fit those of BASELINES that are missing, on the training period of the first model.
    period: of initial times.
    Runs that start inside the first model's training or validation period are left out, and the header says so.
    Raises BadInput where nothing can be scored.
    """
    from eoflow.verify.scorecard import score

    ws = Workspace.of(workspace)
    name = dataset or only_dataset(ws)
    archive = Archive.load(ws, name)
    asked = [m.strip() for m in models.split(",")] if isinstance(models, str) else models
    chosen = [ForecastCube(ws, name, m) for m in asked] if asked else _with_forecasts(ws, name)
    for cube in chosen:
        if not cube.exists() and cube.model not in BASELINES:
            cube.open()  # raises with the line that makes it
    main = next(
        (c for c in chosen if c.exists() and c.model not in BASELINES), next((c for c in chosen if c.exists()), None)
    )
    if main is None:
        raise BadInput(
            f"there is no forecast for {name} to verify", todo=f"eoflow forecast --lead 10d --dataset {name}"
        )
    trained = _checkpoint_of(main, archive)
    wanted = {c.model: c for c in chosen}
    if baselines:
        for b in BASELINES:
            wanted.setdefault(b, ForecastCube(ws, name, b))
    inits, lead = _scorable(main, archive, period)
    for model in [m for m in wanted if m in BASELINES]:
        _complete(ws, archive, wanted[model], trained, inits, lead, progress)
    forecasts: dict[str, xr.Dataset] = {m: c.open() for m, c in wanted.items() if c.exists()}
    ceiling = _ceiling(ws, archive, inits, lead) if baselines else None
    if ceiling is not None:
        forecasts[CEILING] = ceiling
    mean_state = _climatology(ws, archive, trained, progress)
    splits = trained.splits if trained is not None and trained.provenance.get("dataset") == name else {}
    exclude = [Period.parse(splits[k]) for k in ("train", "valid") if k in splits]
    card = score(
        forecasts, archive.open(chunks=None), mean_state, dataset=name, period=Period.parse(period) if period else None,
        exclude=exclude, climatology_name=_climatology_name(splits, trained),
    )  # fmt: skip
    if trained is not None:
        card.header["gate"] = _gate(card, main.model, trained)
    ws.write_text(card.to_json(), "scores", name, "scores.json")
    return card


def _gate(card: Scorecard, model: str, trained: Checkpoint) -> dict[str, Any]:
    """Whether the model passes the gate of its recipe on this scorecard, and why (or why it cannot be told)."""
    from eoflow.verify.gate import check

    gate = trained.recipe.gate
    try:
        result = check(card, model, gate.baseline, gate.metric, gate.lead)
    except BadInput as e:
        return {"passed": None, "why": e.what}
    return {"passed": result.passed, "why": result.why}


def _with_forecasts(ws: Workspace, name: str) -> list[ForecastCube]:
    """The main model's cube and those that share at least half of its initial times (all are scored on common ones)."""
    found = cubes(ws, name)
    inits = {c.model: set(c.run_keys()) for c in found}

    def rank(c: ForecastCube) -> tuple[bool, bool, int]:
        return c.model in BASELINES, c.model != DEFAULT_MODEL, -len(inits[c.model])

    found.sort(key=rank)
    return [c for c in found if 2 * len(inits[c.model] & inits[found[0].model]) >= len(inits[found[0].model])]


def _checkpoint_of(cube: ForecastCube, archive: Archive) -> Checkpoint | None:
    """The checkpoint that made the cube's newest run, if it is still there."""
    record = json.loads(str(cube.open()["provenance"].isel(init_time=-1).values))
    if record["checkpoint_location"]:
        try:
            return checkpoint.Checkpoint.from_pretrained(record["checkpoint_location"])
        except BadInput:
            return None
    return None


def _scorable(cube: ForecastCube, archive: Archive, period: str | None) -> tuple[list[np.datetime64], str]:
    """Initial times of the cube (inside the period) that have some truth, and the longest lead of the cube."""
    ds = cube.open()
    inits = ds["init_time"].values
    if period:
        inits = inits[Period.parse(period).contains(inits)]
    step = Cadence(archive.schema.step).delta
    inits = inits[inits + step <= archive.times[-1]]
    if len(inits) == 0:
        raise NotYet(
            f"no forecast of {cube.model} can be scored yet: the archive ends {iso(archive.times[-1])}",
            where=f"initial times {iso(ds['init_time'].values[0])}/{iso(ds['init_time'].values[-1])}",
            todo=f"eoflow ingest {archive.name}, or forecast from earlier: --init START/END --every 5d",
        )  # fmt: skip
    return list(inits), format_duration(ds["lead_time"].values[-1])


def _complete(
    ws: Workspace, archive: Archive, cube: ForecastCube, like: Checkpoint | None, inits: list[np.datetime64], lead: str,
    progress: Progress | None,
) -> None:  # fmt: skip
    """Fit a baseline where it has no checkpoint, and run it from the initial times."""
    if cube.model != "persistence" and not _fitted(ws, archive, cube.model, like, progress):
        return
    frames = load_model(ws, archive.name, cube.model, archive.schema).signature.frames
    present = set(present_times(archive).tolist())
    back = [Cadence(archive.schema.step).delta * k for k in range(frames)]
    whole = [t for t in inits if all((t - b).astype("datetime64[ns]").item() in present for b in back)]
    if whole:  # runs that are there already, by the same checkpoint from the same frames, are left as they are
        forecast(
            lead, dataset=archive.name, model=cube.model, init=whole, workspace=ws, progress=progress, publish=False
        )  # fmt: skip


def _fitted(ws: Workspace, archive: Archive, model: str, like: Checkpoint | None, progress: Progress | None) -> bool:
    """Whether the baseline has a checkpoint for this dataset.

    Beside a model trained on the dataset it is fitted on the same periods (training finds what is there already).
    """
    from eoflow.train import train

    own = like is not None and like.provenance.get("dataset") == archive.name
    try:
        if not own:
            checkpoint.resolve(ws, archive.name, model, archive.schema)
            return True
    except BadInput:
        pass  # neither trained nor shipped: fit it here
    try:
        train(model, archive.name, like=like.splits if own and like else None, workspace=ws, progress=progress)
    except BadInput:
        return False  # too little data to fit a baseline: the scorecard goes on without it
    return True


def _climatology(ws: Workspace, archive: Archive, trained: Checkpoint | None, progress: Progress | None) -> Any:
    """times, channel -> (T, H, W) climatological mean in physical units; None where none can be fitted."""
    import torch

    if not _fitted(ws, archive, "climatology", trained, progress):
        return None
    fitted = load_model(ws, archive.name, "climatology", archive.schema)
    labels = [c.label for c in fitted.schema.channels]

    state: Any = fitted.model.mean_state

    def mean_state(times: Any, channel: Channel) -> Any:
        at = labels.index(channel.label)
        clock = torch.from_numpy(year_and_day_fraction(np.asarray(times)))
        with torch.inference_mode():
            parts = [fitted.normalizer.decode(state(c).numpy())[:, at] for c in torch.split(clock, 64)]
        return np.concatenate(parts)

    return mean_state


def _climatology_name(splits: dict[str, str], trained: Checkpoint | None) -> str:
    source = splits or (trained.splits if trained is not None else {})
    return "day-of-year x hour harmonics" + (f", fitted on {source['train']}" if "train" in source else "")


def _ceiling(ws: Workspace, archive: Archive, inits: list[np.datetime64], lead: str) -> xr.Dataset | None:
    """The source's own re-run from a perturbed state, for a source that can re-run its truth (the sample planet)."""
    from eoflow.errors import EoflowError
    from eoflow.sources.base import SourceContext, create

    try:
        entry = catalog.dataset(archive.name, ws)
        source = create(entry, SourceContext(cache=ws.cache, now=archive.times[-1]))
        rerun = getattr(source, CEILING, None)
        if rerun is None:
            return None
        step = Cadence(archive.schema.step).delta
        leads = step * np.arange(1, Cadence(archive.schema.step).steps(lead) + 1)
        return rerun(np.array(inits), leads)
    except EoflowError:
        return None
