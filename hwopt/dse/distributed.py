"""A search over several processes or machines: chunks of a population on dask.distributed.

Every worker builds the study's evaluator once and prices its share of each generation. Prices are
pure functions of the codes, so the run is the same, byte for byte, as on one process. Dask is an
optional extra: `pip install hwopt[distributed]`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from hwopt.dse.codesign import CoDesign
from hwopt.dse.evaluator import Evaluation, Evaluator
from hwopt.dse.space import Codes, StudyFile, Value, parse_study
from hwopt.errors import StudyError

if TYPE_CHECKING:
    from rich.console import Console

    from hwopt.hardware.accelerator import Accelerator


@contextmanager
def open_evaluator(
    file: StudyFile, workers: int = 1, console: Console | None = None, *, processes: int = 1
) -> Iterator[Evaluator]:
    """The evaluator of a study: in this process, or over `workers` local processes."""
    if workers <= 1:
        local = CoDesign(file, processes=processes, console=console)
        try:
            yield local
        finally:
            local.close()
        return
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise StudyError("several workers need dask.distributed", where="--workers", value=workers,
                         fix="pip install 'hwopt[distributed]'") from error  # fmt: skip
    cluster = LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        dashboard_address=None,
        processes=True,
        silence_logs=logging.ERROR,
    )
    with cluster, Client(cluster) as client:
        yield Distributed(file, client)


class Distributed(Evaluator):
    """An evaluator that sends each worker of a dask client an equal share of every batch."""

    def __init__(self, file: StudyFile, client: Any) -> None:
        local = CoDesign(file)
        self.counts, self.goals, self.details = local.counts, local.goals, local.details
        self._client = client
        self._text = json.dumps(file.model_dump(mode="json"))  # in order: codes follow the knobs
        self._local = local

    def costs(
        self, knobs: Mapping[str, Mapping[str, Value]], machine: Accelerator
    ) -> list[dict[str, Any]]:
        """In this process."""
        return self._local.costs(knobs, machine)

    def evaluate(self, codes: Codes) -> Evaluation:
        """Prices of a batch, in its order."""
        workers = max(1, len(self._client.scheduler_info()["workers"]))
        parts = [part for part in np.array_split(codes, workers) if len(part)]
        futures = self._client.map(price_share, [self._text] * len(parts), parts, pure=False)
        results = self._client.gather(futures)
        return Evaluation(*(np.concatenate(columns) for columns in zip(*results, strict=True)))


_evaluators: dict[str, CoDesign] = {}


def price_share(text: str, codes: Codes) -> tuple[Any, Any, Any]:
    """Runs on a worker: price a share with this process's evaluator of the study."""
    if text not in _evaluators:
        _evaluators[text] = CoDesign(parse_study(json.loads(text)))
    result = _evaluators[text].evaluate(codes)
    return result.objectives, result.violations, result.details
