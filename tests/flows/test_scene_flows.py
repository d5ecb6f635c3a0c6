"""The tasks of the scene flows as plain functions: the same results as the library, small values back, idempotent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import yaml
from flowtasks import task_of

from eoflow.cube import Cube

pytest.importorskip("prefect")
DAYS = 45


@pytest.fixture
def land(workspace) -> str:
    """A small sample land in the catalog: one tile of 128 pixels, nine dates, one of which the provider has lost."""
    from eoflow import catalog

    entry = catalog.entry("sample-scenes").model_dump(mode="json", exclude_none=True)
    entry["name"] = "land"
    faults = [{"kind": "gap", "at": "2020-01-20/2020-01-24", "until": "2200-01-01"}]
    entry["source"]["args"] |= {"tiles": {"32N-0200-4000": "lowland"}, "size": 128, "faults": faults}
    entry["schedule"] = {"start": "2020-01-01", "end": "2020-02-14"}
    entry["tiles"] = {"scheme": "footprint", "chunk": 64, "overviews": [4]}
    entry.pop("splits")
    workspace.write_text(yaml.safe_dump(entry), "catalogs", "datasets", "land.yaml")
    return "land"


def test_the_road_of_scenes(workspace, land: str, tmp_path: Path):
    ingest, composite, backfill, prepare = (task_of(f) for f in ("ingest", "composite", "backfill", "prepare"))
    assert composite.fn(land, 30, "median", workspace.root) == "nothing yet"
    assert backfill.fn(land, workspace.root) == "nothing yet"
    assert prepare.fn(land, None, workspace.root) == "nothing yet"

    snapshot = ingest.fn(land, workspace.root)
    assert ingest.fn(land, workspace.root) == snapshot
    cube = Cube.load(workspace, land)
    (tile,) = cube.tiles()
    assert cube.times(tile).size == 9, "the lost scene keeps its place on the axis"
    assert backfill.fn(land, workspace.root) == snapshot, "still lost: nothing changes"

    where = composite.fn(land, DAYS, "median", workspace.root)
    assert composite.fn(land, DAYS, "median", workspace.root) == where
    made = xr.open_zarr(where, group=f"tiles/{tile}")
    ds = cube.open(tile)
    recent = ds.time.values >= ds.time.values[-1] - np.timedelta64(DAYS, "D")
    clear = np.isin(ds["quality"].values, (5, 6, 7)) & (ds["B04"].values > 0)
    np.testing.assert_array_equal(made["count"].values, clear[recent].sum(axis=0))
    assert made["count"].values.std() > 0, "clouds differ from pixel to pixel"

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "bands: [B04, B08]\npatch: 32\nmin_valid: 0.0\nsplit: {by: time, fractions: [0.5, 0.25, 0.25], gap: 1d}\n"
    )
    key = prepare.fn(land, str(recipe), workspace.root)
    assert prepare.fn(land, str(recipe), workspace.root) == key
    assert workspace.path("prepared", land, f"{key}.zarr").is_dir()
