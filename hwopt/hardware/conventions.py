"""Named modelling conventions: small choices in which analytical tools differ.

One frozen value is read by simulator, closed forms, reference and kernel alike. `NATIVE` is the
truthful one and the default; the others reproduce a tool for validation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Conventions:
    """How traffic, cycles and energy of a mapping are counted.

    * `fetch`: when a tile is fetched. "hoisted": at each iteration of the innermost loop that
      indexes the operand and of all loops outside it, as a compiler places the transfer; "changed":
      whenever the tile differs from the one before, edges included; "counted": at each iteration of
      every loop above the keep.
    * `halo`: which part of a sliding window is kept. "shift": the overlap with the tile before,
      when
      the tile moved along one composite axis (hoisted: when the innermost loop that indexes the
      operand moved it); "none": nothing.
    * `strided`: elements of a strided window that are read: "exact" set, or its "bounding" box.
    * `padding`: whether positions outside the tensor are "free" (never read) or "counted".
    * `first_write`: what the first accumulation of a partial sum reads: "nothing" or "zero"s.
    * `edges`: edge tiles run in their own size ("exact") or as full tiles ("padded").
    """

    name: str = "native"
    fetch: Literal["hoisted", "changed", "counted"] = "hoisted"
    halo: Literal["shift", "none"] = "shift"
    strided: Literal["exact", "bounding"] = "exact"
    padding: Literal["free", "counted"] = "free"
    first_write: Literal["nothing", "zero"] = "nothing"
    edges: Literal["exact", "padded"] = "exact"


NATIVE = Conventions()
TIMELOOP = Conventions("timeloop", fetch="changed", strided="bounding", padding="counted")
"""The nearest these choices come; `mapping.timeloop_counts` counts exactly as Timeloop does."""
ACCELFORGE = Conventions(
    "accelforge", fetch="counted", halo="none", strided="bounding", padding="counted"
)
ZIGZAG = Conventions("zigzag", halo="none", padding="counted")
SCALESIM = Conventions("scalesim", halo="none")

CONVENTIONS: dict[str, Conventions] = {
    c.name: c for c in (NATIVE, TIMELOOP, ACCELFORGE, ZIGZAG, SCALESIM)
}
