"""The jitted kernel equals the plain reference on random tables and machines."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwopt.cost.kernel import pack, price
from hwopt.cost.reference import price_table, total
from hwopt.cost.tables import Alternative, OpTable, Request, Side, Stage, Task
from hwopt.errors import InfeasibleError, SizeError
from hwopt.hardware.accelerator import (
    Accelerator,
    Compute,
    Fanout,
    FanoutDim,
    Memory,
    Vector,
)
from hwopt.hardware.table import stack
from hwopt.ir.access import Axis, parse_access
from hwopt.mapping.problem import Operand, Problem

sizes = st.integers(1, 4000)
rates = st.floats(1e3, 1e12)
energies = st.floats(1e-14, 1e-9)


def problem(m: int, n: int, k: int) -> Problem:
    """A matrix product."""
    return Problem(
        (Axis("m", m), Axis("n", n), Axis("k", k)),
        (
            Operand("input", parse_access("m", "k"), (m, k), 8),
            Operand("weight", parse_access("n", "k"), (n, k), 8),
            Operand("output", parse_access("m", "n"), (m, n), 16),
        ),
    )


problems = st.builds(problem, sizes, sizes, sizes)
sides = st.builds(
    Side, st.integers(0, 10**7), st.floats(0, 1e8), st.floats(0, 1e8), st.floats(0, 1e8),
    st.floats(0, 1e8),
)  # fmt: skip
stages = st.builds(
    Stage, st.just("s"), st.none() | st.builds(Request, problems), sides, st.integers(1, 5),
    st.integers(0, 2),
)  # fmt: skip


@st.composite
def tasks(draw: st.DrawFn) -> Task:
    """One to four operators, with ways to carry out runs of them, in no order."""
    count = draw(st.integers(1, 4))

    def alternative(span: tuple[int, int]) -> Alternative:
        parts = draw(st.lists(stages, min_size=1, max_size=2))
        return Alternative("a", tuple(parts), draw(st.integers(0, 1)), span)

    spans = st.tuples(st.integers(0, count - 1), st.integers(1, count)).filter(
        lambda s: s[0] < s[1]
    )
    ways = [alternative(span) for span in draw(st.lists(spans, min_size=1, max_size=6))]
    ways.append(alternative((0, count)))
    names = tuple(f"o{i}" for i in range(count))
    return Task("t", "matmul", names, draw(st.integers(1, 9)), 0, tuple(ways))


@st.composite
def machines(draw: st.DrawFn) -> Accelerator:
    """Three memories and a fan-out, every number given."""

    def memory(name: str, capacity: float | None) -> Memory:
        return Memory(
            name=name, kind="sram" if capacity else "dram", capacity_bytes=capacity,
            bytes_per_s=draw(st.none() | rates),
            read_bytes_per_s=draw(st.none() | rates), write_bytes_per_s=draw(st.none() | rates),
            read_joules_per_byte=draw(energies), write_joules_per_byte=draw(energies),
            leakage_watts=draw(st.floats(0, 1)), area_m2=1e-6,
            double_buffered=draw(st.booleans()),
        )  # fmt: skip

    return Accelerator(
        name="random", clock_hz=draw(st.floats(1e6, 2e9)),
        levels=(
            memory("DRAM", None), memory("GLB", draw(st.floats(100, 1e6))),
            Fanout(name="PE", dims=(FanoutDim(name="x", size=draw(st.integers(1, 3))),)),
            memory("RF", draw(st.floats(10, 1e3))),
        ),
        compute=Compute(joules_per_mac=draw(energies), area_m2=1e-9, leakage_watts=1e-6),
        vector=Vector(lanes=draw(st.integers(1, 64)), joules_per_operation=1e-12, area_m2=1e-9),
        launch_seconds=draw(st.floats(0, 1e-5)), fill_cycles=draw(st.integers(0, 100)),
        overhead_area_m2=0.0,
    )  # fmt: skip


def candidates(request: Request, skeleton: Accelerator) -> np.ndarray:
    """Pseudo-random rows that depend on the nest and the fan-out shape alone."""
    seed = hash((tuple(a.size for a in request.problem.axes), skeleton.fanouts[0].dims[0].size))
    generator = np.random.default_rng(seed % 2**32)
    count = int(generator.integers(0, 6))
    return np.floor(10 ** generator.uniform(0, 6, (count, 16)))


@settings(max_examples=40)
@given(
    st.lists(tasks(), min_size=1, max_size=4), st.lists(machines(), min_size=1, max_size=4),
    st.sampled_from(["latency", "energy", "edp"]),
)  # fmt: skip
def test_kernel_equals_reference(all_tasks, designs, objective):
    """Seconds and joules agree to 1e-12, infeasible designs included."""
    table = OpTable("random", tuple(all_tasks), {})
    hardware = stack(designs)
    result = price(pack(table, hardware, candidates), hardware, objective)
    for index, design in enumerate(designs):
        costs = price_table(table, design, lambda r, d=design: candidates(r, d), objective)
        seconds, joules = total(costs)
        assert result.seconds[index] == pytest.approx(seconds, rel=1e-12)
        assert result.joules[index] == pytest.approx(joules, rel=1e-12)
        assert result.feasible[index] == math.isfinite(seconds)
        assert result.area_m2[index] == pytest.approx(design.area_m2, rel=1e-12)


def test_counts_beyond_float64_are_refused():
    """A count above 2**53 is not silently rounded."""
    stage = Stage("s", None, Side(vector_operations=2**53 + 2))
    table = OpTable("t", (Task("t", "k", ("t",), 1, 0, (Alternative("a", (stage,)),)),), {})
    design = Accelerator(name="a", clock_hz=1e9, levels=(Memory(name="DRAM", kind="dram"),))
    with pytest.raises(SizeError, match="2\\*\\*53"):
        pack(table, stack([design]), candidates)


def test_ties_go_to_lower_latency_then_energy():
    """Of candidates with equal energy the faster one is taken, and the other way round."""
    design = Accelerator(
        name="a", clock_hz=1.0, overhead_area_m2=0.0,
        levels=(Memory(name="DRAM", kind="dram", read_joules_per_byte=1.0,
                       write_joules_per_byte=0.0, leakage_watts=0.0, area_m2=0.0),),
        compute=Compute(joules_per_mac=0.0, area_m2=0.0, leakage_watts=0.0),
        vector=Vector(joules_per_operation=0.0, area_m2=0.0),
    )  # fmt: skip
    rows = np.array([[9.0, 0, 0, 0, 5, 0], [7.0, 0, 0, 0, 5, 0], [7.0, 0, 0, 0, 4, 0],
                     [8.0, 0, 0, 0, 4, 0]])  # fmt: skip
    stage = Stage("s", Request(problem(2, 2, 2)), Side())
    table = OpTable("t", (Task("t", "k", ("t",), 1, 0, (Alternative("a", (stage,)),)),), {})
    hardware = stack([design])
    for objective in ("latency", "energy"):
        result = price(pack(table, hardware, lambda *_: rows), hardware, objective)
        assert (result.seconds[0], result.joules[0]) == (7.0, 4.0)


def test_side_work_is_in_view_when_rows_are_chosen():
    """A row that is slower alone wins where side work takes the port that the other one needs."""
    design = Accelerator(
        name="a", clock_hz=1.0, overhead_area_m2=0.0,
        levels=(Memory(name="DRAM", kind="dram", bytes_per_s=1.0, read_joules_per_byte=0.0,
                       write_joules_per_byte=0.0, leakage_watts=0.0, area_m2=0.0),),
        compute=Compute(joules_per_mac=0.0, area_m2=0.0, leakage_watts=0.0),
        vector=Vector(joules_per_operation=0.0, area_m2=0.0),
    )  # fmt: skip
    rows = np.array([[50.0, 0, 60, 0, 60, 0], [70.0, 0, 10, 0, 10, 0]])  # 60 s and 70 s alone
    hardware = stack([design])
    for outer, seconds in ((0.0, 60.0), (40.0, 70.0)):
        stage = Stage("s", Request(problem(2, 2, 2)), Side(outer_read_bytes=outer))
        table = OpTable("t", (Task("t", "k", ("t",), 1, 0, (Alternative("a", (stage,)),)),), {})
        result = price(pack(table, hardware, lambda *_: rows), hardware, "latency")
        assert result.seconds[0] == seconds


def test_kernel_equals_evaluate_on_real_mappings(make):
    """With the best mapping of each nest as the only candidate, both give the same totals."""
    from hwopt.cost.cost import evaluate, homes_of
    from hwopt.cost.tasks import op_table
    from hwopt.mapping.best import best_mapping

    designs = [make.machine(buffer_bytes=size).resolved() for size in (700.0, 3000.0, 65536.0)]
    for program in (make.layer(), make.attention(2, 12, 10, 4)):
        for fusion in ("off", "groups", "optimal"):
            table = op_table(program, {}, fusion)
            for design in designs:
                cost = evaluate(program, design, fusion=fusion)

                def rows(request, skeleton, design=design):
                    try:
                        best = best_mapping(
                            request.problem, design, constraint=request.constraint,
                            resident=homes_of(request, design) or {},
                        )  # fmt: skip
                    except InfeasibleError:
                        return np.zeros((0, 11))
                    return best.analysis.row(design)[np.newaxis]

                hardware = stack([design])
                result = price(pack(table, hardware, rows), hardware, "latency")
                assert result.seconds[0] == pytest.approx(cost.seconds, rel=1e-12)
                assert result.joules[0] == pytest.approx(cost.joules, rel=1e-12)
