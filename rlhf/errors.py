"""The exception tree of rlhf: every error a user can cause derives from `RlhfError`.

The message form (what, where, value, allowed, fix) and the exit codes are those of `hwopt`; the
command line prints one message without a traceback and exits with `exit_code`.
"""

from __future__ import annotations

from hwopt import HwoptError


class RlhfError(HwoptError):
    """Bad input of any kind: exit code 2."""


class PlanError(RlhfError):
    """A plan that contradicts itself or names what is not there; `where` is the dotted path."""


class DataError(RlhfError):
    """Data that cannot be used; `where` is file:line or the name of the set."""


class ModelError(RlhfError):
    """A model or tokenizer that cannot be built, loaded or trained as asked."""


class CheckpointError(RlhfError):
    """A checkpoint that is incomplete, corrupt or of another plan."""


class RunError(RlhfError):
    """A folder that is not a run, or a run without what a command needs."""


class LaunchError(RlhfError):
    """Processes that could not be started, or one that died; names rank, host and phase."""


class OutOfMemoryError(RlhfError):
    """A phase that did not fit: which, what it needed, what to change. Exit code 3."""

    exit_code = 3


class DivergedError(RlhfError):
    """A loss or gradient that is not finite: the run stopped and kept its last good checkpoint."""


class RolloutMismatchError(RlhfError):
    """Log-probs of generation and of a plain forward differ: a rollout that cannot be trusted."""
