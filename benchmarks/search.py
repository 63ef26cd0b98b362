"""Search side by side: ours, random search, and plain pymoo one design at a time.

The demo study's space (ResNet-50 and a language model of free width and depth on a systolic array),
the same budget, seeds and prices for all three:

* nsga2: this project's loop; a population is priced at once, duplicates are found by hash, no
  design is priced twice, journal and checkpoint are written;
* random: the same loop with uniform draws;
* pymoo: NSGA-II as pymoo's documentation sets it up for integers (SBX, polynomial mutation,
  rounding, default duplicate elimination), each design priced by its own call.

Designs per second are of the whole loop on the wall clock, candidates already mapped. Hypervolume
is of the feasible designs found, objectives scaled by the union of all fronts, divided by the
union's own. Writes `results/search.json`.

    python benchmarks/search.py [--budget N] [--seeds N]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import ElementwiseProblem
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.rnd import IntegerRandomSampling
from pymoo.optimize import minimize

from hwopt.dse.codesign import CoDesign
from hwopt.dse.evaluator import for_optimizer
from hwopt.dse.front import hypervolume, non_dominated
from hwopt.dse.space import load_study, parse_study
from hwopt.dse.study import run
from hwopt.files import write_json

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "search.json"
POPULATION = 64


class OneByOne(ElementwiseProblem):
    """The study as pymoo's documentation would write it: one design per evaluation."""

    def __init__(self, evaluator: CoDesign) -> None:
        self.evaluator = evaluator
        self.kept: list[tuple[np.ndarray, np.ndarray]] = []
        super().__init__(
            n_var=len(evaluator.counts), n_obj=len(evaluator.goals),
            n_ieq_constr=1 + len(evaluator.file.constraints),
            xl=0, xu=evaluator.counts - 1, vtype=int,
        )  # fmt: skip

    def _evaluate(self, x, out, *_, **__):
        result = self.evaluator.evaluate(np.asarray(x, dtype=np.int64)[None])
        costs, violations = for_optimizer(result, self.evaluator.goals)
        self.kept.append((costs[0], violations[0]))
        out["F"], out["G"] = costs[0], violations[0]


def ours(evaluator: CoDesign, optimizer: str, budget: int, seed: int):
    """Feasible costs found, and seconds, by this project's loop."""
    options = {"optimizer": optimizer, "population": POPULATION, "budget": budget, "seed": seed}
    content = evaluator.file.model_dump(mode="json", exclude_unset=True)
    file = parse_study({**content, "search": options})
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        history = run(evaluator, file.search, Path(folder), file)
        seconds = time.perf_counter() - start
    count = len(evaluator.goals)
    feasible = history.numbers[:, count] == 1.0
    return np.log(history.numbers[feasible, :count]), seconds, len(history.codes)


def plain(evaluator: CoDesign, budget: int, seed: int):
    """The same by plain pymoo."""
    problem = OneByOne(evaluator)
    algorithm = NSGA2(
        pop_size=POPULATION, sampling=IntegerRandomSampling(),
        crossover=SBX(prob=0.9, eta=15, vtype=float, repair=RoundingRepair()),
        mutation=PM(eta=20, vtype=float, repair=RoundingRepair()), eliminate_duplicates=True,
    )  # fmt: skip
    start = time.perf_counter()
    minimize(problem, algorithm, ("n_eval", budget), seed=seed)
    seconds = time.perf_counter() - start
    costs = np.array([c for c, g in problem.kept if (g <= 0).all()])
    last = [i for i, goal in enumerate(evaluator.goals) if not goal.unit]
    costs[:, last] = np.log(costs[:, last])  # `for_optimizer` leaves pure numbers as they are
    return costs, seconds, len(problem.kept)


def measure(evaluator: CoDesign, budget: int, seeds: int) -> dict[str, dict[str, object]]:
    """Rates and hypervolumes of the three, averaged over seeds."""
    methods = {
        "nsga2": lambda n, s: ours(evaluator, "nsga2", n, s),
        "random": lambda n, s: ours(evaluator, "random", n, s),
        "pymoo": lambda n, s: plain(evaluator, n, s),
    }
    for method in methods.values():  # candidates of everything the searches meet; compilation
        for seed in range(seeds):
            method(budget, seed)
    found = {name: [method(budget, s) for s in range(seeds)] for name, method in methods.items()}
    union = np.concatenate([run_[0] for runs in found.values() for run_ in runs])
    union = union[non_dominated(union)]
    low, high = union.min(axis=0), union.max(axis=0)
    reference = np.full(len(low), 1.1)

    def volume(costs: np.ndarray) -> float:
        points = (costs - low) / (high - low)
        return hypervolume(points[non_dominated(points)], reference)

    best = volume(union)
    return {
        name: {
            "designs": sum(run_[2] for run_ in runs),
            "designs_per_s": sum(run_[2] for run_ in runs) / sum(run_[1] for run_ in runs),
            "hypervolume": [volume(run_[0]) / best for run_ in runs],
        }
        for name, runs in found.items()
    }


def main() -> None:
    """Run all three, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--budget", type=int, default=2560, help="designs priced by each")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    file = load_study(HERE / "studies" / "demo.yaml")
    evaluator = CoDesign(file)
    rows = measure(evaluator, options.budget, options.seeds)
    base = rows["pymoo"]["designs_per_s"]
    print(
        f"{options.budget} of {file.size:,} designs, population {POPULATION}, {options.seeds} seeds"
    )
    print(f"{'search':<8}{'designs/s':>12}{'x pymoo':>10}{'hypervolume of the union front':>34}")
    for name, row in rows.items():
        volumes = row["hypervolume"]
        spread = f"{np.mean(volumes):.4f} ({min(volumes):.4f} to {max(volumes):.4f})"
        rate = row["designs_per_s"]
        print(f"{name:<8}{rate:>12,.0f}{rate / base:>9.1f}x{spread:>34}")
    write_json(RESULTS, {
        "study": "demo", "budget": options.budget, "population": POPULATION,
        "seeds": options.seeds, "space": file.size, "rows": rows,
    })  # fmt: skip


if __name__ == "__main__":
    main()
