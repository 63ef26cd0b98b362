"""Row-stationary mappings: their PEs on the grid, their counts, the choice among them."""

import itertools
from dataclasses import replace

import pytest

from hwopt.errors import HwoptError
from hwopt.hardware.conventions import NATIVE
from hwopt.hardware.library import load
from hwopt.mapping.mapping import Spread
from hwopt.mapping.simulate import simulate
from hwopt.mapping.traffic import analyse
from hwopt.validation.row_stationary import (
    Convolution,
    Grid,
    RowStationary,
    Run,
    _fitting,
    best,
)

LAYERS = {
    "CONV1": Convolution(4, 96, 3, 55, 55, 11, 11, 4),
    "CONV2": Convolution(4, 128, 48, 27, 27, 5, 5),
    "CONV4": Convolution(4, 192, 192, 13, 13, 3, 3),
    "tall": Convolution(1, 4, 2, 9, 9, 13, 3),
}


@pytest.fixture(scope="module")
def chip():
    """The library's Eyeriss, all numbers filled in."""
    return load("eyeriss").resolved()


def placed(layer, run, chip):
    """Coordinates of the PEs that a mapping's first pass occupies, by walking its spreads."""
    spreads, extents, found = [], dict(layer.problem().sizes), []
    for node in run.choice.mapping(layer, Grid(chip)).nodes:
        if isinstance(node, Spread):
            spreads.append((node, -(-extents[node.axis] // node.tile)))
        if hasattr(node, "axis"):
            extents[node.axis] = min(extents[node.axis], node.tile)
    first = {"c": 0, "k": 0, "p": 0, "r": 0}
    for indices in itertools.product(*(range(count) for _, count in spreads)):
        begin, place = dict(first), {"x": 0, "y": 0}
        for (node, count), index in zip(spreads, indices, strict=True):
            begin[node.axis] += index * node.tile
            place[node.dim] = place[node.dim] * count + index
        if begin["p"] < run.choice.strip:  # the last segment may be shorter
            found.append((place["y"], place["x"]))
    return found


@pytest.mark.parametrize("name", LAYERS)
def test_sets_lie_on_the_grid(name, chip):
    """Every PE of a full strip has a place of its own on 12 x 14, and there are as many as said."""
    run = best(LAYERS[name], chip)
    places = placed(LAYERS[name], run, chip)
    assert len(places) == len(set(places)) == run.active_pes
    assert all(y < 12 and x < 14 for y, x in places)


def test_steps_are_those_of_busy_pes(chip):
    """Layers that fill their strips take MACs / active PEs steps; CONV1 wastes one row in 56."""
    for name, waste in (("CONV1", 56 / 55), ("CONV2", 1), ("CONV4", 1)):
        run = best(LAYERS[name], chip)
        assert run.analysis.steps * run.active_pes == pytest.approx(run.analysis.points * waste)


def test_counts_are_those_of_the_definition(chip):
    """A small strided layer and a kernel taller than the grid: equal to the brute-force walk."""
    for layer in (Convolution(2, 2, 2, 3, 3, 3, 3, 2), Convolution(1, 2, 1, 2, 2, 13, 1)):
        mapping = best(layer, chip).choice.mapping(layer, Grid(chip))
        problem = layer.problem()
        expected = simulate(problem, mapping, chip, NATIVE)
        assert analyse(problem, mapping, chip) == expected


def test_cycles_by_hand(chip):
    """CONV4 as published: 16 kernels x 3 channels a set, 2 x 2 sets, 4 images.

    Steps: 4 images x 96 x 96 passes of kernels and channels x 13 x 3 a row. Weights: all of them
    once for the one strip and batch.
    """
    layer, grid = LAYERS["CONV4"], Grid(chip)
    choice = RowStationary(13, 1, (2, 1), (2, 1), 3, 16, 4, 64)
    analysis = analyse(layer.problem(), choice.mapping(layer, grid), chip)
    assert choice.active_pes(layer, grid) == 156
    assert analysis.steps == 4 * 96 * 96 * 13 * 3
    assert analysis.flows["DRAM"]["weight"].total_read == 192 * 192 * 9
    run = replace(best(layer, chip), choice=choice, analysis=analysis)
    assert run.load_cycles == 192 * 192 * 9 / 4
    assert run.cycles == max(run.streams.values()) + run.load_cycles
    # Partial sums return once for each of 32 passes of 6 channels; the last ones leave for DRAM.
    assert run.streams["sums"] == 32 * 4 * 192 * 169 / 4


def test_machines_that_cannot(chip):
    """No grid, or scratchpads that hold no row: one message each."""
    with pytest.raises(HwoptError, match="grid"):
        best(LAYERS["CONV4"], load("simba").resolved())
    with pytest.raises(HwoptError, match="fits"):
        best(Convolution(1, 1, 1, 4, 4, 3, 13), chip)


def test_the_choice_is_the_best_of_all(chip):
    """Of every mapping that fits, pruned ones too: none takes fewer cycles in as few steps."""
    layer = Convolution(2, 8, 4, 6, 6, 3, 3)
    grid, problem, taken = Grid(chip), layer.problem(), best(layer, chip)
    runs = []
    for choice in _fitting(layer, grid):
        analysis = analyse(problem, choice.mapping(layer, grid), chip)
        runs.append(Run(layer, choice, choice.active_pes(layer, grid), analysis, 0.0))
    fewest = min(run.analysis.steps for run in runs)
    assert taken.analysis.steps == fewest
    assert taken.cycles == min(run.cycles for run in runs if run.analysis.steps == fewest)
