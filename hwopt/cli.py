"""The `hwopt` command. Nouns are arguments, options are long, `-o` is output.

`--json` prints machine output on stdout and nothing else there; text for people that is not the
result goes to stderr. Exit codes: 0 done, 1 our bug, 2 bad input, 3 infeasible, 130 interrupted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from hwopt.commandline import command_line, err, out, print_json, run_command_line, steps
from hwopt.errors import HwoptError
from hwopt.quantities import show

app = command_line(
    "hwopt",
    "Performance models of accelerators from traced PyTorch graphs, and co-design search.",
)

PIPELINE = "eliminate,canonicalize,fuse,classify,tile"
"""The passes that `hwopt cost` runs unless told otherwise."""

Model = Annotated[
    str, typer.Argument(help="library name, Hugging Face folder or config.json, or module:factory")
]
Mode = Annotated[str, typer.Option(help="forward, prefill, decode or train")]
Batch = Annotated[int, typer.Option(min=1, help="samples in a batch")]
Seq = Annotated[int | None, typer.Option(min=1, help="tokens (decode: tokens already cached)")]
Dtype = Annotated[str | None, typer.Option(help="element type of weights, such as bfloat16")]
Unsupported = Annotated[str, typer.Option(help="unknown operators: error, or opaque (a bound)")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="model knob, e.g. --set width=512 --set depth=8")
]
On = Annotated[str, typer.Option("--on", help="accelerator: library name or YAML file")]
Json = Annotated[bool, typer.Option("--json", help="print JSON on stdout")]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="write to this path")]


def _trace(model: str, mode: str, batch: int, seq: int | None, dtype: str | None,
           unsupported: str, knobs: list[str] | None) -> Any:  # fmt: skip
    from hwopt.frontend.capture import trace

    return trace(
        model, mode=mode, batch=batch, seq=seq, dtype=dtype, unsupported=unsupported,
        overrides=_overrides(knobs) or None,
    )  # fmt: skip


def _overrides(knobs: list[str] | None) -> dict[str, int]:
    """`--set NAME=INTEGER` as a dict."""
    overrides: dict[str, int] = {}
    for knob in knobs or ():
        name, _, value = knob.partition("=")
        if not name or not value.isdigit():
            raise HwoptError(
                "not a model knob", where="--set", value=knob, allowed="NAME=INTEGER",
                fix="for example --set width=512",
            )  # fmt: skip
        overrides[name] = int(value)
    return overrides


@app.command("trace")
def trace_command(
    model: Model, mode: Mode = "forward", batch: Batch = 1, seq: Seq = None, dtype: Dtype = None,
    unsupported: Unsupported = "error", knobs: Set = None, output: Output = None,
    json_: Json = False,
) -> None:  # fmt: skip
    """Trace a model to its operator graph; print totals, write the graph with -o."""
    from hwopt.files import write_json, write_text
    from hwopt.ir.serialize import to_json
    from hwopt.ir.text import print_graph

    graph = _trace(model, mode, batch, seq, dtype, unsupported, knobs)
    if output is not None:
        if output.suffix == ".json":
            write_json(output, to_json(graph))
        else:
            write_text(output, print_graph(graph))
        err.print(f"wrote {output}")
    totals = {
        "name": graph.name, "mode": mode, "batch": batch, "operators": len(graph.ops),
        "parameters": graph.parameter_count, "macs": graph.macs, "flops": graph.flops,
        "recompute_flops": graph.recompute_flops, "moved_bytes": graph.moved_bytes,
        "saved_for_backward_bytes": sum(t.nbytes for t in graph.saved_for_backward),
        "is_bound": graph.is_bound, "digest": graph.digest,
    }  # fmt: skip
    if json_:
        print_json(totals)
        return
    kinds: dict[str, list[int]] = {}
    for op in graph.ops:
        row = kinds.setdefault(op.kind, [0, 0, 0])
        row[0], row[1], row[2] = row[0] + 1, row[1] + op.macs, row[2] + graph.op_bytes(op)
    table = Table("operator", "count", "MACs", "bytes", title=graph.name)
    for kind, (count, macs, moved) in sorted(kinds.items(), key=lambda item: -item[1][1]):
        table.add_row(kind, str(count), show(macs, "") if macs else "-", show(moved, "B"))
    for column in table.columns[1:]:
        column.justify = "right"
    out.print(table)
    bound = " (a lower bound: opaque operators)" if graph.is_bound else ""
    out.print(
        f"{graph.parameter_count:,} parameters, {graph.macs:,} MACs, {graph.flops:,} FLOPs, "
        f"{show(graph.moved_bytes, 'B')} moved{bound}"
    )
    if mode == "train":
        saved = totals["saved_for_backward_bytes"]
        out.print(f"{len(graph.saved_for_backward)} tensors saved for backward, {show(saved, 'B')}")


def _program(graph: Any, passes: str, accelerator: Any) -> Any:
    from hwopt.passes.manager import PassManager, parse_pipeline

    program, _ = PassManager(parse_pipeline(passes)).run(graph, target=accelerator)
    return program


@contextmanager
def _infeasible(json_: bool) -> Iterator[None]:
    """With --json, what does not fit is also printed as data (the message goes to stderr)."""
    from hwopt.cost.infeasibility import DoesNotFitError

    try:
        yield
    except DoesNotFitError as error:
        if json_:
            print_json(error.to_json())
        raise


@app.command()
def cost(
    model: Model, on: On, mode: Mode = "forward", batch: Batch = 1, seq: Seq = None,
    dtype: Dtype = None, unsupported: Unsupported = "error", knobs: Set = None,
    passes: Annotated[str, typer.Option(help="pass pipeline")] = PIPELINE,
    fusion: Annotated[str, typer.Option(help="off, groups or optimal")] = "groups",
    objective: Annotated[str, typer.Option(help="of mappings: latency, energy, edp")] = "latency",
    show_mapping: Annotated[str | None, typer.Option(help="print one operator's nest")] = None,
    to: Annotated[
        str | None, typer.Option(help="form of the nest: yaml, json, timeloop or text")
    ] = None,
    timeline: Annotated[Path | None, typer.Option(help="write a Perfetto trace")] = None,
    html: Annotated[Path | None, typer.Option(help="write a page")] = None,
    json_: Json = False,
) -> None:  # fmt: skip
    """Price a model on an accelerator: latency, energy, utilisation, traffic, bounds."""
    from hwopt.cost.cost import evaluate
    from hwopt.hardware.library import load

    if to is not None and show_mapping is None:
        raise HwoptError("says how to write a nest", where="--to", fix="add --show-mapping OP")
    accelerator = load(on)
    graph = _trace(model, mode, batch, seq, dtype, unsupported, knobs)
    program = _program(graph, passes, accelerator)
    with _infeasible(json_):
        result = evaluate(program, accelerator, fusion=fusion, objective=objective)
    if timeline is not None:
        result.timeline(timeline)
        err.print(f"wrote {timeline}")
    if html is not None:
        from hwopt.report.html import write_cost_page

        write_cost_page(result, html)
        err.print(f"wrote {html}")
    if to is not None and show_mapping is not None:
        sys.stdout.write(_in_form(result, show_mapping, to))
    elif json_ and show_mapping is not None:
        print_json(result.mapping_json(show_mapping))
    elif json_:
        print_json(result.to_json())
    elif show_mapping is not None:
        out.print(result.mapping_text(show_mapping), markup=False)
    else:
        out.print(result.table(), markup=False)


def _in_form(result: Any, operator: str, form: str) -> str:
    """The nests of an operator as files that `hwopt cost-mapping` reads, one after the other."""
    from hwopt.mapping.forms import write_form

    found = [
        write_form(stage.request.problem, best.mapping, result.accelerator, form)
        for stage, best in result.best(operator)
    ]
    if not found:
        raise HwoptError("the operator has no nest to map", where="--show-mapping", value=operator)
    return "---\n".join(found)


@app.command("cost-mapping")
def cost_mapping(
    mapping: Annotated[
        Path, typer.Argument(help="YAML, JSON or text: operator and mapping, ours or Timeloop's")
    ],
    on: On,
    conventions: Annotated[str, typer.Option(help="native, timeloop, ...")] = "native",
    to: Annotated[
        str | None, typer.Option(help="write it as yaml, json, timeloop or text instead")
    ] = None,
    output: Output = None,
    json_: Json = False,
) -> None:
    """Price one fixed mapping of one operator (see `mapping/fixed.py` for the file)."""
    from hwopt.hardware.library import load
    from hwopt.mapping.fixed import price_fixed, read_fixed

    accelerator = load(on)
    if to is not None:
        from hwopt.mapping.forms import write_form

        _write(write_form(*read_fixed(mapping, accelerator), accelerator, to), output)
        return
    if output is not None:
        raise HwoptError("says where to write a mapping", where="-o", fix="add --to FORM")
    result = price_fixed(mapping, accelerator, conventions)
    if json_:
        print_json(result.to_json())
    else:
        out.print(str(result), markup=False)


@app.command()
def search(
    study: Annotated[Path | None, typer.Argument(help="study file (YAML)")] = None,
    output: Output = None,
    resume: Annotated[bool, typer.Option("--resume", help="continue an interrupted run")] = False,
    workers: Annotated[int, typer.Option(min=1, help="processes on this machine")] = 1,
) -> None:
    """Co-optimise hardware and models with NSGA-II; Ctrl-C saves, --resume continues exactly."""
    from hwopt.dse.study import run_study

    if study is None:
        raise HwoptError("no study given", fix="hwopt search STUDY.yaml -o runs/NAME")
    path = output if output is not None else Path("runs") / study.stem
    run_study(study, path, resume=resume, workers=workers, console=err)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="directory of a search")],
    compare: Annotated[Path | None, typer.Option(help="a second run beside it")] = None,
    json_: Json = False,
) -> None:
    """Print a run's Pareto set and write its page and plot again."""
    from hwopt.dse.study import Study
    from hwopt.report.pareto import comparison_text, front_text, write_report

    study = Study.load(run)
    if compare is not None:
        out.print(comparison_text(study, Study.load(compare)), markup=False)
        return
    if json_:
        print_json(study.to_json())
        return
    out.print(front_text(study), markup=False)
    write_report(study)
    err.print(f"wrote {run / 'report.html'}")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="directory of a search")],
    design: Annotated[str, typer.Argument(help="number of a design in the Pareto set, or chosen")],
    to: Annotated[str, typer.Option(help="yaml, json or timeloop")] = "yaml",
    output: Output = None,
) -> None:
    """Write one design of a run as an accelerator file.

    With `--to timeloop` it is Timeloop's architecture; a folder given with -o also gets problem and
    mapping of every distinct nest of the run's models.
    """
    from hwopt.dse.study import Study
    from hwopt.files import dump_yaml
    from hwopt.hardware.library import dump

    study = Study.load(run)
    if to == "timeloop":
        from hwopt.report.timeloop import architecture_text, write_design

        if output is None or output.suffix:
            _write(architecture_text(study.accelerator(design)), output)
            return
        for note in write_design(study, design, output):
            err.print(note, markup=False)
        return
    data = dump(study.accelerator(design))
    if to not in ("yaml", "json"):
        raise HwoptError("unknown format", where="--to", value=to, allowed="yaml, json, timeloop")
    _write(dump_yaml(data) if to == "yaml" else json.dumps(data, indent=2) + "\n", output)


