"""What a workspace holds: its archives by kind."""

from __future__ import annotations

from typing import Literal

from eoflow.archive import Archive
from eoflow.errors import EoflowError
from eoflow.workspace import Workspace

Kind = Literal["fields", "scenes"]


def kind_of(workspace: Workspace, name: str) -> Kind | None:
    """The kind of an archive; None where there is none. One that cannot be read counts as fields."""
    archive = Archive(workspace, name)
    try:
        if not archive.exists():
            return None
        return "scenes" if archive.kind == "scenes" else "fields"
    except EoflowError:
        return "fields"


def datasets(workspace: Workspace, kind: Kind) -> list[str]:
    """Names of the archives of a kind."""
    return [n for n in workspace.names("archives") if kind_of(workspace, n) == kind]
