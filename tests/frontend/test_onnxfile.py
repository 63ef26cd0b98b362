"""ONNX files against onnx's own reference evaluator."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from hwopt.errors import FileFormatError, HwoptError, PathError, UnsupportedOperatorError

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from hwopt.frontend.onnxfile import load_onnx  # noqa: E402


def write(tmp_path, nodes, inputs, outputs, constants=()):
    """A one-graph ONNX file."""
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        [onnx.numpy_helper.from_array(v, n) for n, v in constants],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    return path


def check(path, **inputs):
    """Every output equals the reference evaluator's."""
    module, _ = load_onnx(path, weights=True)
    expected = ReferenceEvaluator(str(path)).run(None, inputs)
    with torch.no_grad():
        actual = module(*(torch.from_numpy(v) for v in inputs.values()))
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape
        np.testing.assert_allclose(a.numpy(), e, rtol=1e-4, atol=1e-5)


RNG = np.random.default_rng(0)


def rand(*shape):
    """Normal float32."""
    return RNG.standard_normal(shape).astype(np.float32)


X4 = rand(2, 4, 7, 9)
CASES = {
    "conv": (helper.make_node("Conv", ["x", "w", "b"], ["y"], strides=[2, 1], pads=[1, 2, 0, 1],
                              group=2), [("w", rand(6, 2, 3, 3)), ("b", rand(6))]),
    "conv-same": (helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2],
                                   auto_pad="SAME_UPPER"), [("w", rand(3, 4, 3, 2))]),
    "conv-transpose": (helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2],
                                        pads=[1, 1, 1, 1]), [("w", rand(4, 3, 3, 3))]),
    "max-pool": (helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[3, 2], strides=[2, 2],
                                  pads=[1, 0, 1, 0]), []),
    "average-pool": (helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[3, 3],
                                      pads=[1, 1, 1, 1]), []),
    "global-pool": (helper.make_node("GlobalAveragePool", ["x"], ["y"]), []),
    "batch-norm": (helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"]),
                   [("s", rand(4)), ("b", rand(4)), ("m", rand(4)), ("v", rand(4) ** 2)]),
    "layer-norm": (helper.make_node("LayerNormalization", ["x", "s", "b"], ["y"], axis=-1),
                   [("s", rand(9)), ("b", rand(9))]),
    "gemm": (helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1, alpha=0.5),
             [("w", rand(5, 9)), ("b", rand(5))]),
    "slice": (helper.make_node("Slice", ["x", "st", "en", "ax", "sp"], ["y"]),
              [("st", np.array([1, -2])), ("en", np.array([7, 1])), ("ax", np.array([2, 3])),
               ("sp", np.array([2, -3]))]),
    "slice-reverse": (helper.make_node("Slice", ["x", "st", "en", "ax", "sp"], ["y"]),
                      [("st", np.array([-1])), ("en", np.array([-1000])), ("ax", np.array([3])),
                       ("sp", np.array([-1]))]),
    "reduce": (helper.make_node("ReduceMean", ["x", "ax"], ["y"], keepdims=0),
               [("ax", np.array([1, 3]))]),
    "pad": (helper.make_node("Pad", ["x", "p"], ["y"], mode="reflect"),
            [("p", np.array([0, 0, 1, 2, 0, 0, 2, 1]))]),
    "split": (helper.make_node("Split", ["x"], ["y", "z", "u", "v"], axis=1, num_outputs=4), []),
    "reshape": (helper.make_node("Reshape", ["x", "s"], ["y"]), [("s", np.array([0, -1, 3]))]),
    "softmax": (helper.make_node("Softmax", ["x"], ["y"], axis=1), []),
    "hard-sigmoid": (helper.make_node("HardSigmoid", ["x"], ["y"], alpha=0.3), []),
    "clip": (helper.make_node("Clip", ["x", "lo"], ["y"]), [("lo", np.float32(-0.5))]),
    "trilu": (helper.make_node("Trilu", ["x"], ["y"], upper=0), []),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_operator(name, tmp_path):
    """One node equals the reference evaluator."""
    node, constants = CASES[name]
    x = X4.reshape(-1, 9) if name == "gemm" else X4
    path = write(tmp_path, [node], [("x", x.shape)], list(node.output), constants)
    check(path, x=x)


def test_traced_totals_equal_the_pytorch_model(tmp_path):
    """A small network exported by torch has the parameters and FLOPs of the model itself."""
    pytest.importorskip("onnxscript")
    from hwopt import trace

    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
        nn.Linear(8 * 8 * 8, 10),
    ).eval()  # fmt: skip
    x = torch.zeros(1, 3, 16, 16)
    path = tmp_path / "net.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (x,), str(path), dynamo=True, verbose=False, optimize=False)
    check(path, **{onnx.load(path).graph.input[0].name: rand(1, 3, 16, 16)})
    graph = trace(str(path))
    assert graph.flops == trace(model, (x,)).flops == 2 * (8 * 8 * 8 * 27 + 512 * 10)


def test_errors(tmp_path):
    """Missing files, other files, unknown operators and free sizes are each one clear error."""
    with pytest.raises(PathError):
        load_onnx(tmp_path / "absent.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not a protobuf at all")
    with pytest.raises(FileFormatError, match="not an ONNX model"):
        load_onnx(tmp_path / "bad.onnx")
    node = helper.make_node("NonMaxSuppression", ["x", "x"], ["y"], name="nms")
    path = write(tmp_path, [node], [("x", (1, 2))], ["y"])
    with pytest.raises(UnsupportedOperatorError, match=r"NonMaxSuppression(.|\n)*"):
        load_onnx(path)
    node = helper.make_node("Relu", ["x"], ["y"])
    path = write(tmp_path, [node], [("x", ("batch", "time"))], ["y"])
    with pytest.raises(HwoptError, match="--seq"):
        load_onnx(path)
    assert load_onnx(path, batch=3, seq=5)[1][0].shape == (3, 5)
