"""Systolic arrays, against an array that is walked register by register."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwopt.errors import MappingError
from hwopt.hardware.conventions import SCALESIM
from hwopt.ir.access import Access, Affine, Axis
from hwopt.mapping.problem import Operand, Problem, normalise
from hwopt.mapping.simulate import simulate
from hwopt.mapping.systolic import DATAFLOWS, STATIONARY, SystolicArray, matrix_product


def output_stationary(left, right, rows, columns):
    """Multiply two matrices on an array whose sums stay; returns the product and the cycles.

    `left` enters from the left, `right` from above, both skewed; each cycle every PE takes what
    its neighbours hold, multiplies and adds, until the last PE of the array has seen it all.
    """
    (m, k), n = left.shape, right.shape[1]
    product, cycles = np.zeros((m, n), int), 0
    for top in range(0, m, rows):
        for first in range(0, n, columns):
            a, b = np.zeros((rows, k), int), np.zeros((k, columns), int)
            part, piece = left[top : top + rows], right[:, first : first + columns]
            a[: len(part)], b[:, : piece.shape[1]] = part, piece
            east, south = np.zeros((rows, columns), int), np.zeros((rows, columns), int)
            sums, seen = np.zeros((rows, columns), int), np.zeros((rows, columns), int)
            valid, tick = np.zeros((rows, columns), bool), 0
            while seen[-1, -1] < k:
                east[:, 1:], south[1:] = east[:, :-1].copy(), south[:-1].copy()
                valid[:, 1:] = valid[:, :-1].copy()
                for i in range(rows):
                    valid[i, 0] = 0 <= tick - i < k
                    east[i, 0] = a[i, tick - i] if valid[i, 0] else 0
                for j in range(columns):
                    south[0, j] = b[tick - j, j] if 0 <= tick - j < k else 0
                sums += east * south
                seen += valid
                tick += 1
            cycles += tick
            product[top : top + rows, first : first + columns] = sums[: len(part), : piece.shape[1]]
    return product, cycles


def operand_stationary(streamed, held, rows, columns):
    """Multiply two matrices on an array that holds `held`; returns the product and the cycles.

    `held` shifts in from above, a row a cycle; `streamed` enters from the left, skewed, and sums
    move down a row a cycle, until the last row of sums has left at the bottom right.
    """
    (t, k), n = streamed.shape, held.shape[1]
    product, cycles = np.zeros((t, n), int), 0
    for top in range(0, k, rows):
        for first in range(0, n, columns):
            fixed, x = np.zeros((rows, columns), int), np.zeros((t, rows), int)
            piece = held[top : top + rows, first : first + columns]
            fixed[: piece.shape[0], : piece.shape[1]] = piece
            x[:, : piece.shape[0]] = streamed[:, top : top + rows]
            stationary = np.zeros((rows, columns), int)
            for i in reversed(range(rows)):
                stationary[1:], stationary[0] = stationary[:-1].copy(), fixed[i]
                cycles += 1
            assert (stationary == fixed).all()
            east, sums = np.zeros((rows, columns), int), np.zeros((rows, columns), int)
            left, tick = [0] * columns, 0
            while left[-1] < t:
                east[:, 1:], above = east[:, :-1].copy(), np.zeros((rows, columns), int)
                above[1:] = sums[:-1]
                for i in range(rows):
                    east[i, 0] = x[tick - i, i] if 0 <= tick - i < t else 0
                sums = above + east * stationary
                for j in range(columns):
                    row = tick - (rows - 1) - j
                    if 0 <= row < t:
                        left[j] += 1
                        if first + j < n:
                            product[row, first + j] += sums[-1, j]
                tick += 1
            cycles += tick
    return product, cycles


def walked(array, left, right):
    """The product and the cycles of a walked array under its dataflow."""
    if array.dataflow == "os":
        return output_stationary(left, right, array.rows, array.columns)
    if array.dataflow == "ws":
        return operand_stationary(left, right, array.rows, array.columns)
    product, cycles = operand_stationary(right.T, left.T, array.rows, array.columns)
    return product.T, cycles


SIZES = st.integers(1, 9)
ARRAYS = st.builds(SystolicArray, st.integers(1, 5), st.integers(1, 5), st.sampled_from(DATAFLOWS))


@given(ARRAYS, SIZES, SIZES, SIZES)
def test_cycles_are_those_of_a_walked_array(array, m, n, k):
    """The walked array computes the product, in exactly the cycles of the model."""
    random = np.random.default_rng(m * 100 + n * 10 + k)
    left, right = random.integers(-9, 9, (m, k)), random.integers(-9, 9, (k, n))
    product, cycles = walked(array, left, right)
    assert (product == left @ right).all()
    assert array.run(matrix_product(m, n, k)).cycles == cycles


@given(ARRAYS, SIZES, SIZES, SIZES)
def test_cycles_are_the_published_closed_forms(array, m, n, k):
    """The forms of SCALE-Sim, plus one: it numbers cycles from zero and prints the last."""
    r, c = array.rows, array.columns
    published = {
        "os": math.ceil(m / r) * math.ceil(n / c) * (r + c + k - 2) - 1,
        "ws": math.ceil(k / r) * math.ceil(n / c) * (2 * r + c + m - 2) - 1,
        "is": math.ceil(k / r) * math.ceil(m / c) * (2 * r + c + n - 2) - 1,
    }
    assert array.run(matrix_product(m, n, k)).cycles == published[array.dataflow] + 1


@given(ARRAYS, st.integers(1, 6), st.integers(1, 6), st.integers(1, 6))
def test_counts_are_those_of_the_definition(array, m, n, k):
    """The mapping is legal and its traffic that of the brute-force walk; each SRAM is read once
    for a whole row or column of PEs.
    """
    problem = matrix_product(m, n, k)
    run = array.run(problem)
    machine, mapping = array.accelerator(), array.mapping(problem)
    assert run.analysis == simulate(problem, mapping, machine, SCALESIM)
    flows = run.analysis.flows
    again = {
        "os": (math.ceil(n / array.columns), math.ceil(m / array.rows), 1),
        "ws": (math.ceil(n / array.columns), 1, math.ceil(k / array.rows)),
        "is": (1, math.ceil(m / array.columns), math.ceil(k / array.rows)),
    }[array.dataflow]
    assert flows["input_sram"]["input"].total_read == m * k * again[0]
    assert flows["weight_sram"]["weight"].total_read == k * n * again[1]
    assert flows["output_sram"]["output"].total_write == m * n * again[2]


@given(ARRAYS, SIZES, SIZES, SIZES)
def test_price_is_the_ordinary_one_with_the_fill_of_all_folds(array, m, n, k):
    """At 1 Hz seconds are cycles: nothing but compute, fill and drain takes time."""
    run = array.run(matrix_product(m, n, k), clock_hz=1.0)
    assert run.price.seconds == run.cycles
    assert run.price.bound == "compute"
    assert m * n * k / array.lanes / run.cycles <= run.mapping_efficiency(array.lanes) <= 1


def test_one_fold_by_hand():
    """32 x 32 x 32 on 32 x 32: 32 steps, 62 of skew, and 32 more where an operand shifts in."""
    cycles = {d: SystolicArray(32, 32, d).run(matrix_product(32, 32, 32)).cycles for d in DATAFLOWS}
    assert cycles == {"os": 94, "ws": 126, "is": 126}


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_the_stationary_operand_is_kept_in_the_array(dataflow):
    """The printed mapping shows folds, the two axes in space, what stays and what streams."""
    text = str(SystolicArray(4, 8, dataflow).mapping(matrix_product(16, 16, 16)))
    assert f"keep {STATIONARY[dataflow]} in PE" in text
    rows, columns, streamed = {"os": "mnk", "ws": "knm", "is": "kmn"}[dataflow]
    assert f"for {rows} in tiles of 4" in text
    assert f"for {columns} in tiles of 8" in text
    assert f"spread {rows} in tiles of 1 over array.row" in text
    assert f"spread {columns} in tiles of 1 over array.column" in text
    assert text.splitlines()[-1].strip() == f"for {streamed} in tiles of 1"


@pytest.mark.parametrize("sizes", [(1, 5, 7), (5, 1, 7), (5, 7, 1), (1, 1, 1)])
@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_axes_of_size_one_may_be_absent(dataflow, sizes):
    """A normal form drops them; the cycles stay."""
    array, problem = SystolicArray(3, 4, dataflow), matrix_product(*sizes)
    assert array.run(normalise(problem)).cycles == array.run(problem).cycles


def test_what_is_no_matrix_product_is_refused():
    """A batch axis, or two reduction axes, name what is allowed and what to do."""
    axes = (Axis("b", 2), Axis("m", 2))
    index = Access((Affine.axis("b"), Affine.axis("m")))
    operands = tuple(Operand(role, index, (2, 2), 8) for role in ("input", "weight", "output"))
    with pytest.raises(MappingError, match="im2col"):
        SystolicArray(2, 2, "os").run(Problem(axes, operands))
