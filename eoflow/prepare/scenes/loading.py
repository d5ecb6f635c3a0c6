"""Streaming of a prepared set into training: workers, one order whatever their number, exact resume in mid-epoch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from eoflow.errors import BadInput
from eoflow.prepare.scenes.augment import Augment
from eoflow.prepare.scenes.trainset import Patches, PatchSet


class Stream(IterableDataset[Patches]):
    """The batches of one epoch from `position` on.

    Worker w of n reads every n-th batch from the w-th. A DataLoader asks its workers in turn, so what comes out is in
    the order of a single process.
    """

    def __init__(
        self, data: PatchSet, batch_size: int, seed: int, epoch: int, position: int, drop_last: bool, shuffle: bool,
        augment: Augment | None, rank: int = 0, ranks: int = 1,
    ) -> None:  # fmt: skip
        self.data, self.batch_size, self.seed, self.epoch, self.position = data, batch_size, seed, epoch, position
        self.drop_last, self.shuffle, self.augment, self.rank, self.ranks = drop_last, shuffle, augment, rank, ranks

    def __iter__(self) -> Iterator[Patches]:
        worker = get_worker_info()
        number, count = (worker.id, worker.num_workers) if worker else (0, 1)
        yield from self.data.batches(
            self.batch_size, seed=self.seed, epoch=self.epoch, position=self.position * self.ranks,
            first=self.rank + number * self.ranks, every=count * self.ranks, drop_last=self.drop_last,
            shuffle=self.shuffle, augment=self.augment,
        )  # fmt: skip


class PatchLoader:
    """Epoch after epoch of shuffled batches: `for batch in loader` is one epoch (or what is left of it).

    state_dict() names the batch that comes next; a loader with that state loaded goes on with it, bit for bit, with
    any number of threads or workers. Batches are counted when they are taken, not when they are read. threads: read
    ahead in this process, which costs no copy; workers: processes, for much augmentation in Python. rank, ranks: of
    several processes each takes every `ranks`-th batch.
    """

    def __init__(
        self, data: PatchSet, batch_size: int, *, seed: int = 0, threads: int = 0, workers: int = 0,
        shuffle: bool = True, drop_last: bool = False, augment: Augment | None = None, pin_memory: bool = False,
        rank: int = 0, ranks: int = 1,
    ) -> None:  # fmt: skip
        if not len(data):
            raise BadInput(f"the split '{data.split}' holds no sample", where=str(data.path))
        self.data, self.batch_size, self.seed = data, batch_size, seed
        self.threads, self.workers = threads, workers
        self.shuffle, self.drop_last, self.augment, self.pin_memory = shuffle, drop_last, augment, pin_memory
        self.rank, self.ranks = rank, ranks
        self.epoch = self.position = 0

    def __len__(self) -> int:
        """Batches of a whole epoch, for this rank."""
        n = len(self.data)
        whole = n // self.batch_size if self.drop_last else -(-n // self.batch_size)
        return whole // self.ranks  # every rank the same number, or they would wait for each other

    def __iter__(self) -> Iterator[Patches]:
        if self.threads and not self.workers:
            batches = self._ahead()
        else:
            stream = Stream(
                self.data, self.batch_size, self.seed, self.epoch, self.position, self.drop_last, self.shuffle,
                self.augment, self.rank, self.ranks,
            )  # fmt: skip
            some: dict[str, Any] = {"prefetch_factor": 2, "persistent_workers": False} if self.workers else {}
            batches = iter(
                DataLoader(stream, batch_size=None, num_workers=self.workers, pin_memory=self.pin_memory, **some)
            )
        while self.position < len(self):
            batch = next(batches)
            self.position += 1
            yield batch
        self.epoch, self.position = self.epoch + 1, 0

    def _ahead(self) -> Iterator[Patches]:
        """The batches of the epoch, read by threads two rounds ahead."""
        first = self.position * self.ranks + self.rank
        numbers = iter(range(first, len(self) * self.ranks, self.ranks))
        order, epoch = self.data.order(self.seed, self.epoch, self.shuffle), self.epoch

        def read(number: int) -> Patches:
            found = self.data.batch(order[number * self.batch_size : (number + 1) * self.batch_size])
            found = found if self.augment is None else self.augment.batch(found, self.seed, epoch)
            return Patches(*(x.pin_memory() for x in found)) if self.pin_memory else found

        with ThreadPoolExecutor(self.threads, thread_name_prefix="patches") as pool:
            waiting = deque(pool.submit(read, n) for n in islice(numbers, 2 * self.threads))
            try:
                while waiting:
                    yield waiting.popleft().result()
                    waiting.extend(pool.submit(read, n) for n in islice(numbers, 1))
            finally:
                for task in waiting:
                    task.cancel()

    def state_dict(self) -> dict[str, int | str]:
        """What a checkpoint keeps: the set, the seed, and the batch that comes next."""
        return {"key": self.data.key, "split": self.data.split, "seed": self.seed, "batch_size": self.batch_size,
                "ranks": self.ranks, "epoch": self.epoch, "position": self.position}  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the state was taken. Raises BadInput where set, split, seed or batch size are others."""
        mine = self.state_dict()
        for name in ("key", "split", "seed", "batch_size", "ranks"):
            if state.get(name) != mine[name]:
                raise BadInput(f"the saved position is of another {name}", where=f"{state.get(name)} | {mine[name]}",
                               todo="resume with what the run was started with, or start anew")  # fmt: skip
        self.epoch, self.position = int(state["epoch"]), int(state["position"])
