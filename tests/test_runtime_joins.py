"""Convolutions of joined images give the same numbers apart; what only looks like it is left alone."""

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
from eoflow.runtime_joins import joined_apart
from eoflow.runtime_onnx import BLOCK


class Model(ImageModel):
    """`say(f, images)` of two feature images `f` (B, 2, K, H, W) from two convolutions."""

    def __init__(self, say, *, deep=BLOCK, bias=True, **conv):
        super().__init__(ImageSignature(3, 2))
        torch.manual_seed(0)
        self.say = say
        self.one, self.two = nn.Conv2d(3, deep, 1), nn.Conv2d(3, deep, 3, padding=1)
        self.head = nn.Conv2d(2 * deep, 5, 3, padding=1, bias=bias, **conv)
        self.other = nn.Conv2d(2 * deep, 5, 3, padding=1, bias=bias)
        self.thin = nn.Conv2d(deep, 2, 1)

    def forward(self, images, usable=None):
        x = images[:, 0]
        return {"logits": self.say(self, self.one(x), self.two(x).relu())}


def kinds(graph):
    return [n.op_type for n in onnx.load_from_string(graph).graph.node]


def same(model, graph, size=(9, 7)):
    onnx.checker.check_model(onnx.load_from_string(graph))
    sample = random_sample(model, (1, 3, *size), 3)
    with torch.no_grad():
        wanted = model(*sample)["logits"]
    torch.testing.assert_close(run(session(graph, 1), stage_inputs(model, sample))["logits"], wanted, rtol=0, atol=2e-5)


def both(m, a, b):
    return torch.stack([m.head(torch.cat([a, b], 1)), m.head(torch.cat([b, a], 1)).relu()], 1)


def dates(m, a, b):
    """The dates side by side through one layer, as a network does it."""
    a, b = m.two(F.pad(torch.cat([a[:, :3], b[:, :3]]), (0, 0, 0, 0))).chunk(2)
    return both(m, a, b)


@settings(max_examples=12, deadline=None)
@given(bias=st.booleans(), size=st.tuples(st.integers(1, 12), st.integers(1, 12)))
def test_both_orders_take_half_the_multiplications(bias, size):
    for say in (both, dates):
        model = Model(say, bias=bias).eval()
        graph = joined_apart(export(model, 1))
        assert kinds(graph).count("Sub") == 2
        heads = [n for n in onnx.load_from_string(graph).graph.node if n.output[0].endswith(("/even", "/odd"))]
        assert len(heads) == 2
        same(model, graph, size)


def test_other_weights_or_other_images_are_no_two_orders():
    for say in (
        lambda m, a, b: torch.stack([m.head(torch.cat([a, b], 1)), m.other(torch.cat([b, a], 1))], 1),
        lambda m, a, b: torch.stack([m.head(torch.cat([a, b], 1)), m.head(torch.cat([a, b], 1))], 1),
        lambda m, a, b: torch.stack([m.head(torch.cat([a, b], 1)), m.head(torch.cat([b, b], 1))], 1),
        lambda m, a, b: torch.stack([m.head(torch.cat([a, a], 1)), m.head(torch.cat([a, a], 1))], 1),
    ):
        model = Model(say).eval()
        graph = joined_apart(export(model, 1))
        assert "Sub" not in kinds(graph)
        same(model, graph)


@settings(max_examples=12, deadline=None)
@given(bias=st.booleans(), parts=st.integers(2, 4), size=st.tuples(st.integers(1, 12), st.integers(1, 12)))
def test_a_seam_is_a_sum(bias, parts, size):
    deep = BLOCK * parts // 2 if parts % 2 == 0 else BLOCK * parts
    model = Model(lambda m, a, b: m.head(torch.cat([*a.split(BLOCK, 1), b] if parts > 2 else [a, b], 1)), deep=deep,
                  bias=bias).eval()  # fmt: skip
    graph = joined_apart(export(model, 1))
    assert "Concat" not in kinds(graph)
    same(model, graph, size)


@pytest.mark.parametrize(
    "model",
    [
        Model(lambda m, a, b: m.head(torch.cat([a, b], 1)), deep=12),  # no whole blocks
        Model(lambda m, a, b: m.head(torch.cat([a, b], 1)), groups=1, stride=2),
        Model(lambda m, a, b: m.head(torch.cat([a.exp(), b.exp()], 1))),  # neither in the runtime's layout
        Model(lambda m, a, b: (c := torch.cat([a, b], 1), m.head(c) + c[:, :5])[1]),  # joined for others too
        Model(lambda m, a, b: m.head(torch.cat([a, b], 2).reshape(a.shape[0], 2 * a.shape[1], *a.shape[2:]))),
    ],
)
def test_what_only_looks_like_a_seam_is_left_alone(model):
    graph = export(model.eval(), 1)
    assert joined_apart(graph) == graph


def test_a_thin_image_is_enlarged_as_it_is():
    model = Model(lambda m, a, b: F.interpolate(m.thin(a), scale_factor=4, mode="bilinear")).eval()
    graph = joined_apart(export(model, 1))
    assert "Squeeze" in kinds(graph)
    same(model, graph)
    wide = Model(lambda m, a, b: F.interpolate(a, scale_factor=4, mode="bilinear")).eval()
    plain = export(wide, 1)
    assert joined_apart(plain) == plain
