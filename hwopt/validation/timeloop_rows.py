"""A mapping that Timeloop evaluated, ours beside theirs: the common form of both kinds of file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """Cycles and energy, ours and theirs; `compared` published counts of which `different` differ
    (each told in words); what bounds the cycles in our count; the work and the lanes.
    """

    name: str
    cycles: int
    their_cycles: int
    joules: float
    their_joules: float
    compared: int
    different: tuple[str, ...]
    bound: str
    macs: int
    lanes: int

    @property
    def energy_error_percent(self) -> float:
        """Relative to theirs."""
        return 100 * abs(self.joules - self.their_joules) / self.their_joules
