"""Our optimum against AccelForge's: its architectures, its workloads, its rows."""

import csv
import json
from pathlib import Path

import pytest

from hwopt.errors import FileFormatError
from hwopt.hardware.accelerator import Fanout
from hwopt.hardware.conventions import ACCELFORGE
from hwopt.mapping.traffic import analyse
from hwopt.validation.accelforge import ARCHES, accelforge
from hwopt.validation.accelforge_arch import changed, read_architectures
from hwopt.validation.accelforge_search import least_use, plain_nest
from hwopt.validation.accelforge_workload import product, workload
from hwopt.validation.harness import REFERENCE, read_rows, validate
from tests.oracles.boxes import totals

ARCHITECTURES = read_architectures(REFERENCE / ARCHES)
MATMUL = workload("matmuls", {"N_EINSUMS": 1, "M": 1024, "KN": 1024}).problems[0][0]


def rows_of(tmp_path: Path, *ids: str) -> Path:
    """Some rows of the carried file, as a file."""
    path = REFERENCE / "accelforge_optima.csv"
    chosen = [row for row in read_rows(path, ("id",)) if row["id"] in ids]
    assert len(chosen) == len(ids)
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(chosen[0]))
        writer.writeheader()
        writer.writerows(chosen)
    return tmp_path / "rows.csv"


def test_nvdla_is_read() -> None:
    """Joules per byte are eight times those per bit; a port for reads and one for writes."""
    machine = ARCHITECTURES["nvdla"].machine(MATMUL).accelerator
    dram, buffer, register = machine.memories
    assert dram.read_joules_per_byte == pytest.approx(8 * 7.03e-12)
    assert dram.bytes_per_s == pytest.approx(307.2e9 / 8)
    assert (buffer.capacity_bytes, buffer.bytes_per_s) == (65536, None)
    assert buffer.read_bytes_per_s == pytest.approx(4096e9 / 8)
    assert (register.keeps, register.capacity_bytes) == (("weight",), 1)
    assert machine.clock_hz == 1e9
    assert machine.compute.joules_per_mac == 8.4e-14


def test_spatial_dimensions_take_the_axes_that_their_tensors_lack() -> None:
    """`reuse_input` takes n alone, multicast; `reuse_output` k alone, added up."""
    one, two = ARCHITECTURES["nvdla"].machine(MATMUL).accelerator.fanouts
    assert [(d.size, d.axes) for f in (one, two) for d in f.dims] == [(32, ("n",)), (192, ("k",))]
    assert (one.multicast, one.reduces) == (("input",), False)
    assert (two.multicast, two.reduces) == ((), True)
    depthwise = workload("dw3x3_192_28", {}).problems[0][0]
    (only,) = ARCHITECTURES["nvdla"].machine(depthwise).accelerator.fanouts
    assert only.dims[0].axes == ("r", "s")


def test_eyeriss_is_read() -> None:
    """Actions of 64 bits at 32 x 200 MHz of them; the clock is that of the formula."""
    machine = ARCHITECTURES["eyeriss"].machine(MATMUL).accelerator
    buffer = machine.level("GlobalBuffer")
    assert not isinstance(buffer, Fanout)
    assert buffer.bytes_per_s == pytest.approx(32 * 200e6 * 8)
    assert buffer.read_joules_per_byte == pytest.approx(9.0564303e-11 / 8)
    assert buffer.bypass == ("input", "weight", "output")
    assert machine.clock_hz == 200e6
    assert [memory.keeps for memory in machine.memories[2:]] == [
        ("input",), ("weight",), ("output",)
    ]  # fmt: skip
    assert machine.leakage_watts == pytest.approx(0.00201871696, rel=1e-6)


def test_wider_values_of_one_memory() -> None:
    """Sums of 24 bits beside values of 8: a third as many fit, each costs three times as much."""
    machine = ARCHITECTURES["simba"].machine(MATMUL).accelerator
    sums = machine.level("AccumulationBuffer")
    assert not isinstance(sums, Fanout)
    assert sums.capacity_bytes == pytest.approx(24576 / 8 / 3)
    assert sums.read_joules_per_byte == pytest.approx(3 * 8 * 7.07477408e-15)


