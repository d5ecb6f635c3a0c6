from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest


def _load():
    """tests/verify/worlds.py, whichever way pytest imports this folder."""
    if "eoflow_test_worlds" not in sys.modules:
        spec = importlib.util.spec_from_file_location("eoflow_test_worlds", Path(__file__).parent / "worlds.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["eoflow_test_worlds"] = module
        spec.loader.exec_module(module)
    return sys.modules["eoflow_test_worlds"]


@pytest.fixture(scope="session")
def worlds():
    return _load()


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
