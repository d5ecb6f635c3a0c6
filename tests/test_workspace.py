from __future__ import annotations

import multiprocessing

import pytest

from eoflow.errors import BadInput, Failure
from eoflow.workspace import Workspace


def test_layout_stays_inside(workspace):
    assert workspace.url("archives", "a").startswith(workspace.root)
    for bad in ("..", "../x", "/etc", "a/../../b", ".hidden", ""):
        with pytest.raises(BadInput, match="not a usable"):
            workspace.url("archives", bad)


def test_write_is_whole_or_not_at_all(workspace):
    workspace.write_text("one", "catalogs", "x.yaml")
    workspace.write_text("two", "catalogs", "x.yaml")
    assert workspace.read_text("catalogs", "x.yaml") == "two"
    assert workspace.names("catalogs") == ["x.yaml"]
    assert workspace.names("nothing") == []


def _hold(root, ready, go):
    with Workspace(root).lock("w"):
        ready.set()
        go.wait(30)


def test_one_writer_and_a_lock_that_dies_with_its_process(workspace):
    context = multiprocessing.get_context("spawn")
    ready, go = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(workspace.root, ready, go))
    other.start()
    assert ready.wait(60)
    with pytest.raises(Failure, match="another process"), workspace.lock("w", timeout=0.1):
        pass
    other.kill()
    other.join()
    with workspace.lock("w", timeout=10):
        pass


def test_only_folders_and_s3():
    with pytest.raises(BadInput, match="cannot use"):
        Workspace("ftp://host/x")
    assert not Workspace("s3://bucket/prefix").is_local
    with pytest.raises(Failure, match="local workspace"):
        Workspace("s3://bucket/prefix").path("archives")