def test_a_register_holds_one_value_of_any_width() -> None:
    """Recorded as 8 bits, for 8-bit values; 16-bit ones fit as well."""
    wide = product({"m": 4, "k": 4, "n": 4}, "m k", "k n", "m n", bits=16)
    register = ARCHITECTURES["tpu_v4i"].machine(wide).accelerator.level("Register")
    assert not isinstance(register, Fanout)
    assert register.capacity_bytes == 2


def test_parameters_change_an_architecture() -> None:
    """`simple` with another energy and size is what the file calls `simpleB`."""
    one = changed(
        ARCHITECTURES["simple"], {"MainMemoryEnergy": 100.0, "GlobalBufferSize": 1048576.0}
    )
    assert one.nodes == ARCHITECTURES["simpleB"].nodes
    with pytest.raises(FileFormatError, match="unknown parameter"):
        changed(ARCHITECTURES["simple"], {"Speed": 1.0})


def test_workloads_by_name() -> None:
    """Windows with a stride reach over their input; what has size 1 is left out."""
    problem = workload("conv1x1s2_1024_2048_7", {}).problems[0][0]
    assert problem.sizes == {"k": 2048, "c": 1024, "p": 7, "q": 7}
    assert problem.operand["input"].shape == (1024, 13, 13)
    assert workload("conv3x3_64_56", {}).problems[0][0].points == 56 * 56 * 64 * 64 * 9
    layer = workload("gpt3_6.7B", {"BATCH_SIZE": 1, "N_NEW_TOKENS": 256})
    assert sum(count for _, count in layer.problems) == 8
    assert not layer.single
    with pytest.raises(FileFormatError, match="unknown workload"):
        workload("winograd", {})
    with pytest.raises(FileFormatError, match="whole number"):
        workload("matmuls", {"N_EINSUMS": 1, "M": 2.5, "KN": 4})


def test_least_use_is_what_can_be_reached() -> None:
    """Of 32 x 192, divisors of 1024 reach 32 x 128; any tiles 32 x 171; a share of 0 nothing."""
    machine = ARCHITECTURES["nvdla"].machine(MATMUL)
    names = [f"ProcessingElement_{n}.{n}" for n in ("reuse_input", "reuse_output")]
    perfect, free = (dict(least_use(MATMUL, machine, kind)) for kind in ("perfect", "any"))
    assert [perfect[name] for name in names] == [32, 128]
    assert [free[name] for name in names] == [32, 171]
    window = workload("conv3x3_64_56", {}).problems[0][0]
    several = dict(least_use(window, ARCHITECTURES["nvdla"].machine(window), "perfect"))
    assert several[names[1]] == 192  # 64 channels x 3 rows of the filter


def test_rows_are_equal(tmp_path: Path) -> None:
    """Matrix products and a depthwise convolution: within the rounding of float32."""
    names = ("mm1024_nvdla_ENERGY", "mm1024_nvdla_LATENCY", "mm4096_nvdla_ENERGY_DELAY_PRODUCT",
             "mm1024_simpleB_ENERGY", "dw3x3_192_28_nvdla_ENERGY")  # fmt: skip
    outcome = validate("accelforge", rows_of(tmp_path, *names))
    assert [row["verdict"] for row in outcome.rows] == ["equal"] * len(names)
    assert outcome.metrics["exact_share"] == 1
    assert outcome.metrics["worse_rows"] == 0
    assert outcome.baseline["mape_percent"] > 100


@pytest.mark.slow
def test_no_row_is_worse() -> None:
    """Every row of one operator: divisors equal but for the window whose optimum AccelForge missed
    (4.7041188e-5 J), any integers better.
    """
    outcome = accelforge(REFERENCE / "accelforge_optima.csv")
    verdicts = {row["id"]: row["verdict"] for row in outcome.rows}
    assert outcome.metrics["worse_rows"] == 0
    for row in outcome.rows:
        if row["verdict"] == "better" and row["factors"] == "perfect":
            assert row["id"] == "conv3x3_64_56_nvdla_ENERGY"
            assert row["ours"] == pytest.approx(4.70411878e-5, rel=1e-8)
    assert verdicts["mm1024_eyeriss_ENERGY"] == "equal"
    assert verdicts["resnet18_nvdla_ENERGY"] == "listed"


