"""What tests of the flows share."""

from __future__ import annotations

from typing import Any


def task_of(flow: str) -> Any:
    """The one task of a flow's file."""
    from prefect import Task
    from prefect.utilities.importtools import load_script_as_module

    from eoflow.up import flow_file

    (task,) = [t for t in vars(load_script_as_module(str(flow_file(flow)))).values() if isinstance(t, Task)]
    return task
