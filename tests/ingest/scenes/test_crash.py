"""Killed at random moments: readers see whole scenes only, the next run completes, nothing is doubled."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sceneworld import World

from eoflow.archive import Archive
from eoflow.cube import Cube
from eoflow.errors import BadInput
from eoflow.ingest.scenes.ledger import SceneLedger
from eoflow.quality import Quality
from eoflow.workspace import Workspace

RUN = """
import sys, json
from eoflow.ingest.scenes import plan
plan.BATCH_SCENES = 3
print("ready", flush=True)
sys.stdin.readline()
from eoflow.ingest.run import ingest
root, files = json.loads(sys.argv[1])
ingest("w", files, workspace=root, now="2021-06-01")
"""
TESTS = Path(__file__).resolve().parents[2]


def written(root: str) -> int:
    """Bytes in the repository: the clock by which moments are chosen."""
    total = 0
    for folder, _, names in os.walk(Path(root) / "archives"):
        for n in names:
            with contextlib.suppress(FileNotFoundError):
                total += (Path(folder) / n).stat().st_size
    return total


def run(root: str, files: list[str], kill_at: int | None) -> bool:
    """Ingest in another process, killed once `kill_at` bytes have been written; whether it was killed."""
    env = {**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", RUN, json.dumps([root, files])], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True, env=env,
    ) as p:  # fmt: skip
        assert p.stdout.readline().strip() == "ready"
        p.stdin.write("\n")
        p.stdin.flush()
        killed = False
        while p.poll() is None:
            if kill_at is not None and not killed and written(root) >= kill_at:
                p.send_signal(signal.SIGKILL)
                killed = True
            time.sleep(0.004)  # only so that looking does not starve the writer
        assert killed or p.returncode == 0
        return killed


def whole(root: str, world: World) -> int:
    """Every step is a whole scene, or empty and not called present; returns how many there are."""
    try:
        cube = Cube.load(Workspace(root), "w")
    except BadInput:
        return 0
    ledger = SceneLedger.load(cube.archive)
    present = {r.key for r in ledger.rows.values() if r.present}
    seen = set()
    for tile in cube.tiles():
        ds = cube.open(tile, chunks=None)
        assert (np.diff(ds.time.values) > np.timedelta64(0)).all()
        for i in range(ds.sizes["time"]):
            items = cube.items(tile, i)
            if not items:
                assert (ds.quality.values[i] == Quality.MISSING).all()
                continue
            [item] = items
            for b in world.bands:
                np.testing.assert_array_equal(ds[b].values[i], world.values[item["id"]][b])
            assert (item["id"], tile) not in seen
            seen.add((item["id"], tile))
    assert seen == present
    return len(seen)


@pytest.mark.slow
def test_catalog_dataset(tmp_path):
    world = World(tmp_path / "provider")
    for i in range(24):
        tile = f"T{i % 2}"
        world.add(f"s{i:02d}", f"2020-03-{1 + i:02d}T10:00", tile=tile, shape=(192, 192))
    quiet, hurt = str(tmp_path / "quiet"), str(tmp_path / "hurt")
    for root in (quiet, hurt):
        world.publish(Workspace(root))
    run(quiet, [], None)
    assert whole(quiet, world) == 24
    size, random_ = written(quiet), random.Random(4)
    kills, last = 0, 0
    for _ in range(3):
        kills += run(hurt, [], written(hurt) + int(size * random_.uniform(0.05, 0.3)))
        count = whole(hurt, world)
        assert count >= last  # what is committed stays
        last = count
    assert kills >= 2
    assert last < 24
    run(hurt, [], None)
    assert whole(hurt, world) == 24
    a, b = (SceneLedger.load(Archive.load(Workspace(r), "w")).rows for r in (quiet, hurt))
    assert [(r.key, r.step, r.status, r.digest) for r in a.values()] == [
        (r.key, r.step, r.status, r.digest) for r in b.values()
    ]
