"""Dates and bands as the channels of one picture, for networks that look at all of them at once."""

from __future__ import annotations

import torch
from torch import Tensor

from eoflow.models.images import ImageSignature


def picture_channels(signature: ImageSignature, usable_channel: bool = False) -> int:
    """Channels that `picture` makes. ValueError for a signature with any number of dates."""
    if signature.dates < 1:
        raise ValueError("this network joins the dates as channels and needs a fixed number of dates, at least one")
    return signature.dates * (signature.channels + int(usable_channel))


def picture(images: Tensor, usable: Tensor | None, signature: ImageSignature, usable_channel: bool = False) -> Tensor:
    """(B, T, C, H, W) and (B, T, H, W) -> (B, T * C, H, W), or (B, T * (C + 1), H, W) with where it is usable.

    Unusable pixels become 0, which is the mean of a normalised band: what was there (a cloud, NaN) has no influence.
    ValueError for a stack that the signature does not describe.
    """
    if images.ndim != 5 or images.shape[1:3] != (signature.dates, signature.channels):
        raise ValueError(
            f"images are {tuple(images.shape)}; the network takes (B, {signature.dates}, {signature.channels}, H, W)"
        )
    if usable is not None:
        images = images.masked_fill(~usable[:, :, None], 0.0)
    if usable_channel:
        seen = torch.ones_like(images[:, :, :1]) if usable is None else usable[:, :, None].to(images.dtype)
        images = torch.cat([images, seen], dim=2)
    return images.flatten(1, 2)
