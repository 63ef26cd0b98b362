"""Fuse: which groups are found, and which are not."""

import pytest

from hwopt.ir.text import parse
from hwopt.passes.manager import PassManager, parse_pipeline

DEFINITIONS = """\
graph "g"
  %x : float32[1, 4, 6] input
  %z : float32[1, 4, 6] input
  %w : float32[6, 6] parameter
  %b : float32[6] parameter
  $0 = nest (n=1, m=4, o=6, k=6) reads ([n, m, k], [o, k]) writes [n, m, o] sum mul(#0, #1)
  $1 = nest (i=1, j=4, k=6) reads ([i, j, k]) writes [i, j, k] none tanh(#0)
  $2 = nest (i=1, j=4, k=6) reads ([i, j, k], [i, j, k]) writes [i, j, k] none add(#0, #1)
  $3 = nest (i=1, j=4, k=6) reads ([i, j, k], [k]) writes [i, j, k] none add(#0, #1)
  $4 = nest (j=4, k=6) reads ([0, j, k]) writes [k, j] none #0
  $5 = nest (j=4, k=6) reads ([k, j]) writes [0, j, k] none #0
  $6 = nest (i=1, j=4, k=6) reads ([i, j, k]) writes [i] sum #0
  $7 = nest (i=1, j=4, k=6) reads ([i, j, k], [i]) writes [i, j, k] none mul(#0, #1)
  $8 = nest (n=1, i=4, j=4, e=6) reads ([n, i, e], [n, j, e]) writes [n, i, j] sum mul(#0, #1)
  $9 = nest (n=1, i=4, j=4) reads ([n, i, j], []) writes [n, i, j] none mul(#0, #1)
  $10 = scan softmax {axis=2, log=False} touches (16) -> (16) work 80 depth 3
  $11 = nest (n=1, i=4, e=6, j=4) reads ([n, i, j], [n, j, e]) writes [n, i, e] sum mul(#0, #1)
  $12 = nest (n=1, i=4, e=6, j=4) reads ([n, j, e], [n, i, j]) writes [n, i, e] sum mul(#0, #1)
  $13 = nest (n=1, i=4, j=4) reads ([n, i, j]) writes [n, i, j] none tanh(#0)
  %s : float32[] parameter
"""
SHAPES = {"t": "float32[6, 4]", "r": "float32[1]", "p": "float32[1, 4, 4]"}


def groups(*lines: str, outputs: str = "%y", options: str = "") -> list[tuple[str, str, str]]:
    """Kind, anchor and operators of each group; results are named by what they are: `%p1` is a
    square of scores, `%t1` transposed, `%r1` a row, anything else like x. Views have kind view.
    """
    text = DEFINITIONS
    for line in lines:
        result, call, *phase = line.split(" ")
        number = call[1 : call.index("(")]
        shape = SHAPES.get(result[1], "float32[1, 4, 6]")
        resource = {"0": "matrix", "8": "matrix", "11": "matrix", "12": "matrix",
                    "4": "none", "5": "none"}.get(number, "vector")  # fmt: skip
        text += f"  {result} : {shape} = k on {resource} {call.replace(',', ', ')}"
        text += f" {phase[0]}\n" if phase else "\n"
    program, _ = PassManager(parse_pipeline(f"fuse{options}")).run(
        parse(f"{text}return {outputs}\n")
    )
    return [(group.kind, group.anchor, " ".join(group.ops)) for group in program.groups]


def test_epilogue():
    """A product, its bias, an activation, a residual sum."""
    lines = "%c $0(%x,%w)", "%d $3(%c,%b)", "%e $1(%d)", "%y $2(%e,%z)"
    assert groups(*lines) == [("epilogue", "c", "c d e y")]
    assert groups(*lines, options="{epilogues=False}") == [
        ("single", "c", "c"), ("pointwise", "d", "d e y"),
    ]  # fmt: skip
    # what leaves in between does not cut the group: it is written as well
    assert groups(*lines, outputs="%y, %d") == [("epilogue", "c", "c d e y")]


def test_epilogue_through_views():
    """Views between the operators cost nothing and are no members."""
    lines = "%c $0(%x,%w)", "%t1 $4(%c)", "%e $5(%t1)", "%y $1(%e)"
    assert groups(*lines) == [("epilogue", "c", "c y")]


