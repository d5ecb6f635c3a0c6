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


def image_products(
    workspace: Workspace, verb: str, dataset: str, model: str | None = None, which: str = ""
) -> list[tuple[str, ...]]:
    """Places of the products of an image task (`flood`, `change`, `clouds`) whose id begins with `which`, oldest first.

    Raises BadInput with what there is where there is none.
    """
    import json

    import zarr

    from eoflow.errors import BadInput

    found: list[tuple[str, ...]] = []
    for m in [model] if model else workspace.names("products", verb, dataset) if dataset else []:
        here = ("products", verb, dataset, m)
        found += [(*here, n) for n in workspace.names(*here) if n.endswith(".zarr") and not n.startswith(".")]
    named = [p for p in found if p[-1].startswith(which)]
    if not named:
        known = ", ".join(f"{p[3]}:{p[4].removesuffix('.zarr')}" for p in found)
        known = known or ", ".join(n for n in workspace.names("products", verb) if not n.startswith(".")) or "none"
        called = f" called {which}" if which else ""
        raise BadInput(f"there is no product '{verb}' of '{dataset}'{called}", where=workspace.url("products", verb),
                       todo=f"eoflow {verb} DATASET (there are: {known})")  # fmt: skip
    options = {} if workspace.is_local else {"storage_options": workspace.storage_options()}

    def created(place: tuple[str, ...]) -> str:
        group = zarr.open_group(workspace.url(*place), mode="r", zarr_format=3, **options)  # type: ignore[arg-type]
        return str(json.loads(str(group.attrs["eoflow_provenance"]))["created"])

    return sorted(named, key=lambda p: (created(p), p))
