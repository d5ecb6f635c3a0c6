"""Windowed inference equals whole-image inference, whatever the sizes; it skips, masks, blends and resumes."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from eoflow.errors import BadInput, Failure
from eoflow.windows import ArraySink, ArraySource, Input, Layer, Network, Plan, infer, run, whole
from eoflow.windows.runner import declared, work

QUICK = settings(max_examples=30, deadline=None)
PRIMES = (1, 2, 3, 5, 7, 11, 13, 17, 23, 31, 37, 41)
NP_MODE = {"reflect": "reflect", "edge": "edge", "constant": "constant"}


def stack(layers: list[tuple[int, int]], channels: int, out: int, seed: int) -> tuple[nn.Module, int]:
    """A stack of (kernel, dilation) convolutions with own zero padding, and its halo."""
    torch.manual_seed(seed)
    modules: list[nn.Module] = []
    halo = 0
    for k, d in layers:
        modules += [nn.Conv2d(channels, out, k, padding="same", dilation=d), nn.GELU()]
        channels, halo = out, halo + d * (k // 2)
    return nn.Sequential(*modules).eval(), halo


class Pyramid(nn.Module):
    """Halves twice and doubles twice: needs multiples of 4."""

    multiple = 4
    halo = 24

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.a, self.b = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.c, self.d = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x):
        assert x.shape[-1] % 4 == 0
        assert x.shape[-2] % 4 == 0
        top = torch.relu(self.a(x))
        low = torch.relu(self.b(torch.max_pool2d(top, 2)))
        lower = torch.relu(self.c(torch.max_pool2d(low, 2)))
        up = nn.functional.interpolate(lower, scale_factor=4, mode="nearest")
        return self.d(torch.cat([top, up], dim=1))


def image(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype("f4")


def layer(bands: int, **more) -> Layer:
    return Layer("output", tuple(f"k{i}" for i in range(bands)), **more)


def padded(f: nn.Module, x: np.ndarray, halo: int, mode: str, fill: float = 0.0) -> np.ndarray:
    """The whole image at once, padded by the halo as numpy pads, cropped again."""
    extra = {"constant_values": fill} if mode == "constant" else {}
    wide = np.pad(x, ((0, 0), (halo, halo), (halo, halo)), mode=mode, **extra)
    with torch.inference_mode():
        y = f(torch.from_numpy(wide)[None])[0].numpy()
    return y[:, halo : halo + x.shape[1], halo : halo + x.shape[2]]


sizes = st.one_of(st.sampled_from(PRIMES), st.integers(1, 70))


@QUICK
@given(
    rows=sizes, columns=sizes, core=st.tuples(st.integers(1, 40), st.integers(1, 40)), batch=st.integers(1, 5),
    layers=st.lists(st.tuples(st.sampled_from((1, 3, 5)), st.sampled_from((1, 2))), min_size=1, max_size=3),
    border=st.sampled_from(("reflect", "edge", "constant", "none")), seed=st.integers(0, 99),
)  # fmt: skip
def test_equals_the_whole_image(rows, columns, core, batch, layers, border, seed):
    f, halo = stack(layers, 2, 3, seed)
    x = image((2, rows, columns), seed)
    plan = Plan.of((rows, columns), core=core, halo=halo, border=border)
    found = whole(Network(f, batch=batch), ArraySource(x), [layer(3)], plan)["output"]
    if border == "none":
        with torch.inference_mode():
            expected = f(torch.from_numpy(x)[None])[0].numpy()
    else:
        expected = padded(f, x, halo, border)
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


@QUICK
@given(rows=sizes, columns=sizes, core=st.integers(1, 40), overlap=st.sampled_from((0, 2, 5)), seed=st.integers(0, 9))
def test_network_that_halves_needs_aligned_windows(rows, columns, core, overlap, seed):
    """Padded inside to the multiple, windows aligned with it: what pooling sees is the same in every window."""
    f = Pyramid().eval()
    halo, multiple = declared(f, None, None)
    x = image((2, rows, columns), seed)
    plan = Plan.of((rows, columns), core=max(core, overlap + 1), halo=halo, multiple=multiple, overlap=overlap)
    assert plan.reach % 4 == 0
    found = whole(Network(f), ArraySource(x), [layer(3)], plan)["output"]
    tall, wide = (-(-n // 4) * 4 for n in (rows, columns))
    filled = np.pad(x, ((0, 0), (24, 24 + tall - rows), (24, 24 + wide - columns)), mode="reflect")
    with torch.inference_mode():
        expected = f(torch.from_numpy(filled)[None])[0].numpy()[:, 24 : 24 + rows, 24 : 24 + columns]
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


@QUICK
@given(
    rows=sizes, columns=sizes, core=st.integers(2, 30), share=st.floats(0, 1), value=st.floats(-1e3, 1e3),
    halo=st.integers(0, 5),
)  # fmt: skip
def test_blending_a_constant_gives_the_constant(rows, columns, core, share, value, halo):
    plan = Plan.of((rows, columns), core=core, halo=halo, overlap=int(core * share) // 2 * 2)
    x = np.full((1, rows, columns), value, "f4")
    found = whole(Network(lambda t: t), ArraySource(x), [layer(1)], plan)["output"]
    np.testing.assert_allclose(found, x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shard", [8, 16, 4096])
def test_blending_does_not_depend_on_the_shards(shard, monkeypatch):
    """A network that answers otherwise in every window: what is blended must still be the same for any shards."""
    monkeypatch.setattr("eoflow.windows.plan.BLEND_SHARD", shard)

    def f(x):
        return x.mean(dim=(-2, -1), keepdim=True).expand(-1, -1, *x.shape[-2:])

    x = image((1, 37, 53))
    plan = Plan.of((37, 53), core=8, halo=3, overlap=6)
    found = whole(Network(f), ArraySource(x), [layer(1)], plan)["output"][0]
    sums, weights = np.zeros((37, 53)), np.zeros((37, 53))
    wide = np.pad(x[0], 20, mode="reflect")
    for r in range(5):
        for c in range(7):
            w = plan.window(r, c)
            value = wide[20 + w.read.y0 : 20 + w.read.y1, 20 + w.read.x0 : 20 + w.read.x1].mean()
            sums[w.support.slices] += value * plan.weight(w)
            weights[w.support.slices] += plan.weight(w)
    np.testing.assert_allclose(weights, 1, rtol=1e-6)
    np.testing.assert_allclose(found, sums / weights, rtol=1e-4, atol=1e-6)


@QUICK
@given(rows=st.integers(3, 50), columns=st.integers(3, 50), core=st.integers(4, 20), overlap=st.sampled_from((0, 4)),
       seed=st.integers(0, 99))  # fmt: skip
def test_nan_stays_where_it_is(rows, columns, core, overlap, seed):
    """Nodata in, nodata out; every other pixel as if the hole held the fill; no NaN comes through a halo."""
    f, halo = stack([(3, 1), (3, 1)], 2, 2, seed)
    rng = np.random.default_rng(seed)
    x = image((2, rows, columns), seed)
    hole = rng.random((rows, columns)) < rng.choice([0.02, 0.3, 0.9])
    x[int(rng.integers(2)), hole] = rng.choice([np.nan, np.inf, -9999])
    plan = Plan.of((rows, columns), core=core, halo=halo, overlap=overlap)
    found = whole(Network(f), ArraySource(x, nodata=-9999), [layer(2)], plan, Input(fill=0.5))["output"]
    void = ~np.isfinite(x) | (x == -9999)
    np.testing.assert_array_equal(np.isnan(found), np.broadcast_to(hole, found.shape))
    if not overlap:  # where windows are blended, one without any value has no say
        expected = padded(f, np.where(void, 0.5, x).astype("f4"), halo, "reflect")
        np.testing.assert_allclose(found[:, ~hole], expected[:, ~hole], atol=1e-5)


def test_windows_without_a_value_are_not_run():
    calls = []

    def f(x):
        calls.append(len(x))
        return x

    x = np.zeros((1, 64, 64), "u2")
    x[0, 40, 40] = 7
    sink = ArraySink(layer(1, dtype="uint16", nodata=0), (64, 64))
    report = run(Network(f), ArraySource(x, nodata=0), [sink], Plan.of((64, 64), core=16, halo=4))
    assert (report.windows, report.skipped, calls) == (1, 15, [1])
    np.testing.assert_array_equal(sink.values, x)
    nothing = ArraySink(layer(1), (64, 64))
    report = run(Network(f), ArraySource(np.full((1, 64, 64), np.nan, "f4")), [nothing], Plan.of((64, 64), core=16))
    assert (report.windows, calls) == (0, [1])
    assert np.isnan(nothing.values).all()


@pytest.mark.parametrize(("rule", "expected"), [("all", "1000"), ("any", "1110"), ("any-date", "1100")])
def test_series_of_dates_and_what_counts(rule, expected):
    """(T, C): all there; one date whole; bands of two dates; nothing."""
    x = np.full((2, 2, 1, 4), 5, "i2")
    x[0, :, 0, 1] = -1
    x[0, 0, 0, 2] = x[1, 1, 0, 2] = -1
    x[:, :, 0, 3] = -1
    shapes = []

    def f(t):
        shapes.append(tuple(t.shape))
        return {"mean": t.mean(dim=(1, 2)), "dates": t[:, :, 0]}

    plan = Plan.of((1, 4), core=4)
    layers = [Layer("mean", ("mean",)), Layer("dates", ("d0", "d1"), "uint8", 255)]
    found = whole(Network(f), ArraySource(x, nodata=-1), layers, plan, Input(fill=9, valid=rule))
    assert shapes == [(1, 2, 2, 1, 4)]
    counts = np.array(list(expected)) == "1"
    np.testing.assert_array_equal(~np.isnan(found["mean"][0, 0]), counts)
    np.testing.assert_array_equal(found["dates"][0, 0] != 255, counts)
    assert found["mean"][0, 0, 0] == 5


def to_decibels(x):
    with np.errstate(divide="ignore", invalid="ignore"):
        return 10 * np.log10(x)


def classes(outputs):
    p = outputs["output"]
    return {"class": (p > 0.5).astype("u1"), "probability": p}


def test_encoding_fill_for_each_channel_and_decoding():
    x = np.full((2, 3, 3), 10, "f4")
    x[0, 0, 0], x[1, 1, 1], x[1, 2, 2] = 0, np.nan, 1
    seen = []

    def f(t):
        seen.append(t.clone())
        return t[:, 1:] / 10

    how = Input(encode=to_decibels, fill=(-1.0, -2.0))
    layers = [Layer("class", ("class",), "uint8", 255, categorical=True), Layer("probability", ("p",))]
    found = whole(Network(f, decode=classes), ArraySource(x), layers, Plan.of((3, 3), core=3), how)
    assert (seen[0][0, 0, 0, 0], seen[0][0, 1, 1, 1]) == (-1, -2)
    assert torch.isfinite(seen[0]).all()
    expected = np.ones((3, 3))
    expected[0, 0] = expected[1, 1] = 255
    expected[2, 2] = 0
    np.testing.assert_array_equal(found["class"][0], expected)
    np.testing.assert_array_equal(np.isnan(found["probability"][0]), expected == 255)


class Stumbles:
    """Fails at the n-th call."""

    def __init__(self, f, at: int) -> None:
        self.f, self.left = f, at

    def __call__(self, x):
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("the lights went out")
        return self.f(x)


def files(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@settings(max_examples=12, deadline=None)
@given(at=st.integers(0, 10), batch=st.integers(1, 3), overlap=st.sampled_from((0, 4)))
def test_goes_on_where_it_stopped(tmp_path_factory, at, batch, overlap):
    tmp = tmp_path_factory.mktemp("resume")
    f, halo = stack([(3, 1)], 2, 2, 1)
    x = image((2, 61, 47))
    x[:, 20:40, :16] = np.nan
    plan = Plan.of((61, 47), core=16, halo=halo, overlap=overlap)
    layers = [layer(2)]
    straight = infer(Network(f, batch=batch), ArraySource(x), tmp / "a.zarr", layers, plan, identity="v1")
    calls = Stumbles(f, at)
    try:
        infer(Network(calls, batch=batch), ArraySource(x), tmp / "b.zarr", layers, plan, identity="v1")
    except RuntimeError:
        assert not (tmp / "b.zarr").exists()
        report = infer(Network(f, batch=batch), ArraySource(x), tmp / "b.zarr", layers, plan, identity="v1")
        assert report.windows + report.skipped <= straight.windows + straight.skipped
        assert overlap or at < 4 or report.resumed
    assert files(tmp / "a.zarr") == files(tmp / "b.zarr")
    assert sorted(p.name for p in tmp.iterdir()) == ["a.zarr", "b.zarr"]


def test_another_identity_starts_anew(tmp_path):
    x = image((1, 40, 40))
    plan = Plan.of((40, 40), core=8)
    broken = Network(Stumbles(lambda t: t, 8), batch=1)
    with pytest.raises(RuntimeError):
        infer(broken, ArraySource(x), tmp_path / "a.zarr", [layer(1)], plan, identity="old")
    report = infer(Network(lambda t: t + 1), ArraySource(x), tmp_path / "a.zarr", [layer(1)], plan, identity="new")
    assert report.resumed == 0
    import zarr

    np.testing.assert_allclose(zarr.open_group(tmp_path / "a.zarr", mode="r")["output"][:], x[0] + 1)
    calls = Stumbles(lambda t: t, 0)
    with pytest.raises(BadInput, match="exists already"):
        infer(Network(calls), ArraySource(x), tmp_path / "a.zarr", [layer(1)], plan, identity="new")
    assert calls.left == 0  # said before any work


class Kills:
    """Answers some calls, then the process is gone; a chunk was being written."""

    def __init__(self, folder: str, at: int) -> None:
        self.folder, self.left = folder, at

    def __call__(self, x):
        import os
        import signal
        from pathlib import Path

        self.left -= 1
        if self.left < 0:
            (Path(self.folder) / ".a.zarr.partial" / "output" / "c.123.partial").write_bytes(b"half a chunk")
            os.kill(os.getpid(), signal.SIGKILL)
        return x


KILLED = """
import sys
sys.path[:0] = {path!r}
from test_runner import *
infer(Network(Kills({folder!r}, 9), batch=1), ArraySource(image((1, 40, 40))), {folder!r} + "/a.zarr", [layer(1)],
      Plan.of((40, 40), core=8))
