"""A checkpoint on samples in physical units: its bands and dates taken, normalised, run on whole images, decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.bands import SceneSchema
from eoflow.errors import BadInput
from eoflow.quality import Quality

if TYPE_CHECKING:
    from torch import Tensor

    from eoflow.checkpoint_images import ImageCheckpoint
    from eoflow.prepare.scenes.normalize import BandNormalizer
    from eoflow.prepare.scenes.trainset import Patches

Array = np.ndarray[Any, np.dtype[Any]]
AT_ONCE = 1024 * 1024
"""Pixels of an image that is run whole; a larger one in windows with the model's halo."""
CORE, MOST_HALO = 768, 256


@dataclass(frozen=True)
class Runner:
    """One model of a scorecard.

    name: in the scorecard. channels: positions of its bands among those of the samples. normalizer: its own, for them.
    dates: how many it takes; 0: any number. targets: positions of the scorecard's target bands in its output.
    quick: what runs the network, where that is not the network itself.
    """

    name: str
    checkpoint: ImageCheckpoint
    normalizer: BandNormalizer
    channels: tuple[int, ...]
    dates: int
    targets: tuple[int, ...] = ()
    quick: Any = None

    def fed(self, sample: Patches, times: Array | None = None, when: float | None = None) -> tuple[Any, ...]:
        """What the network is called with, of one physical sample (batch of one)."""
        import torch

        sample, days = self.dated(sample, times, when)
        images, usable = self.checkpoint.task.feed(sample._replace(inputs=self._encoded(sample)))
        if not self.checkpoint.model.needs_times or days is None:
            return images, usable
        return images, usable, torch.from_numpy(days)[None], None if when is None else torch.tensor([when])

    def run(self, sample: Patches, times: Array | None = None, when: float | None = None) -> dict[str, Array]:
        """Layers of the task's product for one physical sample (batch of one), without the first axis.

        times (T,), when: days since any origin, where they are known. `image` has no holes: what the model leaves open
        is its own mean of the band there, and `said` (h, w) tells where it said something.
        """
        import torch

        images, usable, *days = self.fed(sample, times, when)
        with torch.inference_mode():
            outputs = _forward(self.quick or self.checkpoint.model, images, usable, days)
        size = images.shape[-2:]
        found = {n: t[0].float().numpy() for n, t in outputs.items() if t.ndim == 4 and t.shape[-2:] == size}
        layers = self.checkpoint.task.decode(self.checkpoint, found, usable[0].numpy())
        return self._layers({n: np.asarray(a) for n, a in layers.items()})

    def _layers(self, layers: dict[str, Array]) -> dict[str, Array]:
        if "image" not in layers:
            return {n: a[0] if a.ndim == 3 else a for n, a in layers.items()}
        image = layers["image"][list(self.targets)].astype(np.float64)
        out: dict[str, Array] = {"image": image, "said": np.asarray(np.isfinite(image).all(0))}
        if "std" in layers:
            out["std"] = layers["std"][list(self.targets)].astype(np.float64)
        normalizer = self.checkpoint.target_normalizer
        assert normalizer is not None
        middle = np.asarray(normalizer.decode(np.zeros((len(normalizer.channels), 1, 1)))).ravel()[list(self.targets)]
        for band, usual in zip(image, middle, strict=True):
            known = np.isfinite(band)
            band[~known] = band[known].mean() if known.any() else usual
        return out

    def _encoded(self, sample: Patches) -> Tensor:
        """(1, T, C, h, w) normalised, 0 where nothing was seen."""
        import torch

        physical = sample.inputs[:, :, list(self.channels)].numpy()
        with np.errstate(invalid="ignore", divide="ignore"):
            out = np.asarray(self.normalizer.encode(physical), np.float32)
        unseen = (sample.quality <= int(Quality.NODATA)).numpy()[:, :, None]
        return torch.from_numpy(np.where(unseen | ~np.isfinite(out), np.float32(0), out))

    def dated(self, sample: Patches, times: Array | None, when: float | None) -> tuple[Patches, Array | None]:
        """As many dates as the model takes: those nearest to the wanted time, or `missing` ones too."""
        import torch

        have = sample.inputs.shape[1]
        if self.dates in (0, have):
            return sample, times
        if self.dates < have:
            away = np.arange(have) if times is None else np.abs(times - (times.max() if when is None else when))
            there = (sample.quality[0] > int(Quality.MISSING)).flatten(1).any(1).numpy()
            order = np.lexsort((away, ~there))[: self.dates]
            keep = np.sort(order)
            chosen = sample._replace(inputs=sample.inputs[:, keep], quality=sample.quality[:, keep])
            return chosen, None if times is None else times[keep]
        lacks = self.dates - have
        hole = torch.zeros((1, lacks, *sample.inputs.shape[2:]))
        missing = torch.full((1, lacks, *sample.quality.shape[2:]), int(Quality.MISSING), dtype=sample.quality.dtype)
        more = None if times is None else np.append(times, [times[-1]] * lacks)
        return sample._replace(
            inputs=torch.cat([sample.inputs, hole], 1), quality=torch.cat([sample.quality, missing], 1)
        ), more  # fmt: skip


