"""GRIB on a server beside an index: ECMWF open data (`.index`) and NOAA (`.idx`); only the wanted messages are fetched.

An asset is one valid time: the messages of the entry's variables out of one file. They are fetched as byte ranges,
neighbouring ones in one request, into the cache folder and read from there by the GRIB driver.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import string
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from eoflow.errors import BadInput
from eoflow.sources import conventions, grib, remote
from eoflow.sources.base import Area, Asset, AssetCorrupt, AssetMissing, SourceContext
from eoflow.sources.files import check_args, reading_of
from eoflow.times import NS, Period, format_duration, iso, parse_duration, parse_time

if TYPE_CHECKING:
    import xarray as xr

    from eoflow.catalog import DatasetEntry

JOIN_GAP = 64 * 1024
"""Ranges closer than this are fetched as one: a request costs more than these bytes."""
CACHE_BYTES = 2 * 2**30

# eoflow's name -> (parameter, level) as the index spells them; {level} is filled in for pressure levels
GFS_FIELDS: dict[str, tuple[str, str]] = {
    "z": ("HGT", "{level} mb"),
    "t": ("TMP", "{level} mb"),
    "u": ("UGRD", "{level} mb"),
    "v": ("VGRD", "{level} mb"),
    "q": ("SPFH", "{level} mb"),
    "r": ("RH", "{level} mb"),
    "w": ("VVEL", "{level} mb"),
    "o3": ("O3MR", "{level} mb"),
    "t2m": ("TMP", "2 m above ground"),
    "d2m": ("DPT", "2 m above ground"),
    "u10": ("UGRD", "10 m above ground"),
    "v10": ("VGRD", "10 m above ground"),
    "u100": ("UGRD", "100 m above ground"),
    "v100": ("VGRD", "100 m above ground"),
    "msl": ("PRMSL", "mean sea level"),
    "sp": ("PRES", "surface"),
    "skt": ("TMP", "surface"),
    "lsm": ("LAND", "surface"),
    "orog": ("HGT", "surface"),
    "tp": ("APCP", "surface"),
    "siconc": ("ICEC", "surface"),
    "tcwv": ("PWAT", "entire atmosphere (considered as a single layer)"),
}
ECMWF_FIELDS: dict[str, tuple[str, str]] = {
    "z": ("gh", "pl"),
    "t": ("t", "pl"),
    "u": ("u", "pl"),
    "v": ("v", "pl"),
    "q": ("q", "pl"),
    "r": ("r", "pl"),
    "w": ("w", "pl"),
    "vo": ("vo", "pl"),
    "d": ("d", "pl"),
    "t2m": ("2t", "sfc"),
    "d2m": ("2d", "sfc"),
    "u10": ("10u", "sfc"),
    "v10": ("10v", "sfc"),
    "u100": ("100u", "sfc"),
    "v100": ("100v", "sfc"),
    "msl": ("msl", "sfc"),
    "sp": ("sp", "sfc"),
    "skt": ("skt", "sfc"),
    "tp": ("tp", "sfc"),
    "tcwv": ("tcwv", "sfc"),
    "lsm": ("lsm", "sfc"),
    "orog": ("z", "sfc"),
}


@dataclass(frozen=True)
class Message:
    """One line of an index: parameter, level (pressure in hPa as text, or a level type), bytes [start, end)."""

    param: str
    level: str
    start: int
    end: int | None
    step: str = ""


def parse_ecmwf(text: str, where: str) -> list[Message]:
    """JSON lines with param, levtype, levelist, step, _offset, _length. Raises AssetCorrupt for anything else."""
    out = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            d = json.loads(line)
            start, length = int(d["_offset"]), int(d["_length"])
            level = str(d.get("levelist", "")) if d.get("levtype") == "pl" else str(d.get("levtype", ""))
            out.append(
                Message(
                    str(d["param"]),
                    f"pl {level}" if d.get("levtype") == "pl" else level,
                    start,
                    start + length,
                    str(d.get("step", "")),
                )
            )
        except (ValueError, KeyError, TypeError):
            raise _bad_index(where, number, line) from None
    return out


def parse_gfs(text: str, where: str) -> list[Message]:
    """wgrib2 inventory lines `n:offset:d=...:PARAM:level:step:`; the last message ends where the file does."""
    rows: list[tuple[int, str, str, str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        parts = line.split(":")
        if len(parts) < 6 or not parts[1].isdigit():
            raise _bad_index(where, number, line)
        rows.append((int(parts[1]), parts[3], parts[4], parts[5]))
    offsets = sorted({r[0] for r in rows})
    after = dict(zip(offsets, [*offsets[1:], None]))
    return [Message(param, level, start, after[start], step) for start, param, level, step in rows]


def _bad_index(where: str, number: int, line: str) -> AssetCorrupt:
    return AssetCorrupt(
        f"line {number} of the index is not readable: {line[:60]!r}", where=where, todo="fetch it again later"
    )


class GribIndexSource:
    """One asset for each time of the schedule.

    source:
      driver: grib-index
      args:
        base: https://...                       the server; override it for a mirror
        path: "{init:%Y%m%d}/.../f{step:03d}"   below base; filled in: {init}, {step} (hours), the keys of `defaults`
        index: "{path}.idx"                     where the index lies; {stem} is the path without its suffix
        format: gfs | ecmwf
        run_every: 6h                           the model starts at multiples of it
        steps: [0, 3]                           steps (hours) that may stand for a time, the first that fits is taken
        by_hour: {"06": {stream: scda}}         what differs by the hour of the run; `defaults` holds the rest
        until: {"2026-05-12T06:00": {...}}      what differed for runs before a time, in the form of by_hour
    """

    ARGS: ClassVar[tuple[str, ...]] = (
        "base",
        "path",
        "index",
        "format",
        "run_every",
        "steps",
        "defaults",
        "by_hour",
        "until",
        "cache_mb",
        "fields",
        "retry_wait_s",
    )
    FORMATS: ClassVar[dict[str, Any]] = {"gfs": (parse_gfs, GFS_FIELDS), "ecmwf": (parse_ecmwf, ECMWF_FIELDS)}

    def __init__(self, entry: DatasetEntry, context: SourceContext) -> None:
        check_args(entry, self.ARGS)
        args = entry.source.args
        for key in ("base", "path", "index", "format"):
            if not args.get(key):
                raise BadInput(
                    f"dataset '{entry.name}' lacks source.args.{key}",
                    todo="see `eoflow datasets show gfs` for one that works",
                )
        if args["format"] not in self.FORMATS:
            raise BadInput(
                f"no index format '{args['format']}'", where="source.args.format", todo="choose gfs or ecmwf"
            )
        if not entry.variables:
            raise BadInput(
                f"dataset '{entry.name}' names no variables", todo="list the variables to fetch: a run has hundreds"
            )
        self.entry, self.context, self.args = entry, context, args
        self.parse, known = self.FORMATS[args["format"]]
        extra = {k: (str(v[0]), str(v[1])) for k, v in dict(args.get("fields", {})).items()}
        self.fields = {**known, **extra}
        for name in entry.variables:
            if name not in self.fields:
                raise BadInput(
                    f"it is not known what '{name}' is called in a {args['format']} index",
                    where="source.args.fields",
                    todo=f"write  fields: {{{name}: [PARAMETER, LEVEL]}}",
                )

    # -- planning ----------------------------------------------------------------------------------------------------

    def plan(self, period: Period | None, area: Area | None = None) -> list[Asset]:
        """One asset a time that the schedule expects; nothing is looked up on the server."""
        out = []
        for time in self.entry.schedule.expected(period, self.context.now):
            init, step = self._run(time)
            url, index = self._urls(init, step)
            args: dict[str, Any] = {"index": index, "init": iso(init), "step": step}
            if area:
                args["area"] = list(area)
            out.append(Asset(id=f"{iso(time)}", times=np.array([time], NS), href=url, args=args))
        return out

    def _run(self, time: np.datetime64) -> tuple[np.datetime64, int]:
        """(start of the run, step in hours) that stand for a valid time."""
        every = parse_duration(self.args.get("run_every", self.entry.schedule.cadence))
        for step in self.args.get("steps", [0]):
            init = time - np.timedelta64(int(step), "h")
            if (init - init.astype("datetime64[D]").astype(NS)) % every == np.timedelta64(0, "ns"):
                return init, int(step)
        raise BadInput(
            f"no run every {format_duration(every)} with steps {self.args.get('steps', [0])} h is valid at {iso(time)}",
            where=f"dataset {self.entry.name}",
            todo="correct cadence, run_every or steps",
        )

    def _urls(self, init: np.datetime64, step: int) -> tuple[str, str]:
        hour = str(init.astype("datetime64[h]"))[-2:]
        names = {**dict(self.args.get("defaults", {})), **dict(self.args.get("by_hour", {})).get(hour, {})}
        for before, other in sorted(dict(self.args.get("until", {})).items(), reverse=True):
            if init < parse_time(before):
                names |= dict(other).get(hour, {})
        when = init.astype("datetime64[s]").item()
        path = _fill(str(self.args["path"]), {"init": when, "step": step, **names})
        stem = re.sub(r"\.[A-Za-z0-9]+$", "", path)
        index = _fill(str(self.args["index"]), {"init": when, "step": step, "path": path, "stem": stem, **names})
        base = str(self.args["base"]).rstrip("/")
        return f"{base}/{path}", f"{base}/{index}"

    # -- fetching ----------------------------------------------------------------------------------------------------

    def wanted(self, messages: Iterable[Message], where: str) -> list[Message]:
        """The messages of the entry's variables. Raises AssetMissing naming the first that the index lacks."""
        table: dict[tuple[str, str], Message] = {}
        for m in messages:
            table.setdefault((m.param, m.level), m)
        out = []
        for name, variable in (self.entry.variables or {}).items():
            param, level = self.fields[name]
            if level == "pl":
                level = "pl {level}"
            if "{level}" in level and variable.levels is None:
                raise BadInput(
                    f"'{name}' lives on pressure levels, and the entry does not say which",
                    where=f"dataset {self.entry.name}",
                    todo=f"write  {name}: {{levels: [500, 850]}}",
                )
            for value in (variable.levels or ()) if "{level}" in level else (0.0,):
                key = param, level.format(level=f"{value:g}")
                if key not in table:
                    raise AssetMissing(
                        f"the index has no {key[0]} at {key[1]} (for '{name}')",
                        where=where,
                        todo="the provider may not have written it yet; try again later",
                    )
                out.append(table[key])
        return [m for _, m in sorted({m.start: m for m in out}.items())]  # u and v may share one message

    def open(self, asset: Asset) -> xr.Dataset:
        """Fetch the wanted messages (once; later from the cache) and read them."""
        file = self._cached(asset)
        area = tuple(asset.args["area"]) if asset.args.get("area") else None
        raw = grib.open_raw(grib.index(str(file), self.context.cache))
        raw.attrs["forecast_reference_time"] = asset.args["init"]
        return conventions.canonical(raw, asset.href, reading_of(self.entry, area), asset.times)

    def _cached(self, asset: Asset) -> Path:
        folder = self.context.cache / "grib-messages" / self.entry.name
        content = json.dumps([asset.href, {k: v.levels for k, v in (self.entry.variables or {}).items()}])
        stamp = iso(asset.times[0]).replace(":", "")
        target = folder / f"{stamp}-{hashlib.sha256(content.encode()).hexdigest()[:12]}.grib"
        if not target.exists():
            folder.mkdir(parents=True, exist_ok=True)
            temp = target.with_suffix(f".{os.getpid()}.tmp")
            try:
                self._fetch(asset, temp)
                temp.replace(target)
            finally:
                temp.unlink(missing_ok=True)
            _prune(folder, int(self.args.get("cache_mb", CACHE_BYTES // 2**20)) * 2**20, keep=target)
        return target

    def _fetch(self, asset: Asset, target: Path) -> None:
        """The messages of one asset, checked to be whole, one after the other in `target`."""
        from eoflow.sources import grib_messages as gm

        wait = float(self.args.get("retry_wait_s", 0.5))
        text = remote.read(asset.args["index"], wait=wait).decode("utf-8", "replace")
        messages = self.wanted(self.parse(text, asset.args["index"]), asset.args["index"])
        with target.open("wb") as f:
            for run in _joined(messages):
                data = remote.read(asset.href, run[0].start, run[-1].end, wait=wait)
                for m in run:
                    body = data[m.start - run[0].start : (m.end or run[0].start + len(data)) - run[0].start]
                    where = f"{asset.href}, {m.param} at {m.level}"
                    if not body.startswith(b"GRIB"):
                        raise AssetCorrupt(
                            "the index points beside the messages of the file",
                            where=where,
                            todo="file and index do not belong together: try again later",
                        )
                    list(gm.frames(body, where))
                    f.write(body)


def _joined(messages: list[Message]) -> list[list[Message]]:
    """Runs of messages that are fetched in one request; an open end stands alone."""
    runs: list[list[Message]] = []
    for m in messages:
        last = runs[-1][-1] if runs else None
        if last is not None and last.end is not None and m.end is not None and m.start - last.end <= JOIN_GAP:
            runs[-1].append(m)
        else:
            runs.append([m])
    return runs


def _prune(folder: Path, limit: int, keep: Path) -> None:
    """Delete the oldest fetched files above the limit; never the newest sixteen, which may still be open lazily."""
    files = sorted((p for p in folder.glob("*.grib") if p != keep), key=lambda p: p.stat().st_mtime, reverse=True)
    total = keep.stat().st_size
    for i, p in enumerate(files):
        total += p.stat().st_size
        if total > limit and i >= 15:
            p.unlink(missing_ok=True)


class _Plain(string.Formatter):
    """Templates may name values and format them, and nothing else: no attributes, no items."""

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:
        if not re.fullmatch(r"[A-Za-z_]\w*", field_name) or field_name not in kwargs:
            raise BadInput(
                f"unknown placeholder '{{{field_name}}}'",
                where="source.args",
                todo=f"choose from {', '.join(sorted(kwargs))}",
            )
        return kwargs[field_name], field_name


def _fill(template: str, values: dict[str, Any]) -> str:
    return _Plain().vformat(template, (), values)
