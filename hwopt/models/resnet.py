"""ResNet (He et al., arXiv 1512.03385), v1.5: the stride of a bottleneck sits on its 3x3."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from hwopt.models.library import Entry, add

_OVERRIDES = {"width": "channels of the stem", "classes": "classes of the head"}


class Block(nn.Module):
    """A residual block: `relu(x' + f(x))`, x' projected by a 1x1 convolution where shapes differ.

    `f` is 3x3, 3x3 (expansion 1) or 1x1, 3x3, 1x1 (expansion 4), each with batch normalisation.
    """

    def __init__(self, inputs: int, width: int, stride: int, *, bottleneck: bool) -> None:
        super().__init__()
        outputs = width * (4 if bottleneck else 1)
        kernels = (1, 3, 1) if bottleneck else (3, 3)
        channels = (inputs, *[width] * (len(kernels) - 1), outputs)
        strided = 1 if bottleneck else 0
        self.convolutions = nn.ModuleList(
            nn.Conv2d(
                channels[i], channels[i + 1], kernel, stride if i == strided else 1,
                kernel // 2, bias=False,
            )
            for i, kernel in enumerate(kernels)
        )  # fmt: skip
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in channels[1:])
        self.relu = nn.ReLU()
        self.project = None
        if stride != 1 or inputs != outputs:
            self.project = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width) to the same with new channels, strided."""
        y = x
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            y = norm(convolution(y))
            if norm is not self.norms[-1]:
                y = self.relu(y)
        shortcut = x if self.project is None else self.project(x)
        result: torch.Tensor = self.relu(y + shortcut)
        return result


class ResNet(nn.Module):
    """Stem, four stages of blocks, global average pooling, one linear layer."""

    def __init__(
        self, depths: tuple[int, ...], *, bottleneck: bool, width: int = 64, classes: int = 1000
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        )  # fmt: skip
        stages, channels = [], width
        for number, depth in enumerate(depths):
            blocks = []
            for position in range(depth):
                stride = 2 if number and not position else 1
                blocks.append(Block(channels, width * 2**number, stride, bottleneck=bottleneck))
                channels = width * 2**number * (4 if bottleneck else 1)
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, classes)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Images (batch, 3, height, width) to logits (batch, classes)."""
        logits: torch.Tensor = self.head(self.pool(self.stages(self.stem(pixels))).flatten(1))
        return logits


for _depth, _depths, _bottleneck in ((18, (2, 2, 2, 2), False), (50, (3, 4, 6, 3), True)):
    add(
        Entry(
            f"resnet{_depth}", f"ResNet-{_depth} v1.5, 224x224 images", "vision",
            partial(ResNet, _depths, bottleneck=_bottleneck),
            {"pixels": ((3, 224, 224), "float32")}, _OVERRIDES,
        )
    )  # fmt: skip
