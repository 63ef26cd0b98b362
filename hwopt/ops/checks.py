"""Operators that compute nothing: assertions on shapes, sizes read by the tracer, annotations."""

from __future__ import annotations

from hwopt.ir.scalar import Operand
from hwopt.ops.builder import Builder
from hwopt.ops.lowering import Call, lowering


@lowering("aten._assert_tensor_metadata.default", "aten._assert_async.msg")
@lowering("aten._assert_async.default", "aten._assert_scalar.default")
@lowering("aten._functional_assert_async.msg", "aten._functional_assert_scalar.default")
@lowering("aten.sym_size.int", "aten.sym_size.default", "aten.sym_stride.int")
@lowering("aten.sym_numel.default", "aten.sym_storage_offset.default")
@lowering("aten.sym_constrain_range.default", "aten.sym_constrain_range_for_size.default")
@lowering("aten.sym_is_contiguous.default", "aten.record_stream.default")
def nothing(call: Call, build: Builder) -> None:
    """Emits nothing (sizes are static); a check that passes a tensor on becomes a view of it."""
    if call.outputs:
        source = call.optional("dep_token")
        if source is None:
            raise call.unsupported("a tensor result of a check")
        build.pointwise(call, Operand(0), [source], kind="view", resource="none")
