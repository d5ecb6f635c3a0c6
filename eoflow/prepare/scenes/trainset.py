"""The prepared set of patches: an immutable, sharded Zarr of stored values, and samples of it as tensors.

    data     (row, channel, y, x) stored values; a row is a window at one time, stored once whoever uses it
    quality  (row, y, x) uint8 classes; nodata where any band has no value, missing where the tile ends
    labels   (row, y, x) int16 number of the class, -1 none (where the recipe has labels)
    ground   (row, y, x) int16 class of the ground, -1 none (where its labels name such a band)
    rows, target_row    rows of each sample; row_tile, row_time, row_y, row_x: where each row comes from
    index/   the patch index

Windows lie in an order drawn by the seed, their dates side by side: read from the front it is shuffled already.
Values are normalised when they are read, by the normaliser in the attributes or another one (normalisation belongs to
the weights): one multiplication and addition.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from eoflow.bands import SceneSchema
from eoflow.catalog_patches import PatchRecipe
from eoflow.errors import BadInput
from eoflow.prepare.rows import Rows
from eoflow.prepare.samples import epoch_order
from eoflow.prepare.scenes import resize
from eoflow.prepare.scenes.build import FORMAT
from eoflow.prepare.scenes.normalize import BandNormalizer
from eoflow.prepare.scenes.patches import PatchIndex
from eoflow.quality import Quality

if TYPE_CHECKING:
    from torch import Tensor

    from eoflow.prepare.scenes.augment import Augment

Array = np.ndarray[Any, np.dtype[Any]]
DAY = np.timedelta64(1, "D")


class Patches(NamedTuple):
    """Samples; one has no first axis. p: pixels a side. What a recipe does not have is there with 0 channels.

    inputs (B, T, C, p, p) float32, normalised, 0 where nothing was seen. quality (B, T, p, p) uint8, eoflow.quality.
    target (B, C', p, p) float32 and target_quality (B, p, p): of the target date (all missing without one).
    labels (B, L, p, p) int64: class numbers, -1 none; L is 1 or 0, or 1 + T with the ground of each date.
    weight (B,) float32. number (B,) int64 in the index.
    days (B, T + 1) float64: days since 1970 of each input date and, last, of the wanted one (the target, else the last
    input); NaN where not known.
    """

    inputs: Tensor
    quality: Tensor
    target: Tensor
    target_quality: Tensor
    labels: Tensor
    weight: Tensor
    number: Tensor
    days: Tensor


class PatchSet:
    """Samples of one split (`train`, `valid` or `test`) of a prepared set; also a map-style torch dataset.

    Safe in forked and spawned DataLoader workers: files are opened in the process that reads. memory_mb: as much is
    kept in memory (None: of the settings); a larger set is read patch by patch. normalizer: another one than the set's.
    """

    def __init__(
        self, path: str | Path, split: str = "train", memory_mb: int | None = None,
        normalizer: BandNormalizer | None = None,
    ) -> None:  # fmt: skip
        self.path, self.split = Path(path), split
        group = self._group()
        self.meta: dict[str, Any] = group.attrs.asdict()
        if self.meta.get("eoflow_format") != FORMAT:
            raise BadInput(
                "this is not a prepared set of patches of this version", where=str(path), todo="eoflow prepare"
            )
        self.recipe = PatchRecipe.model_validate_json(self.meta["recipe"])
        self.schema = SceneSchema.model_validate_json(self.meta["eoflow_schema"])
        self.channels: tuple[str, ...] = tuple(self.meta["channels"])
        names = self.recipe.inputs(self.schema.names)
        own = BandNormalizer.from_dict(json.loads(self.meta["normalizer"]))
        chosen = self._chosen = own if normalizer is None else normalizer
        chosen.require_units(self.schema)
        self.normalizer, self._target_normalizer = chosen.select(names), chosen.select(self.recipe.targets)
        self.index = PatchIndex.load(group["index"])
        self.samples = self.index.of(split) if split in ("train", "valid", "test") else self._unknown(split)
        self._rows = np.asarray(group["rows"][...])[self.samples]  # type: ignore[index]
        self._target_rows = np.asarray(group["target_row"][...])[self.samples]  # type: ignore[index]
        self.data = Rows(self.path, "data", memory_mb)
        self.quality = Rows(self.path, "quality", memory_mb)
        wanted = self.recipe.labels
        self.labels = Rows(self.path, "labels", memory_mb) if wanted else None
        self.ground = Rows(self.path, "ground", memory_mb) if wanted and wanted.ground else None

    def _group(self) -> Any:
        import zarr

        try:
            return zarr.open_group(str(self.path), mode="r", zarr_format=3)
        except (FileNotFoundError, ValueError) as e:
            raise BadInput("there is no prepared set", where=str(self.path), todo=f"eoflow prepare ({e})") from None

    def _unknown(self, split: str) -> Array:
        raise BadInput(f"no split '{split}'", todo="choose from train, valid, test")

    def with_split(self, split: str) -> PatchSet:
        """Another split of the same files (and the same memory and normaliser)."""
        out = PatchSet(self.path, split, self.data.budget >> 20, self._chosen)
        out.data, out.quality, out.labels, out.ground = self.data, self.quality, self.labels, self.ground
        return out

    def __len__(self) -> int:
        return int(self.samples.size)

    @property
    def key(self) -> str:
        """Identity: a hash of schema, recipe, normaliser, split and the content of the data."""
        return str(self.meta["key"])

    @property
    def provenance(self) -> dict[str, Any]:
        """Dataset, snapshot of the cube, hashes of recipe, normaliser, split and statistics, code version."""
        return dict(self.meta["provenance"])

    @property
    def signature(self) -> dict[str, int]:
        """Sizes of a sample: dates, channels, targets, classes, pixels (a side)."""
        labels = self.recipe.labels
        return {
            "dates": self.recipe.dates, "channels": len(self.normalizer.channels), "targets": len(self.recipe.targets),
            "classes": len(labels.classes) if labels else 0, "pixels": self.recipe.resize or self.recipe.patch,
        }  # fmt: skip

    @cached_property
    def weights(self) -> Array:
        """(S,) float32 weight of each sample."""
        return np.asarray(self.index.weight[self.samples])

    def describe(self, i: int) -> dict[str, Any]:
        """Where sample i comes from: tile, window (y, x, size), times, target time, item ids of each date, weight."""
        s = int(self.samples[i])
        tile = self.index.tiles[self.index.tile[s]]
        ids = self.meta["items"][tile]
        times = self.index.times[s]
        target = self.index.target[s]
        return {
            "tile": tile, "y": int(self.index.y[s]), "x": int(self.index.x[s]), "size": self.recipe.patch,
            "times": [str(t)[:19] for t in times], "items": [ids[str(int(t.astype("i8")))] for t in times],
            "target": None if np.isnat(target) else str(target)[:19],
            "target_items": [] if np.isnat(target) else ids[str(int(target.astype("i8")))],
            "weight": float(self.index.weight[s]),
        }  # fmt: skip

    # -- samples ---------------------------------------------------------------------------------------------------

    def batch(self, indices: Any) -> Patches:
        """Samples by number (any order, repeats allowed). Raises IndexError for a number outside 0..len - 1."""
        at = np.asarray(indices, dtype=np.int64)
        if at.size and (at.min() < 0 or at.max() >= len(self)):
            raise IndexError(f"there are {len(self)} samples in {self.split}, asked for number {int(at.max())}")
        import torch

        n, dates = at.size, self._rows.shape[1]
        wanted = self._rows[at].ravel()
        inputs, quality = self._encoded(wanted, self.normalizer)
        size = inputs.shape[-1]
        out_target, target_quality = np.zeros((n, 0, size, size), np.float32), np.zeros((n, size, size), np.uint8)
        has = self._target_rows[at] >= 0
        if has.any() and self.recipe.targets:
            out_target, target_quality = self._encoded(self._target_rows[at], self._target_normalizer)
        labels = np.zeros((n, 0, size, size), np.int64)
        if self.labels is not None:
            which = np.where(has, self._target_rows[at], self._rows[at, -1])
            labels = self.labels.any_order(which).astype(np.int64)[:, None]
        if self.ground is not None:
            ground = self.ground.any_order(wanted).astype(np.int64).reshape(n, dates, size, size)
            labels = np.concatenate([labels, ground], axis=1)
        sample = Patches(
            torch.from_numpy(inputs.reshape(n, dates, *inputs.shape[1:])),
            torch.from_numpy(quality.reshape(n, dates, *quality.shape[1:])), torch.from_numpy(out_target),
            torch.from_numpy(target_quality), torch.from_numpy(labels), torch.from_numpy(self.weights[at]),
            torch.from_numpy(self.samples[at]), torch.from_numpy(self._days(at)),
        )  # fmt: skip
        return self._resized(sample)

    def _days(self, at: Array) -> Array:
        """(n, T + 1) float64, see Patches."""
        which = self.samples[at]
        times, target = self.index.times[which], self.index.target[which]
        wanted = np.where(np.isnat(target), times[:, -1], target)
        return np.asarray((np.concatenate([times, wanted[:, None]], axis=1) - np.datetime64(0, "ns")) / DAY, np.float64)

    def _encoded(self, rows: Array, normalizer: BandNormalizer) -> tuple[Array, Array]:
        """Rows -> normalised (n, C, p, p) with 0 where nothing was seen, and their quality (n, p, p)."""
        quality = self.quality.any_order(rows)
        unseen: Any = quality <= int(Quality.NODATA)
        holes = unseen.any(axis=(1, 2))
        encode = normalizer.of_stored(self.schema)
        same = normalizer.channels == self.channels
        at = [self.channels.index(c) for c in normalizer.channels]
        out = np.empty((rows.size, len(at), *quality.shape[1:]), np.float32)
        for k, stored in enumerate(self.data.each(rows)):  # a row at a time stays in the cache of the processor
            encode(stored if same else stored[at], out[k])
            if holes[k]:
                out[k][:, unseen[k]] = 0.0
        if any(normalizer.transforms):  # dB of what is not positive
            np.nan_to_num(out, copy=False, nan=0.0)
        return out, quality

    def _resized(self, s: Patches) -> Patches:
        size, how = self.recipe.resize, self.recipe.resampling
        if size is None or size == self.recipe.patch:
            return s
        return s._replace(
            inputs=resize.image(s.inputs, s.quality > int(Quality.NODATA), size, how),
            quality=resize.mask(s.quality, size),
            target=resize.image(s.target, s.target_quality > int(Quality.NODATA), size, how),
            target_quality=resize.mask(s.target_quality, size), labels=resize.mask(s.labels, size),
        )  # fmt: skip

    def __getitem__(self, i: int) -> Patches:
        return Patches(*(x[0] for x in self.batch([i])))

    def __getitems__(self, indices: list[int]) -> list[Patches]:
        found = self.batch(indices)
        return [Patches(*(x[k] for x in found)) for k in range(len(indices))]

    # -- epochs ----------------------------------------------------------------------------------------------------

    def order(self, seed: int = 0, epoch: int = 0, shuffle: bool = True) -> Array:
        """The samples of an epoch, by number; a function of (seed, epoch) and the set alone.

        Shuffled inside pools of shards (see samples.epoch_order), so that a set larger than the memory is read nearly
        in the order it is stored in.
        """
        if not shuffle:
            return np.arange(len(self))
        pools = epoch_order(self._rows.min(axis=1), self.data.shard, self.data.row_bytes, seed, epoch)
        return np.concatenate(pools) if pools else np.empty(0, np.int64)

    def batches(
        self, batch_size: int, *, seed: int = 0, epoch: int = 0, position: int = 0, every: int = 1, first: int = 0,
        drop_last: bool = False, shuffle: bool = True, augment: Augment | None = None,
    ) -> Iterator[Patches]:  # fmt: skip
        """The batches of an epoch from number `position` on: exact resume from (epoch, position).

        every, first: only those of one worker (position + first, then every n-th). augment is seeded by
        (seed, epoch, sample), so that it gives the same whoever reads.
        """
        order = self.order(seed, epoch, shuffle)
        stop = order.size // batch_size * batch_size if drop_last else order.size
        for at in range((position + first) * batch_size, stop, every * batch_size):
            found = self.batch(order[at : min(at + batch_size, stop)])
            yield found if augment is None else augment.batch(found, seed, epoch)
