"""Hardware and models priced together: equal to the plain reference, whatever the batch."""

import numpy as np
import pytest

from hwopt.cost.cost import evaluate
from hwopt.cost.reference import price_table, total
from hwopt.dse.codesign import CoDesign, quality_direction
from hwopt.dse.pool import candidates
from hwopt.dse.space import parse_study
from hwopt.dse.variants import Variants
from hwopt.errors import StudyError
from hwopt.hardware.table import skeleton_key

LANGUAGE = {
    "model": "opt-125m", "name": "lm", "mode": "prefill", "seq": 16,
    "knobs": {"width": [128, 192], "depth": [2, 6], "vocabulary": 512},
    "quality": {"source": "besiroglu", "tokens": 1e10},
}  # fmt: skip
HARDWARE = {
    "template": "systolic",
    "knobs": {
        "rows": [8, 16], "columns": 16, "buffer": ["32 KiB", "128 KiB"], "accumulator": "32 KiB",
        "clock": "700 MHz", "bandwidth": ["6.4 GB/s", "25.6 GB/s"], "vector_lanes": 16,
    },
}  # fmt: skip


def study(**changes):
    """A language model of free width and depth beside a small LSTM, on a small systolic space."""
    content = {
        "name": "tiny",
        "models": [LANGUAGE, {"model": "opt-125m", "name": "other", "seq": 8, "weight": 2.0,
                              "knobs": {"width": 64, "depth": 1, "vocabulary": 256}}],
        "hardware": HARDWARE,
        "objectives": ["latency", "energy", "area", "quality"],
        "constraints": ["latency[lm] <= 10 s"],
    }  # fmt: skip
    return parse_study({**content, **changes})


@pytest.fixture(scope="module")
def problem():
    """One evaluator for all tests of this file."""
    found = CoDesign(study())
    yield found
    found.close()


def column(problem, result, name):
    """A detail column by name."""
    return result.details[:, problem.details.index(name)]


def test_kernel_equals_reference_on_the_same_candidates(problem):
    """Every design of the space: seconds and joules as the plain Python model gives them."""
    file = problem.file
    codes = file.every()[::3]
    result = problem.evaluate(codes)
    for row, code in enumerate(codes):
        machine = file.accelerator(code).resolved()
        shape = problem._shapes[skeleton_key(machine)]
        for label in ("lm", "other"):
            variant = problem._variants.get(label, file.decode(code)[label])
            costs = price_table(variant.table, machine, lambda r, m=machine, s=shape:
                                candidates(r, m, *s))  # fmt: skip
            seconds, joules = total(costs)
            assert column(problem, result, f"{label}.seconds")[row] == pytest.approx(
                seconds, rel=1e-12
            )
            assert column(problem, result, f"{label}.joules")[row] == pytest.approx(
                joules, rel=1e-12
            )


def test_a_design_costs_the_same_in_any_batch(problem):
    """One by one, all together, in reverse: the same bits."""
    codes = problem.file.every()
    together = problem.evaluate(codes)
    backwards = problem.evaluate(codes[::-1])
    alone = problem.evaluate(codes[5:6])
    for part in ("objectives", "violations", "details"):
        whole = getattr(together, part)
        assert np.array_equal(whole[::-1], getattr(backwards, part))
        assert np.array_equal(whole[5:6], getattr(alone, part))


def test_full_evaluation_is_near_the_study(problem):
    """`evaluate` maps with any-integer tiles on the one machine: not slower, and not far off."""
    code = problem.file.every()[7]
    machine = problem.file.accelerator(code)
    design = problem.file.decode(code)
    seen = float(column(problem, problem.evaluate(code[None]), "lm.seconds")[0])
    own = evaluate(problem._variants.program("lm", design["lm"]), machine).seconds
    assert 0.6 * seen <= own <= seen * (1 + 1e-9)


def test_objectives_are_aggregates(problem):
    """Geometric mean with weights 1 and 2; area of the chip; quality of the only model with one."""
    codes = problem.file.every()[:4]
    result = problem.evaluate(codes)
    first, second = (column(problem, result, f"{m}.seconds") for m in ("lm", "other"))
    assert result.objectives[:, 0] == pytest.approx((first * second**2) ** (1 / 3), rel=1e-12)
    areas = [problem.file.accelerator(code).resolved().area_m2 for code in codes]
    assert result.objectives[:, 2] == pytest.approx(areas, rel=1e-12)
    assert result.objectives[:, 3].tolist() == column(problem, result, "lm.quality").tolist()
    assert result.violations[:, 0] == pytest.approx(first / 10 - 1)
    assert result.feasible.all()


