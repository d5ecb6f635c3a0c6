"""Prediction: initial frames from the archive -> rollout -> forecast cube -> published run.

A run is identified by (checkpoint, initial frames, lead, members, seed). The same run again changes nothing.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import eoflow
from eoflow import checkpoint, holdings, registry
from eoflow.archive import Archive
from eoflow.checkpoint import Checkpoint
from eoflow.config import settings
from eoflow.cube_writer import Run
from eoflow.errors import BadInput, Failure
from eoflow.ingest.ledger import Ledger, Status
from eoflow.products import ForecastCube
from eoflow.times import Cadence, Period, format_duration, iso, parse_duration, parse_time
from eoflow.workspace import Workspace, check_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from eoflow.schema import FieldSchema

Times = Sequence[np.datetime64]
Progress = Callable[[float, float, str], None]
DEFAULT_MODEL = "puyun"
PERTURBATION = 0.1
"""Perturbation of a member: this fraction of the difference of two random earlier states (Magnusson et al. 2009)."""
_MAX_BATCH = 16


@dataclass
class ForecastReport:
    """What a forecast did and where it lies."""

    dataset: str
    model: str
    lead: str
    inits: list[str]
    new: int
    unchanged: int
    members: int
    checkpoint: str
    seconds: float
    latest: str
    open_lines: str
    skill: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return dict(self.__dict__)


def forecast(
    lead: str = "10d", *, dataset: str | None = None, model: str | None = None, init: str | Times = "latest",
    every: str | None = None, members: int = 1, out: str | Path | None = None, seed: int = 0,
    workspace: Workspace | str | None = None, progress: Progress | None = None, command: str = "", publish: bool = True,
    as_of: str | None = None,
) -> ForecastReport:  # fmt: skip
    """Forecast from one or many initial times into the forecast cube and publish the newest run.

    lead: a multiple of the dataset's step. init: `latest`, a time, `START/END` with `every`, or datetime64 times.
    members: 1 is the control alone. out: also write the runs to this plain Zarr (refused if it exists).
    publish: False leaves `latest.zarr` as it is. as_of: start from this earlier state of the archive.
    Raises BadInput for a bad lead, initial frames that are missing, a checkpoint of another schema.
    """
    started = time.monotonic()
    ws = Workspace.of(workspace)
    name = dataset or only_dataset(ws)
    archive = Archive.load(ws, name)
    chosen = load_model(ws, name, model or DEFAULT_MODEL, archive.schema)
    step = Cadence(archive.schema.step).delta
    steps = Cadence(archive.schema.step).steps(lead)
    if members < 1:
        raise BadInput(f"{members} members", todo="give 1 (the control) or more")
    if out is not None and Path(out).exists():
        raise BadInput(f"{out} exists already", todo="give another --out")
    inits = initial_times(archive, chosen.signature.frames, init, every, as_of)
    cube = ForecastCube(ws, name, check_name(chosen.name) + (f"-ens{members}" if members > 1 else ""))
    frames = InitialFrames(archive, chosen, as_of)
    identity = chosen.hash
    snapshot = archive.resolve(as_of)
    created = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    known = cube.run_keys()
    todo: list[Run] = []
    for t in inits:
        key = run_key(identity, frames.digest(t), members, seed)
        if known.get(t, ("", 0))[0] == key and known[t][1] >= steps:
            continue
        record = {
            "dataset": name, "model": chosen.name, "checkpoint": identity, "checkpoint_location": chosen.location,
            "recipe": chosen.recipe.name, "archive_snapshot": snapshot, "init_time": iso(t), "lead": lead,
            "members": members, "seed": seed, "code_version": eoflow.__version__, "created": created,
            "initial_frames": frames.digest(t),
            "command": command
            or f"eoflow forecast --lead {lead} --dataset {name} --model {chosen.name} --init {iso(t)}",
        }  # fmt: skip
        todo.append(Run(t, key, identity, snapshot, created, json.dumps(record)))
    _run_all(cube, chosen, frames, todo, step, steps, members, seed, progress)
    latest = _publish(cube, inits, todo) if publish else ws.url(*cube.parts, "latest.zarr")
    if out is not None:
        cube.open().sel(init_time=inits).isel(lead_time=slice(0, steps)).to_zarr(out, mode="w-", zarr_format=3)
    lines = (
        f'import xarray as xr\nds = xr.open_zarr("{latest}", decode_timedelta=True)'
        if ws.is_local
        else cube.opening_lines()
    )
    return ForecastReport(
        dataset=name, model=chosen.name, lead=format_duration(step * steps), inits=[iso(t) for t in inits],
        new=len(todo), unchanged=len(inits) - len(todo), members=members, checkpoint=identity,
        seconds=time.monotonic() - started, latest=latest, open_lines=lines, skill=chosen.scores,
    )  # fmt: skip


def _publish(cube: ForecastCube, inits: list[np.datetime64], todo: list[Run]) -> str:
    ws = cube.workspace
    newest = max(cube.run_keys())
    latest = ws.url(*cube.parts, "latest.zarr")
    published = any(r.init == newest for r in todo) or not ws.exists(*cube.parts, "latest.zarr")
    if published or newest in inits:
        from eoflow.products import stamp

        if published or not ws.exists(*cube.parts, "runs", f"{stamp(newest)}.zarr"):
            cube.publish(newest)
    return latest


def only_dataset(ws: Workspace) -> str:
    """The dataset of the workspace, if there is exactly one. Raises BadInput with the choice."""
    names = holdings.datasets(ws, "fields")
    if len(names) != 1:
        raise BadInput(
            "the workspace holds no dataset yet" if not names else "the workspace holds several datasets",
            where=ws.root,
            todo="eoflow ingest FILE.nc --as NAME" if not names else f"say --dataset {' or '.join(names)}",
        )  # fmt: skip
    return names[0]


def load_model(ws: Workspace, dataset: str, model: str, schema: FieldSchema) -> Checkpoint:
    """The checkpoint that a name means for a dataset; persistence needs none. Raises BadInput, SchemaMismatch."""
    if model == "persistence":
        return untrained("persistence", dataset, schema)
    loaded = Checkpoint.from_pretrained(checkpoint.resolve(ws, dataset, model, schema))
    have = {v.name for v in schema.variables}
    missing = [v.name for v in loaded.schema.variables if v.name not in have]
    mine = schema if missing else schema.select(v.name for v in loaded.schema.variables)
    mine.require_same(
        loaded.schema, f"dataset {dataset}", f"checkpoint {model}",
        f"train one for this dataset: eoflow train {loaded.name} --dataset {dataset}",
    )  # fmt: skip
    return loaded


def untrained(name: str, dataset: str, schema: FieldSchema) -> Checkpoint:
    """A checkpoint of a recipe that has nothing to learn (persistence), with an identity normaliser."""
    from eoflow import catalog
    from eoflow.prepare.normalize import Normalizer

    rec = catalog.field_recipe(name)
    task = registry.load("tasks", rec.task)()
    count = len(schema.channels)
    import torch

    static = torch.zeros(0, *schema.grid.shape)
    signature = task.signature(rec, schema, static, registry.load("models", rec.network.name).default_frames)
    ones = (1.0,) * count
    identity = Normalizer(tuple(c.label for c in schema.channels), (0.0,) * count, ones, ones, (None,) * count)
    return Checkpoint(rec, signature, schema, identity, checkpoint.build(rec, signature).eval(), None, static, {})


def present_times(archive: Archive, as_of: str | None = None) -> np.ndarray[Any, np.dtype[np.datetime64]]:
    """Times that the archive holds whole, by its ledger (of an earlier state)."""
    ledger = Ledger.load(archive, as_of)
    return np.asarray(ledger.times[ledger.status == Status.PRESENT])


def initial_times(
    archive: Archive, frames: int, init: str | Times, every: str | None, as_of: str | None = None
) -> list[np.datetime64]:  # fmt: skip
    """The initial times asked for, each with all its frames in the archive. Raises BadInput naming what is missing."""
    step, present = Cadence(archive.schema.step).delta, set(present_times(archive, as_of).tolist())
    times = archive.times_of(as_of=as_of)
    back = [step * k for k in range(frames)]

    def whole(t: np.datetime64) -> list[np.datetime64]:
        return [t - b for b in back if (t - b).astype("datetime64[ns]").item() not in present]

    if not isinstance(init, str):
        chosen = [t for t in init if not whole(t)]
        if not chosen:
            raise BadInput(f"none of the {len(init)} initial times has its {frames} frames in the archive")
        return chosen
    if "/" in init:
        period = Period.parse(init)
        stride = parse_duration(every) if every else step
        if stride % step != np.timedelta64(0, "ns") or stride <= np.timedelta64(0, "ns"):
            raise BadInput(
                f"--every {every} is no multiple of the step of {archive.schema.step}",
                todo="use for example --every 5d",
            )
        inside = times[period.contains(times)]
        wanted = list(inside[(inside - inside[0]) % stride == np.timedelta64(0, "ns")]) if len(inside) else []
        good = [t for t in wanted if not whole(t)]
        if not good:
            held = f"{iso(archive.times[0])}/{iso(archive.times[-1])}"
            raise BadInput(f"no initial time of {init} has its {frames} frames in the archive",
                           todo=f"eoflow gaps {archive.name}; the archive holds {held}")  # fmt: skip
        return good
    if init == "latest":
        for t in times[::-1]:
            if not whole(t):
                return [t]
        raise BadInput(f"the archive holds no {frames} consecutive steps", todo=f"eoflow gaps {archive.name}")
    t = parse_time(init)
    missing = whole(t)
    if missing:
        raise BadInput(
            f"the initial time {iso(t)} needs {frames} frames, and {', '.join(iso(m) for m in sorted(missing))} "
            + ("is" if len(missing) == 1 else "are") + " not in the archive",
            where=f"dataset {archive.name}, {iso(archive.times[0])}/{iso(archive.times[-1])} "
            f"step {archive.schema.step}",
            todo=f"eoflow gaps {archive.name}; eoflow backfill {archive.name}; or another --init",
        )  # fmt: skip
    return [t]


def run_key(checkpoint_hash: str, frames_digest: str, members: int, seed: int) -> str:
    """Identity of a run, without its lead."""
    text = f"{checkpoint_hash}|{frames_digest}|{members}|{seed if members > 1 else 0}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class InitialFrames:
    """Initial states read from the archive once, by initial time."""

    def __init__(self, archive: Archive, chosen: Checkpoint, as_of: str | None = None) -> None:
        self.archive, self.chosen = archive, chosen
        self.step = Cadence(archive.schema.step).delta
        self.cube = archive.open(as_of=as_of)[[v.name for v in chosen.schema.variables]]
        self._ledger = Ledger.load(archive, as_of)
        self._present = present_times(archive, as_of)

    def _times(self, inits: list[np.datetime64]) -> np.ndarray[Any, Any]:
        n = self.chosen.signature.frames
        return np.unique(
            np.concatenate([[t - self.step * k for k in range(n)] for t in inits]).astype("datetime64[ns]")
        )

    def digest(self, init: np.datetime64) -> str:
        """Identity of the frames of an initial time, from the ledger."""
        digests = self._ledger.digest_at(self._times([init]))
        return hashlib.sha256(digests.astype("uint64").tobytes()).hexdigest()[:16]

    def read(self, inits: list[np.datetime64]) -> NDArray[np.float32]:
        """(B, F, C, H, W) physical."""
        from eoflow.prepare.normalize import stack

        times = self._times(inits)
        states = stack(self.cube.sel(time=times), self.chosen.schema)
        n = self.chosen.signature.frames
        at = {t: i for i, t in enumerate(times)}
        rows = np.array(
            [[at[(t - self.step * k).astype("datetime64[ns]")] for k in range(n - 1, -1, -1)] for t in inits]
        )
        frames = states[rows]
        bad = ~np.isfinite(frames).any(axis=(1, 3, 4))
        if bad.any():
            b, c = np.argwhere(bad)[0]
            raise BadInput(f"{self.chosen.schema.channels[c].label} has no value at all in the initial frames",
                           where=f"init {iso(inits[b])}", todo=f"eoflow gaps {self.archive.name}")  # fmt: skip
        return frames

    def perturbations(self, init: np.datetime64, members: int, seed: int) -> NDArray[np.float32]:
        """(members, C, H, W): zero for the control, else scaled differences of two random earlier states."""
        from eoflow.prepare.normalize import stack

        earlier = self._present[self._present < init]
        if len(earlier) < 2:
            raise BadInput(
                "members need at least two states before the initial time", where=iso(init), todo="--members 1"
            )
        rng = np.random.default_rng([seed, abs(int(init.astype("int64")))])
        pairs = np.array([rng.choice(len(earlier), 2, replace=False) for _ in range(members - 1)])
        times, where = np.unique(earlier[pairs], return_inverse=True)
        states = stack(self.cube.sel(time=times), self.chosen.schema)[where.reshape(pairs.shape)]
        differences = PERTURBATION * (states[:, 0] - states[:, 1])
        return np.concatenate([np.zeros_like(differences[:1]), differences]).astype(np.float32)


def _run_all(
    cube: ForecastCube, chosen: Checkpoint, frames: InitialFrames, todo: list[Run], step: np.timedelta64, steps: int,
    members: int, seed: int, progress: Progress | None,
) -> None:  # fmt: skip
    """Runs in batches; each batch is one commit, so that an interrupt loses at most one."""
    task = registry.load("tasks", chosen.recipe.task)()
    state = len(chosen.schema.channels) * int(np.prod(chosen.schema.grid.shape)) * 4 * members
    size = max(1, min(_MAX_BATCH, (settings().memory_mb << 20) // (8 * state)))
    total, done = len(todo) * steps, 0
    for at in range(0, len(todo), size):
        batch = todo[at : at + size]
        inits = [r.init for r in batch]
        start = frames.read(inits)
        if members > 1:
            noise = np.stack([frames.perturbations(t, members, seed) for t in inits])
            start = (start[:, None] + noise[:, :, None]).reshape(-1, *start.shape[1:])
        times = np.repeat(np.array(inits, "datetime64[ns]"), members)
        shape = (len(batch), members, *start.shape[2:]) if members > 1 else (len(batch), *start.shape[2:])
        with cube.write(chosen.schema, batch, step, steps, members) as writer:
            for fields in _ahead((f.reshape(shape) for f in task.run(chosen, start, times, steps)), writer.add):
                if not np.isfinite(fields).any():
                    raise Failure(f"{chosen.name} diverged: no finite value is left", where=f"init {iso(inits[0])}")
                done += len(batch)
                if progress:
                    progress(done, total, f"{chosen.name} {iso(inits[0])}")


def _ahead(fields: Iterator[NDArray[np.float32]], write: Callable[[Any], None]) -> Iterator[NDArray[np.float32]]:
    """Yield each field after handing it to a writer thread, so that writing overlaps the next step."""
    todo: queue.Queue[Any] = queue.Queue(maxsize=4)
    failed: list[BaseException] = []

    def work() -> None:
        while (item := todo.get()) is not None:
            if not failed:
                try:
                    write(item)
                except BaseException as e:
                    failed.append(e)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        for f in fields:
            todo.put(f)
            yield f
            if failed:
                raise failed[0]
    finally:
        todo.put(None)
        thread.join()
    if failed:
        raise failed[0]