def _write(text: str, output: Path | None) -> None:
    """To stdout, or to a file."""
    from hwopt.files import write_text

    if output is None:
        sys.stdout.write(text)
    else:
        write_text(output, text)
        err.print(f"wrote {output}")


@app.command()
def sensitivity(
    model: Model, on: On, mode: Mode = "forward", batch: Batch = 1, seq: Seq = None,
    dtype: Dtype = None, knobs: Set = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="plot: .png, .svg, .pdf or .html")
    ] = None,
    json_: Json = False,
) -> None:  # fmt: skip
    """Elasticity of latency, energy and area to each parameter of the accelerator and model."""
    from hwopt.cost.sensitivity import elasticities
    from hwopt.frontend.capture import trace
    from hwopt.frontend.knobs import model_knobs
    from hwopt.hardware.library import load
    from hwopt.report.sensitivity import check, plot

    if output is not None:
        check(output)
    accelerator = load(on)
    given = _overrides(knobs)

    def build(name: str, size: int) -> Any:
        sizes = {**given, name: size}
        graph = trace(
            model, mode=mode, batch=sizes.pop("batch", batch), seq=sizes.pop("seq", seq),
            dtype=dtype, overrides=sizes or None,
        )  # fmt: skip
        return _program(graph, PIPELINE, accelerator)

    dimensions = {
        name: (size, partial(build, name))
        for name, size in model_knobs(model, batch=batch, seq=seq, overrides=given).items()
    }
    program = build("batch", batch)
    with _infeasible(json_), steps(err, "parameters") as progress:
        rows = elasticities(program, accelerator, dimensions, progress)
    title = f"{program.graph.name} on {accelerator.name}"
    if output is not None:
        plot(rows, output, title)
        err.print(f"wrote {output}")
    if json_:
        print_json([row.to_json() for row in rows])
        return
    table = Table("parameter", "value", "latency", "energy", "area", title=title)
    for row in rows:
        table.add_row(row.parameter, row.value, *row.shown())
    for column in table.columns[1:]:
        column.justify = "right"
    table.columns[0].no_wrap = True
    out.print(table)
    for row in rows:
        if row.note:
            out.print(f"{row.parameter}: {row.note}", markup=False)