def runner(
    checkpoint: ImageCheckpoint, schema: SceneSchema, bands: tuple[str, ...], targets: tuple[str, ...],
    name: str | None = None,
) -> Runner:  # fmt: skip
    """A checkpoint on samples of `bands` of a schema. Raises SchemaMismatch where its bands are not there, BadInput
    where it does not give the `targets`.
    """
    normalizer = checkpoint.fitted(schema)
    given = target_bands(checkpoint, schema)
    lacks = [t for t in targets if t not in given]
    if lacks:
        raise BadInput(f"{checkpoint.name} does not give the bands {', '.join(lacks)}",
                       where=f"it gives {', '.join(given)}")  # fmt: skip
    at = tuple(bands.index(str(c)) for c in normalizer.channels)
    return Runner(name or checkpoint.name, checkpoint, normalizer, at, checkpoint.signature.dates,
                  tuple(given.index(t) for t in targets))  # fmt: skip


def target_bands(checkpoint: ImageCheckpoint, schema: SceneSchema) -> list[str]:
    """Names in a schema of the bands that a checkpoint gives, in its order; '' for one that is not there."""
    from eoflow.checkpoint_images import same_band

    out = []
    for name in checkpoint.recipe.patches.targets:
        found = same_band(checkpoint.schema.band(name), schema.bands)
        out.append("" if found is None else found.name)
    return out


def whole_scene(model: Any) -> bool:
    """Whether a model decides from the whole image (a threshold of its histogram): it is never run in windows."""
    inner = [model, *(m for m in (getattr(model, "model", None), getattr(model, "network", None)) if m is not None)]
    return any(getattr(m, "whole_scene", False) or getattr(m, "whole_image", False) for m in inner)


def _forward(model: Any, images: Tensor, usable: Tensor, days: list[Any]) -> dict[str, Tensor]:
    """The model on one image: whole, or core by core with its halo."""
    import torch

    height, width = images.shape[-2:]
    if height * width <= AT_ONCE or whole_scene(model) or model.closed_form:
        found: dict[str, Tensor] = model(images, usable, *days)
        return found
    step = max(1, int(getattr(model, "multiple", 1)))
    halo = min(-(-int(getattr(model, "halo", 0)) // step) * step, MOST_HALO)  # windows begin on the network's grid
    out: dict[str, Tensor] = {}
    for top in range(0, height, CORE):
        for left in range(0, width, CORE):
            ends = ((top, height), (left, width))
            rows, columns = (slice(max(0, a - halo), min(n, a + CORE + halo)) for a, n in ends)
            part = model(images[..., rows, columns].contiguous(), usable[..., rows, columns].contiguous(), *days)
            bottom, right = min(height, top + CORE), min(width, left + CORE)
            for name, values in part.items():
                if values.ndim != 4:
                    continue
                whole = out.setdefault(name, torch.zeros((*values.shape[:2], height, width)))
                core = values[..., top - rows.start : bottom - rows.start, left - columns.start : right - columns.start]
                whole[..., top:bottom, left:right] = core
    return out
