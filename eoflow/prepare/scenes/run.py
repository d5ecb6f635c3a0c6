"""prepare of a scene dataset: patch index, splits with their proof, statistics, normaliser and training set."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from eoflow.catalog_patches import PatchRecipe, digest
from eoflow.cube import Cube
from eoflow.prepare.scenes import build, leases, reading, statistics
from eoflow.prepare.scenes.leaks import SplitReport, check_splits
from eoflow.prepare.scenes.normalize import BandNormalizer, needs_statistics, transforms_of
from eoflow.prepare.scenes.patches import FORMAT, PatchIndex, build_index
from eoflow.prepare.scenes.splits import Division, divide
from eoflow.prepare.scenes.statistics import BandStatistics
from eoflow.prepare.scenes.stored import InArchive
from eoflow.prepare.scenes.trainset import PatchSet
from eoflow.workspace import Workspace, check_name

Progress = Callable[[float, float, str], None]


@dataclass(frozen=True)
class PreparedPatches:
    """What training needs, and where it lies. key: identity of content, recipe, split and normaliser; reused: it was
    there already; report: the proof that nothing leaks; statistics: None where no band needs them. lease: as long as
    this object lives, no later preparation removes the set."""

    dataset: str
    recipe: PatchRecipe
    path: Path
    key: str
    snapshot: str
    normalizer: BandNormalizer
    statistics: BandStatistics | None
    report: SplitReport
    index: PatchIndex
    reused: bool
    lease: Any = field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "lease": None}  # another process takes its own

    @cached_property
    def train(self) -> PatchSet:
        """Samples of the training split."""
        return PatchSet(self.path, "train")

    @cached_property
    def valid(self) -> PatchSet:
        """Samples of the validation split, of the same memory."""
        return self.train.with_split("valid")

    @cached_property
    def test(self) -> PatchSet:
        """Samples that no training touches."""
        return self.train.with_split("test")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "dataset": self.dataset, "key": self.key, "path": str(self.path), "reused": self.reused,
            "snapshot": self.snapshot, "splits": self.report.to_dict(), "division": dict(self.index.division),
            "dropped": dict(self.index.dropped), "skipped": dict(self.index.skipped),
            "recipe_hash": self.recipe.hash, "normalizer_hash": self.normalizer.hash,
            "statistics": None if self.statistics is None else self.statistics.to_dict(),
        }  # fmt: skip

    def text(self) -> str:
        """A few lines for a person, with the line that opens the set."""
        size = self.train.data.shape[0] * self.train.data.row_bytes / 1e6
        state = "was there already" if self.reused else "written"
        return "\n".join(
            [
                f"training set {self.key}: {self.train.data.shape[0]} patches, {size:.0f} MB, {state}",
                self.index.text(), self.report.text(), "open it with",
                f'  xr.open_zarr("{self.path}", consolidated=False, decode_times=False)',
            ]
        )  # fmt: skip


def prepare_patches(
    dataset: str, recipe: PatchRecipe, *, workspace: Workspace | str | None = None, progress: Progress | None = None
) -> PreparedPatches:
    """Index the patches, prove that the splits do not leak, bring statistics up to date, and write the training set
    unless the same is there already.

    Idempotent: the key is a hash of the content of the cube, the recipe, the split and the normaliser. Blocks and
    events keep the split that they had in an earlier preparation by the same split recipe, so that what was validation
    stays validation when the cube grows. Of older content the last set of the same recipe stays, and whatever is in
    use. Split by time without periods, it takes those of the catalog entry. Raises
    BadInput for an unknown dataset or band, too little data, or a leak.
    """
    ws = Workspace.of(workspace)
    cube = Cube.load(ws, dataset)
    folder = _folder(ws, dataset)
    index, division = _index(ws, cube, dataset, recipe, progress)
    report = check_splits(index)
    report.require()
    as_of = index.snapshot
    names = tuple(dict.fromkeys((*recipe.inputs(cube.schema.names), *recipe.targets)))
    stats = None
    if needs_statistics(recipe.normalize, names):
        bands = [cube.schema.band(n) for n in names]
        stats = statistics.update(
            cube, recipe, division, InArchive(cube.archive), transforms=transforms_of(recipe.normalize, bands),
            progress=progress, as_of=as_of,
        )  # fmt: skip
    normalizer = BandNormalizer.of(recipe.normalize, cube.schema, names, stats)
    key = digest([build.FORMAT, cube.schema.hash, recipe.hash, index.hash, index.fingerprint, normalizer.hash])
    target = folder / f"{key}.zarr"
    reused, lease = _found(target)
    if not reused:
        with ws.lock(f"prepare-{dataset}"):
            reused, lease = _found(target)
            if not reused:
                manifest = {
                    "dataset": dataset, "cube_snapshot": as_of, "content": index.fingerprint,
                    "recipe_hash": recipe.hash, "split_hash": digest(dict(index.division)), "index_hash": index.hash,
                    "normalizer_hash": normalizer.hash, "statistics_hash": None if stats is None else stats.hash,
                }  # fmt: skip
                build.write(target, cube, recipe, index, normalizer, key, manifest, as_of, progress)
                leases.remove_old(folder, recipe.hash)
    return PreparedPatches(dataset, recipe, target, key, as_of, normalizer, stats, report, index, reused, lease)


def _found(target: Path) -> tuple[bool, Any]:
    """Whether a set is there, and a hold on it (taken first, so that it is not removed in between)."""
    target.parent.mkdir(parents=True, exist_ok=True)
    lease = leases.hold(target)
    return target.exists(), lease


def splits_check(
    dataset: str, recipe: PatchRecipe | None = None, *, workspace: Workspace | str | None = None,
    progress: Progress | None = None,
) -> SplitReport:  # fmt: skip
    """`eoflow splits check`: the proof for a recipe (None: the defaults) on a dataset, without writing anything."""
    ws = Workspace.of(workspace)
    return check_splits(_index(ws, Cube.load(ws, dataset), dataset, recipe or PatchRecipe(), progress, note=False)[0])


def _index(
    ws: Workspace, cube: Cube, dataset: str, recipe: PatchRecipe, progress: Progress | None, note: bool = True
) -> tuple[PatchIndex, Division]:
    """The index, made anew or found, and how it is divided."""
    snapshot, own = cube.snapshot, cube.entry.splits
    if recipe.split.by == "time" and recipe.split.periods is None and own is not None:
        recipe = recipe.model_copy(update={"split": recipe.split.model_copy(update={"periods": own})})
    place = _folder(ws, dataset) / "splits"
    kept = place / f"{digest([recipe.split.model_dump(mode='json'), recipe.patch])}.json"
    keep: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {"assignment": {}, "block": None}
    tiles = [t for t in reading.tiles(cube, snapshot) if t.stored.size]
    content = reading.fingerprint(tiles)

    def place_of(earlier: dict[str, Any]) -> Path:
        key = digest([FORMAT, cube.schema.hash, recipe.hash, earlier, content])
        return _folder(ws, dataset) / f"{key}.index.zarr"

    if (path := place_of(keep)).exists():
        index = replace(PatchIndex.load(path), snapshot=snapshot)  # of the same content
        return index, divide(recipe, tiles, index.division)
    index, division = build_index(cube, recipe, keep if keep["assignment"] else None, snapshot, dataset, progress)
    if note:
        with ws.lock(f"prepare-{dataset}"):
            place.mkdir(parents=True, exist_ok=True)
            temp = kept.with_suffix(".tmp")
            keep = {"assignment": {**keep["assignment"], **division.assignment}, "block": division.block}
            temp.write_text(json.dumps(keep, sort_keys=True))
            temp.replace(kept)
            path = place_of(keep)
            if not path.exists():
                index.save(path)
    return index, division


def _folder(ws: Workspace, dataset: str) -> Path:
    """Where training sets lie: in the workspace, or in the local cache of a workspace on an object store."""
    check_name(dataset, "dataset name")
    return ws.path("prepared", dataset) if ws.is_local else ws.cache / "prepared" / dataset
