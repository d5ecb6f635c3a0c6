"""U-Net++ (Zhou et al. 2018, arXiv 1807.10165; 2019, arXiv 1912.05074).

From the papers: a node X(i, j) at level i and column j is a unit of two 3 x 3 convolutions over the concatenation of
all nodes before it on its level and of the upsampled node below it,
    X(i, 0) = unit(pool(X(i-1, 0))),    X(i, j) = unit([X(i, 0), ..., X(i, j-1), up(X(i+1, j-1))]);
deep supervision puts a 1 x 1 head on X(0, 1) to X(0, depth); inference takes the mean of the heads' probabilities
("accurate") or one head, below which the network can be cut off ("fast", `pruned`). Widths 32 to 512, transposed
up-convolution; without normalisation and deep supervision these are the 9,041,601 parameters of the authors' code.
Our choices: GroupNorm and ReLU (the code: ELU, dropout 0.5 and weight decay); the rest as in unet.py.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eoflow.models.images import ImageSignature
from eoflow.models.layers.units import he_initialised
from eoflow.models.layers.ushape import UShaped

INFERENCE = ("average", "last")


class UNetPlusPlus(UShaped):
    """images (B, T, C, H, W), usable (B, T, H, W) -> {logits: (B, K, H, W)}.

    In training with deep supervision: `logits` of the last head, and `logits_1` to `logits_{depth - 1}` of the others.

    Options: those of UShaped, and
        dropout: in every unit.
        deep_supervision: a head on every X(0, j), else on the last alone.
        inference: 'average' (logits whose probabilities are the mean of the heads') or 'last'.

    The deepest path has the largest receptive field, so that the halo is that of UNet.
    """

    def __init__(
        self,
        signature: ImageSignature,
        *,
        width: int = 32,
        deep_supervision: bool = True,
        inference: str = "average",
        **options: Any,
    ) -> None:
        super().__init__(signature, width=width, **options)
        if inference not in INFERENCE:
            raise ValueError(f"inference '{inference}' is not one of {', '.join(INFERENCE)}")
        if self.depth < 1:
            raise ValueError("U-Net++ needs a depth of at least 1")
        self.options |= {"deep_supervision": deep_supervision, "inference": inference}
        self.inference = inference
        depth, widths, dropout = self.depth, self.widths, self.options["dropout"]
        self.encoder = self.contracting([dropout] * (depth + 1))
        self.nodes, self.ups = nn.ModuleDict(), nn.ModuleDict()
        for j in range(1, depth + 1):
            for i in range(depth + 1 - j):
                self.ups[f"{i}_{j}"] = self.rise(i)
                self.nodes[f"{i}_{j}"] = self.unit((j + 1) * widths[i], widths[i], dropout)
        headed = range(1, depth + 1) if deep_supervision else (depth,)
        self.heads = nn.ModuleDict({str(j): nn.Conv2d(widths[0], signature.outputs, 1) for j in headed})
        he_initialised(self)

    def forward(self, images: Tensor, usable: Tensor | None = None) -> dict[str, Tensor]:
        """See the class."""
        x, (height, width) = self.picture(images, usable)
        grid: list[list[Tensor]] = []
        for i, unit in enumerate(self.encoder):
            grid.append([unit(F.max_pool2d(grid[i - 1][0], 2) if i else x)])
        for j in range(1, self.depth + 1):
            for i in range(self.depth + 1 - j):
                below = self.ups[f"{i}_{j}"](grid[i + 1][j - 1])
                grid[i].append(self.nodes[f"{i}_{j}"](torch.cat([*grid[i], below], dim=1)))
        average = not self.training and self.inference == "average"
        wanted = self.heads if self.training or average else [str(self.depth)]
        logits = {j: self.heads[j](grid[0][int(j)])[..., :height, :width] for j in wanted}
        if average:
            return {"logits": mean_probability(list(logits.values()))}
        last = logits.pop(str(self.depth))
        return {"logits": last, **{f"logits_{j}": value for j, value in logits.items()}}

    def pruned(self, depth: int) -> UNetPlusPlus:
        """The network that ends at the head of X(0, depth), with copies of these weights and no deeper node.

        It gives that head's logits alone, whatever the mode of inference here. ValueError where there is no such head.
        """
        if str(depth) not in self.heads:
            raise ValueError(f"no head at depth {depth}; there are {', '.join(self.heads)}")
        cut = UNetPlusPlus(self.signature, **{**self.options, "depth": depth, "inference": "last"})
        mine = self.state_dict()
        cut.load_state_dict({name: mine[name] for name in cut.state_dict()})
        return cut.to(next(self.parameters()).device).train(self.training)


def mean_probability(logits: list[Tensor]) -> Tensor:
    """Logits (B, K, H, W) whose probabilities are the mean of those of `logits`; K = 1 is one logit of a sigmoid."""
    stack = torch.stack(logits)
    if stack.shape[2] == 1:
        return F.logsigmoid(stack).logsumexp(0) - F.logsigmoid(-stack).logsumexp(0)
    return F.log_softmax(stack, dim=2).logsumexp(0) - math.log(len(logits))
