from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def run(worlds, truth):
    return worlds.cube(truth, "good", leads=(12, 24, 72, 120))


@pytest.fixture(scope="session")
def card(worlds, truth, run):
    from eoflow.verify.scorecard import score

    cubes = {"puyun": run} | {k: worlds.cube(truth, k, leads=(12, 24, 72, 120)) for k in ("persistence", "climatology")}
    return score(cubes, truth, worlds.means(truth), dataset="toy")
