"""What the tests of rlhf share."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from torch import Tensor

from rlhf.algorithm import Reduce


@pytest.fixture(scope="session")
def in_processes() -> Callable[[int, Callable[[int, Reduce], Any]], list[Any]]:
    """`in_processes(n, work)` runs work(rank, reduce) n times at once and returns the results.

    Threads that really wait for each other stand for processes: one that reduces more often than
    another fails here too (after ten seconds).
    """

    def run(count: int, work: Callable[[int, Reduce], Any]) -> list[Any]:
        barrier = Barrier(count, timeout=10)
        shares: list[Tensor | None] = [None] * count

        def one(rank: int) -> Any:
            def reduce(tensor: Tensor) -> Tensor:
                shares[rank] = tensor
                barrier.wait()
                total = sum(share for share in shares if share is not None)
                barrier.wait()
                assert isinstance(total, Tensor)
                return total

            try:
                return work(rank, reduce)
            except BaseException:
                barrier.abort()
                raise

        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(one, range(count)))

    return run
