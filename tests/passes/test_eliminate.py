"""Eliminate: dead operators, duplicates, copies."""

from hwopt.ir.text import parse, print_graph
from hwopt.passes.manager import PassManager, parse_pipeline

BEFORE = """\
graph "g"
  %x : float32[2] input
  %unused : float32[2] input
  $0 = nest (i=2) reads ([i]) writes [i] none maximum(#0, 0.0)
  %a : float32[2] = relu on vector $0(%x)
  %b : float32[2] = relu on vector $0(%x)
  $1 = nest (i=2) reads ([i]) writes [i] none #0
  %c : float32[2] = clone on memory $1(%b)
  $2 = nest (i=2) reads ([i]) writes [i] none exp(#0)
  %dead : float32[2] = exp on vector $2(%x)
  $3 = nest (i=2) reads ([i], [i]) writes [i] none add(#0, #1)
  %s : float32[2] = add on vector $3(%a, %c)
  $4 = nest (i=2) reads ([i]) writes [i] none cast(#0)
  %y : float32[2] = cast on vector $4(%s)
return %y
"""
AFTER = """\
graph "g"
  %x : float32[2] input
  %unused : float32[2] input
  $0 = nest (i=2) reads ([i]) writes [i] none maximum(#0, 0.0)
  %a : float32[2] = relu on vector $0(%x)
  $1 = nest (i=2) reads ([i], [i]) writes [i] none add(#0, #1)
  %y : float32[2] = @s add on vector $1(%a, %a)
return %y
"""


def run(text: str, pipeline: str = "eliminate") -> str:
    """The text after a pipeline."""
    return print_graph(PassManager(parse_pipeline(pipeline)).run(parse(text))[0].graph)


def test_golden():
    """The example of the pass: repeated relu, clone, cast to the same type, unread exp."""
    assert run(BEFORE) == AFTER
    assert run(AFTER) == AFTER


def test_duplicates_may_stay():
    """`duplicates=False` drops copies and the dead alone."""
    left = run(BEFORE, "eliminate{duplicates=False}")
    assert left.count("relu") == 2
    assert "clone" not in left


def one_op(line: str, dtype: str = "float32") -> str:
    """A graph of one operator on x : float32[2, 2], called twice, both results outputs of a sum."""
    return f"""\
graph "g"
  %x : float32[2, 2] input
  $0 = {line}
  %a : {dtype}[2, 2] = k on memory $0(%x)
  $1 = nest (i=2, j=2) reads ([i, j]) writes [i, j] none neg(#0)
  %y : float32[2, 2] = neg on vector $1(%a)
return %y
"""


def test_what_is_not_a_copy():
    """A transposition, a conversion, a fill, a shift stay."""
    for line, dtype in (
        ("nest (i=2, j=2) reads ([j, i]) writes [i, j] none #0", "float32"),
        ("nest (i=2, j=2) reads ([i, j]) writes [i, j] none cast(#0)", "float16"),
        ("nest (i=2, j=2) reads ([i, j]) writes [i, j] else 0.0 none neg(#0)", "float32"),
        ("nest (i=2, j=2) reads ([i, 0]) writes [i, j] none #0", "float32"),
    ):
        assert run(one_op(line, dtype)) == one_op(line, dtype)
    assert "memory" not in run(one_op("nest (i=2, j=2) reads ([i, j]) writes [i, j] none #0"))


def test_a_copy_of_an_input_that_is_an_output_stays():
    """Something must write the output."""
    text = """\
graph "g"
  %x : float32[2] input
  $0 = nest (i=2) reads ([i]) writes [i] none #0
  %y : float32[2] = clone on memory $0(%x)
return %y
"""
    assert run(text) == text


def test_random_numbers_and_unknown_operators_are_never_merged():
    """Two draws are two draws; two opaque calls may differ."""
    text = """\
graph "g"
  $0 = gather random {law="normal", low=0.0, high=1.0} touches () -> (2) work 20
  %a : float32[2] = random on vector $0()
  %b : float32[2] = random on vector $0()
  $1 = opaque "aten.magic"
  %c : float32[2] = opaque on memory $1(%a, %b)
  %d : float32[2] = opaque on memory $1(%a, %b)
return %c, %d
"""
    assert run(text) == text


def test_numbers_of_different_kinds_are_merged_only_where_equal():
    """The same body on the same operand, but results of another type, stay apart."""
    text = """\
graph "g"
  %x : float32[2] input
  $0 = nest (i=2) reads ([i]) writes [i] none exp(#0)
  %a : float32[2] = exp on vector $0(%x)
  %b : float16[2] = exp on vector $0(%x)
return %a, %b
"""
    assert run(text) == text
