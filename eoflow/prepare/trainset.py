"""The prepared training set: an immutable, sharded Zarr of normalised steps, and fast reading of windows from it.

    data     (row, channel, latitude, longitude) float32, normalised; cells without a value are 0
    time     (row,) int64 nanoseconds since 1970, increasing; rows are the times of the training and validation periods
    clock    (row, 2) float32, fraction of the year and of the UTC day
    step     (row,) int64, index on the archive's time axis: rows are consecutive where it grows by one
    usable   (row,) whether the field is whole (it has a value wherever the data set ever has one)
    mask     (channel, latitude, longitude) whether a cell ever has a value
    static   (static, latitude, longitude) float32, fields without time, physical units

Reading goes through the zarrs codec pipeline, which is bound when the array is opened; nothing is configured globally.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.errors import BadInput
from eoflow.prepare.normalize import Normalizer
from eoflow.prepare.rows import Rows
from eoflow.prepare.samples import Index, SampleIndex, epoch_order
from eoflow.prepare.splits import Splits
from eoflow.schema import FieldSchema

if TYPE_CHECKING:
    import zarr
    from torch import Tensor

FORMAT = 1
BLOCK_BYTES = 256 << 20
Fields = np.ndarray[Any, np.dtype[np.float32]]


class Store(Rows):
    """An open prepared set: its fields by rows (row, channel, latitude, longitude), and its small arrays."""

    def __init__(self, path: str | Path, memory_mb: int | None = None) -> None:
        super().__init__(path, "data", memory_mb)
        meta = self._group().attrs.asdict()
        if meta.get("eoflow_format") != FORMAT:
            raise BadInput(
                "this is not a prepared training set of this version", where=str(path), todo="eoflow prepare"
            )
        self.meta: dict[str, Any] = meta

    def _group(self) -> zarr.Group:
        import zarr

        try:
            return zarr.open_group(str(self.path), mode="r", zarr_format=3)
        except (FileNotFoundError, ValueError) as e:
            raise BadInput(
                "there is no prepared training set", where=str(self.path), todo=f"eoflow prepare ({e})"
            ) from None

    @cached_property
    def arrays(self) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
        """Every small array, in memory."""
        group = self._group()
        return {name: np.asarray(group[name][...]) for name in ("time", "clock", "step", "usable", "mask", "static")}  # type: ignore[index]

    def windows(self, starts: Index, length: int) -> Fields:
        """(B,) first rows -> (B, length, C, H, W); every stored row is read once."""
        return self.any_order(starts[:, None] + np.arange(length))


class TrainSet:
    """Windows of one split (`train` or `valid`) of a prepared set; also the FitData of closed-form models.

    Normalised float32 throughout. Safe in forked and spawned DataLoader workers: files are opened in the process
    that reads.
    """

    def __init__(self, path: str | Path | Store, split: str = "train", memory_mb: int | None = None) -> None:
        self.store = path if isinstance(path, Store) else Store(path, memory_mb)
        self.split = split
        self.splits.period(split)

    def with_split(self, split: str) -> TrainSet:
        """Another split of the same files (and the same memory)."""
        return TrainSet(self.store, split)

    @property
    def path(self) -> Path:
        """Where the files lie."""
        return self.store.path

    @property
    def key(self) -> str:
        """Identity: a hash of schema, periods, normaliser and the content of the data."""
        return str(self.store.meta["key"])

    @property
    def provenance(self) -> dict[str, Any]:
        """Archive snapshot, dataset name, code version."""
        return dict(self.store.meta["provenance"])

    @cached_property
    def splits(self) -> Splits:
        """The periods."""
        return Splits.from_dict(self.store.meta["splits"])

    @cached_property
    def schema(self) -> FieldSchema:
        """Of the stored channels."""
        return FieldSchema.model_validate_json(self.store.meta["eoflow_schema"])

    @cached_property
    def normalizer(self) -> Normalizer:
        """The normaliser that made `data`."""
        return Normalizer.from_dict(json.loads(self.store.meta["normalizer"]))

    @property
    def mask(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """(C, H, W) True where a cell ever has a value; elsewhere the stored number is 0, the mean."""
        return self.store.arrays["mask"].astype(bool)

    @cached_property
    def area_weights(self) -> Tensor:
        """(H,) float32 area weights, mean 1."""
        import torch

        return torch.tensor(self.schema.grid.area_weights(), dtype=torch.float32)

    def index(self, split: str | None = None) -> SampleIndex:
        """The sample index of a split (this one's by default)."""
        return self._indexes[split or self.split]

    @cached_property
    def _indexes(self) -> dict[str, SampleIndex]:
        a = self.store.arrays
        out = {}
        for name, period in self.splits.items():
            inside = np.flatnonzero(period.contains(a["time"].astype("datetime64[ns]")))
            first, stop = (int(inside[0]), int(inside[-1]) + 1) if inside.size else (0, 0)
            out[name] = SampleIndex(a["step"][first:stop], a["usable"][first:stop].astype(bool), first)
        return out

    @property
    def times(self) -> np.ndarray[Any, np.dtype[np.datetime64]]:
        """datetime64[ns] of the split's rows."""
        index = self.index()
        return self.store.arrays["time"][index.offset : index.offset + index.steps.size].astype("datetime64[ns]")

    # -- windows -----------------------------------------------------------------------------------------------

    def windows(self, length: int) -> int:
        """How many windows of `length` consecutive whole steps there are."""
        return int(self.index().starts(length).size)

    def batch(self, indices: Any, length: int) -> tuple[Tensor, Tensor]:
        """Windows by number (any order, repeats allowed) -> states (B, length, C, H, W), clock (B, length, 2) float32.

        Raises IndexError for a number outside 0..windows(length) - 1.
        """
        import torch

        starts = self._starts(np.asarray(indices, dtype=np.int64), length)
        clock = self.store.arrays["clock"][starts[:, None] + np.arange(length)]
        return torch.from_numpy(self.store.windows(starts, length)), torch.from_numpy(clock)

    def window_times(self, indices: Any, length: int) -> np.ndarray[Any, np.dtype[np.datetime64]]:
        """(B, length) datetime64[ns] of windows by number."""
        starts = self._starts(np.asarray(indices, dtype=np.int64), length)
        return self.store.arrays["time"][starts[:, None] + np.arange(length)].astype("datetime64[ns]")

    def _starts(self, indices: Index, length: int) -> Index:
        all_starts = self.index().starts(length)
        if indices.size and (indices.min() < 0 or indices.max() >= all_starts.size):
            raise IndexError(
                f"there are {all_starts.size} windows of {length} steps, asked for number {int(indices.max())}"
            )
        return all_starts[indices]

    # -- FitData -----------------------------------------------------------------------------------------------

    def blocks(self, split: str) -> Iterator[tuple[Tensor, Tensor]]:
        """(states (T, C, H, W), clock (T, 2)) of each unbroken run in time order.

        Long runs come in pieces of BLOCK_BYTES unless the set is in memory. The tensors may share memory with the set:
        do not write into them.
        """
        import torch

        most = self.store.shape[0] if self.store.fits else max(self.store.shard, BLOCK_BYTES // self.store.row_bytes)
        for start, stop in self.index(split).segments():
            for at in range(start, stop, most):
                end = min(at + most, stop)
                clock = self.store.arrays["clock"][at:end]
                yield torch.from_numpy(self.store.span(at, end)), torch.from_numpy(clock)

    # -- loaders -----------------------------------------------------------------------------------------------

    def dataset(self, length: int) -> Windows:
        """A map-style torch dataset of the windows."""
        return Windows(self, length)

    def batches(
        self, length: int, batch_size: int, seed: int = 0, epoch: int = 0, position: int = 0, drop_last: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch from number `position` on: exact resume from (epoch, position).

        The order depends on (seed, epoch) and the set alone. A set that does not fit in memory is read one pool of
        whole shards at a time.
        """
        starts = self.index().starts(length)
        pools = epoch_order(starts, self.store.shard, self.store.row_bytes, seed, epoch)
        order = np.concatenate(pools) if pools else np.empty(0, np.int64)
        ends = np.cumsum([len(p) for p in pools])
        stop = order.size // batch_size * batch_size if drop_last else order.size
        for at in range(position * batch_size, stop, batch_size):
            chosen = order[at : at + batch_size]
            touched = pools[
                int(np.searchsorted(ends, at, side="right")) : int(
                    np.searchsorted(ends, at + len(chosen) - 1, side="right")
                )
                + 1
            ]
            self.store.hold(np.unique(np.concatenate([starts[p] for p in touched]) // self.store.shard))
            yield self.batch(chosen, length)


class Windows:
    """Map-style dataset: one item is (states (length, C, H, W), clock (length, 2)); a list of items is one read."""

    def __init__(self, data: TrainSet, length: int) -> None:
        self.data, self.length = data, length

    def __len__(self) -> int:
        return self.data.windows(self.length)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        states, clock = self.data.batch([i], self.length)
        return states[0], clock[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, Tensor]]:
        states, clock = self.data.batch(indices, self.length)
        return list(zip(states, clock, strict=True))
