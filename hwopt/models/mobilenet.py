"""MobileNet-v2 (Sandler et al., arXiv 1801.04381), width multiplier 1."""

from __future__ import annotations

import torch
from torch import nn

from hwopt.models.library import Entry, add

_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
           (6, 160, 3, 2), (6, 320, 1, 1))  # fmt: skip
"""Expansion, channels, blocks and stride of the first block, per stage (table 2 of the paper)."""


def _convolution(
    inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1
) -> list[nn.Module]:
    """Convolution, batch norm, ReLU6."""
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs), nn.ReLU6(),
    ]  # fmt: skip


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, linear 1x1 projection; a shortcut where shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        layers = _convolution(inputs, inner, 1, 1) if expansion != 1 else []
        layers += _convolution(inner, inner, 3, stride, groups=inner)
        layers += _convolution(inner, outputs, 1, 1)[:2]
        self.layers = nn.Sequential(*layers)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width) to the same with new channels, strided."""
        y: torch.Tensor = self.layers(x)
        return x + y if self.shortcut else y


class MobileNetV2(nn.Module):
    """Stem, seventeen inverted residuals, 1x1 convolution, pooling, one linear layer."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = _convolution(3, 32, 3, 2)
        channels = 32
        for expansion, width, depth, stride in _STAGES:
            for position in range(depth):
                step = 1 if position else stride
                layers.append(InvertedResidual(channels, width, step, expansion))
                channels = width
        layers += _convolution(channels, 1280, 1, 1)
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Images (batch, 3, height, width) to logits (batch, classes)."""
        logits: torch.Tensor = self.head(self.pool(self.features(pixels)).flatten(1))
        return logits


add(
    Entry(
        "mobilenet-v2", "MobileNet-v2, 224x224 images", "vision", MobileNetV2,
        {"pixels": ((3, 224, 224), "float32")}, {"classes": "classes of the head"},
    )
)  # fmt: skip
