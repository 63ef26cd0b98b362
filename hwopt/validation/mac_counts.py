"""Traced multiply-accumulates against the counts of published layer shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hwopt.validation.harness import Outcome, comparison, read_rows, score

_MODELS = {"VGG-16": "vgg16", "ResNet-50 v1.5 torchvision (stride on 3x3)": "resnet50"}
"""Networks of the file that the model library has in exactly that form. (Its AlexNet is the 2012
two-GPU one, its first ResNet-50 the 2015 one with the stride on the 1x1 convolution.)"""


@comparison("mac-counts", "mac_counts.csv")
def mac_counts(data: Path) -> Outcome:
    """MACs of traced convolutional networks, per layer and in total, against layer shapes."""
    from hwopt.frontend.capture import trace

    rows: list[dict[str, Any]] = []
    for network, model in _MODELS.items():
        graph = trace(model, batch=1)
        products = [op for op in graph.ops if op.macs]
        convolutions = [op for op in products if op.kind == "convolution"]
        layer = iter(convolutions)
        for row in read_rows(data, ("network", "layer", "macs")):
            if row["network"] != network:
                continue
            if row["layer"].startswith("TOTAL"):
                part = products if "FC" in row["layer"] else convolutions
                predicted = sum(op.macs for op in part)
            else:
                predicted = next(layer).macs
            rows.append(
                {"network": network, "layer": row["layer"], "predicted": predicted,
                 "published": int(row["macs"])}
            )  # fmt: skip
    truth = [row["published"] for row in rows]
    mean = sum(truth) / len(truth)
    return Outcome(
        "mac-counts", "native", "nothing", rows,
        score([row["predicted"] for row in rows], truth), score([mean] * len(truth), truth),
        "the mean of all rows",
    )  # fmt: skip
