"""A workspace on an S3 server on this machine: no lock there, the commit is conditional."""

from __future__ import annotations

import numpy as np
import pytest
from eoflow_test_ingest import refuse, truth, when

from eoflow import catalog
from eoflow.archive import Archive, Conflict
from eoflow.ingest.job import Job
from eoflow.ingest.run import gaps, ingest


def test_the_same_verbs(bucket, entry, world, write_nc, monkeypatch):
    catalog.save_dataset(entry, bucket)
    refuse(lambda: Archive.load(bucket, "mem"), "has no archive")
    world.corrupt = {"a4"}
    r = ingest("mem", workspace=bucket, now=when(11))
    assert (r.new, r.failed) == (8, 4)
    assert gaps("mem", bucket, now=when(11)).fraction == pytest.approx(8 / 12)

    real, faster = Job._commit_here, []

    def late(self, batch):
        """Another writer commits while this one is at work."""
        if not faster:
            faster.append(1)
            world.corrupt = set()
            tx = self.archive.transaction("other", {"what": "note"})
            with tx as t:
                t.group.attrs["note"] = "from elsewhere"
            raise Conflict("main has moved")
        real(self, batch)

    monkeypatch.setattr(Job, "_commit_here", late)
    assert ingest("mem", workspace=bucket, now=when(19)).new == 8
    archive = Archive.load(bucket, "mem")
    assert archive.attrs()["note"] == "from elsewhere"
    np.testing.assert_array_equal(archive.open().msl.values[12:], truth(range(12, 20))["msl"])
    assert ingest("mine", [write_nc("a.nc", range(6))], workspace=bucket).new == 6
    refuse(lambda: ingest("mine", [write_nc("b.nc", range(3, 8), version=1)], workspace=bucket), "other values")
    assert Archive.load(bucket, "mine").staging_branches() == []
    refuse(lambda: ingest("new", [write_nc("c.nc", [0, 2, 1])], workspace=bucket), "not in order")
    assert bucket.names("archives") == ["mem", "mine"]
