"""The numpy meaning of every `Gather` and `Scan` function: the interpreter's table.

`ROUTINES[function](attributes, reads, writes)` returns the arrays written; `writes` gives shape and
element type of each. Speed is no aim here, meaning is: each is held against torch.
"""

from __future__ import annotations

from hwopt.ir.routine import images, indexing, movement, rows
from hwopt.ir.routine.signature import Routine

ROUTINES: dict[str, Routine] = {
    **movement.ROUTINES, **indexing.ROUTINES, **images.ROUTINES, **rows.ROUTINES,
}  # fmt: skip
