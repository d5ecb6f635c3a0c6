"""`eoflow flood | change | clouds | despeckle FILE...`: straight on files, no ingest; COGs out, renamed when done."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.errors import BadInput
from eoflow.export.publish import refuse_existing
from eoflow.ingest.workers import client
from eoflow.predict_images import dates as when
from eoflow.predict_images import store as st
from eoflow.predict_images.file_frames import find_clouds, on_one_grid, require_same_bands, times_of
from eoflow.predict_images.file_output import Part, Picture, predict_one
from eoflow.predict_images.permanent import Reference
from eoflow.predict_images.report import ProductReport
from eoflow.predict_images.shots import Shot, shots
from eoflow.predict_images.stack import Progress
from eoflow.predict_images.zones import read_zones
from eoflow.sources.base import AssetError
from eoflow.times import iso
from eoflow.workspace import Workspace

if TYPE_CHECKING:
    from eoflow.checkpoint_images import ImageCheckpoint

Array = np.ndarray[Any, Any]


def predict_files(
    task: str, paths: Sequence[str | Path], *, model: str | None = None, out: str | Path | None = None,
    workspace: Workspace | str | None = None, said: Mapping[str, Any] | None = None, bands: Sequence[str] | None = None,
    masks: Sequence[str | Path] = (), at: str | None = None, dates: int | None = None, keep: bool = True,
    permanent: str | Path | None = None, zones: str | Path | None = None, overwrite: bool = False,
    dask: Any | None = None, progress: Progress | None = None, command: str = "",
) -> ProductReport:  # fmt: skip
    """Run a task's model on image files and write COGs.

    segmentation: every scene by itself, into `out`/STEM.tif (class: 0, 1, 255 nodata) and STEM_prob.tif; with
    `permanent` (a raster of permanent water) also STEM_flood.tif (land 0, flood 1, permanent 2). despeckling: every
    scene by itself, into `out`/STEM.tif (linear intensity of each polarisation). change-detection: two
    images, before and after, into `out` (a .tif) and OUT_prob.tif. cloud-removal: the dates of one place into `out`
    (the input's bands, dtype and scaling) and OUT_std.tif, OUT_count.tif, OUT_filled.tif; the image is that of `at`
    (default: the last date), whose clear pixels stay as they are unless `keep` is False.

    said, bands, masks: what the files do not say of themselves, see `shots`. Raises BadInput, before anything is
    written, for missing files, bands or units that are not known, the wrong number of images, outputs that exist.
    """
    import warnings

    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings():  # said in a sentence of the report instead
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        found = shots(paths, said=said, bands=bands, masks=masks, together=task in st.SCENE_BY_SCENE)
        twice = len(paths) == 2 and Path(paths[0]).absolute() == Path(paths[1]).absolute()
        if task == "change-detection" and twice and len(found) == 1:
            found *= 2  # a fair question, to which the answer is that nothing has changed
        asked = _Asked(model, out, at, dates, keep, permanent, zones, overwrite, command)
        return _predict_files(task, found, asked, Workspace.of(workspace), dask, progress)


@dataclass(frozen=True)
class _Asked:
    model: str | None
    out: str | Path | None
    at: str | None
    dates: int | None
    keep: bool
    permanent: str | Path | None
    zones: str | Path | None
    overwrite: bool
    command: str


def _predict_files(
    task: str, found: list[Shot], asked: _Asked, ws: Workspace, dask: Any | None, progress: Progress | None
) -> ProductReport:
    """See predict_files."""
    from eoflow.predict_images.choose import choose, inputs_of

    started = time.monotonic()
    dask = dask if dask is not None else client()
    zones, permanent, out, overwrite = asked.zones, asked.permanent, asked.out, asked.overwrite
    some_zones = read_zones(zones) if zones is not None else []
    reference = None if permanent is None else Reference.open(permanent)
    if task == "change-detection" and len(found) != 2:
        names = ", ".join(s.name for s in found)
        raise BadInput(f"change needs two images, and there {'is' if len(found) == 1 else 'are'} {len(found)}: {names}",
                       todo="eoflow change BEFORE AFTER --out FILE.tif")  # fmt: skip
    if task not in st.SCENE_BY_SCENE:
        require_same_bands(found)
    by_bands: dict[Any, tuple[ImageCheckpoint, str | None]] = {}
    for shot in found:
        key = tuple((s.name, s.common_name, s.units) for s in shot.specs)
        if key not in by_bands:
            by_bands[key] = choose(ws, task, shot.schema, model=asked.model, grid=shot.grid)
    chosen = [by_bands[tuple((s.name, s.common_name, s.units) for s in shot.specs)] for shot in found]
    first = chosen[0][0]
    report = ProductReport(task, st.KINDS[task], "files", first.name, first.hash)
    for _, why in chosen:
        if why:
            report.say(why)
    for note in dict.fromkeys(n for s in found for n in s.notes):
        report.say(note)
    targets = _targets(task, found, out)
    _refuse(targets, [s.path for s in found], overwrite)
    try:
        pictures = _pictures(task, found, [c for c, _ in chosen], targets, asked.at, asked.dates, report, progress)
        for k, (picture, (checkpoint, _)) in enumerate(zip(pictures, chosen, strict=False)):
            normalizer, _ = inputs_of(checkpoint, picture.frames.shots[0].schema)
            part = Part(task, checkpoint, normalizer, picture, asked.keep, overwrite, asked.command)
            report.files += predict_one(part, reference, some_zones, dask, _of(progress, k, len(pictures)), report)
    except AssetError as e:
        raise BadInput(e.what, where=e.where, todo=e.todo or "give a readable file") from e
    report.path = str(Path(str(out)).absolute())
    report.made, report.seconds = True, time.monotonic() - started
    report.open_lines = f'import rioxarray\nda = rioxarray.open_rasterio("{report.files[0]}")'
    return report


def _targets(task: str, found: Sequence[Shot], out: str | Path | None) -> list[Path]:
    """Where each output goes. Raises BadInput for a place that does not fit."""
    if out is None:
        word = "--out DIR" if task in st.SCENE_BY_SCENE else "--out FILE.tif"
        raise BadInput("nothing says where the result goes", todo=f"add {word}")
    place = Path(out).absolute()
    tif = place.suffix.lower() in (".tif", ".tiff")
    if task in st.SCENE_BY_SCENE and not (tif and len(found) == 1):
        if tif or place.is_file():
            raise BadInput(f"{place.name} is one file, of {len(found)} scenes", todo="give a folder: --out DIR")
        return [place / f"{s.name}.tif" for s in found]
    if not tif:
        raise BadInput(f"'{place.name}' does not end in .tif", todo="write --out FILE.tif")
    return [place]


def _refuse(targets: Sequence[Path], inputs: Sequence[str], overwrite: bool) -> None:
    for path in targets:
        if str(path) in inputs:
            raise BadInput("the result would replace an input", where=str(path), todo="give another --out")
        try:
            refuse_existing(path, overwrite)
        except BadInput as e:
            raise BadInput(e.what, todo="give another --out, or add --overwrite") from None


def _of(progress: Progress | None, k: int, count: int) -> Progress | None:
    if progress is None or count == 1:
        return progress
    return lambda done, total, text: progress(k + done / max(total, 1), count, "scenes")


def _pictures(
    task: str, found: list[Shot], checkpoints: Sequence[ImageCheckpoint], targets: Sequence[Path], at: str | None,
    dates: int | None, report: ProductReport, progress: Progress | None,
) -> list[Picture]:  # fmt: skip
    """What is to be made of the scenes."""
    from eoflow.predict_images.choose import dates_of, inputs_of

    classes = checkpoints[0].recipe.patches.classes
    if task in st.SCENE_BY_SCENE:
        out = []
        for shot, checkpoint, dest in zip(found, checkpoints, targets, strict=True):
            specs = inputs_of(checkpoint, shot.schema)[1]
            frames, notes = on_one_grid([shot], specs, checkpoint.recipe.patches.classes)
            _say(report, notes)
            times = times_of([shot])
            out.append(Picture(shot.name, dest, frames, times, when.Want(times[0], ((0,),))))
        return out
    if task == "cloud-removal":
        if all(s.time is not None for s in found):
            found = sorted(found, key=lambda s: s.time)  # type: ignore[arg-type, return-value]
        else:
            report.say("The names hold no dates: the images are taken in the order given, a day apart.")
    specs = inputs_of(checkpoints[0], found[0].schema)[1]
    frames, notes = on_one_grid(found, specs, classes)
    _say(report, notes)
    times = times_of(found)
    if task == "change-detection":
        return [Picture(targets[0].stem, targets[0], frames, times, when.Want(times[1], ((0,), (1,))))]
    targets[0].parent.mkdir(parents=True, exist_ok=True)
    frames, known, how = find_clouds(found, frames, targets[0].parent, progress)
    report.say(how)
    wants = when.around(known, None, at or str(times[-1]), dates_of(checkpoints[0]), dates)
    want = wants[-1]
    for k, shot in enumerate(found):
        report.tiles.append({"tile": shot.name, "time": iso(times[k]), "cloud": float(known.cloud[k]),
                             "usable": float(known.usable[k]), "used": any(k in d for d in want.dates)})  # fmt: skip
    if want.target is not None and known.usable[want.target] > 0.999:
        report.say(f"{found[want.target].name} is clear: the image is the one that was given.")
    if not (known.usable > 0).any():
        report.say("No date saw the ground: nothing could be filled from what was seen.")
    return [Picture(targets[0].stem, targets[0], frames, times, want)]


def _say(report: ProductReport, notes: Sequence[str]) -> None:
    for note in notes:
        report.say(note)
