"""What the synthesis benchmark measures: contrast of roofs, and what labels are worth to a network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.synthesis import contrast, losses, one_hot, standing_out


def scenes(count: int = 24, size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Grey ground with one bright roof each, somewhere."""
    rng = np.random.default_rng(0)
    images, masks = np.full((count, 3, size, size), -0.5, "f4"), np.zeros((count, size, size), bool)
    for k in range(count):
        y, x = rng.integers(4, size - 12, 2)
        masks[k, y : y + 8, x : x + 8] = True
        images[k, :, masks[k]] = 0.5
    return images, masks


def test_contrast_is_the_distance_of_colour_between_roofs_and_what_lies_around_them():
    images, masks = scenes()
    assert contrast(torch.from_numpy(images), one_hot(masks)) == pytest.approx(np.sqrt(3), rel=1e-5)
    assert contrast(torch.from_numpy(images), one_hot(np.roll(masks, 1, axis=0))) < 1.0


class Told(torch.nn.Module):
    """v of images whose roofs are where the labels say; with `deaf` it paints ground everywhere."""

    def __init__(self, deaf: bool) -> None:
        super().__init__()
        self.deaf = deaf

    def forward(self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        angle = t[:, None, None, None] * (np.pi / 2)
        image = (labels[:, 1:] * (0 if self.deaf else 1) - 0.5).expand_as(x)
        noise = (x - angle.cos() * image) / angle.sin().clamp_min(1e-3)
        return angle.cos() * noise - angle.sin() * image


def test_a_network_that_hears_its_labels_is_told_from_one_that_does_not():
    images, masks = scenes(8)
    image, labels = torch.from_numpy(images), one_hot(masks)
    hears, deaf = Told(deaf=False), Told(deaf=True)
    assert losses(hears, image, labels)["right"] < 0.01 < losses(hears, image, labels)["other"]
    assert losses(deaf, image, labels)["right"] == pytest.approx(losses(deaf, image, labels)["other"])
    assert standing_out(hears, image, labels, 1.0)["share"] == pytest.approx(1.0, abs=0.05)
    assert standing_out(deaf, image, labels, 1.0)["share"] == pytest.approx(0.0, abs=0.05)
