from __future__ import annotations

import numpy as np
import pytest

from eoflow.sources.planet.dynamics import Dynamics
from eoflow.sources.planet.history import History
from eoflow.sources.planet.spectral import GaussianGrid


@pytest.fixture(scope="session")
def grid() -> GaussianGrid:
    return GaussianGrid(21)


@pytest.fixture(scope="session")
def dynamics() -> Dynamics:
    return Dynamics()


@pytest.fixture(scope="session")
def history(tmp_path_factory) -> History:
    """A planet with an empty cache folder; segments appear as tests ask for them."""
    return History(7, "2001-01-01", str(tmp_path_factory.mktemp("planet")))


@pytest.fixture(scope="session")
def year(history):
    """Times and states of 2001, 6-hourly."""
    times = np.arange("2001-01-01", "2002-01-01", 6, dtype="datetime64[h]").astype("datetime64[ns]")
    return times, history.states(times)
