"""What every image model is: an nn.Module over stacks of dates, with a declared signature, for cloud removal, change
detection and segmentation.

A model knows no file, no band name and no calendar. It receives normalised images of T dates and where their pixels
are usable; it returns named outputs of the same height and width.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class ImageSignature:
    """Shapes a model is built for, saved with the weights.

    channels: input bands. dates: images a sample has (0: any number). outputs: bands or classes of the main output.
    groups: channels of each modality (optical, radar, terrain), in order; they add up to `channels`.
    """

    channels: int
    outputs: int
    dates: int = 1
    groups: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> Self:
        """Inverse of to_dict."""
        return cls(**{**d, "groups": tuple(d["groups"])})


class ImageModel(nn.Module):
    """Base class of image models.

    forward(images, usable) -> {name: tensor}
        images (B, T, C, H, W) float32, normalised; any finite value where a pixel is not usable
        usable (B, T, H, W) bool: where the surface was seen; None: everywhere
        returns, all of size (H, W), whatever H and W are (padding is the model's business):
            segmentation, change: `logits` (B, K, H, W)
            change, if `ground` is not 0: `before` and `after` (B, ground, H, W), logits of the classes of both dates
            cloud removal: `image` (B, C_out, H, W), and `log_variance` of the same shape if it tells its uncertainty
            further names for auxiliary heads, in training only

    halo: pixels around an output pixel that can change it (the whole receptive field's radius), or what a window needs
    in practice where that is global; the windowed runner reads it. multiple: sizes the network works on without
    padding. `options` are the recipe's `network:` keys; unknown ones raise TypeError at construction.
    """

    halo: int = 0
    multiple: int = 1
    ground: int = 0
    """Channels of the heads for the classes of both dates (1: one logit of two classes), of change networks."""
    closed_form: bool = False
    """True for a model that needs no gradient descent."""
    needs_times: bool = False
    """Also called with `times` (B, T) and `when` (B,), days of the dates and the wanted day from any origin."""
    staged: bool = False
    """forward is `after(given, network(**given), (H, W))` of `given = before(...)`: `network` alone can be exported."""

    def __init__(self, signature: ImageSignature) -> None:
        super().__init__()
        self.signature = signature

    def forward(self, images: Tensor, usable: Tensor | None = None) -> dict[str, Tensor]:
        """See the class."""
        raise NotImplementedError


class Staged(Protocol):
    """What a model with `staged` has beside forward. Tensors of pixels end in (H, W), whatever their other axes."""

    def before(
        self, images: Tensor, usable: Tensor | None = None, times: Tensor | None = None, when: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Arguments of forward -> arguments of network, in their order; samples along the first axis of each."""
        ...

    def network(self, **given: Tensor) -> dict[str, Tensor]:
        """The part with the convolutions; it must not branch on values, nor on H and W."""
        ...

    def after(self, given: dict[str, Tensor], told: dict[str, Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        """What forward gives, of the size (H, W) that images had."""
        ...


def asked_days(model: nn.Module, days: Tensor) -> tuple[Tensor, ...]:
    """What a model is called with behind images and usable: days (B, T + 1), the wanted one last -> times (B, T) and
    when (B,), or nothing, where it does not ask for them."""
    return (days[:, :-1], days[:, -1]) if getattr(model, "needs_times", False) else ()


def padded(x: Tensor, multiple: int) -> tuple[Tensor, tuple[int, int]]:
    """(..., H, W) with the lower and right edge repeated up to a multiple; and (H, W), for `x[..., :H, :W]`.

    Replication works for any size, also one smaller than the padding.
    """
    height, width = x.shape[-2:]
    down, right = -height % multiple, -width % multiple
    if not down and not right:
        return x, (height, width)
    lead = x.shape[:-2]
    flat = F.pad(x.reshape(-1, 1, height, width), (0, right, 0, down), mode="replicate")
    return flat.reshape(*lead, height + down, width + right), (height, width)


def parameters(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def multiply_adds(model: nn.Module, *inputs: Tensor) -> int:
    """Multiply-adds of convolutions, linear layers and matrix products in one forward pass on `inputs`."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(*inputs)
    return int(counter.get_total_flops()) // 2
