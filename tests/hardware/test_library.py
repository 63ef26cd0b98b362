"""Accelerator and cluster files: the library, and what is refused."""

import json

import jsonschema
import pytest

from hwopt.errors import FileFormatError, HardwareError, HwoptError, PathError, UnknownNameError
from hwopt.files import read_yaml, write_json, write_yaml
from hwopt.hardware import library
from hwopt.hardware.accelerator import Accelerator, Memory
from hwopt.hardware.cluster import Cluster

ACCELERATORS = ["a100", "eyeriss", "gemmini", "nvdla", "simba", "tpu-v4i", "xeon-8380"]
CLUSTERS = ["1xa100-80gb", "8xa100-80gb", "cpu"]
GOOD = """
name: x
clock_hz: 1 GHz
levels:
  - {type: memory, name: DRAM, kind: dram}
  - {type: memory, name: GLB, capacity_bytes: 64 KiB}
"""


def test_the_library_is_complete():
    """Every promised machine and cluster is there, with one line about it."""
    assert library.names() == tuple(ACCELERATORS)
    assert library.names("clusters") == tuple(CLUSTERS)
    for kind in ("hardware", "clusters"):
        assert all(about for _, about in library.describe(kind))


@pytest.mark.parametrize("name", ACCELERATORS)
def test_every_accelerator_names_its_sources_and_reads_back(name, tmp_path):
    """Sources are stated; written and read again it is the same, in YAML and JSON."""
    accelerator = library.load(name)
    assert accelerator.name == name
    assert len(accelerator.source) > 40
    write_yaml(tmp_path / "x.yaml", library.dump(accelerator))
    assert library.load(tmp_path / "x.yaml") == accelerator
    write_json(tmp_path / "x.json", library.dump(accelerator))
    assert library.load(tmp_path / "x.json") == accelerator
    write_yaml(tmp_path / "y.yaml", library.dump(accelerator.resolved()))
    assert library.load(tmp_path / "y.yaml") == accelerator.resolved()
    jsonschema.validate(library.dump(accelerator), library.accelerator_schema())


@pytest.mark.parametrize(
    ("name", "teraops", "low_mm2", "high_mm2"),
    [
        ("eyeriss", 0.0672, 11, 14),  # JSSC 2017: 67.2 GOPS, core of 3.5 x 3.5 mm
        ("gemmini", 0.512, 0.5, 2.5),  # DAC 2021: 1.03 mm2 in 16 nm
        ("simba", 2.048, 1.5, 7),  # MICRO 2019: 4 TOPS at 2 GHz, chiplet of 6 mm2
        ("nvdla", 4.096, 1, 6),  # nv_full, 16 nm: about 3.3 mm2 (nvdla.org)
        ("tpu-v4i", 137.6, 150, 400),  # ISCA 2021: 138 TFLOPS, die under 400 mm2
        ("a100", 311.9, 800, 850),  # 312 TFLOPS, 826 mm2
        ("xeon-8380", 5.888, 40, 660),
    ],
)
def test_peak_rate_and_area_are_those_published(name, teraops, low_mm2, high_mm2):
    """Peak operations per second, and the area within what is known of the chip."""
    accelerator = library.load(name).resolved()
    assert 2 * accelerator.peak_macs_per_s / 1e12 == pytest.approx(teraops, rel=1e-3)
    assert low_mm2 < accelerator.area_m2 * 1e6 < high_mm2


