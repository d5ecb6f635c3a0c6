"""FarSeg, the foreground-aware relation network (Zheng et al. 2020, arXiv 2011.09766).

From the paper and the authors' code: a ResNet-50 with a feature pyramid (FPN, arXiv 1612.03144) of 256 channels; the
scene embedding, global average of C5, is projected for each scale (1 x 1, ReLU, 1 x 1) and compared with the encoded
content of each pixel: relation r = sigmoid(sum over channels of scene x content), by which the re-encoded features are
multiplied; a light decoder brings each scale to stride 4 with 3 x 3 convolutions of 128 channels and bilinear doubling,
averages the scales, classifies with 1 x 1 and interpolates by 4. Three bands and 16 classes: 31.37 M parameters. The
foreground-aware loss is losses.foreground_aware.
Our choices: GroupNorm instead of BatchNorm (as many parameters; small batches, samples that never see each other), any
number of bands, dates as channels, optional smaller encoders and stems for 10 m pixels and small machines.
"""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from eoflow.models.images import ImageModel, ImageSignature, padded
from eoflow.models.layers.dates import picture, picture_channels
from eoflow.models.layers.resnet import FeaturePyramid, ResNet
from eoflow.models.layers.units import he_initialised, norm, rounded_up


def _double(x: Tensor, factor: int = 2) -> Tensor:
    if factor == 1:
        return x
    return F.interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=False)


def _over(scene: Tensor, x: Tensor) -> Tensor:
    """The scene's embedding for each place of x: one for all, or that of the coarse cell a place lies in."""
    if scene.shape[-2:] == (1, 1) or scene.shape[-2:] == x.shape[-2:]:
        return scene
    return F.interpolate(scene, size=x.shape[-2:], mode="nearest")


class SceneRelation(nn.Module):
    """scene (B, C, 1, 1), features [(B, width, h, w)] -> [relation (B, 1, h, w) times re-encoded features].

    A scene of more than one place is one for every place of the coarsest features.
    """

    def __init__(self, scene: int, width: int, scales: int, kind: str, shared: bool) -> None:
        super().__init__()
        self.scene = nn.ModuleList(
            nn.Sequential(nn.Conv2d(scene, width, 1), nn.ReLU(), nn.Conv2d(width, width, 1))
            for _ in range(1 if shared else scales)
        )
        self.content, self.encoded = (
            nn.ModuleList(
                nn.Sequential(nn.Conv2d(width, width, 1), norm(kind, width), nn.ReLU()) for _ in range(scales)
            )
            for _ in range(2)
        )

    def relations(self, scene: Tensor, features: list[Tensor]) -> list[Tensor]:
        """[(B, 1, h, w)] in (0, 1), a scale each: how much a pixel has to do with the scene's foreground."""
        scenes = [encode(scene) for encode in self.scene]
        scenes = scenes * len(features) if len(scenes) == 1 else scenes
        return [(_over(s, x) * c(x)).sum(1, keepdim=True).sigmoid() for s, c, x in zip(scenes, self.content, features)]

    def forward(self, scene: Tensor, features: list[Tensor]) -> list[Tensor]:
        """See the class."""
        return [r * e(x) for r, e, x in zip(self.relations(scene, features), self.encoded, features)]


class LightDecoder(nn.Module):
    """[(B, inputs, H / 2^i, W / 2^i)] -> (B, width, H, W): the mean of the scales, each brought to the finest size."""

    def __init__(self, inputs: int, width: int, scales: int, kind: str) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.ModuleList(
                nn.Sequential(
                    nn.Conv2d(width if k else inputs, width, 3, padding=1, bias=kind == "none"),
                    norm(kind, width),
                    nn.ReLU(),
                )
                for k in range(max(i, 1))
            )
            for i in range(scales)
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        """See the class."""
        total = []
        for i, (branch, x) in enumerate(zip(self.branches, features)):
            for unit in cast(nn.ModuleList, branch):
                x = _double(unit(x), 2 if i else 1)
            total.append(x)
        return sum(total[1:], total[0]) / len(total)  # not stacked: nothing is copied


