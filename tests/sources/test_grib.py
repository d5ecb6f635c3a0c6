"""GRIB on real files, against cfgrib's own reading."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from eoflow.errors import BadInput
from eoflow.schema import FieldSchema
from eoflow.sources import grib
from eoflow.sources.base import AssetCorrupt, create
from eoflow.sources.infer import infer_entry

VALUES = np.random.default_rng(1).normal(280, 10, (19, 36))
UK, MEMBERS, GFS = (
    "grib/era5-2mt-2019-03-uk.grib",
    "grib/era5-levels-members.grib",
    "grib/gfs_2011100800_f072_2p5deg.grib2",
)


def read(path, context, **kwargs):
    entry = infer_entry("x", path, cache=context.cache, **kwargs)
    source = create(entry, context)
    (asset,) = source.plan(None)
    return entry, source.open(asset)


REFERENCE = """
import sys, cfgrib, numpy as np
out = {}
uk, members, gfs, target = sys.argv[1:]
def keep(prefix, path, names, **filters):
    ds = cfgrib.open_dataset(path, filter_by_keys=filters, indexpath=target + ".{short_hash}.idx", errors="ignore")
    for n in (*names, *ds.dims, "valid_time"):
        out[f"{prefix}/{n}"] = ds[n].transpose("time", "number", "isobaricInhPa", ..., missing_dims="ignore").values
