"""ChipSet: chips of a folder as samples, windows of them for training or whole ones for verification."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.bands import SceneSchema
from eoflow.catalog_patches import PatchRecipe, digest
from eoflow.config import settings
from eoflow.prepare.chips.layouts import Chip
from eoflow.prepare.chips.pictures import Array, Kept
from eoflow.prepare.chips.reading import CloudRule, Loaded, Pixels, common_bands, provides
from eoflow.prepare.scenes import resize
from eoflow.prepare.scenes.normalize import BandNormalizer
from eoflow.prepare.scenes.windows import padded
from eoflow.quality import Quality

if TYPE_CHECKING:
    from eoflow.prepare.scenes.trainset import Patches


@dataclass(frozen=True)
class Packed:
    """A layer of classes, compressed."""

    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, values: Array) -> Packed:
        """Of uint8 values."""
        return cls(values.shape, zlib.compress(values.tobytes(), 1))

    def values(self) -> Array:
        """The values again."""
        return np.frombuffer(zlib.decompress(self.data), np.uint8).reshape(self.shape)


@dataclass(frozen=True)
class Loader:
    """Chip number -> Loaded, with `dates` dates: those that are not there are `missing`.

    quality: of dates whose clouds are known, by their first file. rule: tells clouds where no mask does.
    """

    chips: tuple[Chip, ...]
    pixels: Pixels
    dates: int
    quality: Mapping[Path, Packed] = field(default_factory=dict)
    rule: CloudRule | None = None

    def __call__(self, number: int) -> Loaded:
        """See the class."""
        chip = self.chips[number]
        known: list[Array | None] = [self._known(d.first) for d in chip.dates]
        if self.rule is not None and all(q is None and d.mask is None for q, d in zip(known, chip.dates, strict=True)):
            known = list(self._told(chip))
        target = None if chip.target is None or chip.clear else self._known(chip.target.first)
        loaded = self.pixels.load(chip, known, target)
        lacks = self.dates - len(chip.dates)
        if lacks <= 0:
            return loaded
        hole = np.full((lacks, *loaded.inputs.shape[1:]), np.nan, np.float32)
        missing = np.full((lacks, *loaded.quality.shape[1:]), int(Quality.MISSING), np.uint8)
        return loaded._replace(
            inputs=np.concatenate([loaded.inputs, hole]), quality=np.concatenate([loaded.quality, missing])
        )

    def _known(self, file: Path) -> Array | None:
        packed = self.quality.get(file)
        return None if packed is None else packed.values()

    def _told(self, chip: Chip) -> Sequence[Array | None]:
        assert self.rule is not None
        found = told(self.pixels, [chip], self.rule)
        return [None] * len(chip.dates) if found is None else list(found)


def told(pixels: Pixels, chips: Sequence[Chip], rule: CloudRule) -> Array | None:
    """Quality (T, h, w) of all dates of chips of one place together by a rule; None where it lacks a band."""
    dates = [d for c in chips for d in c.dates]
    have = [provides(pixels.readings, d) for d in dates]
    names = {c: b for r in pixels.readings.values() for c, b in common_bands(r).items() if all(b in h for h in have)}
    if not names:
        return None
    values = np.stack([pixels.date(d, tuple(names.values())) for d in dates])
    valid = np.isfinite(values).all(1)
    bands = {common: values[:, i] for i, common in enumerate(names)}
    try:
        return np.asarray(rule(bands, valid), np.uint8)
    except KeyError:
        return None


@dataclass(frozen=True, eq=False)
class Places:
    """Where samples are: number of the chip, first row and column of the window, weight; (S,) each."""

    chip: Array
    y: Array
    x: Array
    weight: Array

    def __getitem__(self, at: Array) -> Places:
        return Places(self.chip[at], self.y[at], self.x[at], self.weight[at])


class ChipSet:
    """Samples (prepare.scenes.samples.Samples) of one split of a folder of chips: `train`, `valid`, `test` or `all`.

    `size`: pixels a side of the windows, None: whole chips of any size, which `batch` gives together only where they
    are equally large. A window of a smaller chip is padded: there the quality is `missing`, and there is no label.
    notes: what was concluded about the files, and what was left out.
    """

    def __init__(
        self, loader: Loader, places: Places, numbers: Array, members: Array, split: str, recipe: PatchRecipe,
        schema: SceneSchema, normalizer: BandNormalizer, target_normalizer: BandNormalizer | None, identity: str,
        size: int | None, notes: Sequence[str] = (), memory_mb: int | None = None, cache: Kept | None = None,
    ) -> None:  # fmt: skip
        self.loader, self.places, self.samples, self.members, self.split = loader, places, numbers, members, split
        self.recipe, self.schema, self.normalizer = recipe, schema, normalizer
        self.target_normalizer, self.identity, self.size, self.notes = target_normalizer, identity, size, list(notes)
        self.cache = cache if cache is not None else Kept(loader, memory_mb or settings().memory_mb)

    @cached_property
    def key(self) -> str:
        """Hash of the files, how they are read, the recipe, the normaliser and the split."""
        own = [self.normalizer.to_dict(), self.target_normalizer and self.target_normalizer.to_dict()]
        return digest([self.identity, self.recipe.model_dump(mode="json"), own, self.split, self.size,
                       self.samples.tolist()])  # fmt: skip

    def __len__(self) -> int:
        return int(self.samples.size)

    @property
    def weights(self) -> Array:
        """(S,) float32."""
        return np.asarray(self.places.weight[self.samples], np.float32)

    @property
    def chips(self) -> list[Chip]:
        """The chips of this split, also those without a window that is a sample."""
        return [self.loader.chips[int(i)] for i in self.members]

    def only(self, names: Iterable[str]) -> ChipSet:
        """The samples of the named chips."""
        wanted = set(names)
        members = np.array([i for i in self.members if self.loader.chips[int(i)].name in wanted], np.int64)
        kept = self.samples[np.isin(self.places.chip[self.samples], members)]
        return self._with(self.places, kept, members, self.size)

    def whole(self) -> ChipSet:
        """The same chips as whole ones, each once."""
        everyone = np.arange(len(self.loader.chips))
        zero = np.zeros(everyone.size, np.int64)
        places = Places(everyone, zero, zero, np.ones(everyone.size, np.float32))
        return self._with(places, self.members, self.members, None)

    def _with(self, places: Places, numbers: Array, members: Array, size: int | None) -> ChipSet:
        return ChipSet(
            self.loader, places, numbers, members, self.split, self.recipe, self.schema, self.normalizer,
            self.target_normalizer, self.identity, size, self.notes, cache=self.cache,
        )  # fmt: skip

    def describe(self, i: int) -> dict[str, Any]:
        """Where sample i comes from: chip (`tile`), event (`place`), window, times if known, files."""
        at = int(self.samples[i])
        chip = self.loader.chips[int(self.places.chip[at])]
        times = [d.time for d in chip.dates]
        target = None if chip.target is None or chip.target.time is None else str(chip.target.time)[:19]
        known = bool(times) and all(t is not None for t in times)
        padding = [target or (str(times[-1])[:19] if known else "")] * (self.loader.dates - len(times))
        files = [str(f) for d in chip.dates for f in d.files.values()]
        return {
            "tile": chip.name, "place": chip.place, "y": int(self.places.y[at]), "x": int(self.places.x[at]),
            "size": self.size, "times": [str(t)[:19] for t in times] + padding if known else [], "target": target,
            "files": files, "label": None if chip.label is None else str(chip.label), "weight": float(self.weights[i]),
        }  # fmt: skip

    def order(self, seed: int = 0, epoch: int = 0, shuffle: bool = True) -> Array:
        """The samples of an epoch by number; a function of (seed, epoch) and the set."""
        if not shuffle:
            return np.arange(len(self))
        return np.random.default_rng([seed, epoch]).permutation(len(self))

    def batch(self, indices: Any) -> Patches:
        """Samples by number (any order, repeats allowed). Raises IndexError for one that is not there, ValueError for
        whole chips of different sizes.
        """
        import torch

        from eoflow.prepare.scenes.trainset import Patches

        at = np.asarray(indices, np.int64)
        if at.size and (at.min() < 0 or at.max() >= len(self)):
            raise IndexError(f"there are {len(self)} samples in {self.split}, asked for number {int(at.max())}")
        rows = [self._sample(int(i)) for i in self.samples[at]]
        if len({r.inputs.shape for r in rows}) > 1:
            raise ValueError("whole chips of different sizes: take them one at a time")
        if not rows:
            rows_of: tuple[Array, ...] = self._empty()
        else:
            rows_of = tuple(np.stack(column) for column in zip(*rows, strict=True))
        inputs, quality, target, target_quality, labels = (torch.from_numpy(np.ascontiguousarray(r)) for r in rows_of)
        sample = Patches(
            inputs, quality, target, target_quality, labels.long(), torch.from_numpy(self.weights[at]),
            torch.from_numpy(self.samples[at]), torch.from_numpy(self._days(at)),
        )  # fmt: skip
        return self._resized(sample)

    def _days(self, at: Array) -> Array:
        """(n, T + 1) float64, see Patches."""
        out = np.full((at.size, self.loader.dates + 1), np.nan)
        for row, number in zip(out, self.places.chip[self.samples[at]], strict=True):
            chip = self.loader.chips[int(number)]
            wanted = chip.dates[-1] if chip.target is None else chip.target
            for k, date in [*enumerate(chip.dates), (-1, wanted)]:
                if date.time is not None:
                    row[k] = (date.time - np.datetime64(0, "ns")) / np.timedelta64(1, "D")
        return out

    def _empty(self) -> tuple[Array, ...]:
        n = self.size or 1
        bands, targets, dates = len(self.normalizer.channels), len(self.recipe.targets), self.loader.dates
        f4, u1 = np.float32, np.uint8
        layers = 1 if self.recipe.labels else 0
        return (np.zeros((0, dates, bands, n, n), f4), np.zeros((0, dates, n, n), u1), np.zeros((0, targets, n, n), f4),
                np.zeros((0, n, n), u1), np.zeros((0, layers, n, n), np.int16))  # fmt: skip

    def _sample(self, number: int) -> Loaded:
        """One sample, normalised, zero where nothing was seen."""
        one: Loaded = self.cache.get(int(self.places.chip[number]))
        if self.size is not None:
            n = self.size
            rows, columns = (slice(int(s), int(s) + n) for s in (self.places.y[number], self.places.x[number]))
            fills = Loaded(np.nan, int(Quality.MISSING), np.nan, int(Quality.MISSING), -1)  # type: ignore[arg-type]
            one = Loaded(*(padded(v[..., rows, columns], n, f) for v, f in zip(one, fills, strict=True)))
        inputs = _encoded(self.normalizer, one.inputs, one.quality)
        target = one.target
        if self.target_normalizer is not None:
            target = _encoded(self.target_normalizer, target, one.target_quality)
        return one._replace(inputs=inputs, target=target)

    def _resized(self, s: Patches) -> Patches:
        size, how = self.recipe.resize, self.recipe.resampling
        if size is None or self.size is None or size == self.size:
            return s
        return s._replace(
            inputs=resize.image(s.inputs, s.quality > int(Quality.NODATA), size, how),
            quality=resize.mask(s.quality, size),
            target=resize.image(s.target, s.target_quality > int(Quality.NODATA), size, how),
            target_quality=resize.mask(s.target_quality, size), labels=resize.mask(s.labels, size),
        )  # fmt: skip


def _encoded(normalizer: BandNormalizer, values: Array, quality: Array) -> Array:
    """(..., C, h, w) physical -> normalised, 0 where nothing was seen (quality (..., h, w)) or is no number."""
    with np.errstate(invalid="ignore", divide="ignore"):
        out = np.asarray(normalizer.encode(values), np.float32)
    unseen = (quality <= int(Quality.NODATA))[..., None, :, :]
    return np.where(unseen | ~np.isfinite(out), np.float32(0), out)
