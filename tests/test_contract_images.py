from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from eoflow import registry
from eoflow.catalog_images import TASKS
from eoflow.contract import check_model
from eoflow.errors import BadInput
from eoflow.models.images import ImageModel
from eoflow.tasks.base import ImageTask


class Plain(ImageModel):
    """The page that an outside package needs: a 1 x 1 convolution of the last date."""

    task = "segmentation"

    def __init__(self, signature, width=8):
        super().__init__(signature)
        self.net = nn.Sequential(nn.Conv2d(signature.channels, width, 3, padding=1), nn.ReLU(),
                                 nn.Conv2d(width, signature.outputs, 1))  # fmt: skip

    def forward(self, images: Tensor, usable: Tensor | None = None) -> dict[str, Tensor]:
        x = images[:, -1] if usable is None else images[:, -1] * usable[:, -1:]
        return {"logits": self.net(x)}


class Changes(Plain):
    task = "change-detection"

    def forward(self, images: Tensor, usable: Tensor | None = None) -> dict[str, Tensor]:
        return {"logits": self.net(images[:, 1] - images[:, 0])}


class Leaky(Plain):
    """Sees its neighbours in the batch, keeps state outside of it, has a dead layer, writes into its input."""

    def __init__(self, signature):
        super().__init__(signature)
        self.dead = nn.Linear(3, 3)
        self.kept = torch.zeros(1)

    def forward(self, images: Tensor, usable: Tensor | None = None) -> dict[str, Tensor]:
        if self.training:
            self.kept = self.kept + 1
        images[:, -1, 0, 0, 0] = 0.5
        logits = super().forward(images, usable)["logits"]
        return {"logits": logits - logits.mean(0) + self.kept}


class Cropping(Plain):
    def forward(self, images: Tensor, usable: Tensor | None = None) -> dict[str, Tensor]:
        return {"logits": super().forward(images, usable)["logits"][..., 1:, 1:]}


class NotFinite(Plain):
    def forward(self, images: Tensor, usable: Tensor | None = None) -> dict[str, Tensor]:
        count = usable.sum((1, 2, 3))[:, None, None, None]
        return {"logits": super().forward(images, usable)["logits"] / count}


class Weather(Plain):
    task = "weather"


def failed(name):
    return "\n".join(r.line() for r in check_model(f"test_contract_images:{name}") if not r.passed)


@pytest.mark.parametrize("name", ["Plain", "Changes"])
def test_a_page_of_code_passes(name):
    assert not failed(name)
    assert len(check_model(f"test_contract_images:{name}")) == 7


def test_bad_models_are_found_out():
    text = failed("Leaky")
    assert "changes its input" in text
    assert "with its neighbours" in text
    assert "not in state_dict" in text
    assert "no gradient reaches dead.weight, dead.bias" in text
    assert "returns (2, 1, 32, 46), not (2, 1, 33, 47)" in failed("Cropping")
    assert "not finite where nothing is usable" in failed("NotFinite")
    with pytest.raises(BadInput, match="for the task 'weather'"):
        check_model("test_contract_images:Weather")
    with pytest.raises(BadInput, match="no model"):
        check_model("eoflow.bands:BandSpec")


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_one(name):
    task = registry.load("tasks", name)()
    assert isinstance(task, ImageTask)
    assert task.name == name
    assert set(task.baselines) <= set(registry.names("models"))
    assert set(task.lower_is_better) <= set(task.metrics)
