"""Convolutions behind an enlargement, run before it, give the same numbers; what only looks like one is left alone."""

from __future__ import annotations

import pytest

pytest.importorskip("onnx", reason="the extra 'fast' is not installed")
pytest.importorskip("onnxruntime", reason="the extra 'fast' is not installed")

import onnx
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from eoflow.models.images import ImageModel, ImageSignature
from eoflow.runtime_graph import export, random_sample, run, session, stage_inputs
from eoflow.runtime_phases import LEAST, by_phases


class Decoder(ImageModel):
    """One step of a decoder: enlarged features, alone or joined with the picture, through one convolution."""

    multiple = 2

    def __init__(self, *, deep=LEAST, order="first", mode="nearest", bias=True, again=False, **conv):
        super().__init__(ImageSignature(3, 2))
        torch.manual_seed(0)
        self.order, self.mode, self.again = order, mode, again
        self.down = nn.Conv2d(3, deep, 3, padding=1)
        inputs = deep + 3 * {"alone": 0, "middle": 2}.get(order, 1)
        self.up = nn.Conv2d(inputs, 5, 3, padding=1, bias=bias, **conv)

    def forward(self, images, usable=None):
        x = images[:, 0]
        small = F.leaky_relu(self.down(F.max_pool2d(x, 2)), 0.1)
        large = F.interpolate(small, scale_factor=2, mode=self.mode)
        parts = {"alone": [large], "first": [large, x], "last": [x, large], "middle": [x, large, x]}[self.order]
        out = self.up(torch.cat(parts, dim=1) if len(parts) > 1 else large)
        return {"logits": out + large[:, :5] if self.again else out}


def kinds(graph):
    return [n.op_type for n in onnx.load_from_string(graph).graph.node]


@settings(max_examples=25, deadline=None)
@given(
    order=st.sampled_from(["alone", "first", "last"]),
    bias=st.booleans(),
    deep=st.sampled_from([LEAST, 19, 32]),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_the_same_numbers_from_the_small_image(order, bias, deep, size):
    model = Decoder(order=order, bias=bias, deep=deep).eval()
    graph = by_phases(export(model, 1))
    assert "Resize" not in kinds(graph)
    assert "DepthToSpace" in kinds(graph)
    onnx.checker.check_model(onnx.load_from_string(graph))
    sample = random_sample(model, (1, 3, 2 * size[0], 2 * size[1]), 3)
    with torch.no_grad():
        wanted = model(*sample)["logits"]
    found = run(session(graph, 1), stage_inputs(model, sample))["logits"]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{"mode": "bilinear"}, {"again": True}, {"order": "middle"}, {"deep": 8}, {"deep": 8, "order": "alone"},
     {"stride": 2}, {"padding_mode": "replicate"}],
)  # fmt: skip
def test_what_only_looks_like_it_is_left_alone(options):
    class Strided(Decoder):
        def forward(self, images, usable=None):
            return {"logits": F.interpolate(super().forward(images, usable)["logits"], scale_factor=2)}

    model = (Strided if "stride" in options else Decoder)(**options).eval()
    graph = export(model, 1)
    assert by_phases(graph) == graph


class Up(ImageModel):
    """One enlarging step by a transposed convolution."""

    multiple = 1

    def __init__(self, **conv):
        super().__init__(ImageSignature(3, 2))
        torch.manual_seed(1)
        self.up = nn.ConvTranspose2d(3, 4, **{"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1, **conv})

    def forward(self, images, usable=None):
        return {"logits": self.up(images[:, 0])}


@settings(max_examples=15, deadline=None)
@given(bias=st.booleans(), size=st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_a_transposed_convolution_phase_by_phase(bias, size):
    model = Up(bias=bias).eval()
    graph = by_phases(export(model, 1))
    assert "ConvTranspose" not in kinds(graph)
    onnx.checker.check_model(onnx.load_from_string(graph))
    sample = random_sample(model, (1, 3, *size), 3)
    with torch.no_grad():
        wanted = model(*sample)["logits"]
    found = run(session(graph, 1), stage_inputs(model, sample))["logits"]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{"kernel_size": 2, "padding": 0, "output_padding": 0}, {"padding": 0}, {"output_padding": 0},
                {"dilation": 2}, {"stride": 3}],
)  # fmt: skip
def test_other_transposed_convolutions_stay(options):
    graph = export(Up(**options).eval(), 1)
    assert by_phases(graph) == graph
