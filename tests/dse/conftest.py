"""An analytic evaluator: a design space with known prices, so that search can be tested alone."""

from __future__ import annotations

import numpy as np
import pytest

from hwopt.dse.codesign import goals
from hwopt.dse.evaluator import Evaluation, Evaluator
from hwopt.dse.space import StudyFile, parse_study


class Analytic(Evaluator):
    """Latency falls with every knob and energy rises, area is their product; some do not run."""

    def __init__(self, file: StudyFile, *, stop_after: int | None = None) -> None:
        self.counts = file.counts
        self.goals = goals(file)
        self.details = ("model.seconds",)
        self.calls = 0
        self._stop_after = stop_after

    def evaluate(self, codes):
        self.calls += 1
        if self._stop_after is not None and self.calls > self._stop_after:
            raise KeyboardInterrupt
        x = codes / np.maximum(self.counts - 1, 1)
        spread = 1 + 3 * np.abs(x[:, 2:] - 0.5).mean(axis=1)
        latency = spread * (1.2 - x[:, 0]) * 1e-3
        energy = spread * (0.3 + x[:, 0] ** 2) * 1e-3
        area = (1 + 4 * x[:, 1] + x[:, 0]) * 1e-6
        latency = latency * (1.5 - x[:, 1])
        objectives = np.stack([latency, energy, area], axis=1)
        objectives[(codes[:, 0] == 0) & (codes[:, 1] == 0)] = np.inf
        violations = (area[:, None] - 4.5e-6) / 4.5e-6
        return Evaluation(objectives, violations, latency[:, None])


def study_file(**changes) -> StudyFile:
    """A study over five knobs of the systolic template: 4 x 4 x 4 x 3 x 4 designs."""
    content = {
        "name": "analytic",
        "models": [{"model": "resnet18"}],
        "hardware": {
            "template": "systolic",
            "knobs": {
                "rows": [8, 16, 32, 64],
                "columns": [8, 16, 32, 64],
                "buffer": ["64 KiB", "128 KiB", "256 KiB", "512 KiB"],
                "accumulator": ["16 KiB", "32 KiB", "64 KiB"],
                "clock": "700 MHz",
                "bandwidth": ["6.4 GB/s", "12.8 GB/s", "25.6 GB/s", "51.2 GB/s"],
                "vector_lanes": 16,
            },
        },
        "objectives": ["latency", "energy", "area"],
        "constraints": ["area <= 4.5 mm2"],
        "search": {"population": 16, "budget": 160, "seed": 5},
    }
    return parse_study({**content, **changes})


@pytest.fixture
def file() -> StudyFile:
    """The analytic study."""
    return study_file()


@pytest.fixture
def make_file():
    """Builds the analytic study with other keys."""
    return study_file


@pytest.fixture
def analytic():
    """The class of the analytic evaluator."""
    return Analytic
