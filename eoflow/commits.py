"""The history of an archive: its visible states, and how a person names one of them; how the repository is opened."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.errors import BadInput
from eoflow.times import Period, iso

if TYPE_CHECKING:
    import icechunk

    from eoflow.workspace import Workspace

_ID = re.compile(r"^[0-9A-Z]{4,20}$")


class Moved(Exception):
    """A branch was moved by another writer since the session began."""


@dataclass(frozen=True)
class Commit:
    """One line of the history. `time` datetime64[ns] UTC; `current`: on the line that `main` is on now."""

    id: str
    time: np.datetime64
    message: str
    details: dict[str, Any] = field(default_factory=dict)
    current: bool = True

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"id": self.id, "time": iso(self.time), "message": self.message, "current": self.current, **self.details}


def commits(repo: icechunk.Repository, branch: str, tag_prefix: str) -> list[Commit]:
    """The visible states that a branch, and the tags with this prefix, lead to; newest first.

    Steps that are no states of their own (marked `hidden`) and the empty first snapshot are left out.
    """
    found: dict[str, Commit] = {}
    lines: list[tuple[bool, dict[str, str]]] = [(True, {"branch": branch})]
    lines += [(False, {"tag": t}) for t in repo.list_tags() if t.startswith(tag_prefix)]
    for current, line in lines:
        for s in repo.ancestry(**line):
            if s.id in found:
                break
            details = dict(s.metadata)
            if s.parent_id is None or details.pop("hidden", False):
                continue
            when = np.datetime64(s.written_at.replace(tzinfo=None), "ns")
            found[s.id] = Commit(s.id, when, s.message, details, current)
    return sorted(found.values(), key=lambda c: c.time, reverse=True)


def find(states: list[Commit], text: str, name: str) -> str:
    """The id of the state that `text` names: an id, a unique prefix or an ISO time. Raises BadInput."""
    matches = [c.id for c in states if c.id == text] or [
        c.id for c in states if _ID.match(text.upper()) and c.id.startswith(text.upper())
    ]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise BadInput(f"'{text}' could be {len(matches)} snapshots of '{name}'", todo="give more characters")
    try:
        when = Period.parse(text).end
    except BadInput:
        todo = f"see eoflow history {name}"
        raise BadInput(f"'{text}' is neither a snapshot of '{name}' nor an ISO time", todo=todo) from None
    for c in states:  # one writer at a time: the newest commit until then is what readers saw
        if c.time <= when:
            return c.id
    first = iso(states[-1].time) if states else "never"
    raise BadInput(f"'{name}' held nothing at {text}", todo=f"its first state is of {first}")


def commit(
    repo: icechunk.Repository, session: icechunk.Session, workspace: Workspace, branch: str, message: str,
    metadata: dict[str, Any],
) -> str:  # fmt: skip
    """Commit a session on its branch so that a power cut cannot tear it; returns the new snapshot.

    On a local disk the snapshot is written, everything is synced, and only then the branch moves to it: what a reader
    finds after a crash of the machine is the old state or the new one. Object stores are durable by themselves. Raises
    Moved where another writer was faster.
    """
    import icechunk

    if not workspace.is_local:
        try:
            return session.commit(message, metadata=metadata)
        except (icechunk.ConflictError, icechunk.RebaseFailedError):
            raise Moved(branch) from None
    base = session.snapshot_id
    snapshot = session.flush(message, metadata=metadata)
    workspace.sync()
    try:
        repo.reset_branch(branch, snapshot, from_snapshot_id=base)
    except icechunk.IcechunkError as e:
        if "conflict" not in str(e):
            raise
        raise Moved(branch) from None
    workspace.sync()
    return snapshot


def quiet() -> None:
    """Silence icechunk's warning about concurrent local commits: `writing` serialises them."""
    import icechunk

    icechunk.set_logs_filter("icechunk=error")


def configuration() -> icechunk.RepositoryConfig:
    """Default configuration with a smaller cache of chunk references (the default can take gigabytes)."""
    import icechunk

    config = icechunk.RepositoryConfig.default()
    config.caching = icechunk.CachingConfig(num_chunk_refs=1_000_000)
    # a tile gets a scene at a time: only the last few steps' references are written anew, not those of all times
    tiles = icechunk.ManifestSplitCondition.path_matches("^/tiles/")
    along: Any = {icechunk.ManifestSplitDimCondition.DimensionName("time"): 64}
    config.manifest = icechunk.ManifestConfig(splitting=icechunk.ManifestSplittingConfig.from_dict({tiles: along}))
    return config
