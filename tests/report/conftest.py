"""A finished study with invented prices, so that reports can be tested without a search."""

from __future__ import annotations

import numpy as np
import pytest

from hwopt.dse.codesign import goals
from hwopt.dse.journal import History
from hwopt.dse.space import parse_study
from hwopt.dse.study import COSTS, Study
from hwopt.files import write_json

ROW = {
    "kind": "convolution", "joules": 2e-6, "utilisation": 0.5, "outer_bytes": 1e5, "how": "fused",
    "ops": ["a"], "count": 2,
}  # fmt: skip


@pytest.fixture
def study(tmp_path) -> Study:
    """300 designs of four objectives over three hardware knobs and a model's width."""
    file = parse_study({
        "name": "invented </script> & co",
        "models": [{"model": "opt-125m", "name": "lm", "knobs": {"width": [64, 128, 256]},
                    "quality": {"source": "hoffmann", "tokens": 1e10}}],
        "hardware": {"template": "systolic", "knobs": {
            "rows": [8, 16, 32, 64], "columns": [8, 16, 32, 64], "accumulator": "32 KiB",
            "clock": "700 MHz", "bandwidth": "25.6 GB/s", "vector_lanes": 16}},
        "objectives": ["latency", "energy", "area", "quality"],
        "constraints": ["area <= 40 mm2"],
    })  # fmt: skip
    found = goals(file)
    codes = file.every()[:300]
    x = codes / (file.counts - 1)
    numbers = np.column_stack([
        (2 - x[:, 0] - 0.5 * x[:, 1]) * 1e-3, (0.5 + x[:, 0] ** 2 + x[:, 3]) * 1e-3,
        (1 + x[:, 0] + x[:, 2]) * 1e-6, 3 - x[:, 3], np.arange(300) % 7 > 0,
        np.full(300, 1e-3), np.full(300, 2e-3), np.full(300, 5e6), 3 - x[:, 3], np.ones(300),
    ])  # fmt: skip
    details = ("seconds", "joules", "parameters", "quality", "extrapolated")
    columns = (*(g.name for g in found), "feasible", *(f"lm.{name}" for name in details))
    write_json(tmp_path / COSTS, [{
        "model": "lm", "seconds": 2e-5, "joules": 4e-6, "area_m2": 1e-6, "macs": 10**6,
        "utilisation": 0.4, "objective": "latency", "is_bound": True,
        "rows": [
            {**ROW, "name": "conv<1>", "macs": 10**6, "seconds": 1.5e-5, "bound": "compute"},
            {**ROW, "name": "norm", "macs": 0, "seconds": 5e-6, "bound": "vector"},
        ],
    }])  # fmt: skip
    return Study(tmp_path, file, found, History(columns, codes, numbers, np.arange(300) // 50))
