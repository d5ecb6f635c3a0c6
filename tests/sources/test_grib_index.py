"""The GFS and ECMWF open-data layouts on a loopback server with ranges."""

from __future__ import annotations

import json

import numpy as np
import pytest

from eoflow import catalog
from eoflow.errors import BadInput
from eoflow.sources import grib_index, remote
from eoflow.sources.base import AssetCorrupt, AssetMissing, AssetTransient, SourceContext, create
from eoflow.times import Period

LEVELS = (50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)
DAY = Period.parse("2024-03-01")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(remote.time, "sleep", lambda s: None)


def field(seed):
    return np.random.default_rng(seed).normal(1000, 10, (7, 12))


def gfs_messages(make_grib, hour):
    """[(index parameter, index level, GRIB message, values)] as in a GFS file, unwanted fields between."""
    rows = [("PRMSL", "mean sea level", "prmsl", "meanSea", 0), ("CLWMR", "1 hybrid level", "clwmr", "hybrid", 1)]
    for p in LEVELS:
        rows += [
            (a, f"{p} mb", b, "isobaricInhPa", p)
            for a, b in (("HGT", "gh"), ("TMP", "t"), ("RH", "r"), ("UGRD", "u"), ("VGRD", "v"), ("SPFH", "q"))
        ]
    rows += [
        ("PRES", "surface", "sp", "surface", 0),
        ("HGT", "surface", "orog", "surface", 0),
        ("TMP", "2 m above ground", "2t", "heightAboveGround", 2),
        ("UGRD", "10 m above ground", "10u", "heightAboveGround", 10),
        ("VGRD", "10 m above ground", "10v", "heightAboveGround", 10),
        ("LAND", "surface", "lsm", "surface", 0),
    ]
    return [
        (a, b, make_grib(n, field(1000 * hour + i), level=v, level_type=t, hour=hour), field(1000 * hour + i))
        for i, (a, b, n, t, v) in enumerate(rows)
    ]


def put_gfs(server, make_grib, hours=(0, 6)):
    values = {}
    for hour in hours:
        folder = server.root / "gfs.20240301" / f"{hour:02d}" / "atmos"
        folder.mkdir(parents=True)
        data, lines, n = b"", [], 1
        for param, level, message, v in gfs_messages(make_grib, hour):
            lines.append(f"{n}:{len(data)}:d=20240301{hour:02d}:{param}:{level}:anl:")
            values[hour, param, level] = v
            data += message
            n += 1
        name = f"gfs.t{hour:02d}z.pgrb2.0p25.f000"
        (folder / name).write_bytes(data)
        (folder / f"{name}.idx").write_text("\n".join(lines) + "\n")
    return values


def at(name, server, **args):
    entry = catalog.dataset(name)
    source = entry.source.model_copy(update={"args": {**entry.source.args, "base": server.url, **args}})
    return entry.model_copy(update={"source": source})


def test_gfs(server, context, make_grib):
    values = put_gfs(server, make_grib)
    entry = at("gfs", server)
    source = create(entry, context)
    assets = source.plan(DAY)
    assert [a.args["init"] for a in assets] == [
        "2024-03-01",
        "2024-03-01T06:00",
        "2024-03-01T12:00",
        "2024-03-01T18:00",
    ]
    ds = source.open(assets[1])
    assert list(ds) == list(entry.variables)
    assert ds.time.values == np.datetime64("2024-03-01T06", "ns")
    np.testing.assert_array_equal(ds.level, LEVELS)
    for name, param, factor in (("z", "HGT", 9.80665), ("t", "TMP", 1), ("v", "VGRD", 1), ("q", "SPFH", 1)):
        for i, p in enumerate(LEVELS):
            np.testing.assert_allclose(ds[name][0, i], values[6, param, f"{p} mb"] * factor, rtol=1e-5)
    np.testing.assert_allclose(ds.msl[0], values[6, "PRMSL", "mean sea level"], rtol=1e-6)
    np.testing.assert_allclose(ds.t2m[0], values[6, "TMP", "2 m above ground"], rtol=1e-6)
    np.testing.assert_allclose(ds.orog, values[6, "HGT", "surface"], rtol=1e-6)
    ranges = [r for p, r in server.log if p.endswith("f000")]
    assert all(ranges)
    assert len(ranges) < 20  # neighbours come in one request


