"""The cube as it is read, its room along time, and its layout against a plain dict of arrays."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from cubes import band, grid, make_cube, schema_of
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from eoflow import cube_layout as lay
from eoflow.catalog import SourceRef
from eoflow.catalog_scenes import SceneEntry, SceneSchedule, TileScheme
from eoflow.cube import Cube
from eoflow.errors import BadInput
from eoflow.ingest.scenes.writing import write_step
from eoflow.quality import Quality
from eoflow.tiling import to_degrees
from eoflow.workspace import Workspace

TIMES = ["2021-01-01T10:00:00.5", "2021-01-06", "2021-01-11"]


@pytest.fixture
def cube(workspace):
    rng = np.random.default_rng(0)
    red = rng.integers(1, 10000, (3, 150, 200)).astype("u2")
    red[0, :64, :64] = 0
    power = rng.normal(-10, 3, (3, 150, 200)).astype("f4")
    power[1, 5, 5] = np.nan
    height = rng.integers(-50, 50, (3, 150, 200)).astype("i2")
    bands = {"vv": {"units": "dB", "scale": 1.0, "offset": 0.0, "nodata": float("nan")},
             "dem": {"units": "m", "scale": 1.0, "offset": 0.0, "nodata": -9999}}  # fmt: skip
    tiles = {"A": {"red": red, "vv": power, "dem": height}, "B": {"red": red + 1, "vv": power, "dem": height}}
    return make_cube(workspace, "c", tiles, TIMES, bands=bands, overviews=(4, 2)), tiles


def test_reading(cube, workspace):
    c, tiles = cube
    c = Cube.load(workspace, c.name)
    assert c.tiles() == ["A", "B"]
    assert c.schema.names == ("red", "vv", "dem")
    assert c.chunk("A") == (64, 64)
    assert c.factors("A") == (2, 4)
    assert [str(t) for t in c.times("A")] == ["2021-01-01T10:00:00.500000000", "2021-01-06T00:00:00.000000000",
                                              "2021-01-11T00:00:00.000000000"]  # fmt: skip
    ds = c.open("A")
    for b in c.schema.names:
        np.testing.assert_array_equal(ds[b].values, tiles["A"][b])
        np.testing.assert_array_equal(np.asarray(c.group("A")[b][:]), tiles["A"][b])
    assert list(ds) == ["red", "vv", "dem", "quality", "scene"]
    real = c.open("A", physical=True)
    assert {real[b].dtype for b in c.schema.names} == {np.dtype("f4")}
    np.testing.assert_allclose(real.red.values[1], tiles["A"]["red"][1] * 1e-4 - 0.1, atol=2e-8)
    assert np.isnan(real.red.values[0, :64, :64]).all()
    assert "scale_factor" not in real.red.attrs
    plain = xr.open_zarr(c.archive.repo.readonly_session("main").store, group="tiles/A", consolidated=False)
    np.testing.assert_allclose(plain.red.values, real.red.values, atol=2e-8)
    np.testing.assert_allclose(plain.vv.values, tiles["A"]["vv"])
    np.testing.assert_allclose(plain.dem.values, tiles["A"]["dem"])
    assert c.open("B", level=2).sizes == {"time": 3, "y": 75, "x": 100}
    assert c.grid("B", level=2).resolution == (20.0, 20.0)


def test_points(cube):
    c, _ = cube
    g = c.grid("B")
    assert c.at(*to_degrees(g.crs, g.x()[7], g.y()[9])) == [("B", 9, 7)]
    assert c.at(100.0, 0.0) == []
    assert c.at(0.0, 90.0) == []


def test_what_is_not_there(cube, workspace):
    c, _ = cube
    with pytest.raises(BadInput, match="no tile 'C'"):
        c.open("C")
    with pytest.raises(BadInput, match="factor 3"):
        c.open("A", level=3)
    with pytest.raises(BadInput):
        Cube.load(workspace, "other")
    with pytest.raises(BadInput, match="already"):
        Cube.create(workspace, c.entry, c.schema)
    with pytest.raises(BadInput, match="tile name"), c.archive.transaction("x") as tx:
        lay.add_tile(tx, "../up", grid((64, 64)), (64, 64), c.schema)


def test_metadata_of_geozarr(cube):
    c, _ = cube
    attrs = dict(c.group("A").attrs)
    assert {x["name"] for x in attrs["zarr_conventions"]} == {"multiscales", "proj", "spatial"}
    assert attrs["proj:code"] == "EPSG:32632"
    for level in attrs["multiscales"]["layout"][1:]:
        group = c.group("A")[level["asset"]]
        assert list(group["red"].shape[1:]) == level["spatial:shape"]
        assert level["transform"]["scale"][0] * 10 == group.attrs["spatial:transform"][0]


# -- against a dict of arrays ----------------------------------------------------------------------------------------

SHAPE = (70, 130)
SPECS = (band("red"), band("vv", dtype="float32", units="dB", scale=1.0, offset=0.0, nodata=float("nan")))


class CubeMachine(RuleBasedStateMachine):
    """Appends, late times, rewrites and slots without content, in any order and several a commit."""

    @initialize(folder=st.just(None))
    def begin(self, folder):
        import tempfile

        self.temp = tempfile.TemporaryDirectory()
        self.ws = Workspace(self.temp.name)
        scheme = TileScheme(chunk=64, overviews=(4,))
        self.schema = schema_of(SPECS, scheme)
        entry = SceneEntry(
            name="m", title="m", source=SourceRef(driver="made"), sensor="s", level="l", tiles=scheme,
            schedule=SceneSchedule(start="2020-01-01"),
        )  # fmt: skip
        self.cube = Cube.create(self.ws, entry, self.schema)
        with self.cube.archive.transaction("tile") as tx:
            lay.add_tile(tx, "A", grid(SHAPE), (64, 64), self.schema)
        self.model: dict[int, dict | None] = {}
        self.states: list[tuple[str, dict]] = []

    @rule(
        days=st.lists(st.integers(0, 30), min_size=1, max_size=3, unique=True), seed=st.integers(0, 2**31),
        empty=st.booleans(),
    )  # fmt: skip
    def write(self, days, seed, empty):
        rng = np.random.default_rng(seed)
        with self.cube.archive.transaction("write") as tx:
            slots = lay.place(tx, "A", np.array([f"2020-01-{d + 1:02d}" for d in sorted(days)], "M8[D]"))
            for d, slot in zip(sorted(days), slots, strict=True):
                if empty:
                    self.model.setdefault(d, None)
                    continue
                values = {"red": rng.integers(0, 3, SHAPE).astype("u2"), "vv": rng.normal(size=SHAPE).astype("f4")}
                values["red"][:64] = rng.integers(0, 2)  # a whole row of chunks may be empty
                quality = rng.integers(0, 8, SHAPE).astype("u1")
                write_step(tx, self.schema, "A", int(slot), values, quality, [{"id": f"{d}-{seed}"}])
                self.model[d] = {**values, "quality": quality, "id": f"{d}-{seed}"}
        self.states.append((self.cube.snapshot, dict(self.model)))

    def check(self, as_of, model):
        days = sorted(model)
        times = self.cube.times("A", as_of)
        assert [int(str(t)[8:10]) - 1 for t in times] == days
        ds = self.cube.open("A", as_of=as_of, chunks=None)
        small = self.cube.open("A", as_of=as_of, level=4, chunks=None)
        for i, d in enumerate(days):
            m = model[d]
            if m is None:
                assert (ds.quality.values[i] == Quality.MISSING).all()
                assert (ds.red.values[i] == 0).all()
                assert (small.red.values[i] == 0).all()
                assert self.cube.items("A", i, as_of) == []
                continue
            for name in ("red", "vv", "quality"):
                np.testing.assert_array_equal(ds[name].values[i], m[name])
            block = m["red"][:4, :4]
            kept = block[block > 0]
            assert small.red.values[i, 0, 0] == (np.rint(kept.mean()) if kept.size else 0)
            assert self.cube.items("A", i, as_of) == [{"id": m["id"]}]

    @invariant()
    def same(self):
        self.check(None, self.model)

    @rule(pick=st.integers(0, 100))
    def an_earlier_state(self, pick):
        if self.states:
            self.check(*self.states[pick % len(self.states)])

    def teardown(self):
        self.temp.cleanup()


CubeMachine.TestCase.settings = settings(max_examples=6, stateful_step_count=6, deadline=None)
TestCube = CubeMachine.TestCase
