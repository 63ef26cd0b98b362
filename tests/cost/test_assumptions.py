"""Sentences of `hwopt/cost/README.md` that no other test checks, each on a case done by hand."""

import numpy as np
import pytest

from hwopt.cost.cost import evaluate
from hwopt.cost.tasks import op_table
from hwopt.errors import MappingError
from hwopt.hardware import technology
from hwopt.hardware.accelerator import Accelerator, Compute, Fanout, FanoutDim, Memory, Vector
from hwopt.hardware.conventions import CONVENTIONS, NATIVE
from hwopt.hardware.table import home, vector_memory
from hwopt.ir.access import Axis, parse_access
from hwopt.ir.op import Gather, Op
from hwopt.mapping.analysis import price
from hwopt.mapping.mapping import parse_mapping
from hwopt.mapping.problem import Operand, Problem
from hwopt.mapping.simulate import simulate
from hwopt.mapping.verify import verify_mapping

ENERGIES = {"read_joules_per_byte": 1.0, "write_joules_per_byte": 1.0, "leakage_watts": 0.0}


def product(m, n, k, bits=8):
    """out[m, n] = sum over k of a[m, k] b[k, n]."""
    return Problem(
        (Axis("m", m), Axis("n", n), Axis("k", k)),
        (Operand("input", parse_access("m", "k"), (m, k), bits),
         Operand("weight", parse_access("k", "n"), (k, n), bits),
         Operand("output", parse_access("m", "n"), (m, n), bits)),
    )  # fmt: skip


def array(lanes=4, **update):
    """DRAM, a buffer and a row of lanes; energies of one joule a byte, a MAC of ten."""
    levels = (
        Memory(name="DRAM", kind="dram", bytes_per_s=1.0, **ENERGIES),
        Memory(name="GLB", capacity_bytes=1024.0, bytes_per_s=4.0, area_m2=0.0, **ENERGIES),
        Fanout(name="PE", dims=(FanoutDim(name="x", size=lanes),)),
    )
    compute = Compute(joules_per_mac=10.0, area_m2=0.0, leakage_watts=0.0)
    given = {
        "name": "array",
        "clock_hz": 1.0,
        "levels": levels,
        "compute": compute,
        "vector": Vector(joules_per_operation=0.0, area_m2=0.0),
        "overhead_area_m2": 0.0,
    }
    return Accelerator(**{**given, **update})


WHOLE = (
    "keep input weight output in DRAM\nkeep input weight output in GLB\n"
    "spread n in tiles of 1 over PE.x\nfor m in tiles of 1\nfor k in tiles of 1"
)


def with_level(machine, name, **update):
    """The machine with one level changed."""
    levels = tuple(
        level.model_copy(update=update) if level.name == name else level for level in machine.levels
    )
    return machine.model_copy(update={"levels": levels})


def test_nothing_stays_on_the_chip_from_one_task_to_the_next(make):
    """Two products that read one weight fetch it twice, however large the buffer."""
    t = make.tensor
    tensors = [t("x", 4, 8, role="input"), t("w", 8, 8, role="parameter"), t("y", 4, 8),
               t("z", 4, 8)]  # fmt: skip
    ops = [make.matmul("one", "x", "w", "y", 4, 8, 8), make.matmul("two", "y", "w", "z", 4, 8, 8)]
    cost = evaluate(make.program("p", tensors, ops, ["z"]), make.machine(buffer_bytes=1e6))
    assert cost.traffic["DRAM"]["weight"]["read"] == 2 * 8 * 8 * 4


def test_the_outermost_memory_is_asked_for_one_operator_at_a_time(make):
    """Each of two products fits 1 KiB of DRAM, both together do not: priced all the same."""
    t = make.tensor
    tensors = [t("x", 4, 8, role="input"), t("w", 8, 8, role="parameter"), t("y", 4, 8),
               t("v", 8, 8, role="parameter"), t("z", 4, 8)]  # fmt: skip
    ops = [make.matmul("one", "x", "w", "y", 4, 8, 8), make.matmul("two", "y", "v", "z", 4, 8, 8)]
    program = make.program("p", tensors, ops, ["z"])
    one, both = 4 * (4 * 8 + 8 * 8 + 4 * 8), 4 * sum(tensor.elements for tensor in tensors)
    assert one < both
    machine = with_level(make.machine(), "DRAM", capacity_bytes=float(one))
    assert evaluate(program, machine).seconds > 0


def test_several_axes_share_a_dimension_of_a_fanout():
    """Two rows by two columns on four lanes; three by two are more than there are."""
    text = (
        "keep input weight output in DRAM\nkeep input weight output in GLB\n"
        "spread m in tiles of 1 over PE.x\nspread n in tiles of 1 over PE.x\nfor k in tiles of 1"
    )
    analysis = simulate(product(2, 2, 3), parse_mapping(text), array())
    assert analysis.steps == 3
    assert analysis.flows["GLB"]["input"].total_read == 3 * 2
    with pytest.raises(MappingError):
        verify_mapping(product(3, 2, 3), parse_mapping(text), array())