def test_only_the_wanted_bytes_travel_and_only_once(server, context, make_grib, monkeypatch):
    put_gfs(server, make_grib, (0,))
    monkeypatch.setattr(grib_index, "JOIN_GAP", 0)
    entry = at("gfs", server).model_copy(
        update={"variables": {"msl": catalog.VariableEntry(), "t": catalog.VariableEntry(levels=(500.0,))}}
    )
    source = create(entry, context)
    source.open(source.plan(DAY)[0]).load()
    ranges = [r for p, r in server.log if p.endswith("f000")]
    assert len(ranges) == 2
    before = len(server.log)
    again = create(entry, context)
    again.open(again.plan(DAY)[0]).load()
    assert len(server.log) == before


def test_area(server, context, make_grib):
    put_gfs(server, make_grib, (0,))
    source = create(at("gfs", server), context)
    asset = source.plan(DAY, (-60.0, 0.0, 60.0, 90.0))[0]
    ds = source.open(asset)
    np.testing.assert_array_equal(ds.longitude, [-60, -30, 0, 30, 60])
    np.testing.assert_array_equal(ds.latitude, [90, 60, 30, 0])


def test_ecmwf(server, context, make_grib):
    folder = server.root / "20240301" / "06z" / "ifs" / "0p25" / "scda"
    folder.mkdir(parents=True)
    rows = [("gh", "gh", "pl", p) for p in LEVELS] + [
        (n, n, "pl", p) for n in ("t", "u", "v", "q", "r") for p in LEVELS
    ]
    rows += [
        ("msl", "prmsl", "sfc", 0),
        ("sp", "sp", "sfc", 0),
        ("2t", "2t", "sfc", 2),
        ("2d", "2d", "sfc", 2),
        ("10u", "10u", "sfc", 10),
        ("10v", "10v", "sfc", 10),
    ]
    data, lines, values = b"", [], {}
    for i, (param, short, levtype, level) in enumerate(rows):
        kind = (
            "isobaricInhPa" if levtype == "pl" else {"msl": "meanSea", "sp": "surface"}.get(param, "heightAboveGround")
        )
        message = make_grib(short, field(i), level=level, level_type=kind, hour=6)
        line = {
            "domain": "g",
            "date": "20240301",
            "time": "0600",
            "step": "0",
            "levtype": levtype,
            "param": param,
            "_offset": len(data),
            "_length": len(message),
        }
        lines.append(json.dumps({**line, "levelist": str(level)} if levtype == "pl" else line))
        values[param, level] = field(i)
        data += message
    (folder / "20240301060000-0h-scda-fc.grib2").write_bytes(data)
    (folder / "20240301060000-0h-scda-fc.index").write_text("\n".join(lines))
    source = create(at("ecmwf-open-data", server), context)
    ds = source.open(source.plan(DAY)[1])
    np.testing.assert_allclose(ds.z[0, 7], values["gh", 500] * 9.80665, rtol=1e-5)
    np.testing.assert_allclose(ds.t2m[0], values["2t", 2], rtol=1e-6)
    np.testing.assert_allclose(ds.msl[0], values["msl", 0], rtol=1e-6)


def test_the_ecmwf_stream_changed_with_cycle_50r1(server, tmp_path):
    context = SourceContext(tmp_path, np.datetime64("2026-06-01", "ns"))
    source = create(at("ecmwf-open-data", server), context)
    names = [a.href.rsplit("/", 1)[-1] for a in source.plan(Period.parse("2026-05-11T12:00/2026-05-12T06:00"))]
    assert names == [
        "20260511120000-0h-oper-fc.grib2",
        "20260511180000-0h-scda-fc.grib2",
        "20260512000000-0h-oper-fc.grib2",
        "20260512060000-0h-oper-fc.grib2",
    ]


