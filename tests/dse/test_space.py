"""Design spaces: codes and values, free and fixed knobs, study files and their mistakes."""

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwopt.dse.space import DesignSpace, load_study, parse_study, study_schema
from hwopt.errors import FileFormatError, HardwareError, HwoptError, StudyError, UnknownNameError
from hwopt.files import parse_yaml
from hwopt.hardware.template import templates

STUDY = """
models:
  - model: resnet50
  - {model: opt-125m, name: lm, mode: prefill, seq: 128, batch: 2,
     knobs: {width: [512, 768], depth: [6, 12, 24], heads: 8}}
hardware: {template: systolic, knobs: {rows: [16, 32], columns: 16, clock: 0.7 GHz,
           buffer: [64 KiB, 128 KiB], accumulator: 32 KiB, bandwidth: 25.6 GB/s, vector_lanes: 16}}
objectives: [latency, area]
constraints: area <= 40 mm2
search: {budget: 100}
"""


def study(text=STUDY, **changes):
    """The study of a text with some keys replaced."""
    return parse_study({**parse_yaml(text), **changes}, "small.yaml")


def test_free_and_fixed_knobs():
    """Lists of several values are free, single values fixed, hardware first."""
    space = study()
    assert [knob.label for knob in space.knobs] == [
        "hardware.rows", "hardware.buffer", "lm.width", "lm.depth",
    ]  # fmt: skip
    assert space.size == 2 * 2 * 2 * 3
    assert space.counts.tolist() == [2, 2, 2, 3]
    design = space.decode([1, 0, 1, 2])
    assert design["hardware"] == {
        "rows": 32, "columns": 16, "buffer": "64 KiB", "accumulator": "32 KiB",
        "clock": "700 MHz", "bandwidth": "25.6 GB/s", "vector_lanes": 16,
    }  # fmt: skip
    assert design["lm"] == {"width": 768, "depth": 24, "heads": 8}
    assert design["resnet50"] == {}
    assert study().name == "small"
    assert study().constraints == ("area <= 40 mm2",)


@given(st.data())
def test_decode_and_encode_are_inverse(data):
    """Any codes survive the way to values and back."""
    space = study()
    codes = tuple(data.draw(st.integers(0, int(n) - 1)) for n in space.counts)
    assert space.encode(space.decode(codes)) == codes


def test_every_design_once():
    """The enumeration has all designs, the last knob fastest."""
    codes = study().every()
    assert codes.shape == (24, 4)
    assert len({row.tobytes() for row in codes}) == 24
    assert codes[1].tolist() == [0, 0, 0, 1]


def test_template_codes_build_the_same_machine():
    """A design's accelerator is the template's for the same values, in table and object alike."""
    space = study()
    codes = space.every()
    table = templates["systolic"].table(space.template_codes(codes))
    for index in (0, 7, 23):
        values = space.decode(codes[index])["hardware"]
        machine = templates["systolic"].build(values)
        assert space.accelerator(codes[index]).levels == machine.levels
        assert table.rows[index, 0] == machine.clock_hz == 700e6


def test_no_free_knob_is_a_space_of_one():
    """A fixed accelerator and fixed models: one design."""
    space = DesignSpace(models=[{"model": "resnet50"}], hardware={"accelerator": "eyeriss"})
    assert space.size == 1
    assert space.every().shape == (1, 0)
    assert space.accelerator([]).name == "eyeriss"


def test_schema_accepts_the_study_and_refuses_unknown_keys():
    """The JSON Schema agrees with the reader."""
    schema = study_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    content = parse_yaml(STUDY) | {"constraints": ["area <= 40 mm2"]}
    jsonschema.validate(content, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**content, "colour": "red"}, schema)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"colour": "red"}, FileFormatError, "colour"),
        ({"models": []}, FileFormatError, "models"),
        ({"models": [{"model": "a"}, {"model": "a"}]}, StudyError, "different names"),
        ({"models": [{"model": "a", "name": "hardware"}]}, StudyError, "different names"),
        ({"models": [{"model": "a", "knobs": {"width": []}}]}, StudyError, "at least one"),
        ({"models": [{"model": "a", "knobs": {"width": [1, 1]}}]}, StudyError, "twice"),
        ({"models": [{"model": "a", "batch": 0}]}, FileFormatError, "batch"),
        ({"hardware": {}}, StudyError, "either"),
        ({"hardware": {"template": "systolic", "accelerator": "eyeriss"}}, StudyError, "either"),
        ({"hardware": {"accelerator": "eyeriss", "knobs": {"a": 1}}}, StudyError, "no knobs"),
        ({"hardware": {"template": "sistolic"}}, UnknownNameError, "systolic"),
        ({"hardware": {"template": "systolic", "knobs": {"x": 1}}}, StudyError, "no such knob"),
        ({"hardware": {"template": "systolic", "knobs": {"rows": 7}}}, HardwareError, "7"),
        ({"hardware": {"template": "systolic", "knobs": {"rows": [8, 8]}}}, StudyError, "twice"),
        ({"objectives": ["area", "area"]}, StudyError, "twice"),
        ({"search": {"budget": 0}}, FileFormatError, "budget"),
        ({"search": {"optimizer": "magic"}}, FileFormatError, "optimizer"),
        ({"aggregate": "median"}, FileFormatError, "aggregate"),
    ],
)
def test_mistakes(changes, error, match):
    """Each mistake in a study is one clear error."""
    with pytest.raises(error, match=match):
        study(**changes).knobs  # noqa: B018 - knobs are derived on use


def test_encode_refuses_other_values():
    """A value that the knob does not have."""
    space = study()
    design = space.decode([0, 0, 0, 0])
    design["lm"]["width"] = 640
    with pytest.raises(StudyError, match=r"lm\.width"):
        space.encode(design)


@pytest.mark.parametrize("text", ["models: [", "models: 3", "[1, 2]", "", "a: 1\na: 2"])
def test_broken_files(tmp_path, text):
    """Broken YAML, wrong types, duplicate keys: an error that names the file."""
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(HwoptError, match=r"broken\.yaml"):
        load_study(path)


def test_csv_is_looked_up_beside_the_study(tmp_path):
    """A relative CSV path means the study's folder."""
    (tmp_path / "points.csv").write_text("width,quality\n512,3\n")
    path = tmp_path / "s.yaml"
    path.write_text(
        "models: [{model: a, quality: {source: csv, file: points.csv}}]\n"
        "hardware: {accelerator: eyeriss}\n"
    )
    assert load_study(path).models[0].quality["file"] == str(tmp_path / "points.csv")


def test_codes_of_a_batch():
    """Template codes of many designs at once equal those of each."""
    space = study()
    codes = space.every()
    rows = [space.template_codes(row[None])[0] for row in codes]
    assert np.array_equal(space.template_codes(codes), np.array(rows))
