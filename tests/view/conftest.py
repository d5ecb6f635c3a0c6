from __future__ import annotations

import pytest
import worlds as toy_worlds


@pytest.fixture(scope="session")
def worlds():
    return toy_worlds


@pytest.fixture(scope="session")
def truth(worlds):
    return worlds.truth_world()


@pytest.fixture(scope="session")
def run(worlds, truth):
    return worlds.cube(truth, "good", leads=(12, 24, 72, 120))


@pytest.fixture(scope="session")
def card(worlds, truth, run):
    from eoflow.verify.scorecard import score

    cubes = {"puyun": run} | {k: worlds.cube(truth, k, leads=(12, 24, 72, 120)) for k in ("persistence", "climatology")}
    return score(cubes, truth, worlds.means(truth), dataset="toy")
