"""Templates: knobs, single designs, and whole tables that equal them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwopt.errors import HardwareError
from hwopt.hardware.table import hardware_row, skeleton_key, stack
from hwopt.hardware.template import Knob, Template, register, templates

NAMES = ["pe_groups", "row_stationary", "systolic"]


@st.composite
def designs(draw):
    """A template and some designs as codes."""
    template = templates[draw(st.sampled_from(NAMES))]
    one = st.tuples(*(st.integers(0, len(knob.values) - 1) for knob in template.knobs))
    return template, np.array(draw(st.lists(one, min_size=1, max_size=6)))


def test_the_registry_has_the_three_families():
    """They are found by name and say what they are."""
    assert set(NAMES) <= set(templates)
    assert all(templates[name].about for name in NAMES)


@given(designs())
def test_table_equals_the_designs_built_one_by_one(case):
    """The vectorised rows are those of `build`, column by column, and so are the shapes."""
    template, codes = case
    table = template.table(codes)
    one_by_one = [template.decoded(row) for row in codes]
    rows = np.stack([hardware_row(a) for a in one_by_one])
    np.testing.assert_allclose(table.rows, rows, rtol=1e-13)
    for index, accelerator in enumerate(one_by_one):
        skeleton = table.skeletons[table.skeleton[index]]
        assert skeleton_key(skeleton) == skeleton_key(accelerator)
    assert len(table.skeletons) == len({skeleton_key(a) for a in one_by_one})
    assert len(stack(one_by_one)) == len(table) == len(codes)


@pytest.mark.parametrize("name", NAMES)
def test_build_takes_values_as_files_write_them(name):
    """Values may be written in another unit; codes and values agree."""
    template = templates[name]
    values = {knob.name: knob.values[-1] for knob in template.knobs}
    machine = template.build(values)
    assert machine == template.decoded(template.codes(values))
    assert machine.peak_macs_per_s > 0
    if name == "pe_groups":
        assert template.build({**values, "clock": "0.7 GHz"}) == machine


@pytest.mark.parametrize("name", NAMES)
def test_more_of_anything_costs_area(name):
    """Area grows with every knob that adds a part or widens a port (clock aside)."""
    template = templates[name]
    codes = [0] * len(template.knobs)
    base = template.decoded(codes).resolved().area_m2
    for position, knob in enumerate(template.knobs):
        if knob.name == "clock":
            continue
        more = [*codes]
        more[position] = len(knob.values) - 1
        assert template.decoded(more).resolved().area_m2 > base, knob.name


def test_pe_groups_waits_for_banks_that_are_too_narrow():
    """The weight rate is banks x width per group and cycle: 2 bytes per MAC feed it fully."""
    template = templates["pe_groups"]
    values = {"groups": 4, "macs": 8, "bank_height": 256, "bank_width": 128, "weight_banks": 1,
                  "activation_banks": 1, "clock": "700 MHz", "bandwidth": "12.8 GB/s"}  # fmt: skip
    machine = template.build(values)
    weights = machine.memories[1]
    assert weights.read_bytes_per_s == 4 * 8 * 2 * 700e6  # 4 groups x 8 MACs x 2 bytes
    assert weights.capacity_bytes == 4 * 256 * 16
    assert weights.usable_bytes == weights.capacity_bytes / 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "missing or unknown"),
        ({"rows": 5}, "not a value"),
        ({"buffer": "1 parsec"}, "not a value"),
    ],
)
def test_wrong_values_are_one_clear_error(values, message):
    """Missing knobs, values that are none of the knob's."""
    template = templates["systolic"]
    full = {knob.name: knob.values[0] for knob in template.knobs}
    with pytest.raises(HardwareError, match=message):
        template.build({**full, **values} if values else {})


@pytest.mark.parametrize("codes", [[[0] * 6], [[0] * 6 + [99]], [[-1] + [0] * 6], [0] * 7])
def test_wrong_codes_are_one_clear_error(codes):
    """Wrong width, a code out of range, a flat list."""
    with pytest.raises(HardwareError):
        templates["systolic"].table(np.array(codes))


def test_a_template_is_one_class():
    """A third party registers one; it is found by name and builds."""
    from hwopt.hardware.blueprint import Blueprint, FanoutPlan, MemoryPlan

    @register
    class Tiny(Template):
        name = "tiny_for_test"
        about = "two lanes"
        knobs = (Knob("lanes", (1, 2)),)

        def blueprint(self, value):
            return Blueprint(
                levels=(MemoryPlan("DRAM", "dram"), FanoutPlan("lanes", {"x": value["lanes"]})),
                clock_hz=1e9, vector_lanes=1.0, bits=8,
            )  # fmt: skip

    try:
        assert templates["tiny_for_test"].build({"lanes": 2}).lanes == 2
        assert templates["tiny_for_test"].table(np.array([[0], [1]])).rows.shape[0] == 2
    finally:
        templates.remove("tiny_for_test")
