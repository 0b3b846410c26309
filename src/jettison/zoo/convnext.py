"""ConvNeXt: 7×7 depthwise convolution, layer norm, and a 1×1 expansion with GELU, as the whole residual block.

"A ConvNet for the 2020s", Liu, Mao, Wu, Feichtenhofer, Darrell, Xie, CVPR 2022. https://arxiv.org/abs/2201.03545
The atto size is timm's; keys `stem.0, stages.0.blocks.0.conv_dw …, head.fc` are too.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

DEPTHS = (2, 2, 6, 2)
EPS = 1e-6


def convnext_atto(num_classes: int, in_channels: int, small_image: bool) -> nn.Module:
    """3.70 M parameters."""
    return ConvNeXt(40, num_classes, in_channels, small_image)


class LayerNorm(nn.LayerNorm):
    """Over the channels of an image (n, c, h, w)."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Block(nn.Module):
    """x + γ · fc2(gelu(fc1(norm(conv_dw(x)))))."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(c, c, 7, padding=3, groups=c)
        self.norm = LayerNorm(c, EPS)
        self.mlp = nn.Sequential(OrderedDict(fc1=nn.Conv2d(c, 4 * c, 1), act=nn.GELU(), fc2=nn.Conv2d(4 * c, c, 1)))
        self.gamma = nn.Parameter(torch.full((c,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gamma[:, None, None] * self.mlp(self.norm(self.conv_dw(x)))


class Stage(nn.Module):
    def __init__(self, c: int, k: int, depth: int) -> None:
        super().__init__()
        self.downsample = nn.Identity() if c == k else nn.Sequential(LayerNorm(c, EPS), nn.Conv2d(c, k, 2, 2))
        self.blocks = nn.Sequential(*(Block(k) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


class ConvNeXt(nn.Module):
    """`small_image`: the stem's patches are 2×2 instead of 4×4, so a 32×32 image ends as 2×2."""

    def __init__(self, width: int, num_classes: int, in_channels: int, small_image: bool) -> None:
        super().__init__()
        patch, widths = 2 if small_image else 4, [width << i for i in range(len(DEPTHS))]
        self.stem = nn.Sequential(nn.Conv2d(in_channels, width, patch, patch), LayerNorm(width, EPS))
        self.stages = nn.Sequential(*(Stage(c, k, depth) for c, k, depth in zip([width, *widths], widths, DEPTHS)))
        self.head = nn.Sequential(OrderedDict(norm=nn.LayerNorm(widths[-1], EPS), fc=nn.Linear(widths[-1], num_classes)))
        for m in self.modules():
            if isinstance(m, (nn.Conv2d, nn.Linear)):
                nn.init.trunc_normal_(m.weight, std=0.02)
                if m.bias is not None:
                    nn.init.zeros_(m.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(self.stem(x)).mean((2, 3)))