@pytest.mark.parametrize("name", CLUSTERS)
def test_clusters_load_and_read_back(name, tmp_path):
    """Their device is in the library; written and read again they are the same."""
    cluster = library.load_cluster(name)
    assert cluster.accelerator.peak_macs_per_s > 0
    write_yaml(tmp_path / "x.yaml", library.dump(cluster))
    assert library.load_cluster(tmp_path / "x.yaml") == cluster
    jsonschema.validate(library.dump(cluster), library.cluster_schema())


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (GOOD + "colour: red\n", "at colour"),
        (GOOD.replace("64 KiB", "64 KiBB"), r"at levels\[1\].capacity_bytes"),
        (GOOD.replace("64 KiB", "-3"), r"at levels\[1\].capacity_bytes"),
        (GOOD.replace("64 KiB", "0"), r"at levels\[1\].capacity_bytes"),
        (GOOD.replace("64 KiB", "1e400"), "."),
        (GOOD.replace("64 KiB", ".nan"), "."),
        (GOOD.replace("64 KiB", "true"), r"at levels\[1\].capacity_bytes"),
        (GOOD.replace("kind: dram", "kind: tape"), r"at levels\[0\].kind"),
        (GOOD.replace("type: memory, name: GLB", "type: drum, name: GLB"), r"at levels\[1\]"),
        (GOOD.replace("clock_hz: 1 GHz", "clock_hz: 0"), "at clock_hz"),
        (GOOD.replace("clock_hz: 1 GHz\n", ""), "at clock_hz"),
        (GOOD + "name: y\n", "duplicate"),
        (GOOD + "technology_nm: 1000\n", "at technology_nm"),
        ("- just\n- a list\n", "mapping"),
        ("", "mapping"),
        ("name: [unclosed", "invalid YAML"),
        ("a: &a [*a]\n", "."),
    ],
)
def test_bad_files_are_one_clear_error(tmp_path, text, where):
    """The error names the file and the dotted path, and is ours."""
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(FileFormatError, match=where) as caught:
        library.load(path)
    assert "bad.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: GLB", "name: DRAM", "share a name"),
        ("kind: dram}", "kind: dram, keeps: [input]}", "keep every operand"),
    ],
)
def test_contradictions_name_the_file_too(tmp_path, old, new, message):
    """Rules across fields: the file is named."""
    path = tmp_path / "bad.yaml"
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(HardwareError, match=message) as caught:
        library.load(path)
    assert "bad.yaml" in str(caught.value)


def test_unknown_names_and_missing_files():
    """A near name is offered; a missing file says so."""
    with pytest.raises(UnknownNameError, match="eyeriss"):
        library.load("eyeris")
    with pytest.raises(UnknownNameError, match="8xa100"):
        library.load_cluster("8xa100")
    with pytest.raises(PathError):
        library.load("missing.yaml")


def test_python_errors_carry_the_path_too():
    """Parts built in Python raise our error, with the path from the outermost part."""
    with pytest.raises(HardwareError, match=r"Accelerator at levels\[0\].width_bits"):
        Accelerator(name="x", clock_hz=1, levels=[{"type": "memory", "name": "D", "width_bits": 0}])
    with pytest.raises(HwoptError, match="capacity_bytes"):
        Memory(name="m", capacity_bytes="many")


def test_copies_forget_what_was_derived():
    """Changing the levels of a copy changes what is derived from them (bug: stale memories)."""
    accelerator = library.load("eyeriss")
    assert len(accelerator.memories) == 5
    assert accelerator.lanes == 168
    changed = accelerator.model_copy(update={"levels": accelerator.levels[:2]})
    assert len(changed.memories) == 2
    assert changed.lanes == 1


def test_links_of_a_cluster():
    """A group needs the slowest link on its way; one device none; too many are refused."""
    cluster = Cluster(
        name="c", device="a100",
        links=[
            {"name": "inner", "size": 4, "bytes_per_s": "300 GB/s"},
            {"name": "outer", "size": 2, "bytes_per_s": "25 GB/s"},
        ],
    )  # fmt: skip
    assert cluster.devices == 8
    assert cluster.link_of(1) is None
    assert cluster.link_of(4).name == "inner"
    assert cluster.link_of(5).name == "outer"
    with pytest.raises(HardwareError, match="1 to 8"):
        cluster.link_of(9)
    with pytest.raises(HardwareError, match="share a name"):
        Cluster(name="c", device="a100", links=[cluster.links[0], cluster.links[0]])


def test_schemas_accept_the_library_and_refuse_typos():
    """Editors complete from it: units are allowed, unknown keys are not."""
    folder = library._ACCELERATORS
    schema = json.loads(json.dumps(library.accelerator_schema()))
    data = read_yaml(folder / "eyeriss.yaml")
    jsonschema.validate(data, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**data, "colour": "red"}, schema)