@pytest.mark.slow
def test_the_better_row_is_confirmed_element_by_element() -> None:
    """Every element that the 3x3 convolution's mapping moves on nvdla, one by one."""
    from hwopt.validation.accelforge_search import search

    work = workload("conv3x3_64_56", {})
    problem = work.problems[0][0]
    machine = ARCHITECTURES["nvdla"].machine(problem)
    found = search(work, {problem: machine}, "energy", "perfect")
    mapping = found.mappings[0][1]
    flows = analyse(problem, mapping, machine.accelerator, ACCELFORGE).flows
    for (memory, role), counted in totals(problem, mapping, machine.accelerator).items():
        assert (flows[memory][role].total_read, flows[memory][role].total_write) == counted


def test_the_plainest_mapping_is_legal_everywhere() -> None:
    """The baseline of every architecture is a mapping like any other."""
    for name, architecture in ARCHITECTURES.items():
        machine = architecture.machine(MATMUL).accelerator
        row = analyse(MATMUL, plain_nest(MATMUL, machine), machine, ACCELFORGE)
        assert row.steps == MATMUL.points, name


BAD = (
    ({"arch": "riscv"}, "unknown architecture"),
    ({"arch": "simple(GlobalBufferSize=big)"}, "not NAME=NUMBER"),
    ({"workload": "fft"}, "unknown workload"),
    ({"objective": "AREA"}, "unknown objective"),
    ({"options": '{"speed": 1}'}, "unknown options"),
    ({"options": "[1]"}, "not an object"),
    ({"params": "{"}, "invalid JSON"),
    ({"energy": "much"}, "not a number"),
    ({"latency_s": "0"}, "not above 0"),
)  # fmt: skip


@pytest.mark.parametrize(("cell", "message"), BAD)
def test_rows_that_are_wrong(tmp_path: Path, cell: dict[str, str], message: str) -> None:
    """One clear error that names the row."""
    path = rows_of(tmp_path, "mm1024_simple_ENERGY")
    (row,) = read_rows(path, ("id",))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow({**row, **cell})
    with pytest.raises(FileFormatError, match=message):
        validate("accelforge", path)


def test_files_that_are_wrong(tmp_path: Path) -> None:
    """Columns, architectures, sets and latencies that are not what they should be."""
    (tmp_path / "accelforge_optima.csv").write_text("id,arch\na,b\n")
    with pytest.raises(FileFormatError, match="columns are missing"):
        validate("accelforge", tmp_path)
    path = tmp_path / ARCHES
    arches = json.loads((REFERENCE / ARCHES).read_text())
    nvdla = arches["arches"]["nvdla"]["nodes"]

    def broken(**change: object) -> Path:
        nodes = [dict(node) for node in nvdla]
        nodes[1] |= change
        path.write_text(json.dumps({"arches": {"x": {"nodes": nodes}}}))
        return path

    files = (("[]", "no 'arches'"), ('{"arches": {"x": {}}}', "no 'nodes'"), ("{", "invalid JSON"))
    for text, message in files:
        path.write_text(text)
        with pytest.raises(FileFormatError, match=message):
            read_architectures(path)
    with pytest.raises(FileFormatError, match="x at kind"):
        read_architectures(broken(kind="Router"))
    for change, message in (
        ({"tensors": {"keep": "everything", "may_keep": "~MainMemory"}}, "not a set of tensors"),
        ({"total_latency": "min(1, 2)"}, "a latency that a port cannot express"),
        ({"actions": []}, "no action 'read'"),
        ({"size": None}, "without size"),
    ):
        with pytest.raises(FileFormatError, match=message):
            read_architectures(broken(**change))["x"].machine(MATMUL)


def test_another_file_brings_its_own_architectures(tmp_path: Path) -> None:
    """A folder's architectures are used before the carried ones."""
    rows_of(tmp_path, "mm1024_simple_ENERGY").rename(tmp_path / "accelforge_optima.csv")
    arches = json.loads((REFERENCE / ARCHES).read_text())
    for node in arches["arches"]["simple"]["nodes"]:
        for action in node["actions"]:
            action["energy_J"] *= 2
    (tmp_path / ARCHES).write_text(json.dumps(arches))
    (row,) = validate("accelforge", tmp_path).rows
    assert row["relative"] == pytest.approx(1, rel=1e-6)
    assert row["verdict"] == "worse"
