"""The verbs: a name is a dataset, anything else is files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eoflow.errors import BadInput
from eoflow.predict_images.report import ProductReport
from eoflow.predict_images.shots import SUFFIXES

FILES_ONLY = ("said", "bands", "masks", "overwrite")
DATASET_ONLY = ("area", "period", "before", "after", "every", "as_of")


def flood(what: str | Path | Sequence[str | Path], **options: Any) -> ProductReport:
    """Water and flood of a dataset's scenes (predict_dataset) or of image files (predict_files, with out=DIR)."""
    return predict("segmentation", what, **options)


def change(what: str | Path | Sequence[str | Path], after: str | Path | None = None, **options: Any) -> ProductReport:
    """What changed between two dates of a dataset, or between two images: change(BEFORE, AFTER, out=FILE.tif)."""
    if after is not None and not is_dataset([what]):  # type: ignore[list-item]
        before = [what] if isinstance(what, str | Path) else list(what)
        return predict("change-detection", [*before, after], **options)
    if after is not None:
        options["after"] = after
    return predict("change-detection", what, **options)


def clouds(what: str | Path | Sequence[str | Path], **options: Any) -> ProductReport:
    """Images without clouds: of the cloudy dates of a dataset, or from image files of several dates (out=FILE.tif)."""
    return predict("cloud-removal", what, **options)


def despeckle(what: str | Path | Sequence[str | Path], **options: Any) -> ProductReport:
    """Radar intensity without speckle: of a dataset's scenes, or of image files (with out=DIR)."""
    return predict("despeckling", what, **options)


def predict(task: str, what: str | Path | Sequence[str | Path], **options: Any) -> ProductReport:
    """By a dataset's name or by files; options that do not belong to the form raise BadInput."""
    given = [what] if isinstance(what, str | Path) else list(what)
    dataset = is_dataset(given)
    for name in FILES_ONLY if dataset else DATASET_ONLY:
        if options.get(name):
            form, flag = ("a dataset" if dataset else "files"), "--set" if name == "said" else f"--{name}"
            raise BadInput(f"{flag.replace('_', '-')} does not go with {form}", todo="leave it out")
        options.pop(name, None)
    if dataset:
        from eoflow.predict_images.run import predict_dataset

        return predict_dataset(task, str(given[0]), **options)
    from eoflow.predict_images.files import predict_files

    return predict_files(task, given, **options)


def is_dataset(given: Sequence[str | Path]) -> bool:
    """One word that is no file and looks like none."""
    if len(given) != 1 or isinstance(given[0], Path):
        return False
    text = str(given[0])
    return "/" not in text and not text.lower().endswith(SUFFIXES) and not Path(text).exists()
