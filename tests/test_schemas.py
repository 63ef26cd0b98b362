"""The schemas in `schemas/` are generated from the code, and fresh."""

import json
from pathlib import Path

import jsonschema
import pytest

from hwopt.catalogue import schemas as hwopt_schemas
from rlhf.plan import plan_schema

ROOT = Path(__file__).parents[1]


def schemas():
    """Those of both packages; neither writes the other's."""
    return {**hwopt_schemas(), "plan": plan_schema()}


@pytest.mark.parametrize("name", ["accelerator", "cluster", "graph", "mapping", "plan", "study"])
def test_schema_is_fresh(name):
    """`make schemas` would change nothing."""
    written = json.loads((ROOT / "schemas" / f"{name}.schema.json").read_text())
    assert written == json.loads(json.dumps(schemas()[name])), "run `make schemas`"


def test_every_schema_is_itself_valid_and_nothing_else_is_there():
    """All are draft 2020-12; the folder holds exactly these."""
    for schema in schemas().values():
        jsonschema.Draft202012Validator.check_schema(schema)
    files = {p.name for p in (ROOT / "schemas").glob("*.json")}
    assert files == {f"{name}.schema.json" for name in schemas()}


def test_shipped_files_obey_their_schema():
    """Library accelerators, clusters, studies and plans validate against the published schemas."""
    from hwopt.files import read_yaml

    library = ROOT / "hwopt" / "hardware" / "library"
    kinds = [(p, "accelerator") for p in library.glob("*.yaml")]
    kinds += [(p, "cluster") for p in library.glob("clusters/*.yaml")]
    kinds += [(p, "study") for p in (ROOT / "benchmarks" / "studies").glob("*.yaml")]
    kinds += [(p, "plan") for p in (ROOT / "rlhf" / "data").glob("*.yaml")]
    kinds += [(p, "plan") for p in (ROOT / "benchmarks" / "plans").glob("*.yaml")]
    assert len(kinds) >= 10
    for path, kind in kinds:
        jsonschema.validate(read_yaml(path), schemas()[kind])
