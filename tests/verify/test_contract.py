"""Every registered metric, ours and those of installed packages, keeps the metric contract."""

from __future__ import annotations

import pytest

from eoflow import registry
from eoflow.verify import contract
from eoflow.verify.metrics import BUILTIN, Metric

NAMES = sorted(set(registry.names("metrics")) | {f"eoflow.verify.metrics:{cls.__name__}" for cls in BUILTIN})


@pytest.mark.parametrize("name", NAMES)
def test_registered_metric_keeps_the_contract(name):
    assert contract.problems(registry.load("metrics", name)()) == []


class Fine(Metric):
    name = "fine"

    def cases(self, forecast, truth, climatology, weights):
        from eoflow.verify.metrics import area_mean

        return area_mean(abs(forecast - truth) ** 4, weights)[:, None]


class MixesCases(Fine):
    def cases(self, forecast, truth, climatology, weights):
        return super().cases(forecast, truth, climatology, weights) * 0 + forecast.mean()


class WrongShape(Fine):
    def cases(self, forecast, truth, climatology, weights):
        return super().cases(forecast, truth, climatology, weights)[:, 0]


class ScalarOnly(Fine):
    def reduce(self, mean):
        return float(mean[0])


class Random(Fine):
    def cases(self, forecast, truth, climatology, weights):
        import numpy as np

        return super().cases(forecast, truth, climatology, weights) + np.random.random()


class Nameless(Fine):
    name = ""


def test_a_page_of_code_adds_a_metric():
    assert contract.problems(Fine()) == []


@pytest.mark.parametrize(
    ("cls", "word"),
    [
        (MixesCases, "other cases"),
        (WrongShape, "(N, K)"),
        (ScalarOnly, "reduce"),
        (Random, "twice"),
        (Nameless, "name"),
    ],
)
def test_the_contract_finds_faults(cls, word):
    assert any(word in p for p in contract.problems(cls()))
