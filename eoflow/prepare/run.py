"""prepare: splits, statistics, normaliser and training set of a recipe on an ingested dataset."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow import catalog
from eoflow.archive import Archive
from eoflow.catalog import Recipe
from eoflow.errors import BadInput
from eoflow.prepare import build, splits, statistics
from eoflow.prepare.normalize import Normalizer
from eoflow.prepare.splits import Splits, exact
from eoflow.prepare.statistics import Statistics
from eoflow.prepare.stattable import axis, content_digests, fingerprint, snapshot_group
from eoflow.prepare.trainset import FORMAT, TrainSet
from eoflow.schema import FieldSchema
from eoflow.workspace import Workspace, check_name

if TYPE_CHECKING:
    import zarr

Progress = Callable[[float, float, str], None]


@dataclass(frozen=True)
class Prepared:
    """What training needs, and where it lies.

    path: the training set (plain Zarr). key: identity of periods, normaliser and content. reused: it was there already.
    """

    dataset: str
    recipe: str
    schema: FieldSchema
    splits: Splits
    statistics: Statistics
    normalizer: Normalizer
    path: Path
    key: str
    snapshot: str
    reused: bool

    @cached_property
    def trainset(self) -> TrainSet:
        """Windows of the training period; also the FitData of closed-form models."""
        return TrainSet(self.path, "train")

    @cached_property
    def validset(self) -> TrainSet:
        """Windows of the validation period, of the same files and memory."""
        return self.trainset.with_split("valid")

    @property
    def data(self) -> TrainSet:
        """FitData: `blocks(split)` and `area_weights`."""
        return self.trainset

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "dataset": self.dataset, "recipe": self.recipe, "key": self.key, "path": str(self.path),
            "reused": self.reused,
            "splits": self.splits.to_dict(), "rows": int(self.trainset.store.shape[0]), "snapshot": self.snapshot,
            "schema_hash": self.schema.hash, "normalizer_hash": self.normalizer.hash,
            "statistics": self.statistics.to_dict(),
        }  # fmt: skip

    def text(self) -> str:
        """A few lines for a person, with the line that opens the set."""
        rows, channels, height, width = self.trainset.store.shape
        size = self.trainset.store.row_bytes * rows / 1e6
        state = "was there already" if self.reused else "written"
        lines = [
            f"training set {self.key}: {rows} times x {channels} channels on {height} x {width}, {size:.0f} MB, {state}"
        ]
        lines += [f"  {name:5} {period}" for name, period in self.splits.items()]
        return "\n".join(
            [*lines, "open it with", f'  xr.open_zarr("{self.path}", consolidated=False, decode_times=False)']
        )


def prepare(
    recipe: str | Recipe, dataset: str, *, train_period: str | None = None, workspace: Workspace | str | None = None,
    progress: Progress | None = None, transforms: Mapping[str, str] | None = None,
    like: Mapping[str, str] | None = None,
) -> Prepared:  # fmt: skip
    """Bring statistics up to date and write the training set, unless the same is there already.

    train_period: `START/END`, holds training and validation (see splits.choose). transforms: variable -> `sqrt` or
    `log`. like: the periods of another checkpoint, taken as they are (so that a baseline never sees what its model
    did not). Idempotent: the key is a hash of the schema, the periods, the normaliser and the content of these
    times, so that data appended outside the periods changes nothing. Raises BadInput for an unknown recipe or
    dataset, members, or too little data.
    """
    ws = Workspace.of(workspace)
    rec = recipe if isinstance(recipe, Recipe) else catalog.field_recipe(recipe, ws)
    archive = Archive.load(ws, dataset)
    schema = archive.schema.select(rec.variables) if rec.variables else archive.schema
    if schema.members is not None:
        raise BadInput("a dataset with members cannot be prepared for training", todo="ingest one member")
    group = snapshot_group(archive, archive.snapshot)
    available = axis(group)[content_digests(group) != 0]
    window = (rec.frames or 2) + max([1, *(p.steps for p in rec.training.rollout)])
    if like is not None:
        chosen = Splits.from_dict(dict(like))
    else:
        chosen = splits.choose(available, schema.step, archive.entry, train_period, window=window)
    skewed = {k: v for k, v in (transforms or {}).items() if k in {s.name for s in schema.variables}}
    stats = statistics.update(archive, chosen.train, transforms=skewed, progress=progress).select(schema)
    normalizer = Normalizer.fit(stats)
    return _ensure(ws, archive, rec, schema, chosen, stats, normalizer, progress)


def _ensure(
    ws: Workspace, archive: Archive, rec: Recipe, schema: FieldSchema, chosen: Splits, stats: Statistics,
    normalizer: Normalizer, progress: Progress | None,
) -> Prepared:  # fmt: skip
    snapshot = archive.snapshot
    group = snapshot_group(archive, snapshot)
    times, steps, content = _rows(group, chosen)
    identity = [FORMAT, schema.hash, exact(chosen.train), exact(chosen.valid), normalizer.hash, content]
    key = hashlib.sha256(json.dumps([str(x) for x in identity]).encode()).hexdigest()[:16]
    folder = _folder(ws, archive.name)
    target = folder / f"{key}.zarr"
    reused = target.exists()
    if not reused:
        with ws.lock(f"prepare-{archive.name}"):
            reused = target.exists()
            if not reused:
                provenance = {
                    "dataset": archive.name,
                    "archive_snapshot": snapshot,
                    "content": content,
                    "recipe": rec.name,
                }
                fitted = Splits(chosen.train, chosen.valid)
                build.write(target, group, schema, normalizer, fitted, times, steps, key, provenance, progress)
    return Prepared(archive.name, rec.name, schema, chosen, stats, normalizer, target, key, snapshot, reused)


def _rows(group: zarr.Group, chosen: Splits) -> tuple[Any, Any, str]:
    """(time axis, indices on it of the stored times in the training and validation periods, fingerprint of these)."""
    times, digests = axis(group), content_digests(group)
    inside = chosen.train.contains(times) | chosen.valid.contains(times)
    steps = np.flatnonzero(inside & (digests != 0))
    return times, steps, fingerprint(times[steps], digests[steps])


def _folder(ws: Workspace, dataset: str) -> Path:
    """Where training sets lie: in the workspace, or in the local cache of a workspace on an object store."""
    check_name(dataset, "dataset name")
    return ws.path("prepared", dataset) if ws.is_local else ws.cache / "prepared" / dataset
