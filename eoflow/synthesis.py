"""Pairs of dates that nobody took: labels of one date, events on them, and images for both by a trained RS-DiT.

    from eoflow.synthesis import sample_pairs
    sample_pairs("rsdit", "sample-aerial", out="pairs", pairs=200)

After Changen2 (arXiv 2406.17998): objects of a real label map are created and removed (models/events.py), the first
image is made for the labels of the first date, and the second one for those of the second, with everything that did
not change kept from the first at every step (models/diffusion.py). Ours: both dates are made by the network, so that
what is made does not give away what changed.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from eoflow.checkpoint_images import ImageCheckpoint, named_checkpoint
from eoflow.errors import BadInput
from eoflow.prepare.chips.values import PICTURE
from eoflow.train_images import Source, samples_of
from eoflow.workspace import Workspace

Array = np.ndarray[Any, Any]
Progress = Callable[[float, float, str], None]
PARTS = ("A", "B", "label")
AT_ONCE = 8
"""Pairs that are made together: as many as fill a processor."""
EVERY = 10
"""Of so many pairs the last is named for validation; its labels are of the validation split, where there is one."""
EVENTS = 3
"""Buildings that are created, and that are removed, between two dates at most."""
SMALLEST = 16
"""Pixels of an object that events happen to."""
BUILT, LOOKS = (0.01, 0.6), 20
"""Share of a window that is built, so that something can be created or removed; and how many windows are looked at."""
BESIDE = 4
"""Pixels around what changed that are made anew with it."""
SHEET = 8
"""Pairs on the sheet that is there to be looked at."""


@dataclass
class PairsReport:
    """What was made. changed: share of the pixels. made: pairs of this call; the others were there already."""

    model: str
    checkpoint: str
    source: str
    folder: str
    pairs: int
    made: int
    size: int
    changed: float
    seconds: float
    sheet: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def sample_pairs(
    model: str | Path, dataset: str | None = None, *, out: str | Path, chips: str | Path | None = None, pairs: int = 64,
    guidance: float = 1.5, steps: int = 40, seed: int = 0, workspace: Workspace | str | None = None,
    progress: Progress | None = None,
) -> PairsReport:  # fmt: skip
    """Make pairs of dates with a model of the task `synthesis`, as pictures in `out`/A, /B and /label, with a sheet.

    model: a checkpoint's name or folder. dataset, or chips: whose label maps they begin with; a tenth of the pairs is
    of the validation split and named so. guidance: how much more a map counts than the network learnt (1: as learnt);
    steps: of denoising. Each pair follows from the seed and its number alone, so that an interrupted run goes on where
    it stopped. Raises BadInput for another kind of model, bands that no picture can hold, or a folder with other pairs.
    """
    began, ws = time.monotonic(), Workspace.of(workspace)
    if pairs < 1 or steps < 1 or guidance < 0:
        raise BadInput("pairs and steps are at least 1, guidance at least 0",
                       where=f"pairs={pairs}, steps={steps}, guidance={guidance:g}")  # fmt: skip
    checkpoint = named_checkpoint(ws, str(model))
    recipe = checkpoint.recipe
    if recipe.task != "synthesis":
        raise BadInput(f"{checkpoint.name} is for {recipe.task}: it makes no images", where=checkpoint.location,
                       todo="eoflow train rsdit --dataset sample-aerial")  # fmt: skip
    _require_picture(checkpoint)
    source = samples_of(ws, recipe, dataset, chips, checkpoint, progress)
    folder, said = Path(out), {
        "model": checkpoint.name, "checkpoint": checkpoint.hash, "source": source.name, "guidance": guidance,
        "steps": steps, "seed": seed, "licence": source.about.get("licence", "unknown"),
    }  # fmt: skip
    _begin(folder, said)
    maker = _Maker(checkpoint, source, guidance, steps, seed)
    todo = [k for k in range(pairs) if not all((folder / part / _name(k)).is_file() for part in PARTS)]
    for at in range(0, len(todo), AT_ONCE):
        if progress is not None:
            progress(pairs - len(todo) + at, pairs, "pairs")
        some = todo[at : at + AT_ONCE]
        for k, pair in zip(some, maker.made(some), strict=True):
            _write(folder, _name(k), pair)
    names = [_name(k) for k in range(pairs)]
    changed = [float((_read(folder / "label" / n)[0] > 0).mean()) for n in names]
    first = _read(folder / "A" / names[0])
    sheet = _sheet(folder, names[:SHEET])
    return PairsReport(checkpoint.name, checkpoint.hash, source.name, str(folder), pairs, len(todo), first.shape[-1],
                       float(np.mean(changed)), time.monotonic() - began, str(sheet))  # fmt: skip


class _Maker:
    """Label maps, events on them, images for them."""

    def __init__(
        self, checkpoint: ImageCheckpoint, source: Source, guidance: float, steps: int, seed: int
    ) -> None:
        from eoflow.prepare.scenes.augment import HookContext, augment_of

        self.checkpoint, self.guidance, self.steps, self.seed = checkpoint, guidance, steps, seed
        self.train, self.valid = source.train, source.valid if len(source.valid) else source.train
        self.model: Any = checkpoint.model.eval()
        normalizer = checkpoint.normalizer
        self.augment = augment_of(checkpoint.recipe, HookContext(normalizer.channels, normalizer, None))
        ends = [normalizer.encode(np.full((len(normalizer.channels), 1, 1), v)) for v in (0.0, 1.0)]
        self.limit = float(np.abs(ends).max())

    def made(self, numbers: list[int]) -> list[tuple[Array, Array, Array]]:
        """(before, after (C, y, x) uint8, change (1, y, x) uint8) of each pair."""
        import torch

        from eoflow.models import events

        rngs = [np.random.default_rng([self.seed, k]) for k in numbers]
        first = [self._labels(k, rng) for k, rng in zip(numbers, rngs, strict=True)]
        later = [events.sequence(events.objects_of(m), rng, 2, most=EVENTS, min_area=SMALLEST)[-1]
                 for m, rng in zip(first, rngs, strict=True)]  # fmt: skip
        second = [step.objects.classes() for step in later]
        changed = np.stack([a != b for a, b in zip(first, second, strict=True)])
        shape = (len(self.checkpoint.normalizer.channels), *first[0].shape)
        noises = [torch.stack([torch.from_numpy(r.standard_normal(shape, "f4")) for r in rngs]) for _ in (0, 1)]
        before = self._image(np.stack(first), noises[0])
        kept = torch.from_numpy(~_grown(changed, BESIDE))[:, None]
        after = self._image(np.stack(second), noises[1], (before, kept))
        stored = [self._stored(x) for x in (before, after)]
        return [(a, b, 255 * c[None].astype(np.uint8)) for a, b, c in zip(*stored, changed, strict=True)]

    def _labels(self, number: int, rng: Any) -> Array:
        """(y, x) classes of a window, seen as training sees it, partly built if one is found; 0 where not known."""
        samples = self.valid if _validates(number) else self.train
        for k in range(LOOKS):
            part = samples.batch([int(rng.integers(len(samples)))])
            if self.augment is not None:
                part = self.augment.batch(part, self.seed, LOOKS * number + k)
            labels: Array = part.labels[0, 0].numpy().clip(0)
            if BUILT[0] < (labels > 0).mean() < BUILT[1]:
                break
        step = self.model.network.multiple
        height, width = (n // step * step for n in labels.shape)
        if not height or not width:
            raise BadInput(f"samples of {' x '.join(map(str, labels.shape))} pixels are too small: a window has {step}",
                           where=f"recipe {self.checkpoint.recipe.name}", todo="larger patches or crops")  # fmt: skip
        return labels[:height, :width]

    def _image(self, classes: Array, noise: Any, keep: Any = None) -> Any:
        """Normalised images (B, C, y, x) for maps of classes (B, y, x)."""
        import torch

        from eoflow.models import diffusion
        from eoflow.runtime import sixteen_bits

        labels = self.model.shares(torch.from_numpy(classes))

        def said(shares: Any, x: Any, t: Any) -> Any:
            with sixteen_bits():
                return self.model.network(x, t, shares).float()

        network = diffusion.guided(partial(said, labels), partial(said, torch.zeros_like(labels)), self.guidance)
        return diffusion.sample(network, noise, steps=self.steps, keep=keep, limit=self.limit)

    def _stored(self, images: Any) -> Array:
        """Normalised (B, C, y, x) -> brightness of 0 to 255, uint8."""
        found = np.stack([np.asarray(self.checkpoint.normalizer.decode(x)) for x in images.numpy().astype("f8")])
        return np.clip(np.round(255 * found), 0, 255).astype(np.uint8)


def _require_picture(checkpoint: ImageCheckpoint) -> None:
    bands = checkpoint.normalizer.channels
    if len(bands) not in (1, 3) or checkpoint.schema.sensor != PICTURE:
        raise BadInput("pairs are written as pictures: one or three bands of a camera",
                       where=f"{checkpoint.name}: {', '.join(map(str, bands))} of {checkpoint.schema.sensor}",
                       todo="train a model of pictures, or call eoflow.models.diffusion.sample")  # fmt: skip


def _begin(folder: Path, said: dict[str, Any]) -> None:
    """The folder, with what its pairs are made of. Raises BadInput where other pairs are in it."""
    note = folder / "pairs.json"
    if note.is_file():
        there = json.loads(note.read_text())
        other = [f"{k} {there.get(k)} there, {v} here" for k, v in said.items() if there.get(k) != v]
        if other:
            raise BadInput(f"the folder holds other pairs: {'; '.join(other)}", where=str(folder),
                           todo="give another folder, or remove this one")  # fmt: skip
    elif folder.exists() and any(folder.iterdir()):
        raise BadInput("the folder holds something else", where=str(folder), todo="give an empty or a new one")
    for part in PARTS:
        (folder / part).mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(said, indent=1) + "\n")


def _validates(number: int) -> bool:
    return number % EVERY == EVERY - 1


def _name(number: int) -> str:
    return f"{'val' if _validates(number) else 'train'}_{number:05d}.png"


def _write(folder: Path, name: str, pair: tuple[Array, ...]) -> None:
    """All parts of a pair; each appears whole or not at all."""
    for part, values in zip(PARTS, pair, strict=True):
        _png(folder / part / name, values)


def _png(path: Path, values: Array) -> None:
    import rasterio

    count, height, width = values.shape
    with tempfile.TemporaryDirectory(dir=path.parent.parent) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        part = Path(temporary) / path.name
        with rasterio.open(part, "w", driver="PNG", width=width, height=height, count=count, dtype="uint8") as f:
            f.write(values)
        shutil.move(part, path)


def _read(path: Path) -> Array:
    import rasterio

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path) as f:
            return np.asarray(f.read())


def _sheet(folder: Path, names: list[str]) -> Path:
    """First and second dates and what changed, pair beside pair."""
    rows = []
    for part in PARTS:
        images = [_read(folder / part / n) for n in names]
        rows.append(np.concatenate([np.broadcast_to(x, (3, *x.shape[1:])) for x in images], axis=2))
    _png(folder / "sheet.png", np.concatenate(rows, axis=1))
    return folder / "sheet.png"


def _grown(masks: Array, pixels: int) -> Array:
    """(B, y, x) bool, each widened by so many pixels."""
    from scipy import ndimage

    square = np.ones((1, 2 * pixels + 1, 2 * pixels + 1), bool)
    return np.asarray(ndimage.binary_dilation(masks, structure=square))