def test_quality_follows_the_model_alone(problem):
    """Wider and deeper is better whatever the chip; tiny models are marked as extrapolated."""
    file = problem.file
    low = problem.evaluate(np.array([file.encode({
        "hardware": {"rows": 8, "buffer": "32 KiB", "bandwidth": "6.4 GB/s"},
        "lm": {"width": w, "depth": d}}) for w in (128, 192) for d in (2, 6)]))  # fmt: skip
    quality = low.objectives[:, 3]
    assert quality[0] > quality[1] > quality[3]
    assert quality[0] > quality[2] > quality[3]
    assert column(problem, low, "lm.extrapolated").tolist() == [1.0] * 4
    assert column(problem, low, "lm.parameters")[0] < column(problem, low, "lm.parameters")[1]


@pytest.mark.parametrize(("model", "mode"), [("opt-125m", "prefill"), ("gpt2", "forward"),
                                             ("opt-125m", "train")])  # fmt: skip
def test_depth_expansion_equals_a_full_trace(model, mode):
    """Tasks, counts, parameters and MACs of 7 blocks from 2, 3 and 4, and from tracing all 7."""
    knobs = {"width": 128, "depth": 7, "vocabulary": 256}
    file = study(
        models=[{"model": model, "name": "m", "mode": mode, "seq": 8, "knobs": knobs}],
        objectives=["latency"], constraints=[],
    )  # fmt: skip
    target = file.accelerator([0] * len(file.knobs)).resolved()
    variants = Variants(file, target)
    expanded, direct = variants._expanded("m", knobs), variants._trace("m", knobs)
    assert expanded is not direct
    assert (expanded.parameters, expanded.macs) == (direct.parameters, direct.macs)
    shape = CoDesign(file)._shapes[skeleton_key(target)]

    def rows(request):
        return candidates(request, target, *shape)

    for objective in ("latency", "energy"):
        totals = [
            total(price_table(traced.table, target, rows, objective))
            for traced in (expanded, direct)
        ]
        assert totals[0] == pytest.approx(totals[1], rel=1e-12)
    assert sum(t.count for t in expanded.table.tasks) == sum(t.count for t in direct.table.tasks)


def test_a_fixed_accelerator_searches_models_alone():
    """No hardware knobs: area is constant, the model's shape is all there is to choose."""
    file = study(hardware={"accelerator": "eyeriss"})
    assert file.size == 4
    result = CoDesign(file).evaluate(file.every())
    assert len(set(result.objectives[:, 2].tolist())) == 1
    assert len(set(result.objectives[:, 0].tolist())) == 4


def test_quality_directions():
    """Sources must agree; none at all is an error when quality is an objective."""
    best = {"source": "constant", "value": 0.9, "direction": "max"}
    assert quality_direction(study(models=[{**LANGUAGE, "quality": best}])) == "max"
    with pytest.raises(StudyError, match="disagree"):
        quality_direction(study(models=[LANGUAGE, {"model": "gpt2", "quality": best}]))
    with pytest.raises(StudyError, match="no model has a quality"):
        CoDesign(study(models=[{**LANGUAGE, "quality": None}]))


def test_designs_that_cannot_run_are_infeasible(problem):
    """A model without a mapping that fits costs infinity; that is no error."""
    small = {**HARDWARE["knobs"], "rows": 8, "buffer": "32 KiB", "bandwidth": "6.4 GB/s"}
    file = study(hardware={"template": "systolic", "knobs": small})
    evaluator = CoDesign(file)
    evaluator._variants.get("lm", file.decode([0, 0])["lm"])
    empty = np.zeros((0, 1 + 5 * len(file.accelerator([0, 0]).memories)))
    evaluator._pool.rows = lambda request, skeleton: empty
    result = evaluator.evaluate(file.every())
    assert np.isinf(result.objectives).all()
    assert not result.feasible.any()
