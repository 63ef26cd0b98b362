"""The entry points, errors, and that nothing of torch's core operators is forgotten."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from hwopt.errors import UnsupportedOperatorError
from hwopt.ir.op import Opaque, Source
from hwopt.ir.routines import ROUTINES
from hwopt.ir.scalar import Operand, apply
from hwopt.ir.tensor import Tensor
from hwopt.ops import Builder, Call, lower, lowering, lowerings, supported

A = torch.ops.aten
MEANINGLESS = {
    "aten._local_scalar_dense.default": "takes a number out of the graph: unknown without data",
    "aten.nonzero.default": "the size of its result is known only to the data",
    "aten.sym_numel.default": "sizes are static; emits nothing",
}


def core_operators():
    """Every operator that torch tags as core ATen."""
    for name in dir(A):
        packet = getattr(A, name, None)
        if not isinstance(packet, torch._ops.OpOverloadPacket):
            continue
        for overload in packet.overloads():
            op = getattr(packet, overload)
            if torch.Tag.core in op.tags:
                yield str(op)


def test_core_aten_is_complete():
    """Each core operator is lowered, or named here with the reason why it cannot be."""
    core = set(core_operators())
    assert len(core) > 180
    assert core - supported() <= set(MEANINGLESS)


def test_targets_exist():
    """No lowering is registered under a name that torch does not have (a typing error)."""
    import transformers.integrations.moe  # noqa: F401 - registers the grouped product

    absent = []
    for target in supported():
        space, name, overload = target.split(".")
        packet = getattr(getattr(torch.ops, space), name, None)
        if packet is None or overload not in packet.overloads():
            absent.append(target)
    assert not absent


def call(target="aten.unheard_of.default", **arguments):
    """A call from a known place of a model."""
    source = Source("model.layers.3.mlp", "model.py:12", target)
    return Call(target, "call", arguments, (Tensor("y", (2,)),), source=source)


def test_unknown_operator_names_itself_and_its_place():
    """One clear error: operator, module path, source line, what to do."""
    with pytest.raises(UnsupportedOperatorError) as error:
        lower(call(), Builder())
    for part in ("aten.unheard_of.default", "model.layers.3.mlp", "model.py:12", "opaque"):
        assert part in str(error.value)


def test_opaque():
    """On request an operator of unknown work stands for it; what was half emitted is gone."""
    x, mask = Tensor("x", (2, 3)), Tensor("m", (2, 3), "bool")
    for unknown in (call(a=x, b=[mask, None]), call("aten.index.Tensor", self=x, indices=[mask])):
        build = Builder()
        lower(unknown, build, "opaque")
        (op,) = build.ops
        assert op.body == Opaque(unknown.target)
        assert op.reads == ("x", "m")
        assert not build.tensors


def test_half_a_lowering_is_taken_back():
    """A lowering that fails after its first operator leaves nothing behind."""

    @lowering("test.half.default")
    def half(failing: Call, build: Builder) -> None:
        inner = build.temporary(failing, (2,), "float32")
        build.fill(failing, 1.0, inner, resource="vector")
        raise failing.unsupported("the rest")

    try:
        build = Builder()
        lower(call("test.half.default"), build, "opaque")
        assert [op.kind for op in build.ops] == ["opaque"]
        assert build.ops[0].name == "call"
    finally:
        lowerings.remove("test.half.default")


def test_a_lowering_is_one_function():
    """Adding an operator: register a function that emits."""

    @lowering("test.double.default")
    def double(doubled: Call, build: Builder) -> None:
        build.pointwise(doubled, apply("mul", Operand(0), 2), [doubled.tensor("self")])

    try:
        build = Builder()
        lower(call("test.double.default", self=Tensor("x", (2,))), build)
        assert str(build.ops[0].body.scalar) == "mul(#0, 2)"
    finally:
        lowerings.remove("test.double.default")


def test_checks_emit_nothing():
    """Assertions and sizes leave no operator."""
    x = Tensor("x", (2, 3))
    for target in ("aten._assert_tensor_metadata.default", "aten.sym_size.int"):
        build = Builder()
        lower(Call(target, "call", {"a": x}, ()), build)
        assert not build.ops


def test_names_of_operators_and_temporaries_are_unique():
    """Many calls of one name, each with temporaries."""
    build = Builder()
    x = Tensor("x", (2, 3))
    for _ in range(3):
        lower(Call("aten.mean.dim", "m", {"self": x, "dim": [1]}, (Tensor("y", (2,)),)), build)
    assert len({op.name for op in build.ops}) == len(build.ops) == 6
    assert len({t.name for t in build.tensors}) == 3


def test_lowerings_do_not_need_torch():
    """Operator files are plain data: importing them all loads no torch."""
    code = "import sys, hwopt.ops; hwopt.ops.supported(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_routine_is_callable_by_name():
    """Names are those that lowerings emit."""
    assert all(callable(routine) for routine in ROUTINES.values())
    assert {"softmax", "embedding", "lstm", "grouped_mm"} <= set(ROUTINES)
