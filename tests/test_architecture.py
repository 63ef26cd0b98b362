"""Promises of the architecture that no single file can keep."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import hwopt
import rlhf

ROOT = Path(hwopt.__file__).parents[1]
SOURCES = sorted((ROOT / "hwopt").rglob("*.py")) + sorted((ROOT / "rlhf").rglob("*.py"))
HEAVY = ("torch", "numba", "pymoo", "pandas", "matplotlib", "plotly", "transformers", "scipy")


def test_import_is_light():
    """`import hwopt` loads none of the heavy packages."""
    code = f"import hwopt, sys; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_import_of_rlhf_is_light():
    """`import rlhf` loads none of them either, and each of the parts that only start, end or
    report processes stays small: the process that watches a trainer must outlive it.
    """
    heavy = (*HEAVY, "deepspeed", "datasets", "tokenizers", "tensorboard")
    code = "import rlhf, rlhf.worker, rlhf.cli, sys; "
    code += f"print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


NAMES = [(package, name) for package in (hwopt, rlhf) for name in package.__all__]


@pytest.mark.parametrize(("package", "name"), NAMES, ids=lambda x: getattr(x, "__name__", x))
def test_public_names_exist_and_are_documented(package, name):
    """Each exported name resolves and has a docstring."""
    assert getattr(package, name).__doc__


@pytest.mark.parametrize("package", [hwopt, rlhf], ids=lambda p: p.__name__)
def test_no_module_bears_the_name_of_an_export(package):
    """`hwopt.search` and `rlhf.profile` can only be the functions."""
    folder = ROOT / package.__name__
    modules = {p.stem for p in folder.iterdir() if not p.name.startswith("_")}
    assert modules.isdisjoint(package.__all__)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_unsafe(path):
    """No pickle, no eval or exec, no fastmath, no weights loaded unsafely."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] + [getattr(node, "module", None) or ""]
            assert not {"pickle", "marshal", "shelve", "dill"} & set(names)
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", "")
            assert name not in ("eval", "exec")
            for keyword in node.keywords:
                assert keyword.arg != "fastmath"
                if keyword.arg in ("allow_pickle", "weights_only"):
                    assert getattr(keyword.value, "value", None) is (keyword.arg == "weights_only")


def test_jitted_functions_stay_in_their_module():
    """No jitted function calls one of another module: the cache would not see its edits."""
    jitted: dict[str, str] = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and any(
                "jit" in ast.unparse(d) for d in node.decorator_list
            ):
                jitted[node.name] = str(path)
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef) or jitted.get(node.name) != str(path):
                continue
            local = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
            called = {n.func.id for n in ast.walk(node)
                      if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}  # fmt: skip
            assert not {c for c in called if c in jitted and c not in local}


def test_every_module_imports():
    """Each module can be imported by itself."""
    optional = {"vllm_rollout.py"}
    for path in SOURCES:
        if path.name in optional:
            continue
        parts = path.relative_to(ROOT).with_suffix("").parts
        importlib.import_module(".".join(p for p in parts if p != "__init__"))
