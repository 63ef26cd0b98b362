"""hwopt: a compiler-style performance model of accelerators, from traced PyTorch graphs.

The public names are imported on first use, so that `import hwopt` loads no heavy dependency.
"""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    # what is computed
    "Axis": "hwopt.ir.access",
    "Affine": "hwopt.ir.access",
    "Access": "hwopt.ir.access",
    "Tensor": "hwopt.ir.tensor",
    "Op": "hwopt.ir.op",
    "Nest": "hwopt.ir.op",
    "Graph": "hwopt.ir.graph",
    "Program": "hwopt.ir.program",
}

__all__ = sorted(_EXPORTS)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'hwopt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