def test_a_window_is_kept_along_the_innermost_loop_that_moves_it():
    """A 3x3 window over 4x4 outputs, one at a time, row by row: each row is 3 x (3 + 3) values, and
    nothing of it is kept for the next row.
    """
    axes = (Axis("p", 4), Axis("q", 4), Axis("r", 3), Axis("s", 3))
    problem = Problem(
        axes,
        (Operand("input", parse_access("p + r", "q + s"), (6, 6), 8),
         Operand("weight", parse_access("r", "s"), (3, 3), 8),
         Operand("output", parse_access("p", "q"), (4, 4), 8)),
    )  # fmt: skip
    text = (
        "keep input weight output in DRAM\nfor p in tiles of 1\nfor q in tiles of 1\n"
        "keep input weight output in GLB\nfor r in tiles of 1\nfor s in tiles of 1"
    )
    flows = simulate(problem, parse_mapping(text), array()).flows
    assert flows["DRAM"]["input"].total_read == 4 * 3 * (3 + 3)


@pytest.mark.parametrize("bits", [8, 32])
def test_partial_sums_are_as_wide_as_the_output(bits):
    """Sums that leave the buffer once per k and come back are output elements, not accumulators."""
    text = (
        "keep input weight output in DRAM\nfor k in tiles of 1\nfor m in tiles of 1\n"
        "keep input weight output in GLB\nfor n in tiles of 1"
    )
    analysis = simulate(product(3, 2, 4, bits), parse_mapping(text), array())
    output = analysis.flows["DRAM"]["output"]
    assert (output.total_write, output.total_read) == (4 * 6, 3 * 6)
    both = analysis.bytes_of("DRAM", "total_write")
    assert both == 4 * 6 * bits / 8


def test_transfers_overlap_with_compute_without_ramp():
    """One tile: 4 + 4 + 4 bytes over a port of one byte a second beside 4 steps: 12 s, not 16."""
    analysis = simulate(product(2, 2, 2), parse_mapping(WHOLE), array())
    row = analysis.row(array())
    assert analysis.steps == 4
    assert price(row, array(), 8).seconds == 12
    slow = array(clock_hz=0.1)
    assert price(row, slow, 8).seconds == 40


def test_double_buffering_costs_capacity_and_nothing_else():
    """The same time and energy from a double-buffered memory of twice the size."""
    double = with_level(array(), "GLB", double_buffered=True, capacity_bytes=2048.0)
    analysis = simulate(product(2, 2, 2), parse_mapping(WHOLE), array())
    once, twice = (price(analysis.row(m), m, 8) for m in (array(), double))
    assert once == twice
    assert double.level("GLB").usable_bytes == array().level("GLB").usable_bytes


def test_every_byte_takes_the_same_time_and_energy():
    """Width of an access and banks change neither: no bursts, no conflicts, no rounding up."""
    analysis = simulate(product(2, 3, 5), parse_mapping(WHOLE), array())
    other = with_level(array(), "GLB", width_bits=512, banks=16)
    assert price(analysis.row(array()), array(), 30) == price(analysis.row(other), other, 30)


def test_energy_is_that_of_memories_and_lanes_alone():
    """3 columns side by side share each input: read once, and no wire between costs anything; the
    fourth lane idles for nothing.
    """
    analysis = simulate(product(2, 3, 2), parse_mapping(WHOLE), array())
    dram = (4 + 6 + 6, 0)  # input, weight read and output written
    glb = (
        4 + 12 + (12 - 6) + 6,  # input once per step, weights per lane, sums back, results out
        4 + 6 + 12,  # filled, filled, a sum per lane and step
    )
    flows = analysis.flows
    assert sum(f.total_read + f.total_write for f in flows["DRAM"].values()) == sum(dram)
    assert sum(f.total_read + f.total_write for f in flows["GLB"].values()) == sum(glb)
    paid = price(analysis.row(array()), array(), 12)
    assert paid.joules == sum(dram) + sum(glb) + 12 * 10


def test_leakage_is_that_of_buffers_and_multipliers():
    """Copies times each; the DRAM's background power and the vector unit are not counted."""
    machine = Accelerator(
        name="m", clock_hz=1e9, vector=Vector(lanes=64),
        levels=(
            Memory(name="DRAM", kind="dram"),
            Fanout(name="PE", dims=(FanoutDim(name="x", size=3),)),
            Memory(name="reg", capacity_bytes=1024.0, leakage_watts=0.5),
        ),
        compute=Compute(leakage_watts=0.25),
    ).resolved()  # fmt: skip
    assert machine.level("DRAM").leakage_watts == 0
    assert machine.level("DRAM").area_m2 == 0
    assert machine.leakage_watts == 3 * 0.5 + 3 * 0.25


def test_the_clock_is_the_files_whatever_the_node(make):
    """Another node changes no time."""
    program = make.layer(4, 4, 4)
    one, two = (evaluate(program, make.machine(technology_nm=nm)) for nm in (45, 16))
    assert one.seconds == two.seconds
    assert one.area_m2 > two.area_m2


