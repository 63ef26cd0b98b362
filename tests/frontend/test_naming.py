"""Names and sources of operators."""

from types import SimpleNamespace

from hwopt.frontend.naming import Names, module_path, source_line


def test_module_paths_of_both_tracers():
    """Export and dynamo write paths differently; our wrapper is not part of them."""
    assert module_path({"a": ("", "Wrapped"), "b": ("wrapped.model.layers.3", "Layer")}) == (
        "model.layers.3"
    )
    assert module_path({"a": ("L['self'].wrapped.model.layers.3.fc1", "Linear")}) == (
        "model.layers.3.fc1"
    )
    assert module_path({"a": ("L['self'].wrapped.h['3']", "Linear")}) == "h.3"
    assert module_path({"a": ("wrapped.block@2", "Linear")}) == "block"
    assert module_path({"a": ("wrapped", "Model")}) == ""
    assert module_path(None) is None
    assert module_path({}) is None


def test_source_line_is_the_models():
    """The innermost frame outside torch; libraries by package path."""
    trace = (
        'File "/x/site-packages/transformers/models/opt/modeling_opt.py", line 99, in forward\n'
        'File "/x/site-packages/torch/nn/modules/linear.py", line 134, in forward\n'
    )
    assert source_line(trace) == "transformers/models/opt/modeling_opt.py:99"
    assert source_line(trace.splitlines()[1]) == "torch/nn/modules/linear.py:134"
    assert source_line('File "/elsewhere/model.py", line 3') == "/elsewhere/model.py:3"
    assert source_line(None) == ""


def node(target, path=None):
    meta = {"nn_module_stack": {"x": (path, "M")}} if path is not None else {}
    return SimpleNamespace(target=target, meta=meta)


def test_each_module_counts_its_own_operators():
    """So equal layers get equal names; nodes without a module belong to the one before."""
    names = Names({"b.add_0"})
    calls = [("aten.mm.default", "a"), ("aten.mm.default", "b"), ("aten.mm.default", "a"),
             ("aten.add.Tensor", "b"), ("aten._to_copy.default", None)]  # fmt: skip
    given = [names.place(node(t, p), backward=False)[0] for t, p in calls]
    assert given == ["a.mm_0", "b.mm_0", "a.mm_1", "b.add_1", "b.to_copy_0"]
    assert names.place(node("aten.mm.default", "a"), backward=True)[0] == "a.grad.mm_0"
    assert names.place(node("aten.mm.default", ""), backward=False)[0] == "mm_0"
