from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of real files; skips the test where it is absent."""
    folder = Path(os.environ.get("EOFLOW_REALDATA", REPO.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set EOFLOW_REALDATA)")
    return folder


@pytest.fixture
def workspace(tmp_path: Path):
    """An empty local workspace."""
    from eoflow.workspace import Workspace

    return Workspace(tmp_path / "workspace")