def test_densities_of_leakage():
    """38 W/m2 of buffers and register files, 7.5 kW/m2 of multipliers."""
    machine = array(
        levels=(
            Memory(name="DRAM", kind="dram"),
            Memory(name="GLB", capacity_bytes=65536.0),
            Memory(name="reg", kind="register", capacity_bytes=64.0),
        ),
        compute=Compute(),
    ).resolved()  # fmt: skip
    for name in ("GLB", "reg"):
        assert machine.level(name).leakage_watts == pytest.approx(38 * machine.level(name).area_m2)
    assert machine.compute.leakage_watts == pytest.approx(7500 * machine.compute.area_m2)


def test_a_small_buffer_is_flip_flops_where_these_are_smaller():
    """45 nm: 64 bytes are 512 flip-flops of 4.522 um2; 64 KiB are SRAM with its periphery."""
    small, large = technology.sram_area_m2(np.array([64.0, 65536.0]), 64, 1, 45) * 1e12
    assert small == pytest.approx(512 * 4.522)
    assert large == pytest.approx(8 * 65536 * 0.61625 + 13359)


def test_banks_give_no_discount_in_energy():
    """A buffer of many banks has the energy of one of the same capacity; only its area differs."""
    one, many = (
        array(levels=(Memory(name="DRAM", kind="dram"),
                      Memory(name="GLB", capacity_bytes=65536.0, banks=banks))).resolved()
        for banks in (1, 16)
    )  # fmt: skip
    assert one.level("GLB").read_joules_per_byte == many.level("GLB").read_joules_per_byte
    assert one.level("GLB").read_joules_per_byte == one.level("GLB").write_joules_per_byte
    assert one.level("GLB").area_m2 < many.level("GLB").area_m2


def test_sums_are_kept_in_32_bits_or_more_in_the_units():
    """45 nm: an 8-bit MAC is a multiplication of 0.2 pJ and a 32-bit addition of 0.1 pJ; a vector
    operation the mean of a 32-bit addition and multiplication.
    """
    assert technology.mac_joules(8, floating=False, nm=45) == pytest.approx(0.3e-12)
    assert technology.accumulator_bits(8, floating=False) == 32
    assert technology.accumulator_bits(32, floating=False) == 64
    assert technology.accumulator_bits(16, floating=True) == 32
    assert technology.vector_joules(floating=False, nm=45) == pytest.approx(1.6e-12)


def test_where_the_vector_unit_and_resident_operands_live():
    """The outermost on-chip memory above every fan-out, or the one named; resident operands need
    one of limited capacity that keeps them.
    """
    machine = array(
        levels=(
            Memory(name="DRAM"),
            Memory(name="L2", capacity_bytes=64.0, keeps=("weight",)),
            Memory(name="L1", capacity_bytes=64.0),
            Fanout(name="PE", dims=(FanoutDim(name="x", size=2),)),
            Memory(name="reg", capacity_bytes=64.0),
        )
    )
    assert vector_memory(machine) == 1
    assert vector_memory(machine.model_copy(update={"vector": Vector(memory="L1")})) == 2
    assert (home(machine, "weight"), home(machine, "output")) == ("L2", "L1")
    spread = with_level(machine, "L2", keeps=("input",))
    assert home(spread, "weight") == "L1"
    below = array(levels=(machine.levels[0], machine.levels[3], machine.levels[4]))
    assert home(below, "output") is None
    assert vector_memory(below) == 0


def test_nests_inside_one_operator_are_one_launch_and_share_its_side_work(make):
    """Two experts' products: one kernel, half of the routing beside each."""
    t = make.tensor
    tensors = [t("x", 4, 8, role="input"), t("w", 2, 8, 8, role="parameter"), t("y", 4, 8)]
    nests = tuple(
        make.matmul("e", "x", "w", "y", 2, 8, 8).body for _ in range(2)
    )  # fmt: skip
    body = Gather("experts", (), (32, 128), (32,), 100, nests)
    op = Op("moe", "experts", body, "matrix", ("x", "w"), ("y",))
    (task,) = op_table(make.program("p", tensors, [op], ["y"]), {}).tasks
    first, second = task.alternatives[0].stages
    assert (first.launches, second.launches) == (1, 0)
    assert first.side == second.side
    assert first.side.vector_operations == 50


def test_an_epilogue_takes_no_room(make):
    """Twelve bytes hold one element of each of the product's operands, and so carry out the group
    fused, though its sum reads a fourth tensor.
    """
    cost = evaluate(make.layer(4, 4, 4), make.machine(buffer_bytes=12.0))
    assert [row.how for row in cost.rows] == ["fused"]


def test_native_conventions_are_the_default(make):
    """What no one names is priced as the truth; the others bear the names of tools."""
    assert evaluate(make.layer(2, 2, 2), make.machine()).conventions is NATIVE
    assert (NATIVE.halo, NATIVE.strided, NATIVE.padding) == ("shift", "exact", "free")
    assert (NATIVE.first_write, NATIVE.edges) == ("nothing", "exact")
    assert set(CONVENTIONS) >= {"native", "timeloop", "accelforge", "zigzag", "scalesim"}
