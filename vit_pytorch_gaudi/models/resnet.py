"""The ResNet under a hybrid Vision Transformer, as Google's JAX models compute it.

ResNet V1 units with weight-standardised convolutions (Qiao et al. 2019, arXiv:1903.10520) and GroupNorm in place of
BatchNorm (Kolesnikov et al. 2019, arXiv:1912.11370; Dosovitskiy et al. 2020, arXiv:2010.11929, section 4.1).
Submodules are called as the arrays in Google's files.
"""

from __future__ import annotations

from typing import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EXPANSION = 4  # of a unit's inner width
GROUPS = 32


def pad_same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Pad (B, C, h, w) with zeros so that a window gives ceil(side / stride) outputs, TensorFlow's SAME.

    An odd pixel goes below and to the right, where torch's symmetric padding can't put it.
    """
    margins = []
    for side in (x.shape[-1], x.shape[-2]):
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        margins += [total // 2, total - total // 2]
    return F.pad(x, margins) if any(margins) else x


class StdConv(nn.Conv2d):
    """Convolution without bias and with SAME padding; each filter is used with mean 0 and standard deviation 1."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) -> (B, out_channels, ceil(h / stride), ceil(w / stride))."""
        deviation, mean = torch.std_mean(self.weight, dim=(1, 2, 3), correction=0, keepdim=True)
        weight = (self.weight - mean) / (deviation + 1e-5)
        return F.conv2d(pad_same(x, self.kernel_size[0], self.stride[0]), weight, stride=self.stride)


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm as Flax has it by default."""
    return nn.GroupNorm(GROUPS, channels, eps=1e-6)


class Unit(nn.Module):
    """Bottleneck unit, (B, in_channels, h, w) -> (B, 4·width, h / stride, w / stride)."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = EXPANSION * width
        self.projects = in_channels != out  # where sides are halved, too
        if self.projects:
            self.conv_proj = StdConv(in_channels, out, 1, stride)
            self.gn_proj = group_norm(out)
        self.conv1 = StdConv(in_channels, width, 1)
        self.gn1 = group_norm(width)
        self.conv2 = StdConv(width, width, 3, stride)
        self.gn2 = group_norm(width)
        self.conv3 = StdConv(width, out, 1)
        self.gn3 = group_norm(out)
        nn.init.zeros_(self.gn3.weight)  # the unit starts as its shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch of three convolutions to the shortcut."""
        shortcut = self.gn_proj(self.conv_proj(x)) if self.projects else x
        x = F.relu(self.gn1(self.conv1(x)))
        x = F.relu(self.gn2(self.conv2(x)))
        return F.relu(shortcut + self.gn3(self.conv3(x)))


class ResNet(nn.Module):
    """Images (B, in_channels, h, w) -> features (B, channels, h / stride, w / stride).

    Args:
        in_channels: of the images.
        width: channels of the root.
        stages: units of each stage; a stage after the first halves the sides and doubles the width.
    """

    def __init__(self, in_channels: int, width: int, stages: Sequence[int]) -> None:
        super().__init__()
        self.conv_root = StdConv(in_channels, width, 7, 2)
        self.gn_root = group_norm(width)
        self.depth = len(stages)
        channels = width
        for index, units in enumerate(stages):
            stage = nn.Module()
            for unit in range(units):
                stride = 2 if index and not unit else 1
                stage.add_module(f"unit{unit + 1}", Unit(channels, width * 2**index, stride))
                channels = EXPANSION * width * 2**index
            self.add_module(f"block{index + 1}", stage)
        self.channels = channels
        for module in self.modules():
            if isinstance(module, StdConv):
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")

    @staticmethod
    def stride_of(stages: Sequence[int]) -> int:
        """Pixels of the image along one side of a feature."""
        return 4 * 2 ** (len(stages) - 1)

    def forward(self, images: Tensor) -> Tensor:
        """Features of normalised images."""
        x = F.relu(self.gn_root(self.conv_root(images)))
        x = F.max_pool2d(pad_same(x, 3, 2), 3, 2)  # nothing is below the zeros of the padding
        for index in range(self.depth):
            for unit in self.get_submodule(f"block{index + 1}").children():
                x = unit(x)
        return x