def test_two_products_meet():
    """A sum of two products follows one of them; two anchors never share a group."""
    lines = "%c $0(%x,%w)", "%d $0(%z,%w)", "%y $2(%c,%d)"
    assert groups(*lines) == [("epilogue", "c", "c y"), ("single", "d", "d")]


def test_a_path_that_leaves_and_comes_back():
    """X -> sum -> x * sum: the sum needs all of x, so the product cannot join x's group."""
    lines = "%c $1(%x)", "%r1 $6(%c)", "%y $7(%c,%r1)"
    assert groups(*lines) == [("single", "c", "c"), ("single", "r1", "r1"), ("single", "y", "y")]
    # through another group: c and y each border on d's group, which must stay between them
    lines = "%c $0(%x,%w)", "%d $0(%c,%w)", "%y $2(%c,%d)"
    assert groups(*lines) == [("single", "c", "c"), ("epilogue", "d", "d y")]


def test_pointwise_chains():
    """An optimizer's updates: one group, though every result leaves."""
    lines = "%m $2(%x,%z)", "%v $1(%m)", "%y $2(%m,%v)"
    assert groups(*lines, outputs="%m, %v, %y") == [("pointwise", "m", "m v y")]
    assert len(groups(*lines, options="{pointwise=False}")) == 3


def test_phases_and_static_operators_stay_apart():
    """Forward work is not fused into backward work; weight preparation runs once."""
    lines = "%c $1(%x)", "%y $1(%c) backward"
    assert [kind for kind, _, _ in groups(*lines)] == ["single", "single"]
    text = DEFINITIONS.replace("%z : float32[1, 4, 6] input", "%z : float32[1, 4, 6] parameter")
    text += "  %c : float32[1, 4, 6] = k on vector $1(%z)\n"
    text += "  %y : float32[1, 4, 6] = k on vector $2(%c, %x)\nreturn %y\n"
    program, _ = PassManager(parse_pipeline("fuse")).run(parse(text))
    assert [group.ops for group in program.groups] == [("c",), ("y",)]


ATTENTION = (
    "%p1 $8(%x,%z)", "%p2 $9(%p1,%s)", "%p3 $10(%p2)", "%p4 $13(%p3)", "%y $11(%p4,%z)",
)  # fmt: skip


def test_attention():
    """Scores, scale, softmax, dropout-like work, values: one group at the scores."""
    assert groups(*ATTENTION) == [("attention", "p1", "p1 p2 p3 p4 y")]
    bare = "%p1 $8(%x,%z)", "%p3 $10(%p1)", "%y $11(%p3,%z)"
    assert groups(*bare) == [("attention", "p1", "p1 p3 y")]
    # what follows the values is a group of its own: their blocks are not its tiles
    assert groups(*bare, "%u $1(%y)", outputs="%u") == [
        ("attention", "p1", "p1 p3 y"), ("single", "u", "u"),
    ]  # fmt: skip


@pytest.mark.parametrize("outputs", ["%y, %p1", "%y, %p2", "%y, %p3", "%y, %p4"])
def test_attention_that_must_spill(outputs):
    """Weights (or scores) that somebody else reads leave the chip anyway: no attention group."""
    assert all(kind != "attention" for kind, _, _ in groups(*ATTENTION, outputs=outputs))


def test_what_only_looks_like_attention():
    """Weights as the second operand, a softmax of no product, an option that is off."""
    turned = *ATTENTION[:4], "%y $12(%z,%p4)"
    assert all(kind != "attention" for kind, _, _ in groups(*turned))
    assert all(
        kind != "attention" for kind, _, _ in groups(*ATTENTION, options="{attention=False}")
    )


def test_a_saved_log_sum_exp_leaves_an_attention_group():
    """Flash attention saves a number per row for its backward pass; the group stays one."""
    text = DEFINITIONS.replace("touches (16) -> (16)", "touches (16) -> (16, 4)")
    text += """\
  %p1 : float32[1, 4, 4] = k on matrix $8(%x, %z)
  %p3 : float32[1, 4, 4], %l : float32[1, 4] = k on vector $10(%p1)
  %y : float32[1, 4, 6] = k on matrix $11(%p3, %z)
return %y, %l
"""
    program, _ = PassManager(parse_pipeline("fuse")).run(parse(text))
    assert [group.kind for group in program.groups] == ["attention"]
