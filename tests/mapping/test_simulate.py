"""The simulator on cases small enough to count by hand."""

from hwopt.hardware.accelerator import Accelerator, Fanout, FanoutDim, Memory, OperandRole
from hwopt.hardware.conventions import Conventions
from hwopt.ir.access import Axis, parse_access
from hwopt.mapping.mapping import parse_mapping
from hwopt.mapping.problem import Operand, Problem
from hwopt.mapping.simulate import simulate
from hwopt.mapping.traffic import analyse


def line(size: int, window: int, stride: int = 1, pad: int = 0) -> Problem:
    """A convolution in one dimension: output[p] += input[stride p + r - pad] weight[r]."""
    length = stride * (size - 1) + window - 2 * pad
    return Problem(
        (Axis("p", size), Axis("r", window)),
        (
            Operand("input", parse_access(f"{stride}*p + r - {pad}", fill=0.0), (length,), 8),
            Operand("weight", parse_access("r"), (window,), 8),
            Operand("output", parse_access("p"), (size,), 8),
        ),
    )


BUFFER = Accelerator(name="buffer", clock_hz=1e9, levels=(Memory(name="DRAM"), Memory(name="GLB")))


def test_a_sliding_window_is_fetched_once() -> None:
    """Six outputs of a window of 3, one at a time: 3 values, then one more each: 8 in all."""
    mapping = parse_mapping(
        "keep input weight output in DRAM\nfor p in tiles of 1\nkeep input weight output in GLB\n"
        "for r in tiles of 1"
    )
    flows = simulate(line(6, 3), mapping, BUFFER).flows
    assert flows["DRAM"]["input"].total_read == 8
    assert flows["DRAM"]["weight"].total_read == 3
    assert flows["DRAM"]["output"].total_write == 6
    assert flows["DRAM"]["output"].total_read == 0
    assert flows["GLB"]["input"].footprint == 3
    assert flows["GLB"]["input"].total_read == 18


def test_without_halo_reuse_every_window_is_fetched_whole() -> None:
    """The same with `halo="none"`: 6 x 3 values."""
    mapping = parse_mapping(
        "keep input weight output in DRAM\nfor p in tiles of 1\nkeep input weight output in GLB\n"
        "for r in tiles of 1"
    )
    rules = Conventions("none", halo="none")
    flows = simulate(line(6, 3), mapping, BUFFER, rules).flows
    assert flows["DRAM"]["input"].total_read == 18


def test_padding_and_skipped_positions_are_not_read() -> None:
    """Stride 2, window 1: only every second value; padding 1 at each end of a window of 3: none."""
    mapping = parse_mapping(
        "keep input weight output in DRAM\nkeep input weight output in GLB\n"
        "for p in tiles of 1\nfor r in tiles of 1"
    )
    strided = simulate(line(4, 1, stride=2), mapping, BUFFER).flows
    assert strided["DRAM"]["input"].total_read == 4
    bounding = Conventions("box", strided="bounding")
    assert (
        simulate(line(4, 1, stride=2), mapping, BUFFER, bounding).flows["DRAM"]["input"].total_read
        == 7
    )
    padded = simulate(line(4, 3, pad=1), mapping, BUFFER).flows
    assert padded["DRAM"]["input"].total_read == 4
    assert padded["GLB"]["input"].total_read == 4 * 3 - 2


def test_partial_sums_are_read_back_except_the_first_time() -> None:
    """Outputs visited once for each of 3 taps: 3 writes above, 2 reads back, per output."""
    mapping = parse_mapping(
        "keep input weight output in DRAM\nfor r in tiles of 1\nfor p in tiles of 1\n"
        "keep input weight output in GLB"
    )
    output = simulate(line(5, 3), mapping, BUFFER).flows["DRAM"]["output"]
    assert (output.total_write, output.total_read) == (15, 10)
    zero = Conventions("zero", first_write="zero")
    output = simulate(line(5, 3), mapping, BUFFER, zero).flows["DRAM"]["output"]
    assert (output.total_write, output.total_read) == (15, 15)


def test_edge_tiles_are_smaller_and_full_ones_where_padded() -> None:
    """Seven in tiles of 3: three tiles, the last of one; padded to nine points."""
    mapping = parse_mapping(
        "keep input weight output in DRAM\nfor p in tiles of 3\nkeep input weight output in GLB\n"
        "for p in tiles of 1"
    )
    assert simulate(line(7, 1), mapping, BUFFER).steps == 7
    full = simulate(line(7, 1), mapping, BUFFER, Conventions("full", edges="padded"))
    assert full.steps == 9
    assert full.flows["DRAM"]["output"].total_write == 9


