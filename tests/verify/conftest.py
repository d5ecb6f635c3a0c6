from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def cubes(worlds, truth):
    return {k: worlds.cube(truth, k) for k in ("good", "persistence", "climatology")}


@pytest.fixture(scope="session")
def card(worlds, truth, cubes):
    from eoflow.verify.scorecard import score

    return score(cubes, truth, worlds.means(truth), dataset="toy", climatology_name="mean of the truth")
