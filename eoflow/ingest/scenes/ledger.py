"""The ledger of a scene dataset: one row for each scene and tile that was ever planned. It lies in the cube (group
`ledger`) and changes in the same commit as the pixels, so it can never say more or less than what is stored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from eoflow import chunks
from eoflow.archive import MAIN, Archive
from eoflow.cube_layout import TIME_UNITS, encode_times
from eoflow.ingest.ledger import GROUP, Status

if TYPE_CHECKING:
    import zarr

    from eoflow.transaction import Transaction

Array = np.ndarray[Any, Any]
CHUNK = 1024
NO_STEP = np.iinfo(np.int64).min
_TIME = {"units": TIME_UNITS, "calendar": "proleptic_gregorian"}
_COLUMNS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "scene": ("string", "", {"long_name": "the provider's id of the scene"}),
    "tile": ("string", "", {"long_name": "tile; empty where it is not known before the scene is opened"}),
    "time": ("int64", 0, {"standard_name": "time", "long_name": "acquisition", **_TIME}),
    "step": ("int64", NO_STEP, {"long_name": "time step of the tile that the scene belongs to", **_TIME}),
    "status": (
        "uint8", 0,
        {
            "long_name": "what is known of the scene", "standard_name": "status_flag",
            "flag_values": [int(s) for s in Status], "flag_meanings": " ".join(s.name.lower() for s in Status),
        },
    ),
    "reason": ("string", "", {"long_name": "why the scene is not present, or what of it is not"}),
    "version": ("string", "", {"long_name": "version of the scene (changes when it is published again)"}),
    "digest": ("uint64", 0, {"long_name": "digest of the scene's values on the tile's grid"}),
    "valid_fraction": ("float32", np.nan, {"long_name": "share of the tile where the scene has a value", "units": "1"}),
    "ingested_at": ("int64", 0, {"long_name": "when the status was set", "units": "seconds since 1970-01-01 00:00:00"}),
    "batch": ("string", "", {"long_name": "the commit that wrote the scene, by its `batch` in the history"}),
}  # fmt: skip
Key = tuple[str, str]


@dataclass
class Row:
    """One line: a scene on a tile. time, step: microseconds since 1970 (step NO_STEP: none yet). digest: 0 if nothing
    is stored. ingested_at: seconds since 1970."""

    scene: str
    tile: str
    time: int
    step: int = NO_STEP
    status: int = int(Status.NEVER_TRIED)
    reason: str = ""
    version: str = ""
    digest: int = 0
    valid_fraction: float = float("nan")
    ingested_at: int = 0
    batch: str = ""

    @property
    def key(self) -> Key:
        """Scene and tile."""
        return self.scene, self.tile

    @property
    def present(self) -> bool:
        """Whether the scene is stored."""
        return self.status == int(Status.PRESENT)

    @property
    def when(self) -> np.datetime64:
        """Acquisition, datetime64[ns]."""
        return np.datetime64(self.time, "us").astype("datetime64[ns]")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        from eoflow.times import iso

        step = None if self.step == NO_STEP else iso(np.datetime64(self.step, "us"))
        fraction = None if np.isnan(self.valid_fraction) else round(float(self.valid_fraction), 6)
        return {
            "scene": self.scene, "tile": self.tile, "time": iso(self.when), "step": step,
            "status": Status(self.status).word, "reason": self.reason, "version": self.version,
            "digest": f"{self.digest:016x}", "valid_fraction": fraction,
            "ingested_at": iso(np.datetime64(self.ingested_at, "s")), "batch": self.batch,
        }  # fmt: skip


@dataclass
class SceneLedger:
    """The rows by (scene, tile), in the order in which they were first planned."""

    rows: dict[Key, Row] = field(default_factory=dict)
    _stored: int = 0
    _first_change: int | None = None

    @classmethod
    def load(cls, archive: Archive, as_of: str | None = None, branch: str = MAIN) -> SceneLedger:
        """The ledger of the newest state, of `as_of`, or of a branch. Empty if there is none yet."""
        return cls.read(archive.zarr_group(as_of, branch))

    @classmethod
    def read(cls, root: zarr.Group) -> SceneLedger:
        """From an open root group."""
        if GROUP not in root:
            return cls()
        g: Any = root[GROUP]
        stored = chunks.read_together(chunks.open_together(g, _COLUMNS).values())
        kinds = [kind for kind, _, _ in _COLUMNS.values()]
        columns = [v.astype(object if k == "string" else k).tolist() for v, k in zip(stored, kinds, strict=True)]
        rows = [Row(*values) for values in zip(*columns, strict=True)]
        return cls({r.key: r for r in rows}, len(rows))

    def write(self, tx: Transaction) -> None:
        """Store what has changed."""
        g: Any = tx.group.require_group(GROUP)
        rows = list(self.rows.values())
        first = len(rows) if self._first_change is None else self._first_change
        first = min(first, self._stored) // CHUNK * CHUNK
        if next(iter(_COLUMNS)) not in g:
            for name, (kind, fill, attrs) in _COLUMNS.items():
                g.create_array(
                    name, shape=(0,), chunks=(CHUNK,), dtype=kind, fill_value=fill, dimension_names=("row",),
                    attributes=attrs,
                )  # fmt: skip
        arrays = chunks.open_together(g, _COLUMNS)
        size = next(iter(arrays.values())).shape[0]
        if size < len(rows):
            chunks.lengthen(arrays.values(), len(rows))
        for name, (kind, _, _) in _COLUMNS.items():
            if size > len(rows):
                arrays[name].resize((len(rows),))
            if first < len(rows):
                values = [getattr(r, name) for r in rows[first:]]
                arrays[name][first:] = np.asarray(values, dtype=object if kind == "string" else kind)
        self._stored, self._first_change = len(rows), None

    def _touch(self, key: Key) -> None:
        at = next(i for i, k in enumerate(self.rows) if k == key) if key in self.rows else len(self.rows)
        self._first_change = at if self._first_change is None else min(at, self._first_change)

    def plan(self, scene: str, tile: str, time: np.datetime64) -> Row:
        """The row of a scene on a tile; a new one says `never tried`."""
        if (scene, tile) not in self.rows:
            self.rows[scene, tile] = Row(scene, tile, int(encode_times(np.array([time]))[0]))
        return self.rows[scene, tile]

    def set(self, row: Row) -> None:
        """Put a row in place of the one with its key."""
        self._touch(row.key)
        self.rows[row.key] = row

    def drop(self, key: Key) -> None:
        """Forget a row: the scene turned out not to touch the tile."""
        if key in self.rows:
            self._touch(key)
            del self.rows[key]

    def get(self, scene: str, tile: str) -> Row | None:
        """The row, if there is one."""
        return self.rows.get((scene, tile))

    def of_tile(self, tile: str) -> list[Row]:
        """All rows of a tile."""
        return [r for r in self.rows.values() if r.tile == tile]

    def by_scene(self) -> dict[str, list[Row]]:
        """Rows by scene id."""
        out: dict[str, list[Row]] = {}
        for row in self.rows.values():
            out.setdefault(row.scene, []).append(row)
        return out

    def newest(self) -> np.datetime64 | None:
        """Acquisition of the newest row, datetime64[ns]."""
        return max((r.when for r in self.rows.values()), default=None)
