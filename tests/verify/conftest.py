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
def cubes(worlds, truth):
    return {k: worlds.cube(truth, k) for k in ("good", "persistence", "climatology")}


@pytest.fixture(scope="session")
def card(worlds, truth, cubes):
    from eoflow.verify.scorecard import score

    return score(cubes, truth, worlds.means(truth), dataset="toy", climatology_name="mean of the truth")
