"""The `rlhf` command. Nouns are arguments, options are long, `-o` is output.

`--json` prints machine output on stdout and nothing else there; text for people that is not the
result goes to stderr. Exit codes: 0 done, 1 our bug, 2 bad input, 3 does not fit, 130 interrupted
with the state saved.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from hwopt import command_line, print_json, run_command_line, write_json, write_text
from rlhf.errors import PlanError, RunError

if TYPE_CHECKING:
    from rlhf.deployment import Overrides
    from rlhf.plan import Plan
    from rlhf.sampling import Sampling


app = command_line(
    "rlhf",
    "RLHF on DeepSpeed, planned with traced graphs: fine-tuning, reward model, PPO.",
)
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

DEMO_RUN = Path("runs/rlhf-demo")

PlanFile = Annotated[Path, typer.Argument(metavar="PLAN.yaml", help="the plan (YAML or JSON)")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="folder of a run")]
Json = Annotated[bool, typer.Option("--json", help="print JSON on stdout")]
Temperature = Annotated[float | None, typer.Option(help="of sampling (default: the plan's)")]
Tokens = Annotated[int | None, typer.Option(min=1, help="longest answer in tokens")]
Greedy = Annotated[bool, typer.Option("--greedy", help="always the likeliest token")]
Seed = Annotated[int | None, typer.Option(help="makes samples repeatable")]


@app.command()
def train(
    plan: Annotated[Path | None, typer.Argument(
        metavar="[PLAN.yaml]", help="the plan; without one and without --actor: the demo")] = None,
    output: Annotated[Path | None, typer.Option(
        "-o", "--output", help="folder of the run (default: runs/NAME)")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with a run")] = False,
    actor: Annotated[str | None, typer.Option(help="one-line form: the model to train")] = None,
    reward: Annotated[str | None, typer.Option(
        help="one-line form: the reward model, trained or to be trained")] = None,
    data: Annotated[str | None, typer.Option(
        help="one-line form: a file of prompts with a chosen and a rejected answer")] = None,
    deployment: Annotated[str | None, typer.Option(
        help="one-line form: single-gpu, single-node or multi-node")] = None,
    hostfile: Annotated[str | None, typer.Option(help="several machines: HOST slots=N")] = None,
    zero: Annotated[int | None, typer.Option(min=0, max=3, help="ZeRO stage")] = None,
    dtype: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16")] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="per machine")] = None,
) -> None:  # fmt: skip
    """Train what a plan says; Ctrl-C saves, --resume goes on exactly there.

    Without arguments: the demo, three stages from scratch on this machine in a few minutes.
    """
    from rlhf.deployment import Overrides
    from rlhf.launch import launch

    _allowed("--dtype", dtype, ("fp32", "bf16", "fp16"))
    one_line = {"--actor": actor, "--reward": reward, "--data": data, "--deployment": deployment}
    overrides = Overrides(zero, dtype, processes, _found(hostfile))  # type: ignore[arg-type]
    if resume:
        stray = [name for name, value in one_line.items() if value is not None]
        if stray:
            raise RunError("a run goes on with its own plan", value=", ".join(stray),
                           fix="rlhf train -o RUN --resume")  # fmt: skip
        run, chosen = _resumed(plan, output, overrides)
    else:
        run, chosen = _begun(plan, output, one_line, overrides)
    write_text(run / "plan.yaml", chosen.text())
    err.print(f"run: {run}", markup=False)
    code = launch(chosen, run, resume, say=lambda text: err.print(text, markup=False))
    if code:
        err.print(f"stopped; go on with: rlhf train -o {run} --resume", markup=False)
        raise typer.Exit(code)
    err.print(f"done: rlhf report {run}, rlhf evaluate {run}, rlhf chat {run}", markup=False)


def _begun(
    plan: Path | None, output: Path | None, one_line: dict[str, str | None], overrides: Overrides
) -> tuple[Path, Plan]:
    """The folder and plan of a new run."""
    from rlhf.data.demo import demo_plan
    from rlhf.deployment import DEPLOYMENTS, one_line_plan
    from rlhf.plan import Plan

    given = [name for name, value in one_line.items() if value is not None]
    if plan is not None:
        if given:
            raise PlanError("the plan says that already", value=", ".join(given),
                            fix=f"edit {plan}, or leave it out")  # fmt: skip
        chosen = overrides.apply(Plan.load(plan))
        return _fresh(output or Path("runs") / chosen.name, plan), chosen
    if not given:
        run = _fresh(output or DEMO_RUN, None)
        return run, overrides.apply(demo_plan((run / "data").resolve()))
    for name in ("--actor", "--data"):
        if one_line[name] is None:
            raise PlanError(f"{given[0]} needs {name} as well", fix="see rlhf train --help")
    _allowed("--deployment", one_line["--deployment"], DEPLOYMENTS)
    chosen = one_line_plan(
        actor=str(one_line["--actor"]), data=str(one_line["--data"]), reward=one_line["--reward"],
        deployment=one_line["--deployment"],  # type: ignore[arg-type]
        overrides=overrides,
    )  # fmt: skip
    return _fresh(output or Path("runs") / chosen.name, None), chosen


def _fresh(run: Path, plan: Path | None) -> Path:
    """A folder for a new run. One that holds a run is refused; one in which a plan file failed
    before its first stage is not a run yet.
    """
    if (run / "stages").exists() or (plan is None and (run / "plan.yaml").exists()):
        raise RunError("this folder holds a run already", where=str(run),
                       fix=f"go on: rlhf train -o {run} --resume; or choose another folder "
                           "with -o")  # fmt: skip
    return run


def _resumed(plan: Path | None, output: Path | None, overrides: Overrides) -> tuple[Path, Plan]:
    """The folder and plan of a run that goes on. A plan given again may say anew where and how
    fast it runs; what is trained has to be the same.
    """
    from rlhf.identity import differences
    from rlhf.plan import Plan
    from rlhf.runs import Run

    given = Plan.load(plan) if plan is not None else None
    run = output or (Path("runs") / given.name if given is not None else DEMO_RUN)
    own = Run(run).plan
    changed = differences(own, given) if given is not None else ()
    if changed:
        raise RunError("the plan differs from the one that this run began with",
                       where=str(plan), value=", ".join(changed),
                       fix=f"leave the plan out: {run / 'plan.yaml'} is used")  # fmt: skip
    return run, overrides.apply(given or own)


@app.command()
def profile(plan: PlanFile, json_: Json = False) -> None:
    """Price a plan from traced graphs: FLOPs, bytes, seconds and memory of every phase."""
    from rlhf.estimate import profile as price
    from rlhf.plan import Plan

    estimate = price(Plan.load(plan))
    if json_:
        print_json(estimate.to_json())
    else:
        out.print(estimate.table(), markup=False)


@app.command()
def evaluate(
    run: RunFolder,
    against: Annotated[list[str] | None, typer.Option(
        help="another policy beside it: a stage, base, or a folder (may be repeated)")] = None,
    actor: Annotated[str | None, typer.Option(help="stage or folder (default: newest)")] = None,
    reward: Annotated[str | None, typer.Option(help="stage or folder (default: newest)")] = None,
    rows: Annotated[int, typer.Option(min=1, help="held-out rows at most")] = 64,
    samples: Annotated[int, typer.Option(min=0, help="answers shown side by side")] = 4,
    temperature: Temperature = None, tokens: Tokens = None, greedy: Greedy = False,
    seed: Seed = None, json_: Json = False,
) -> None:  # fmt: skip
    """What the trained models are worth on held-out rows, beside those of earlier stages."""
    from rlhf.evaluation import evaluate_run, print_evaluation

    result = evaluate_run(
        run, against=against or (), actor=actor, reward=reward, rows=rows, samples=samples,
        sampling=_sampling(run, temperature, tokens, greedy), seed=seed,
    )  # fmt: skip
    if json_:
        print_json(result)
    else:
        print_evaluation(result, out)


@app.command("chat")
def chat_command(
    run: RunFolder,
    stage: Annotated[str | None, typer.Option(help="whose model (default: the newest)")] = None,
    role: Annotated[str, typer.Option(help="actor, ema or reference")] = "actor",
    system: Annotated[str | None, typer.Option(help="system message")] = None,
    temperature: Temperature = None, tokens: Tokens = None, greedy: Greedy = False,
    seed: Seed = None,
) -> None:  # fmt: skip
    """Talk to a trained model (RUN may also be a Hugging Face folder)."""
    from rlhf.chat import chat

    plain = (run / "config.json").is_file()
    chat(
        None if plain else run, folder=run if plain else None, stage=stage, role=role,
        system=system, seed=seed,
        sampling=_sampling(None if plain else run, temperature, tokens, greedy),
    )  # fmt: skip


@app.command()
def report(
    run: RunFolder,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="another place")] = None,
) -> None:
    """Write one HTML page about a run: curves, phases, samples, data."""
    from rlhf.report import write_report

    err.print(f"wrote {write_report(run, output)}", markup=False)


@app.command()
def export(
    run: RunFolder,
    role: Annotated[str, typer.Argument(metavar="ROLE", help="actor, critic, reward or ema")],
    output: Annotated[Path, typer.Option("-o", "--output", help="folder to make")],
    stage: Annotated[str | None, typer.Option(help="after this stage (default: newest)")] = None,
) -> None:
    """Copy a trained role as a plain Hugging Face folder, with its tokenizer."""
    from rlhf.runs import Run

    whole = Run(run)
    source = whole.model(role, stage)
    if output.exists():
        raise RunError("is there already", where=str(output), fix="choose another folder with -o")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as part:
        folder = Path(part) / "whole"
        if whole.tokenizer.is_dir():
            shutil.copytree(whole.tokenizer, folder)
        shutil.copytree(source, folder, dirs_exist_ok=True)
        folder.rename(output)
    err.print(f"wrote {output}", markup=False)


@app.command()
def schema(
    output: Annotated[Path, typer.Option("-o", "--output", help="directory")] = Path("schemas"),
) -> None:
    """Write the JSON Schema of plans (editor completion, validation)."""
    from rlhf.plan import plan_schema

    path = output / "plan.schema.json"
    write_json(path, plan_schema())
    err.print(f"wrote {path}", markup=False)


def _sampling(
    run: Path | None, temperature: float | None, tokens: int | None, greedy: bool
) -> Sampling | None:
    """How answers are sampled, where the command line says something about it: the rest is that of
    the plan's last stage that generates.
    """
    if temperature is None and tokens is None and not greedy:
        return None
    from dataclasses import replace

    from rlhf.runs import Run
    from rlhf.sampling import Sampling

    stages = Run(run).plan.stages if run is not None else ()
    base = next((s.sampling for s in reversed(stages) if s.algorithm.data == "prompts"), Sampling())
    changes: dict[str, Any] = {"greedy": greedy}
    if temperature is not None:
        changes["temperature"] = temperature
    if tokens is not None:
        changes |= {"response_tokens": tokens,
                    "minimum_tokens": min(base.minimum_tokens, tokens)}  # fmt: skip
    try:
        return replace(base, **changes)
    except ValueError as error:
        raise PlanError(str(error), where="--temperature", value=temperature) from error


def _allowed(option: str, value: str | None, allowed: tuple[str, ...]) -> None:
    if value is not None and value not in allowed:
        raise PlanError("no such choice", where=option, value=value, allowed=", ".join(allowed))


def _found(hostfile: str | None) -> str | None:
    """The hostfile's absolute path: the plan is read from another folder."""
    return None if hostfile is None else str(Path(hostfile).resolve())


def main() -> None:
    """Entry point: every error becomes one message and an exit code."""
    sys.exit(run_command_line(app))


if __name__ == "__main__":
    main()