keep("uk", uk, ["t2m"])
keep("members", members, ["z", "t"])
keep("isobaric", gfs, ["t", "u", "v", "gh"], typeOfLevel="isobaricInhPa")
keep("soil", gfs, ["t", "soilw"], typeOfLevel="depthBelowLandLayer")
keep("tropopause", gfs, ["gh", "trpp", "t"], typeOfLevel="tropopause")
keep("sea", gfs, ["prmsl", "mslet"], typeOfLevel="meanSea")
keep("surface", gfs, ["t", "sp", "orog", "lsm", "siconc"], typeOfLevel="surface", stepType="instant")
keep("accum", gfs, ["tp"], typeOfLevel="surface", stepType="accum")
np.savez(target, **out)
"""


@pytest.fixture(scope="module")
def cfgrib_read(realdata, tmp_path_factory):
    """What cfgrib reads, by `cube/variable`; in a process of its own: its multi-field mode can break the heap."""
    pytest.importorskip("cfgrib")
    target = tmp_path_factory.mktemp("cfgrib") / "reference.npz"
    run = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            REFERENCE,
            *(str(realdata / f) for f in (UK, MEMBERS, GFS)),
            str(target),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert target.is_file(), run.stderr
    return dict(np.load(target))


@pytest.mark.realdata
def test_hourly_era5_equals_cfgrib(realdata, context, cfgrib_read):
    entry, ds = read(realdata / UK, context)
    assert entry.schedule.cadence == "1h"
    assert ds.sizes["time"] == 744
    np.testing.assert_array_equal(ds.t2m, cfgrib_read["uk/t2m"])
    np.testing.assert_array_equal(ds.time, cfgrib_read["uk/valid_time"])
    np.testing.assert_allclose(ds.latitude, cfgrib_read["uk/latitude"])
    np.testing.assert_allclose(ds.longitude, cfgrib_read["uk/longitude"])


@pytest.mark.realdata
def test_members_equal_cfgrib(realdata, context, cfgrib_read):
    entry, ds = read(realdata / MEMBERS, context)
    assert entry.schedule.cadence == "12h"
    assert FieldSchema.of(ds, "12h").members == tuple(range(10))
    order = np.argsort(cfgrib_read["members/isobaricInhPa"])
    for name in ("z", "t"):
        np.testing.assert_array_equal(ds[name], cfgrib_read[f"members/{name}"][:, :, order])
    np.testing.assert_array_equal(ds.level, cfgrib_read["members/isobaricInhPa"][order])


@pytest.mark.realdata
def test_the_index_is_json_in_the_cache_and_nothing_is_written_beside_the_source(realdata, context):
    before = sorted(p.name for p in (realdata / "grib").iterdir())
    read(realdata / MEMBERS, context)
    assert sorted(p.name for p in (realdata / "grib").iterdir()) == before
    (found,) = (context.cache / "grib-index").iterdir()
    assert found.read_text().startswith('{"stamp"')


@pytest.fixture(scope="module")
def gfs(realdata, tmp_path_factory):
    from eoflow.sources.base import SourceContext

    context = SourceContext(tmp_path_factory.mktemp("gfs"), np.datetime64("2026-01-01", "ns"))
    entry, ds = read(realdata / GFS, context, cadence="6h")
    return entry, ds, context


@pytest.mark.realdata
def test_gfs_has_every_message_once_and_reopens_by_its_entry(gfs):
    entry, ds, context = gfs
    fields = sum(
        int(np.prod([n for d, n in da.sizes.items() if d not in ("time", "latitude", "longitude")]))
        for da in ds.values()
    )
    assert fields == 344  # 308 messages, 36 of which hold u and v
    assert str(ds.time.values[0])[:16] == "2011-10-11T00:00"
    assert ds.attrs["forecast_reference_time"] == "2011-10-08"
    source = create(entry, context)
    again = source.open(source.plan(None)[0])
    assert list(again) == list(ds)
    assert {v.name for v in FieldSchema.of(ds, "6h").static} == {"orog", "lsm"}
    names = set(ds)
    assert {
        "z",
        "t",
        "u",
        "v",
        "r",
        "w",
        "msl",
        "sp",
        "t2m",
        "u10",
        "v10",
        "skt",
        "tcwv",
        "tp",
        "t_tropopause",
        "t_depthBelowLandLayer",
        "u_maxWind",
        "tcc",
        "tcc_lowCloudLayer",
        "z_tropopause",
        "mslet",
    } <= names


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("cube", "names", "vertical"),
    [
        ("isobaric", {"t": ("t", 1), "u": ("u", 1), "v": ("v", 1), "z": ("gh", 9.80665)}, "isobaricInhPa"),
        ("soil", {"t_depthBelowLandLayer": ("t", 1), "soilw": ("soilw", 1)}, "depthBelowLandLayer"),
        ("tropopause", {"z_tropopause": ("gh", 9.80665), "trpp": ("trpp", 1), "t_tropopause": ("t", 1)}, None),
        ("sea", {"msl": ("prmsl", 1), "mslet": ("mslet", 1)}, None),
        (
            "surface",
            {"skt": ("t", 1), "sp": ("sp", 1), "orog": ("orog", 1), "lsm": ("lsm", 1), "siconc": ("siconc", 1)},
            None,
        ),
        ("accum", {"tp": ("tp", 1e-3)}, None),
    ],
)
def test_gfs_hypercubes_equal_cfgrib(gfs, cfgrib_read, cube, names, vertical):
    """Equal to the last bit, after the unit conversion where there is one."""
    _, ds, _ = gfs
    for mine, (theirs, factor) in names.items():
        raw = cfgrib_read[f"{cube}/{theirs}"]
        want = raw if factor == 1 else (raw.astype("f8") * factor).astype("f4")
        if vertical:
            want = want[np.argsort(cfgrib_read[f"{cube}/{vertical}"])]
        np.testing.assert_array_equal(ds[mine].squeeze(), want, err_msg=mine)


def file_of(path, *messages):
    path.write_bytes(b"".join(messages))
    return path


def test_truncated_files_are_refused_with_their_name(tmp_path, context, make_grib):
    m = make_grib("2t", VALUES, level_type="heightAboveGround", level=2)
    path = file_of(tmp_path / "cut.grib2", m, m[:-100])
    with pytest.raises(AssetCorrupt, match="message 2"):
        grib.scan(str(path))
    with pytest.raises(BadInput, match=r"(?s)truncated.*cut\.grib2"):
        infer_entry("x", path, cache=context.cache, cadence="6h")
    with pytest.raises(BadInput, match="empty"):
        infer_entry("x", file_of(tmp_path / "e.grib"), cache=context.cache)


def test_a_file_cut_after_planning_is_corrupt(tmp_path, context, make_grib):
    ms = [make_grib("2t", VALUES + i, level_type="heightAboveGround", level=2, hour=6 * i) for i in range(3)]
    path = file_of(tmp_path / "a.grib2", *ms)
    entry = infer_entry("x", path, cache=context.cache)
    source = create(entry, context)
    ds = source.open(source.plan(None)[0])
    path.write_bytes(b"".join(ms)[: -len(ms[2]) // 2])
    with pytest.raises(AssetCorrupt, match=r"(?s)a\.grib2"):
        ds.load()


def test_pressures_in_pa_and_hpa_make_one_coordinate(tmp_path, context, make_grib):
    path = file_of(
        tmp_path / "a.grib2",
        make_grib("t", VALUES, level=500, level_type="isobaricInhPa"),
        make_grib("t", VALUES + 1, level=50, level_type="isobaricInPa"),
    )
    _, ds = read(path, context, cadence="6h")
    np.testing.assert_array_equal(ds.level, [0.5, 500])
    np.testing.assert_allclose(ds.t[0, 0], VALUES + 1, atol=1e-3)


def test_two_steps_of_one_run_are_two_valid_times(tmp_path, context, make_grib):
    path = file_of(
        tmp_path / "a.grib2",
        *(make_grib("2t", VALUES + s, level_type="heightAboveGround", level=2, step=s) for s in (6, 12)),
    )
    entry, ds = read(path, context)
    assert (entry.schedule.start, entry.schedule.cadence) == ("2024-03-01T06:00", "6h")
    np.testing.assert_allclose(ds.t2m[1], VALUES + 12, atol=1e-3)
    assert ds.attrs["forecast_reference_time"] == "2024-03-01"


def test_what_is_ambiguous_is_refused(tmp_path, context, make_grib):
    a = make_grib("2t", VALUES, level_type="heightAboveGround", level=2)
    with pytest.raises(BadInput, match="two messages hold 't2m@heightAboveGround'"):
        read(file_of(tmp_path / "a.grib2", a, a), context, cadence="6h")
    later = make_grib("2t", VALUES, level_type="heightAboveGround", level=2, hour=6)
    earlier = make_grib("2t", VALUES, level_type="heightAboveGround", level=2, hour=0, step=6)
    with pytest.raises(BadInput, match=r"several forecasts of 't2m@heightAboveGround' are valid at 2024-03-01T06:00"):
        read(file_of(tmp_path / "b.grib2", a, later, earlier), context)
    other = make_grib("t", np.zeros((10, 36)) + 280.0, level=500, level_type="isobaricInhPa")
    with pytest.raises(BadInput, match="2 different grids"):
        read(file_of(tmp_path / "c.grib2", a, other), context, cadence="6h")
    _, ds = read(
        tmp_path / "c.grib2", context, cadence="6h", overrides={"source": {"args": {"select": {"name": ["t2m"]}}}}
    )
    assert list(ds) == ["t2m"]
    with pytest.raises(BadInput, match="cannot select GRIB fields by 'shortname'"):
        read(
            tmp_path / "c.grib2", context, cadence="6h", overrides={"source": {"args": {"select": {"shortname": "2t"}}}}
        )


def test_a_missing_level_is_nan_there_and_nowhere_else(tmp_path, context, make_grib):
    path = file_of(
        tmp_path / "a.grib2",
        *(
            make_grib("t", VALUES, level=p, level_type="isobaricInhPa", hour=h)
            for p, h in ((500, 0), (850, 0), (500, 6))
        ),
    )
    _, ds = read(path, context)
    assert np.isnan(ds.t.values[1, 1]).all()
    assert np.isnan(ds.t).sum() == VALUES.size


def test_instantaneous_and_averaged_fields_are_told_apart(tmp_path, context, make_grib):
    instant = make_grib("prate", VALUES, level_type="surface", step=6)
    average = make_grib(
        "prate", VALUES + 1, level_type="surface", productDefinitionTemplateNumber=8, stepType="avg", stepRange="0-6"
    )
    entry, ds = read(file_of(tmp_path / "a.grib2", instant, average), context, cadence="6h")
    assert set(ds) == {"prate", "prate_avg"}
    assert entry.variables["prate_avg"].source_name == "prate@surface:avg"
    np.testing.assert_allclose(ds.prate_avg[0], VALUES + 1, atol=1e-3)