def _spread(*, multicast: tuple[OperandRole, ...], reduces: bool) -> Accelerator:
    return Accelerator(
        name="array", clock_hz=1e9,
        levels=(
            Memory(name="DRAM"),
            Fanout(name="PE", dims=(FanoutDim(name="x", size=4),), multicast=multicast,
                   reduces=reduces),
            Memory(name="reg", keeps=("weight",)),
        ),
    )  # fmt: skip


def test_multicast_and_spatial_reduction() -> None:
    """Four outputs side by side share each weight; three taps side by side add up to one output."""
    outputs = parse_mapping(
        "keep input weight output in DRAM\nfor r in tiles of 1\nspread p in tiles of 1 over PE.x\n"
        "keep weight in reg"
    )
    problem = line(4, 3)
    shared = simulate(problem, outputs, _spread(multicast=("weight",), reduces=True)).flows
    alone = simulate(problem, outputs, _spread(multicast=(), reduces=True)).flows
    assert shared["DRAM"]["weight"].total_read == 3
    assert alone["DRAM"]["weight"].total_read == 12
    assert shared["reg"]["weight"].total_write == alone["reg"]["weight"].total_write == 12
    assert shared["reg"]["weight"].busiest_write == 3
    taps = parse_mapping(
        "keep input weight output in DRAM\nspread r in tiles of 1 over PE.x\nkeep weight in reg\n"
        "for p in tiles of 1"
    )
    added = simulate(problem, taps, _spread(multicast=("input",), reduces=True)).flows
    apart = simulate(problem, taps, _spread(multicast=("input",), reduces=False)).flows
    assert (added["DRAM"]["output"].total_write, added["DRAM"]["output"].total_read) == (4, 0)
    assert (apart["DRAM"]["output"].total_write, apart["DRAM"]["output"].total_read) == (12, 8)
    assert added["DRAM"]["input"].total_read == 12


def test_a_copy_that_idles_keeps_what_it_holds() -> None:
    """Three outputs, two at a time: the second copy idles at the end and finds its sum again."""
    mapping = parse_mapping(
        "keep input weight output in DRAM\nfor r in tiles of 1\nfor p in tiles of 2\n"
        "spread p in tiles of 1 over PE.x\nkeep output in acc"
    )
    machine = Accelerator(
        name="array", clock_hz=1e9,
        levels=(
            Memory(name="DRAM"),
            Fanout(name="PE", dims=(FanoutDim(name="x", size=2),)),
            Memory(name="acc", keeps=("output",)),
        ),
    )  # fmt: skip
    changed = Conventions("changed", fetch="changed")
    analysis = simulate(line(3, 2), mapping, machine, changed)
    assert analysis.flows["DRAM"]["output"].total_write == 2 * 2 + 1
    assert analyse(line(3, 2), mapping, machine, changed) == analysis


def test_fetches_are_hoisted_out_of_the_loops_that_do_not_index() -> None:
    """Two taps outside, three outputs inside: 2 x 3 sums pass, but each weight is fetched once."""
    mapping = parse_mapping(
        "keep input weight output in DRAM\nfor r in tiles of 1\nfor p in tiles of 1\n"
        "keep input weight output in GLB"
    )
    flows = {
        fetch: simulate(line(3, 2), mapping, BUFFER, Conventions("x", fetch=fetch)).flows["DRAM"]
        for fetch in ("hoisted", "changed", "counted")
    }
    assert flows["hoisted"]["output"].total_write == 6
    assert flows["hoisted"]["weight"].total_read == flows["changed"]["weight"].total_read == 2
    assert flows["counted"]["weight"].total_read == 6


def test_a_keep_may_stand_outside_those_of_outer_memories() -> None:
    """Two outputs side by side, kept in the array while the buffer takes one tap after the other:
    both input windows are in the buffer together, the sums leave the array once.
    """
    mapping = parse_mapping(
        "keep input weight output in DRAM\nspread p in tiles of 2 over PE.x\n"
        "keep output in acc\nfor r in tiles of 1\nkeep input weight in GLB\nfor p in tiles of 1"
    )
    machine = Accelerator(
        name="array", clock_hz=1e9,
        levels=(
            Memory(name="DRAM"), Memory(name="GLB", keeps=("input", "weight")),
            Fanout(name="PE", dims=(FanoutDim(name="x", size=2),)),
            Memory(name="acc", keeps=("output",)),
        ),
    )  # fmt: skip
    analysis = simulate(line(4, 3), mapping, machine)
    assert analysis.steps == 6
    assert analysis.flows["GLB"]["input"].footprint == 4
    assert analysis.flows["DRAM"]["input"].total_read == 4 + 1 + 1
    assert analysis.flows["DRAM"]["weight"].total_read == 3
    assert analysis.flows["DRAM"]["output"].total_write == 4
    assert analysis.flows["acc"]["output"].total_read == 12 - 4 + 4
    assert analyse(line(4, 3), mapping, machine) == analysis
