"""The transactional store: one Icechunk repository a dataset, Zarr v3 inside.

    /             the fields (time, [member,] [level,] latitude, longitude), coordinates, static fields, CF attributes
    /ledger       what is known of each expected time (see eoflow.ingest.ledger)
    /statistics   written by `prepare`

The time axis is every expected time of the schedule from the first to the last one ingested; a gap stays on the
axis as NaN and is explained in the ledger. Fields and ledger change in the same commit.

Where a process may die, and why a reader stays safe:

1. while chunks or manifests are written: they are new objects under new names; the branch `main` still points at
   the old snapshot, which points at old objects only. The new ones are orphans; `vacuum` removes them.
2. while the branch is moved: one small object is replaced whole (local: write beside and rename; object store:
   conditional put). A reader sees the old snapshot or the new one.
3. between two batches of a long ingest: each batch is one commit, complete with its ledger. The next run asks the
   ledger what is missing.
4. between the batches of files given by hand: they are commits on a staging branch that nobody reads. `main` is
   moved to its tip when every file is in. The next run of the same files resumes the branch, any other drops it.
5. in a rollback: the old tip is tagged first, then the note is committed beside, then `main` moves to the note. Dying
   in between leaves `main` where it was, and a tag or a branch that means nothing.
6. while the repository is created: `main` at the empty first snapshot counts as "no archive".

One writer at a time: a lock file on a local file system (its commits are not safe against each other); on an object
store the commit is conditional, and the loser gets `Conflict` and starts again from the new state.
A reader keeps the snapshot that it opened, whatever is written meanwhile.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow.commits import Commit, commits, configuration, find, quiet
from eoflow.errors import BadInput, Failure
from eoflow.schema import FieldSchema
from eoflow.times import NS, Cadence
from eoflow.workspace import Workspace, check_name

if TYPE_CHECKING:
    import icechunk
    import xarray as xr
    import zarr

    from eoflow.catalog import DatasetEntry
    from eoflow.transaction import Transaction

MAIN = "main"
STAGING = "staging-"
ROLLED_BACK = "rolled-back-"
TIME_UNITS = "seconds since 1970-01-01 00:00:00"
_HELD: set[tuple[str, str, int]] = set()


class Conflict(Failure):
    """Another writer committed first (object stores only); nothing was lost, start again from the new state."""


class Archive:
    """The archive of one dataset. Opening it reads metadata only."""

    def __init__(self, workspace: Workspace, name: str) -> None:
        self.workspace, self.name = workspace, check_name(name, "dataset name")
        self._repo: icechunk.Repository | None = None
        self._cache: dict[str, dict[str, Any]] = {}

    def __repr__(self) -> str:
        return f"Archive({self.name!r} in {self.workspace.root!r})"

    # -- open and create ---------------------------------------------------------------------------------------

    @classmethod
    def load(cls, workspace: Workspace, name: str) -> Archive:
        """The archive of dataset `name`. Raises BadInput where nothing has been ingested."""
        archive = cls(workspace, name)
        if not archive.exists():
            known = [n for n in workspace.names("archives") if cls(workspace, n).exists()]
            raise BadInput(
                f"dataset '{name}' has no archive in this workspace",
                where=workspace.root,
                todo=f"eoflow ingest {name}   (or: eoflow ingest FILE... --as {name})"
                + (f"; there are archives of {', '.join(known)}" if known else ""),
            )
        return archive

    @classmethod
    def create(
        cls, workspace: Workspace, entry: DatasetEntry, schema: FieldSchema,
        static: xr.Dataset | None = None, branch: str = MAIN, expected_steps: int | None = None,
    ) -> Archive:  # fmt: skip
        """Make an empty archive (no times yet) in one commit on `branch`.

        static: canonical dataset with the fields without time, and coordinates whose attributes are kept.
        expected_steps: length of the time axis that the chunks are planned for; from the schedule if left out.
        """
        from eoflow.transaction import build

        archive = cls(workspace, entry.name)
        hidden = branch != MAIN
        with (
            archive.beginning(branch),
            archive.transaction(f"create {entry.name}", {"what": "create"}, branch, hidden) as tx,
        ):
            build(tx, entry, schema, static, expected_steps)
        return archive

    @contextmanager
    def beginning(self, branch: str = MAIN) -> Iterator[None]:
        """Hold the lock with an empty repository there, for the first commit. Raises BadInput if there is a state."""
        with self.writing():
            if self.exists(branch):
                raise BadInput(f"dataset '{self.name}' has an archive already", where=self.workspace.root)
            self._make_repo(branch)
            yield

    def _make_repo(self, branch: str) -> None:
        import icechunk

        quiet()
        if self._stored():
            self._repo = icechunk.Repository.open(self._storage(), config=configuration())
        else:
            self._repo = icechunk.Repository.create(self._storage(), config=configuration())
        if branch != MAIN and branch not in self.repo.list_branches():
            self.repo.create_branch(branch, self.repo.lookup_branch(MAIN))

    def _storage(self) -> icechunk.Storage:
        return self.workspace.icechunk_storage("archives", self.name)

    def _stored(self) -> bool:
        import icechunk

        quiet()
        # icechunk makes the folder when it only looks
        return self.workspace.exists("archives", self.name) and icechunk.Repository.exists(self._storage())

    @property
    def repo(self) -> icechunk.Repository:
        """The Icechunk repository."""
        if self._repo is None:
            import icechunk

            quiet()
            self._repo = icechunk.Repository.open(self._storage(), config=configuration())
        return self._repo

    def reopen(self) -> None:
        """Forget the open repository: another object has created or changed it."""
        self._repo = None

    def exists(self, branch: str = MAIN) -> bool:
        """Whether `branch` holds an archive (an empty repository is none)."""
        if self._repo is None and not self._stored():
            return False
        if branch not in self.repo.list_branches():
            return False
        return "eoflow_schema" in self._meta(self.repo.lookup_branch(branch))["attrs"]

    # -- reading -----------------------------------------------------------------------------------------------

    @property
    def snapshot(self) -> str:
        """Id of the newest state."""
        return self.repo.lookup_branch(MAIN)

    def tip(self, branch: str = MAIN) -> str:
        """Id of the newest snapshot of a branch."""
        return self.repo.lookup_branch(branch)

    def _meta(self, snapshot: str) -> dict[str, Any]:
        """Attributes and times of a snapshot, remembered (snapshots never change)."""
        if snapshot not in self._cache:
            import zarr

            store = self.repo.readonly_session(snapshot_id=snapshot).store
            try:
                group = zarr.open_group(store, mode="r")
            except FileNotFoundError:
                return {"attrs": {}, "times": np.empty(0, NS)}
            stored: Any = group.get("time")
            seconds = np.asarray(stored[:]) if stored is not None else np.empty(0, "i8")
            while len(self._cache) > 16:
                self._cache.pop(next(iter(self._cache)))
            self._cache[snapshot] = {"attrs": dict(group.attrs), "times": seconds.astype("datetime64[s]").astype(NS)}
        return self._cache[snapshot]

    def attrs(self, as_of: str | None = None, branch: str = MAIN) -> dict[str, Any]:
        """Attributes of the root group."""
        return dict(self._meta(self.resolve(as_of, branch))["attrs"])

    @property
    def kind(self) -> str:
        """`fields`, or `scenes` (see eoflow.cube)."""
        return str(self._meta(self.snapshot)["attrs"].get("eoflow_kind", "fields"))

    @property
    def schema(self) -> FieldSchema:
        """Names, units, levels, grid, step of the newest state."""
        return self.schema_of(MAIN)

    def schema_of(self, branch: str) -> FieldSchema:
        """The schema on a branch. Raises BadInput where the archive holds scenes (see eoflow.cube)."""
        if self._meta(self.tip(branch))["attrs"].get("eoflow_kind") == "scenes":
            raise BadInput(f"'{self.name}' is a dataset of scenes, and this needs one of fields",
                           where=self.workspace.root, todo="eoflow datasets list")  # fmt: skip
        return FieldSchema.model_validate_json(self._meta(self.tip(branch))["attrs"]["eoflow_schema"])

    @property
    def entry(self) -> DatasetEntry:
        """The catalog entry that the archive was last written with."""
        from eoflow.catalog import DatasetEntry

        return DatasetEntry.model_validate_json(self._meta(self.snapshot)["attrs"]["eoflow_entry"])

    @property
    def times(self) -> np.ndarray[Any, np.dtype[np.datetime64]]:
        """datetime64[ns] (T,): the time axis of the newest state, gaps included."""
        return self.times_of(MAIN)

    def times_of(self, branch: str = MAIN, as_of: str | None = None) -> np.ndarray[Any, np.dtype[np.datetime64]]:
        """The time axis of a branch or of an earlier state."""
        return np.array(self._meta(self.resolve(as_of, branch))["times"])

    @property
    def cadence(self) -> Cadence:
        """The step of the time axis."""
        return Cadence(self.schema.step)

    def open(self, as_of: str | None = None, chunks: Any = "auto-store", group: str | None = None) -> xr.Dataset:
        """A lazy dataset of the newest state, or of `as_of` (a snapshot id, a unique prefix, an ISO time).

        chunks: as in `xr.open_zarr`; by default the stored chunks as dask arrays. None: lazy without dask.
        """
        import xarray as xr

        store = self.repo.readonly_session(snapshot_id=self.resolve(as_of)).store
        how = {} if isinstance(chunks, str) and chunks == "auto-store" else chunks
        return xr.open_zarr(store, group=group, consolidated=False, chunks=how)

    def zarr_group(self, as_of: str | None = None, branch: str = MAIN) -> zarr.Group:
        """The read-only root group: plain Zarr arrays, no xarray between."""
        import zarr

        session = self.repo.readonly_session(snapshot_id=self.resolve(as_of, branch))
        return zarr.open_group(session.store, mode="r")

    def open_lines(self) -> list[str]:
        """The lines that open the archive in a notebook without eoflow."""
        if self.workspace.is_local:
            how = f'icechunk.local_filesystem_storage("{self.workspace.url("archives", self.name)}")'
        else:
            bucket, _, prefix = self.workspace.url("archives", self.name).removeprefix("s3://").partition("/")
            how = f'icechunk.s3_storage(bucket="{bucket}", prefix="{prefix}", from_env=True)'
        return [
            f"import icechunk, xarray as xr; repo = icechunk.Repository.open({how})",
            'ds = xr.open_zarr(repo.readonly_session("main").store, consolidated=False)',
        ]

    # -- history -----------------------------------------------------------------------------------------------

    def history(self) -> list[Commit]:
        """Every state that readers could see, newest first, those that were rolled back included."""
        return commits(self.repo, MAIN, ROLLED_BACK)

    def resolve(self, as_of: str | None, branch: str = MAIN) -> str:
        """A snapshot id from an id, a unique prefix (four characters or more) or an ISO time. Raises BadInput.

        A time means what readers saw at its end: `2024-05-01` is the state at the end of that day.
        """
        if as_of is None:
            return self.tip(branch)
        text = str(as_of).strip()
        if any(s.id == text for s in self.repo.ancestry(branch=MAIN)):
            return text  # a product may have been made from a step that the history passes over
        return find(self.history(), text, self.name)

    def rollback(self, to: str) -> str:
        """Make an earlier state the newest one again; returns the id of the commit that says so.

        `main` moves to a note committed on top of the earlier state. What is left behind is tagged: it stays in
        `history` and can be opened with `as_of`, or rolled back to in its turn.
        """
        with self.writing():
            target, old = self.resolve(to), self.snapshot
            if target == old:
                raise BadInput(f"'{self.name}' is at {target} already", todo=f"see eoflow history {self.name}")
            self.drop(f"{STAGING}rollback-{target}")
            if ROLLED_BACK + old not in self.repo.list_tags():
                self.repo.create_tag(ROLLED_BACK + old, old)
            branch = self.branch_off(f"rollback-{target}", target)
            details = {"what": "rollback", "to": target, "from": old}
            with self.transaction(f"rollback to {target}", details, branch):
                pass
            return self.publish(branch, expected=old)

    # -- writing -----------------------------------------------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the dataset's one-writer lock; take it before reading what will be changed.

        May be nested in one thread, also through another object for the same archive.
        """
        key = (self.workspace.root, self.name, threading.get_ident())
        if key in _HELD:
            yield
            return
        with self.workspace.lock(f"archive-{self.name}"):
            _HELD.add(key)
            try:
                yield
            finally:
                _HELD.discard(key)

    @contextmanager
    def transaction(
        self, message: str, details: dict[str, Any] | None = None, branch: str = MAIN, hidden: bool = False
    ) -> Iterator[Transaction]:
        """Change the archive in one commit: `with archive.transaction("why") as tx: tx.group[...] ...`.

        An exception inside discards everything. `tx.snapshot` holds the new id afterwards. hidden: a step that
        is not a state of its own; history and as_of pass over it. Raises Conflict on an object store.
        """
        from eoflow.transaction import Transaction

        with self.writing():
            tx = Transaction(self, branch)
            yield tx
            tx.commit(message, {**(details or {}), **tx.details, **({"hidden": True} if hidden else {})})

    def publish(self, branch: str, expected: str) -> str:
        """Move `main`, which must still be at `expected`, to the tip of `branch` and drop the branch."""
        import icechunk

        tip = self.tip(branch)
        try:
            self.repo.reset_branch(MAIN, tip, from_snapshot_id=expected)
        except icechunk.IcechunkError as e:
            if "conflict" not in str(e):
                raise
            raise Conflict(f"'{self.name}' was changed by another writer meanwhile", todo="run it again") from None
        self.drop(branch)
        return tip

    def branch_off(self, label: str, at: str | None = None) -> str:
        """A staging branch at the newest state (or at a snapshot), for work that is published later."""
        branch = STAGING + label
        if branch not in self.repo.list_branches():
            self.repo.create_branch(branch, at or self.snapshot)
        return branch

    def drop(self, branch: str) -> None:
        """Delete a staging branch."""
        if branch != MAIN and branch in self.repo.list_branches():
            self.repo.delete_branch(branch)
        if self.workspace.is_local:  # icechunk leaves the empty folder of the reference
            folder = self.workspace.path("archives", self.name) / "refs" / f"branch.{branch}"
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def staging_branches(self) -> list[str]:
        """Staging branches, also those that a killed process left."""
        return sorted(b for b in self.repo.list_branches() if b.startswith(STAGING))

    def vacuum(self) -> int:
        """Delete what no branch or tag reaches (left by killed writers); returns bytes. Local workspaces only.

        On an object store another writer's half-made commit cannot be told from garbage.
        """
        if not self.workspace.is_local:
            return 0
        from datetime import UTC, datetime

        with self.writing():
            return int(self.repo.garbage_collect(datetime.now(UTC)).bytes_deleted)

    def remove(self) -> None:
        """Delete the whole repository; for one that never held a published state."""
        if self._stored() and self.exists():
            raise Failure(f"'{self.name}' holds data; it is not removed")
        self._repo = None
        self._cache.clear()
        if self.workspace.is_local:
            import shutil

            shutil.rmtree(self.workspace.path("archives", self.name), ignore_errors=True)
        elif self.workspace.exists("archives", self.name):
            self.workspace.fs().rm(self.workspace.url("archives", self.name), recursive=True)


def dumps(obj: Any) -> str:
    """Compact JSON."""
    return json.dumps(obj, separators=(",", ":"))
