"""`eoflow.verify(...)`: forecasts of a dataset of fields, or image models on scenes or on labelled chips."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from eoflow.errors import BadInput
from eoflow.holdings import kind_of
from eoflow.workspace import Workspace

if TYPE_CHECKING:
    from eoflow.prepare.chips import ChipOptions
    from eoflow.verify.image_card import ImageScorecard
    from eoflow.verify.results import Scorecard

Progress = Callable[[float, float, str], None]


def of_images(ws: Workspace, dataset: str | None, chips: str | Path | None, task: str | None) -> bool:
    """Whether a verification is one of image models."""
    return chips is not None or task is not None or (dataset is not None and kind_of(ws, dataset) == "scenes")


def verify(
    dataset: str | None = None, models: str | list[str] | None = None, period: str | None = None, *,
    baselines: bool = True, chips: str | Path | None = None, task: str | None = None, split: str | None = None,
    dates: int | None = None, options: ChipOptions | None = None, workspace: Workspace | str | None = None,
    progress: Progress | None = None,
) -> Scorecard | ImageScorecard:  # fmt: skip
    """Score forecasts by lead (run.verify), or image models (image_run.verify_images): the latter with `chips` or
    `task`, and on a dataset of scenes. Raises BadInput where nothing can be scored.
    """
    ws = Workspace.of(workspace)
    if not of_images(ws, dataset, chips, task):
        from eoflow.verify import run

        for name, value in (("split", split), ("dates", dates)):
            if value is not None:
                raise BadInput(f"--{name} is of image models", todo="leave it out, or say --task or --chips")
        return run.verify(dataset, models, period, baselines=baselines, workspace=ws, progress=progress)
    from eoflow.train_images import only_scenes
    from eoflow.verify.image_run import verify_images

    if period is not None:
        raise BadInput("a period is of forecasts", todo="choose the samples of scenes by --split")
    if dataset is None and chips is None:
        dataset = only_scenes(ws)
    return verify_images(
        dataset, models, chips=chips, task=task, split=split, baselines=baselines, dates=dates, options=options,
        workspace=ws, progress=progress,
    )  # fmt: skip
