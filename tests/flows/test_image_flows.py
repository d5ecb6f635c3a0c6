"""The tasks of the flows of image models as plain functions: where a product lies, and nothing new the second time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import yaml
from flowtasks import task_of
from rasters import write

pytest.importorskip("prefect")


@pytest.fixture
def river(workspace, tmp_path: Path) -> str:
    """Two radar scenes of one place in the catalog: a lake, and the same lake twice as wide."""
    y, x = np.mgrid[:128, :128]
    for day, radius in (("2020-01-05", 20), ("2020-01-11", 40)):
        lake = (y - 64) ** 2 + (x - 64) ** 2 < radius**2
        rng = np.random.default_rng(radius)
        level = np.where(lake, -21.0, -10.0) - np.array([0.0, 6.5])[:, None, None]
        speckle = 10 * np.log10(rng.gamma(4.4, 1 / 4.4, (2, 128, 128)))
        write(tmp_path / f"river_{day}.tif", (level + speckle).astype("f4"), nodata=-9999, descriptions=("VV", "VH"))
    decibel = {"units": "dB", "scale": 1.0, "offset": 0.0, "nodata": -9999}
    entry = {
        "kind": "scenes", "name": "river", "title": "Radar scenes", "sensor": "sentinel-1", "level": "GRD",
        "source": {"driver": "geotiff", "args": {"paths": [str(tmp_path / "river_*.tif")]}},
        "bands": {"VV": decibel, "VH": decibel}, "schedule": {"start": "2020-01-01"},
    }  # fmt: skip
    workspace.write_text(yaml.safe_dump(entry), "catalogs", "datasets", "river.yaml")
    return "river"


def test_new_scenes_are_mapped(workspace, river: str):
    flood, change, clouds, verify = (task_of(f) for f in ("flood", "change", "clouds", "verify"))
    for empty in (flood, change, clouds):
        assert empty.fn(river, 30, None, workspace.root) == "nothing yet"
    assert verify.fn(river, None, None, workspace.root) == "nothing yet"
    task_of("ingest").fn(river, workspace.root)

    where = flood.fn(river, 10, None, workspace.root)
    assert "flood-s1" in where
    assert flood.fn(river, 10, None, workspace.root) == where
    tile = next(p.name for p in Path(where, "tiles").iterdir() if p.is_dir())
    made = xr.open_zarr(where, group=f"tiles/{tile}")
    assert [str(t)[:10] for t in made["time"].values] == ["2020-01-05", "2020-01-11"]
    area = (made["class"] == 1).sum(("y", "x")).values
    np.testing.assert_allclose(area, [np.pi * 20**2, np.pi * 40**2], rtol=0.12)

    where = change.fn(river, 10, "image-difference", workspace.root)
    made = xr.open_zarr(where, group=f"tiles/{tile}")
    ring = np.pi * (40**2 - 20**2)
    assert float((made["class"] == 1).sum()) == pytest.approx(ring, rel=0.3)


def test_what_a_dataset_is_served(workspace, river: str):
    from eoflow.predict_images.scheduled import recipes_of, verbs_of

    assert verbs_of(river, workspace) == ["flood"]
    assert recipes_of(river, workspace) == [], "it has no labels"
    assert "flood-s1" in recipes_of("sample-floods", workspace)
