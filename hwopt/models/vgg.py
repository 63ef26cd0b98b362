"""VGG-16 (Simonyan and Zisserman, arXiv 1409.1556), configuration D, without batch norm."""

from __future__ import annotations

import torch
from torch import nn

from hwopt.models.library import Entry, add

_DEPTHS = (2, 2, 3, 3, 3)


class Vgg16(nn.Module):
    """Thirteen 3x3 convolutions in five stages, three linear layers."""

    def __init__(self, width: int = 64, classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for stage, depth in enumerate(_DEPTHS):
            for _ in range(depth):
                wide = width * min(2**stage, 8)
                layers += [nn.Conv2d(channels, wide, 3, padding=1), nn.ReLU()]
                channels = wide
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(7)
        self.head = nn.Sequential(
            nn.Linear(channels * 49, 4096), nn.ReLU(), nn.Dropout(),
            nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, classes),
        )  # fmt: skip

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Images (batch, 3, height, width) to logits (batch, classes)."""
        logits: torch.Tensor = self.head(self.pool(self.features(pixels)).flatten(1))
        return logits


add(
    Entry(
        "vgg16", "VGG-16 (configuration D), 224x224 images", "vision", Vgg16,
        {"pixels": ((3, 224, 224), "float32")},
        {"width": "channels of the first stage", "classes": "classes of the head"},
    )
)  # fmt: skip
