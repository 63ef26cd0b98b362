"""AlexNet, one tower (Krizhevsky, arXiv 1404.5997): no groups, no local normalisation."""

from __future__ import annotations

import torch
from torch import nn

from hwopt.models.library import Entry, add


class AlexNet(nn.Module):
    """Five convolutions, three linear layers."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
        )  # fmt: skip
        self.pool = nn.AdaptiveAvgPool2d(6)
        self.head = nn.Sequential(
            nn.Dropout(), nn.Linear(256 * 36, 4096), nn.ReLU(),
            nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, classes),
        )  # fmt: skip

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Images (batch, 3, height, width) to logits (batch, classes)."""
        logits: torch.Tensor = self.head(self.pool(self.features(pixels)).flatten(1))
        return logits


add(
    Entry(
        "alexnet", "AlexNet, one tower, 224x224 images", "vision", AlexNet,
        {"pixels": ((3, 224, 224), "float32")}, {"classes": "classes of the head"},
    )
)  # fmt: skip
