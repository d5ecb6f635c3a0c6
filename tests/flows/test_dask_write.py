"""Writing a lazy array inside a Prefect process (PrefectHQ/prefect#15567: "No module named 'prefect.isnan'")."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("prefect")

CODE = """
import prefect, prefect.flows
from prefect import flow, task
import numpy as np, xarray as xr, dask.array as da
from dask.distributed import Client, LocalCluster

def write(path):
    data = da.random.default_rng(0).normal(size=(8, 16, 16), chunks=(2, 16, 16))
    data = da.where(da.isnan(data), 0.0, np.sqrt(da.fabs(data)))
    xr.Dataset({"z": (("time", "y", "x"), data)}).to_zarr(path, mode="w-", zarr_format=3, consolidated=False)

if __name__ == "__main__":
    import sys
    write(sys.argv[1] + "/threads.zarr")
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None,
                      host="127.0.0.1") as cluster, Client(cluster):
        write(sys.argv[1] + "/cluster.zarr")
    a, b = (xr.open_zarr(sys.argv[1] + f"/{n}.zarr", consolidated=False)["z"].values for n in ("threads", "cluster"))
    assert a.shape == (8, 16, 16) and np.isfinite(a).all() and (a == b).all()
    print("equal")
"""


def test_lazy_arrays_are_written_with_prefect_loaded(tmp_path: Path):
    """By threads and by a worker process that has to unpickle the graph."""
    script = tmp_path / "write.py"
    script.write_text(CODE)
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "equal", done.stderr[-3000:]