def test_not_published_yet_is_missing_and_server_errors_are_tried_again(server, context, make_grib):
    put_gfs(server, make_grib, (0,))
    source = create(at("gfs", server), context)
    first, second, *_ = source.plan(DAY)
    with pytest.raises(AssetMissing, match="not found"):
        source.open(second)
    index = "/gfs.20240301/00/atmos/gfs.t00z.pgrb2.0p25.f000.idx"
    server.faults[index] = [503, 500]
    assert source.open(first).sizes["time"] == 1
    server.faults[index.removesuffix(".idx")] = [503] * 50
    other = create(at("gfs", server).model_copy(update={"name": "other"}), context)
    with pytest.raises(AssetTransient):
        other.open(first)


def test_an_index_of_another_file_and_a_file_that_is_cut(server, context, make_grib):
    put_gfs(server, make_grib, (0,))
    file = server.root / "gfs.20240301/00/atmos/gfs.t00z.pgrb2.0p25.f000"
    data = file.read_bytes()
    source = create(at("gfs", server), context)
    asset = source.plan(DAY)[0]
    file.write_bytes(b"x" * 10 + data)
    with pytest.raises(AssetCorrupt, match="points beside the messages"):
        source.open(asset)
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(AssetCorrupt, match=r"asked for|not be read|truncated"):
        source.open(asset)
    index = file.with_name(file.name + ".idx")
    index.write_text("\n".join(line for line in index.read_text().splitlines() if ":PRMSL:" not in line))
    with pytest.raises(AssetMissing, match="no PRMSL at mean sea level"):
        source.open(asset)
    index.write_text("<html>")
    with pytest.raises(AssetCorrupt, match="line 1 of the index"):
        source.open(asset)
    assert not list(context.cache.rglob("*.tmp"))


def test_bad_entries_are_refused(server, context):
    with pytest.raises(BadInput, match="did you mean 'steps'"):
        create(at("gfs", server, step=[0]), context)
    with pytest.raises(BadInput, match="unknown placeholder"):
        create(at("gfs", server, path="{nope}/x"), context).plan(DAY)
    with pytest.raises(BadInput, match="unknown placeholder"):
        create(at("gfs", server, path="{init.__class__}"), context).plan(DAY)
    with pytest.raises(BadInput, match="names no variables"):
        create(at("gfs", server).model_copy(update={"variables": None}), context)
    with pytest.raises(BadInput, match="what 'dust' is called"):
        create(at("gfs", server).model_copy(update={"variables": {"dust": catalog.VariableEntry()}}), context)
    bare = create(at("gfs", server).model_copy(update={"variables": {"t": catalog.VariableEntry()}}), context)
    with pytest.raises(BadInput, match="does not say which"):
        bare.wanted([], "x")


def test_steps_fill_the_hours_between_runs(server, context):
    entry = at("gfs", server, steps=[0, 3])
    entry = entry.model_copy(update={"schedule": entry.schedule.model_copy(update={"cadence": "3h"})})
    hrefs = [
        a.href.rsplit("/", 1)[-1]
        for a in create(entry, context).plan(Period.parse("2024-03-01T00:00/2024-03-01T09:00"))
    ]
    assert hrefs == [
        "gfs.t00z.pgrb2.0p25.f000",
        "gfs.t00z.pgrb2.0p25.f003",
        "gfs.t06z.pgrb2.0p25.f000",
        "gfs.t06z.pgrb2.0p25.f003",
    ]


def test_messages_of_one_offset_are_fetched_once():
    text = "1:0:d=2011:UGRD:500 mb:anl:\n1.2:0:d=2011:VGRD:500 mb:anl:\n2:99:d=2011:TMP:500 mb:anl:"
    u, v, t = grib_index.parse_gfs(text, "x")
    assert (u.start, u.end, v.start, v.end, t.start, t.end) == (0, 99, 0, 99, 99, None)
