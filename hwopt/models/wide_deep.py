"""Wide & Deep (Cheng et al., arXiv 1606.07792) with the field sizes of the Criteo click data.

13 dense features and 26 categorical ones hashed into 100,000 buckets in all (each field its own
range of the table), 16 numbers per category; the deep part has the paper's 1024, 512, 256 units.
The wide part is linear in the dense features and one weight per category.
"""

from __future__ import annotations

import torch
from torch import nn

from hwopt.models.library import Entry, add

DENSE, FIELDS = 13, 26


class WideDeep(nn.Module):
    """Logit of a click from dense features and one category per field."""

    def __init__(
        self, buckets: int = 100_000, embedding: int = 16, width: int = 1024, depth: int = 3
    ) -> None:
        super().__init__()
        self.wide_dense = nn.Linear(DENSE, 1)
        self.wide_category = nn.Embedding(buckets, 1)
        self.embedding = nn.Embedding(buckets, embedding)
        layers: list[nn.Module] = []
        units = DENSE + FIELDS * embedding
        for number in range(depth):
            wide = max(1, width >> number)
            layers += [nn.Linear(units, wide), nn.ReLU()]
            units = wide
        self.deep = nn.Sequential(*layers, nn.Linear(units, 1))

    def forward(self, dense: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
        """Features (batch, 13) and bucket numbers (batch, 26) to logits (batch,)."""
        wide = self.wide_dense(dense)[:, 0] + self.wide_category(categories)[..., 0].sum(-1)
        deep = torch.cat([dense, self.embedding(categories).flatten(1)], dim=1)
        logits: torch.Tensor = wide + self.deep(deep)[:, 0]
        return logits


add(
    Entry(
        "wide-deep", "Wide & Deep click model, Criteo field sizes", "recommendation", WideDeep,
        {"dense": ((DENSE,), "float32"), "categories": ((FIELDS,), "int64")},
        {"width": "units of the first deep layer", "depth": "deep layers",
         "buckets": "categories", "embedding": "numbers per category"},
        loss="binary_cross_entropy",
    )
)  # fmt: skip
