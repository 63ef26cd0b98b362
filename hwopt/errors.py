"""The exception tree of hwopt: every error a user can cause derives from `HwoptError`.

An error says what is wrong, where, the value, what is allowed, and what to change. The command
line prints it as one message without a traceback and exits with `exit_code`.
"""

from __future__ import annotations


class HwoptError(Exception):
    """Bad input of any kind. Commands exit with code 2 (3 for `InfeasibleError`)."""

    exit_code = 2

    def __init__(
        self, what: str, *, where: str = "", value: object = None, allowed: str = "", fix: str = ""
    ) -> None:
        self.what = what
        self.where = where
        self.value = value
        self.allowed = allowed
        self.fix = fix
        super().__init__(str(self))

    def __str__(self) -> str:
        parts = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.value is not None:
            parts.append(f"got: {self.value!r}")
        if self.allowed:
            parts.append(f"allowed: {self.allowed}")
        if self.fix:
            parts.append(f"fix: {self.fix}")
        return "\n  ".join(parts)


class FileFormatError(HwoptError):
    """A file that cannot be read as what it should be (syntax, duplicate key, schema, NaN)."""


class PathError(HwoptError):
    """A path that leaves the directory it must stay in, or that cannot be used."""


class QuantityError(HwoptError):
    """A number with a unit that cannot be understood ("64 KiBB") or is out of range."""


class UnknownNameError(HwoptError):
    """A name that no registry entry has; the message lists the nearest ones."""


class GraphError(HwoptError):
    """A graph that breaks a rule of the IR; the message shows the operator and its neighbours."""


class CycleError(GraphError):
    """Operators that depend on one another in a circle."""


class UndefinedTensorError(GraphError):
    """An operator or an output names a tensor that nothing defines before."""


class DuplicateWriterError(GraphError):
    """Two operators write one tensor, or one name is declared twice."""


class ShapeError(GraphError):
    """Sizes that do not fit together, or an access outside its tensor."""


class SizeError(GraphError):
    """A size that is zero, negative or too large to count exactly (above 2**53)."""


class TextError(GraphError):
    """IR text that cannot be parsed; the message shows line and column."""


class TraceError(HwoptError):
    """A model that cannot be captured."""


class UnsupportedOperatorError(TraceError):
    """An operator with no lowering; names it, its module path and its source line."""


class PassError(HwoptError):
    """A pass that failed or broke the IR; names the reproducer that was written."""


class HardwareError(HwoptError):
    """An accelerator, cluster or template that contradicts itself."""


class MappingError(HwoptError):
    """A mapping that is not legal for its operator and machine."""


class StudyError(HwoptError):
    """A study file or directory that cannot be run or resumed."""


class InfeasibleError(HwoptError):
    """Nothing fits: says which constraint, by how much, and what would relax it (exit code 3)."""

    exit_code = 3
