"""Canonicalize: goldens; meaning is held in test_meaning, test_models and test_composition."""

from hwopt.ir.text import parse, print_graph
from hwopt.passes.manager import PassManager, parse_pipeline

BEFORE = """\
graph "heads"
  %x : float32[2, 6] input
  %w : float32[6, 6] parameter
  $0 = nest (m=2, n=6, k=6) reads ([m, k], [n, k]) writes [m, n] sum mul(#0, #1)
  %h : float32[2, 6] = linear on matrix $0(%x, %w)
  $1 = nest (a=2, b=2, c=3) reads ([a, 3*b + c]) writes [a, b, c] none #0
  %v : float32[2, 2, 3] = view on none $1(%h)
  $2 = nest (a=2, b=2, c=3) reads ([b, a, c]) writes [a, b, c] none #0
  %t : float32[2, 2, 3] = view on none $2(%v)
  $3 = nest (a=2, b=2, c=3) reads ([a, b, c]) writes [a, b, c] none tanh(#0)
  %u : float32[2, 2, 3] = tanh on vector $3(%t)
  $4 = nest (a=2, b=2, c=3) reads ([b, a, c]) writes [a, b, c] none #0
  %s : float32[2, 2, 3] = view on none $4(%u)
  $5 = nest (a=2, b=2, c=3) reads ([a, b, c]) writes [a, 3*b + c] none #0
  %f : float32[2, 6] = view on none $5(%s)
  %d : float32[2, 6] = dropout on memory $6(%f)
  %y : float32[2, 6] = linear on matrix $0(%d, %w)
return %y, %t
""".replace("  %d :", "  $6 = nest (a=2, b=6) reads ([a, b]) writes [a, b] none #0\n  %d :")
AFTER = """\
graph "heads"
  %x : float32[2, 6] input
  %w : float32[6, 6] parameter
  $0 = nest (m=2, n=6, k=6) reads ([m, k], [n, k]) writes [m, n] sum mul(#0, #1)
  %h : float32[2, 6] = linear on matrix $0(%x, %w)
  $1 = nest (a=2, b=2, c=3) reads ([b, 3*a + c]) writes [a, b, c] none #0
  %t : float32[2, 2, 3] = view on none $1(%h)
  $2 = nest (a=2, b=2, c=3) reads ([b, 3*a + c]) writes [a, b, c] none tanh(#0)
  %u : float32[2, 2, 3] = tanh on vector $2(%h)
  $3 = nest (m=2, n=6, k0=2, k1=3) reads ([k0, m, k1], [n, 3*k0 + k1]) writes [m, n] sum mul(#0, #1)
  %y : float32[2, 6] = linear on matrix $3(%u, %w)
return %y, %t
"""


def test_golden():
    """Split heads, transpose, merge them again; an output that is a view stays one."""
    program, _ = PassManager(parse_pipeline("canonicalize")).run(parse(BEFORE))
    assert print_graph(program.graph) == AFTER
    assert program.properties == {"canonical"}


def test_options_leave_parts_out():
    """Without views only the dropout goes."""
    program, _ = PassManager(parse_pipeline("canonicalize{views=False}")).run(parse(BEFORE))
    assert len(program.graph.ops) == len(parse(BEFORE).ops) - 1


def test_equal_layers_share_composed_bodies():
    """The composition of a repeated pair of bodies is made once, and shared."""
    graph = parse("""
graph "g"
  %x : float32[4] input
  $0 = nest (i=2, j=2) reads ([2*i + j]) writes [i, j] none #0
  $1 = nest (i=2, j=2) reads ([i, j]) writes [i, j] none tanh(#0)
  %a : float32[2, 2] = view on none $0(%x)
  %b : float32[2, 2] = tanh on vector $1(%a)
  %c : float32[2, 2] = view on none $0(%x)
  %d : float32[2, 2] = tanh on vector $1(%c)
return %b, %d
""")
    program, _ = PassManager(parse_pipeline("canonicalize")).run(graph)
    assert program.graph.op["b"].body is program.graph.op["d"].body


def test_readers_that_are_no_nests_keep_their_view():
    """A softmax reads the view itself, at no cost."""
    text = """\
graph "g"
  %x : float32[4] input
  $0 = nest (i=2, j=2) reads ([2*i + j]) writes [i, j] none #0
  %a : float32[2, 2] = view on none $0(%x)
  $1 = scan softmax {axis=1, log=False} touches (4) -> (4) work 20 depth 3
  %y : float32[2, 2] = softmax on vector $1(%a)
return %y
"""
    program, _ = PassManager(parse_pipeline("canonicalize")).run(parse(text))
    assert print_graph(program.graph) == text
