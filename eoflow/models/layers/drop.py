"""Stochastic depth."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """In training, the whole input is zero for some samples of a batch, and scaled for the others (arXiv
    1603.09382).
    """

    def __init__(self, probability: float = 0.0) -> None:
        super().__init__()
        if not 0 <= probability < 1:
            raise ValueError(f"drop_path {probability} is not in [0, 1)")
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> same shape."""
        if not self.training or self.probability == 0:
            return x
        keep = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device) >= self.probability
        return x * keep / (1 - self.probability)