@app.command()
def validate(
    name: Annotated[str | None, typer.Argument(help="one validation (default: all)")] = None,
    data: Annotated[Path | None, typer.Option(help="another file of the same columns")] = None,
    json_: Json = False,
) -> None:
    """Compare predictions with published data, beside a trivial baseline."""
    from hwopt.errors import PathError
    from hwopt.validation.harness import comparisons
    from hwopt.validation.harness import validate as run

    outcomes = []
    for each in [name] if name else comparisons:
        try:
            outcomes.append(run(each, data))
        except PathError as error:  # files of other projects are not carried
            if name:
                raise
            err.print(f"{each}: left out, {error.what} ({error.fix})", markup=False)
    if json_:
        result = [outcome.to_json() for outcome in outcomes]
        print_json(result[0] if name else result)
        return
    for outcome in outcomes:
        table = Table("metric", "ours", f"baseline: {outcome.baseline_is}", title=outcome.name)
        for metric, value in outcome.metrics.items():
            beside = outcome.baseline.get(metric)
            table.add_row(metric, f"{value:.4g}", "-" if beside is None else f"{beside:.4g}")
        out.print(table)
        out.print(f"{len(outcome.rows)} rows, conventions {outcome.conventions}, "
                  f"calibrated on {outcome.calibrated_on}")  # fmt: skip
        for note in outcome.notes:
            out.print(note, markup=False)


@app.command("list")
def list_command(
    kind: Annotated[str | None, typer.Argument(help="what to list (default: the kinds)")] = None,
    json_: Json = False,
) -> None:
    """List what can be named: models, hardware, clusters, templates, passes, objectives, ..."""
    from hwopt.catalogue import KINDS, entries

    rows = entries(kind) if kind is not None else [(name, "") for name in KINDS]
    if json_:
        print_json([name for name, _ in rows])
        return
    for name, about in rows:
        out.print(f"{name:<28} {about}".rstrip(), markup=False)


@app.command()
def schema(
    output: Annotated[Path, typer.Option("-o", "--output", help="directory")] = Path("schemas"),
) -> None:
    """Write the JSON Schemas of every file kind (editor completion, validation)."""
    from hwopt.catalogue import schemas
    from hwopt.files import write_json

    for name, content in schemas().items():
        write_json(output / f"{name}.schema.json", content)
    err.print(f"wrote {len(schemas())} schemas to {output}")


def main() -> None:
    """Entry point: every error becomes one message and an exit code."""
    sys.exit(run_command_line(app))


if __name__ == "__main__":
    main()