class FarSeg(ImageModel):
    """images (B, T, C, H, W), usable (B, T, H, W) -> {logits: (B, K, H, W)}.

    Options
        encoder: 'resnet50' or another kind of layers.resnet; width: its first width; stem_stride: 4, or 2 or 1 for a
            picture whose objects are a few pixels wide (the cost grows by 4 a step).
        pyramid, decoder: channels of the pyramid and of the decoder. shared_scene: one scene projection for all scales.
        scene_cells: 0: the scene is the whole picture, as in the paper; an odd number: so many of the coarsest cells
            across, around each place.
        norm: 'group', 'layer', 'batch' or 'none'. usable_channel: tell the network where each date is usable.
        A small one for a CPU: encoder 'resnet18', width 32, pyramid 64, decoder 64: 3.35 M parameters.

    Where the scene is the whole picture no halo is exact; `halo` is four of the coarsest cells, where most of the
    response of a convolutional encoder lies. With scene_cells and norm 'layer', 'batch' (outside training) or 'none',
    `halo` is the radius of the receptive field, and windows give exactly the picture of the whole scene.
    """

    def __init__(
        self,
        signature: ImageSignature,
        *,
        encoder: str = "resnet50",
        width: int = 64,
        stem_stride: int = 4,
        pyramid: int = 256,
        decoder: int = 128,
        shared_scene: bool = False,
        scene_cells: int = 0,
        norm: str = "group",
        usable_channel: bool = False,
    ) -> None:
        super().__init__(signature)
        if scene_cells and (scene_cells < 0 or scene_cells % 2 == 0):
            raise ValueError(f"scene_cells {scene_cells} is not 0 or an odd number")
        self.usable_channel, self.scene_cells = usable_channel, scene_cells
        inputs = picture_channels(signature, usable_channel)
        self.encoder = ResNet(inputs, encoder, width=width, norm=norm, stem_stride=stem_stride)
        channels = self.encoder.channels
        self.stride, self.multiple = self.encoder.strides[0], self.encoder.strides[-1]
        self.halo = rounded_up(self._reach(), self.multiple) if scene_cells else 4 * self.multiple
        self.pyramid = FeaturePyramid(channels, pyramid)
        self.relation = SceneRelation(channels[-1], pyramid, len(channels), norm, shared_scene)
        self.decoder = LightDecoder(pyramid, decoder, len(channels), norm)
        self.head = nn.Conv2d(decoder, signature.outputs, 1)
        he_initialised(self)

    def forward(self, images: Tensor, usable: Tensor | None = None) -> dict[str, Tensor]:
        """See the class."""
        x, (height, width) = padded(picture(images, usable, self.signature, self.usable_channel), self.multiple)
        features = self.encoder(x)
        scene = self._scene(features[-1])
        logits = self.head(self.decoder(self.relation(scene, self.pyramid(features))))
        return {"logits": _double(logits, self.stride)[..., :height, :width]}

    def _scene(self, coarsest: Tensor) -> Tensor:
        """Mean over the picture (B, C, 1, 1), or around each place (B, C, h, w)."""
        n = self.scene_cells
        if not n:
            return coarsest.mean(dim=(2, 3), keepdim=True)
        return F.avg_pool2d(coarsest, n, stride=1, padding=n // 2, count_include_pad=False)

    def _reach(self) -> int:
        """Radius of the receptive field around a pixel, from the head to the stem, where the scene is local."""
        first, *coarser = self.encoder.strides
        decoder = 3 * first + 2 * sum(coarser)  # at each coarser stride a 3 x 3 and a doubling; the last enlargement
        scene = max(self.scene_cells // 2, 1) * self.multiple  # the pyramid's 3 x 3 reaches one cell
        return self.encoder.radius + self.multiple + scene + decoder
