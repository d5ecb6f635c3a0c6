"""The runtimes give what torch gives, whatever the size and the batch, in threads and after a pickle."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from eoflow import runtime
from eoflow.errors import BadInput
from eoflow.models.changestar import ChangeStar
from eoflow.models.farseg import FarSeg
from eoflow.models.filling import MedianComposite
from eoflow.models.images import ImageModel, ImageSignature
from eoflow.models.merlin import Merlin
from eoflow.models.pmaa import Pmaa
from eoflow.models.siamese_unet import SiameseUNet
from eoflow.models.temporal_attention import TemporalAttention
from eoflow.models.uncrtaints import UncrtainTs
from eoflow.models.unet import UNet
from eoflow.models.unetplusplus import UNetPlusPlus
from eoflow.runtime import fast, folded

ONE, PAIR, SERIES = ImageSignature(3, 2), ImageSignature(3, 1, dates=2), ImageSignature(3, 3, dates=3)
SMALL: dict = {"width": 8, "depth": 2}
NETWORKS = {
    "unet": lambda: UNet(ONE, **SMALL, norm="batch"),
    "unet, group norm": lambda: UNet(ONE, **SMALL, up="resize"),
    "unet, layer norm": lambda: UNet(ONE, **SMALL, norm="layer", usable_channel=True),
    "unetplusplus": lambda: UNetPlusPlus(ONE, **SMALL, norm="batch"),
    "farseg": lambda: FarSeg(ONE, encoder="resnet18", width=8, pyramid=16, decoder=16),
    "farseg, local scene": lambda: FarSeg(
        ONE, encoder="resnet18", width=8, pyramid=16, decoder=16, stem_stride=1, scene_cells=3, norm="batch"
    ),
    "siamese-unet": lambda: SiameseUNet(PAIR, width=4),
    "changestar": lambda: ChangeStar(PAIR, width=8, blocks=(1, 1), features=8, d=8),
    "changemixin": lambda: ChangeStar(PAIR, width=8, blocks=(1, 1), features=8, head="changemixin", d=8),
    "pmaa": lambda: Pmaa(SERIES, width=8, hidden=16, blocks=1, scales=3, base="median", hide_unusable=True),
    "merlin": lambda: Merlin(ImageSignature(2, 1), width=24),
    "uncrtaints": lambda: UncrtainTs(SERIES, width=16, inner=16, heads=4, blocks=1, base="mean"),
}


def seasoned(name):
    """A network whose batch norms have seen something."""
    torch.manual_seed(0)
    model = NETWORKS[name]()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 1.0
            nn.init.uniform_(part.weight, 0.5, 2)
            nn.init.normal_(part.bias, 0, 0.2)
    with torch.no_grad():
        model.train()(*window(model.signature, (64, 64), seed=7))
    return model.eval()


def window(signature, size, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(batch, signature.dates, signature.channels, *size, generator=generator)
    return images, torch.rand(batch, signature.dates, *size, generator=generator) > 0.3


def plain(model, *inputs):
    with torch.no_grad():
        return model(*inputs)


def same(found, wanted, part=1e-4):
    """Equal to a part of the largest output."""
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=part * max(1.0, float(value.abs().max())))


@pytest.fixture
def onnx():
    pytest.importorskip("onnxruntime", reason="the extra 'fast' is not installed")
    pytest.importorskip("onnx", reason="the extra 'fast' is not installed")


@pytest.mark.parametrize("name", NETWORKS)
def test_the_exported_network_is_the_network(name, onnx):
    model = seasoned(name)
    quick = fast(model)
    m = model.multiple
    for size, batch in (((4 * m, 6 * m), 2), ((5 * m, 2 * m), 1)):
        images, usable = window(model.signature, size, batch)
        same(quick(images, usable), plain(model, images, usable))
        same(quick(images), plain(model, images))
        assert quick.ready(images.shape[1:]), quick.note
    assert (quick.kind, quick.note) == ("onnx", "")


@pytest.mark.parametrize("name", ["unet", "siamese-unet", "changemixin"])
def test_folding_leaves_the_outputs_and_the_model_alone(name):
    model = seasoned(name)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    quick = folded(model)
    images, usable = window(model.signature, (32, 32))
    same(plain(quick, images, usable), plain(model, images, usable), part=1e-5)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    left = [m for m in quick.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(left) < len([m for m in model.modules() if isinstance(m, nn.BatchNorm2d)])


def test_odd_sizes_go_through_torch(onnx):
    model = seasoned("unet")
    quick = fast(model)
    images, usable = window(model.signature, (13, 22))
    same(quick(images, usable), plain(model, images, usable))
    assert not quick.ready(images.shape[1:])


def test_a_window_does_not_depend_on_its_batch_or_on_what_came_before(onnx):
    model = seasoned("unet, group norm")
    images, usable = window(model.signature, (16, 16), 3)
    together = fast(model)(images, usable)["logits"]
    again = fast(model)
    again(*window(model.signature, (32, 16)))
    assert torch.equal(again(images[1:2], usable[1:2])["logits"], together[1:2])


class Moody(ImageModel):
    """Computes with a value in Python, which a trace takes for a constant."""

    def __init__(self):
        super().__init__(ImageSignature(1, 1))
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images, usable=None):
        x = images[:, 0] * self.scale
        return {"logits": x + float(x.abs().max())}


def test_a_network_that_a_trace_gets_wrong_stays_in_torch(onnx):
    model = Moody().eval()
    quick = fast(model)
    images, usable = window(model.signature, (8, 8))
    same(quick(images, usable), plain(model, images, usable))
    assert "run in torch" in quick.note


class Odd(Moody):
    """Has an operator that cannot be exported."""

    def forward(self, images, usable=None):
        return {"logits": torch.special.bessel_j0(images[:, 0] * self.scale)}


def test_an_unknown_operator_stays_in_torch_and_is_said_once(onnx, capfd):
    model = Odd().eval()
    quick = fast(model)
    images, _ = window(model.signature, (8, 8))
    same(quick(images), plain(model, images))
    assert "bessel_j0" in quick.note
    assert len("".join(capfd.readouterr())) < 500


def test_threads_and_pickle(onnx, tmp_path):
    model = seasoned("unet")
    quick = fast(model, identity="abc", folder=tmp_path)
    images, usable = window(model.signature, (16, 16), 4)
    wanted = quick(images, usable)["logits"]
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda i: quick(images[i : i + 1], usable[i : i + 1])["logits"], range(4)))
    assert torch.equal(torch.cat(parts), wanted)
    copy = pickle.loads(pickle.dumps(quick))  # as Dask sends it
    assert torch.equal(copy(images, usable)["logits"], wanted)


def test_graphs_are_kept_by_identity(onnx, tmp_path, monkeypatch):
    model = seasoned("unet")
    images, usable = window(model.signature, (16, 16))
    wanted = fast(model, identity="abc", folder=tmp_path)(images, usable)["logits"]
    (file,) = tmp_path.glob("*.onnx")
    with monkeypatch.context() as m:
        m.setattr(runtime, "export", lambda *a: pytest.fail("exported again"))
        assert torch.equal(fast(model, identity="abc", folder=tmp_path)(images, usable)["logits"], wanted)
    fast(model, identity="other", folder=tmp_path)(images, usable)
    assert len(list(tmp_path.glob("*.onnx"))) == 2
    file.write_bytes(b"broken")
    damaged = fast(model, identity="abc", folder=tmp_path)
    same(damaged(images, usable), plain(model, images, usable))


def test_another_networks_graph_is_found_out(onnx, tmp_path):
    one, other = seasoned("unet"), seasoned("unet, layer norm")
    images, usable = window(ONE, (16, 16))
    fast(one, identity="abc", folder=tmp_path)(images, usable)
    wrong = fast(other, identity="abc", folder=tmp_path)
    same(wrong(images, usable), plain(other, images, usable))
    assert "differs" in wrong.note


def test_windows_beside_each_other_are_the_same_windows(onnx):
    """A thread a window where there are as many windows as threads, bit for bit what each gives alone."""
    model = seasoned("unet")
    images, usable = window(model.signature, (32, 48), 5, 7)
    quick = fast(model, threads=2)
    together = quick(images, usable)["logits"]
    alone = torch.cat([quick(images[i : i + 1], usable[i : i + 1])["logits"] for i in range(5)])
    assert torch.equal(together, alone)
    same(quick(images), plain(model, images))


@pytest.mark.parametrize("kind", ["onnx", "eager"])
def test_a_network_in_stages_is_told_its_days(kind, onnx):
    """Only the middle is exported; days for all samples or for each; more bands and dates than it was trained on."""
    torch.manual_seed(0)
    model = TemporalAttention(ImageSignature(3, 3, dates=3), width=8, blocks=1).eval()
    for layer in (model.weigh[-1], model.judge[-1], *(b.join for b in model.encoder)):
        nn.init.normal_(layer.weight, std=0.3)  # they begin with zeros
    quick = fast(model, kind=kind)
    days = torch.tensor([[0.0, 10.0, 25.0], [3.0, float("nan"), 4.0]], dtype=torch.float64)
    for size in ((32, 48), (16, 16), (13, 22)):
        images, usable = window(model.signature, size)
        images[:, 1, :, :5] = float("nan")
        for more in ((), (days[0],), (days, torch.tensor([10.0, 4.0])), (days[0], torch.tensor(10.0))):
            same(quick(images, usable, *more), plain(model, images, usable, *more))
    images, usable = window(ImageSignature(5, 5, dates=4), (16, 32))
    same(quick(images, usable), plain(model, images, usable))
    assert quick.kind == kind
    assert quick.ready((4, 5, 64, 32)), quick.note


def test_a_network_that_is_told_its_dates_and_has_no_stages_runs_in_torch(onnx):
    class Whole(TemporalAttention):
        staged = False

    model = Whole(ImageSignature(3, 3, dates=3), width=8, blocks=1).eval()
    images, usable = window(model.signature, (32, 48))
    quick = fast(model)
    assert quick.kind == "eager"
    assert "times of its dates" in quick.note
    same(quick(images, usable), plain(model, images, usable))


def test_int8_of_a_network_that_cannot_be_exported_is_refused(onnx):
    class Solver(UNet):
        def forward(self, images, usable=None):
            out = super().forward(images, usable)["logits"]
            return {"logits": torch.linalg.solve(torch.eye(out.shape[-1]), out.transpose(-1, -2)).transpose(-1, -2)}

    model = Solver(ONE, **SMALL, norm="batch").eval()
    windows = [window(model.signature, (32, 32), 1)]
    with pytest.raises(BadInput, match="cannot be exported"):
        fast(model, kind="int8", calibration=windows)
    quick = fast(model)
    same(quick(*windows[0]), plain(model, *windows[0]))
    assert "run in torch" in quick.note


def test_int8_says_what_it_costs(onnx):
    model = seasoned("unet")
    windows = [window(model.signature, (32, 32), 1, seed) for seed in range(6)]
    quick = fast(model, kind="int8", calibration=windows)
    loss = quick.loss["logits"]
    assert 0 < loss["mean"] < 0.05
    assert loss["mean"] <= loss["max"] <= 1
    images, usable = window(model.signature, (16, 48), 2, 99)
    found, wanted = quick(images, usable)["logits"], plain(model, images, usable)["logits"]
    assert not torch.equal(found, wanted)
    assert float((found.argmax(1) == wanted.argmax(1)).float().mean()) > 0.9
    again = pickle.loads(pickle.dumps(quick))
    assert torch.equal(again(images, usable)["logits"], found)
    with pytest.raises(BadInput, match="calibrate"):
        fast(model, kind="int8")


def test_bfloat16_says_what_it_costs():
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor does not multiply in bfloat16")
    model = seasoned("unet")
    windows = [window(model.signature, (32, 32), 1, seed) for seed in range(3)]
    quick = fast(model, kind="bf16", calibration=windows)
    loss = quick.loss["logits"]
    assert 0 < loss["mean"] <= loss["max"] < 0.1
    images, usable = window(model.signature, (16, 48), 2, 99)
    found, wanted = quick(images, usable)["logits"], plain(model, images, usable)["logits"]
    assert found.dtype == torch.float32
    assert 0 < float((found - wanted).abs().max()) < 0.1 * float(wanted.abs().max())
    assert torch.equal(pickle.loads(pickle.dumps(quick))(images, usable)["logits"], found)
    assert fast(model, kind="bf16").loss == {}


def test_bfloat16_is_refused_where_it_would_be_slower(monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with pytest.raises(BadInput, match="does not multiply in bfloat16"):
        fast(seasoned("unet"), kind="bf16")


def test_without_the_extra(monkeypatch):
    monkeypatch.setattr(runtime, "find_spec", lambda name: None)
    model = seasoned("siamese-unet")
    quick = fast(model)
    assert quick.kind == "eager"
    assert "eoflow[fast]" in quick.note
    images, usable = window(model.signature, (16, 32))
    same(quick(images, usable), plain(model, images, usable), part=1e-5)
    with pytest.raises(BadInput, match="not installed"):
        fast(model, kind="onnx")


def test_models_without_weights_and_unknown_kinds():
    model = MedianComposite(SERIES)
    quick = fast(model)
    images, usable = window(SERIES, (9, 7))
    assert quick.kind == "eager"
    torch.testing.assert_close(quick(images, usable)["image"], plain(model, images, usable)["image"], equal_nan=True)
    with pytest.raises(BadInput, match="no runtime 'warp'"):
        fast(model, kind="warp")
