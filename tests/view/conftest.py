from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest


def _worlds():
    if "eoflow_test_worlds" not in sys.modules:
        path = Path(__file__).parent.parent / "verify" / "worlds.py"
        spec = importlib.util.spec_from_file_location("eoflow_test_worlds", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules["eoflow_test_worlds"] = module
        spec.loader.exec_module(module)
    return sys.modules["eoflow_test_worlds"]


@pytest.fixture(scope="session")
def worlds():
    return _worlds()


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
