"""Small programs and machines, built by hand, with sizes that make expected figures arithmetic."""

import pytest

from hwopt.hardware.accelerator import Accelerator, Compute, Fanout, FanoutDim, Memory, Vector
from hwopt.ir.access import Axis, parse_access
from hwopt.ir.graph import Graph
from hwopt.ir.op import Nest, Op, Scan
from hwopt.ir.program import Group, Program
from hwopt.ir.scalar import PRODUCT, Operand, apply
from hwopt.ir.tensor import Tensor


class Make:
    """Builders of tensors, operators, programs and machines."""

    @staticmethod
    def tensor(name, *shape, role="activation", dtype="float32"):
        return Tensor(name, shape, dtype, role)

    @staticmethod
    def matmul(name, x, w, y, m, n, k, sequential=()):
        """y[m, n] = sum over k of x[m, k] w[n, k]."""
        body = Nest(
            (Axis("m", m), Axis("n", n), Axis("k", k)),
            (parse_access("m", "k"), parse_access("n", "k")), parse_access("m", "n"),
            PRODUCT, "sum", sequential,
        )  # fmt: skip
        return Op(name, "matmul", body, "matrix", (x, w), (y,))

    @staticmethod
    def pointwise(name, reads, y, m, n, kind="pointwise"):
        """y[m, n] from operands [m, n], one operation per operand."""
        scalar = Operand(0)
        for position in range(1, len(reads)):
            scalar = apply("add", scalar, Operand(position))
        access = parse_access("m", "n")
        body = Nest((Axis("m", m), Axis("n", n)), (access,) * len(reads), access,
                    apply("maximum", scalar, 0.0))  # fmt: skip
        return Op(name, kind, body, "vector", tuple(reads), (y,))

    @staticmethod
    def softmax(name, x, y, elements, depth):
        body = Scan("softmax", (("axis", -1),), (elements,), (elements,), 5 * elements, depth)
        return Op(name, "softmax", body, "vector", (x,), (y,))

    @staticmethod
    def program(name, tensors, ops, outputs, groups=(), class_of=None):
        graph = Graph(name, tuple(tensors), tuple(ops), tuple(outputs))
        return Program(graph, tuple(groups), class_of=class_of or {})

    def layer(self, m=8, n=16, k=32):
        """A product, a residual sum with relu, and a second relu, as one group."""
        t = self.tensor
        tensors = [
            t("x", m, k, role="input"), t("w", n, k, role="parameter"),
            t("r", m, n, role="input"), t("y", m, n), t("z", m, n), t("out", m, n),
        ]  # fmt: skip
        ops = [
            self.matmul("mm", "x", "w", "y", m, n, k),
            self.pointwise("add", ["y", "r"], "z", m, n),
            self.pointwise("relu", ["z"], "out", m, n),
        ]
        return self.program("layer", tensors, ops, ["out"], [Group(("mm", "add", "relu"), "mm")])

    def attention(self, heads=2, queries=8, keys=8, width=4):
        """Scores, scale, softmax, values as one group."""
        t = self.tensor
        h, i, j, e = Axis("h", heads), Axis("i", queries), Axis("j", keys), Axis("e", width)
        tensors = [
            t("q", heads, queries, width, role="input"), t("k", heads, keys, width, role="input"),
            t("v", heads, keys, width, role="input"), t("s", heads, queries, keys),
            t("p", heads, queries, keys), t("o", heads, queries, width),
        ]  # fmt: skip
        scores = Nest((h, i, j, e), (parse_access("h", "i", "e"), parse_access("h", "j", "e")),
                      parse_access("h", "i", "j"), PRODUCT, "sum")  # fmt: skip
        values = Nest((h, i, e, j), (parse_access("h", "i", "j"), parse_access("h", "j", "e")),
                      parse_access("h", "i", "e"), PRODUCT, "sum")  # fmt: skip
        ops = [
            Op("scores", "attention_scores", scores, "matrix", ("q", "k"), ("s",)),
            self.softmax("softmax", "s", "p", heads * queries * keys, 3),
            Op("values", "attention_values", values, "matrix", ("p", "v"), ("o",)),
        ]
        group = Group(("scores", "softmax", "values"), "scores", "attention")
        return self.program("attention", tensors, ops, ["o"], [group])

    @staticmethod
    def machine(buffer_bytes=4096.0, dram_bytes_per_s=1e9, clock_hz=1e9, lanes=4, **update):
        """DRAM, one buffer, a row of lanes; every energy given, 32-bit data."""
        energies = {"read_joules_per_byte": 1e-12, "write_joules_per_byte": 1e-12}
        levels = (
            Memory(name="DRAM", kind="dram", bytes_per_s=dram_bytes_per_s,
                   read_joules_per_byte=1e-10, write_joules_per_byte=1e-10),
            Memory(name="GLB", capacity_bytes=buffer_bytes, bytes_per_s=100 * clock_hz, **energies),
            Fanout(name="PE", dims=(FanoutDim(name="x", size=lanes),)),
        )  # fmt: skip
        given = {
            "name": "machine", "clock_hz": clock_hz, "levels": levels, "compute": Compute(bits=32),
            "vector": Vector(lanes=4),
        }  # fmt: skip
        return Accelerator(**{**given, **update})


@pytest.fixture(scope="session")
def make():
    """The builders."""
    return Make()