"""


def test_goes_on_after_kill(tmp_path):
    import subprocess
    import sys
    from pathlib import Path

    here = Path(__file__).parent
    code = KILLED.format(path=[str(here), str(here.parent.parent)], folder=str(tmp_path))
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == -9
    assert not (tmp_path / "a.zarr").exists()
    args = (Network(lambda t: t, batch=1), ArraySource(image((1, 40, 40))))
    report = infer(*args, tmp_path / "a.zarr", [layer(1)], Plan.of((40, 40), core=8))
    assert 0 < report.resumed <= 9
    infer(*args, tmp_path / "b.zarr", [layer(1)], Plan.of((40, 40), core=8))
    assert files(tmp_path / "a.zarr") == files(tmp_path / "b.zarr")


def test_unfinished_store_is_not_published(tmp_path):
    from eoflow.windows import Partial

    store = Partial(tmp_path / "a.zarr", [layer(1)], Plan.of((40, 40), core=8))
    with pytest.raises(Failure, match="25 of 25"):
        store.publish()


def shift(x, by):
    return x + by


def test_dask_gives_the_same(tmp_path):
    import distributed

    f, halo = stack([(3, 1)], 2, 2, 1)
    x = image((2, 61, 47))
    x[0, :, 3] = np.nan
    plan = Plan.of((61, 47), core=8, halo=halo)
    net, how = Network(f, batch=3), Input(encode=partial(shift, by=1))
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        one, many = (
            infer(net, ArraySource(x), tmp_path / name, [layer(2)], plan, how, client=c)
            for name, c in (("a.zarr", None), ("b.zarr", client))
        )
    assert files(tmp_path / "a.zarr") == files(tmp_path / "b.zarr")
    assert (one.windows, one.skipped) == (many.windows, many.skipped)


def test_batches_are_full_and_of_one_shape():
    plan = Plan.of((100, 70), core=32, halo=4)
    units = work(plan, 3)
    batches = [b for u in units for b in u]
    assert all(len({w.read.shape for _, w in b}) == 1 for b in batches)
    assert sorted(j.index for b in batches for j, _ in b) == list(range(12))
    assert len(batches) == 2 + 1 + 1 + 1  # 6 inside, 3 at the right edge, 2 at the bottom, 1 corner
    done = np.ones(12, bool)
    done[0] = False
    assert work(plan, 3, done) == [u for u in units if any(j.index == 0 for b in u for j, _ in b)]


def test_networks_that_do_not_fit_are_told():
    x = image((1, 20, 20))
    plan = Plan.of((20, 20), core=8)
    with pytest.raises(BadInput, match="keep the size"):
        whole(Network(lambda t: t[..., 1:, :]), ArraySource(x), [layer(1)], plan)
    with pytest.raises(BadInput, match="has 1 bands, the layer 2"):
        whole(Network(lambda t: t), ArraySource(x), [layer(2)], plan)
    with pytest.raises(BadInput, match="gives no 'flood'"):
        whole(Network(lambda t: {"a": t, "b": t}), ArraySource(x), [Layer("flood")], plan)
    with pytest.raises(BadInput, match="the scene of"):
        whole(Network(lambda t: t), ArraySource(x), [layer(1)], Plan.of((8, 8)))
    with pytest.raises(BadInput, match="context"):
        declared(lambda t: t, None, None)
    assert declared(Pyramid(), None, None) == (24, 4)
    assert declared(Pyramid(), 7, 1) == (7, 1)
