"""ZigZag: its accounting equals its figures, and our mappings are no worse by it."""

import csv
import importlib.util
import json
import math
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwopt.errors import FileFormatError
from hwopt.mapping.mapping import parse_mapping
from hwopt.validation.harness import REFERENCE, validate
from hwopt.validation.zigzag import COLUMNS, _nests, read_layers, same
from hwopt.validation.zigzag_accounting import RELEASES, Accountant, _covered, _Duty, _hide
from hwopt.validation.zigzag_links import Nest, as_holds, temporal_sizes, unrolled
from hwopt.validation.zigzag_machine import Array, Layer, Port, Store, read_array
from hwopt.validation.zigzag_search import (
    fold,
    front,
    kicks,
    machine_of,
    neighbours,
    nest_of,
    plain,
    problem_of,
    quick,
    starts,
)

LAYERS = REFERENCE / "zigzag_layers.csv"
PEERS = Path(__file__).parents[2] / "benchmarks" / "peers"


@pytest.fixture(scope="module")
def array():
    """The TPU-like machine of the file."""
    return read_array(REFERENCE / "zigzag_hw.json", "tpu_like")


def fully_connected(inputs=512, outputs=1000):
    """The last layer of ResNet-18."""
    return Layer("Gemm", {"C": inputs, "D": 1, "K": outputs})


def pick(tmp_path, wanted, change=None):
    """A file of the rows that `wanted` picks, with some cells changed."""
    with LAYERS.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if wanted(row)]
    path = tmp_path / "zigzag_layers.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**row, **(change or {})} for row in rows)
    return path


def last(row):
    """The fully connected layer by latency: the quickest row."""
    return row["layer"] == "/fc/Gemm" and row["opt"] == "latency"


def peer(name):
    """A module of benchmarks/peers."""
    spec = importlib.util.spec_from_file_location(f"peers_{name}", PEERS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_figure_of_zigzag_comes_out():
    """Energy, latency, stall, onload and offload of each published row, from its nest alone."""
    rows, guessed = read_layers(LAYERS)
    nests = _nests(REFERENCE / "zigzag_nests.csv")
    assert len(rows) == 71
    assert not guessed
    for row in rows:
        accountant = Accountant(row.layer, row.array, row.release)
        assert accountant.fits(nests[row.key])
        assert same(accountant.price(nests[row.key]), row.theirs), row.key


def test_releases_differ_in_latency_alone(array):
    """The drain of 62 cycles, and what idle bandwidth hides."""
    nest = plain(fully_connected(), array)
    new, old = (
        Accountant(fully_connected(), array, RELEASES[name]).price(nest) for name in ("3.9", "3.8")
    )
    assert new.energy == old.energy
    assert new.offload == old.offload + 62


def test_a_nest_by_hand():
    """2 x 2 products on one MAC over one byte-wide memory, worked out on paper."""
    ways = (("I", "tl"), ("W", "tl"), ("O", "tl"), ("O", "fl"))
    store = Store("m", 10**6, 1.0, 2.0, ("I", "W", "O"), ("D1",), (Port("p", 8, 8, ways),))
    one = Array("one", {"D1": 1}, 0.5, (), (store,), {"D1": {}})
    layer = Layer("Gemm", {"C": 2, "K": 2})
    nest = Nest((("C", 2), ("K", 2)), as_holds({"I": [2], "W": [2], "O": [2]}))
    cost = Accountant(layer, one, RELEASES["3.9"]).price(nest)
    # 4 reads each of inputs and weights; sums of two bytes written and read back 4 times; 4 MACs
    assert cost.energy == 4 + 4 + 4 * 2 * 2 + 4 * 2 + 4 * 0.5
    # beyond the first step: sums take 1 cycle too many, each way, 3 times; and of the 4 x 3 cycles
    # that transfers may take, 4 of the computation are there
    assert cost.stall == 6 + (12 - 4)
    assert cost.latency == 4 + cost.stall


@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 6), st.integers(1, 40))
def test_windows_equal_a_walk(outputs, taps, stride, width):
    """Positions that windows cover: holes are not counted, and never more than there are."""
    reached = {stride * o + f for o in range(outputs) for f in range(taps)}
    layer = Layer("Conv", {"OX": 9, "FX": 5, "OY": 1}, (stride, 1), input_size=(width, 1))
    assert layer.tile("I", {"OX": outputs, "FX": taps}) == min(len(reached), width)


@given(st.lists(st.tuples(st.integers(1, 4), st.floats(0.1, 1)), min_size=2, max_size=4))
def test_covered_cycles_equal_a_walk(steps):
    """The union of windows at the start of nested periods, counted cycle by cycle."""
    duties, period = [], 1
    for factor, part in steps:
        period *= factor
        duties.append((period, max(1, round(part * period))))
    total = period
    found = _covered([_Duty(0, allowed, p, total // p) for p, allowed in duties])
    if any(p == allowed for p, allowed in duties):
        assert found == total
    else:
        assert found == sum(
            any(cycle % p < allowed for p, allowed in duties) for cycle in range(total)
        )


def test_idle_cycles_hide_loads():
    """Largest first down to their floors, or all alike."""
    assert _hide([10, 4], [2, 1], 9, "ordered") == [2, 3]
    assert _hide([10, 4], [2, 1], 9, "balanced") == [1.5, 3.5]
    assert _hide([10, 4], [2, 1], 0, "ordered") == [10, 4]


def test_spatial_loops_are_cut_evenly(array):
    """1000 outputs over 32 are 32 times 31.25; latency uses 31."""
    layer = fully_connected()
    assert unrolled(layer, array, whole=False) == {"D1": {"K": 31.25}, "D2": {"C": 32}}
    assert unrolled(layer, array, whole=True) == {"D1": {"K": 31}, "D2": {"C": 32}}
    assert temporal_sizes(layer, array) == {"C": 16, "K": 32}


def test_the_folded_machine(array):
    """What the mapper sees of the array: its memories at widths of all MACs together."""
    folded = fold(Layer("Gemm", {"C": 64, "K": 64}), array)
    assert folded.bits == {"O": 32 * 16, "I": 32 * 8, "W": 1024 * 8}
    machine = machine_of(folded, 1.0, 0.5)
    assert [memory.name for memory in machine.memories] == ["dram", "sram_2MB", "rf_128B", "rf_2B"]
    assert machine.level("rf_128B").capacity_bytes == 1024 * 64
    assert machine.level("rf_2B").capacity_bytes == 64
    assert machine.level("dram").bytes_per_s == 8e9
    assert machine.level("sram_2MB").read_joules_per_byte == pytest.approx(416.16e-12 / 256)
    assert machine.level("rf_2B").read_joules_per_byte == pytest.approx(1024 * 0.021e-12 / 64)


def test_a_mapping_becomes_a_nest(array):
    """Loops turn inside out; an operand holds what lies below its keep."""
    layer = Layer("Gemm", {"C": 64, "K": 96})
    mapping = parse_mapping(
        "keep input weight output in dram\nfor k in tiles of 1\n  keep input output in sram_2MB\n"
        "  keep weight in rf_128B\n  for c in tiles of 1\n    keep output in rf_2B\n"
    )
    nest = nest_of(mapping, problem_of(fold(layer, array)), array)
    assert nest.loops == (("C", 2), ("K", 3))
    assert nest.held == {"O": (0, 1, 2), "W": (1, 2), "I": (1, 2)}
    assert str(nest) == "C:2 K:3 (I 1/2 O 0/1/2 W 1/2)"


def test_steps_keep_the_layer(array):
    """Every step is a nest of the same loops, held in order."""
    layer = Layer("Gemm", {"C": 512, "K": 512})
    nest = plain(layer, array)
    for step in (*neighbours(nest), *kicks(nest)):
        for loop, size in temporal_sizes(layer, array).items():
            assert math.prod(s for name, s in step.loops if name == loop) == size
        for ends in step.held.values():
            assert list(ends) == sorted(ends)
            assert ends[-1] == len(step.loops)


def test_the_front_is_a_front(array):
    """No point betters another; the plain nest is not better than it."""
    layer = fully_connected()
    release = RELEASES["3.9"]
    points = front(starts(layer, array), layer, array, release)
    cycles = [point.cost.latency for point in points]
    energies = [point.cost.energy for point in points]
    assert cycles == sorted(set(cycles))
    assert energies == sorted(set(energies), reverse=True)
    accountant = Accountant(layer, array, release)
    simple = accountant.price(plain(layer, array))
    assert cycles[0] <= simple.latency
    assert energies[-1] <= simple.energy
    for point in points:
        assert accountant.fits(point.nest)
        assert accountant.price(point.nest) == point.cost


def test_a_quick_nest_is_near_the_front(array):
    """It fits, and is no worse than the plain one by the objective asked for."""
    layer, release = fully_connected(), RELEASES["3.9"]
    accountant = Accountant(layer, array, release)
    simple = accountant.price(plain(layer, array))
    found = quick(layer, array, release, "edp")
    assert accountant.fits(found.nest)
    assert found.cost.latency * found.cost.energy <= simple.latency * simple.energy
    tiny = quick(Layer("Gemm", {"C": 32, "K": 32}), array, release, "edp")  # nothing left to map
    assert tiny.nest.loops == ()


def test_the_last_layer(tmp_path):
    """One row: no worse in cycles and energy, their nest priced exactly, a word on the port."""
    outcome = validate("zigzag", pick(tmp_path, last))
    assert len(outcome.rows) == 2  # two releases
    assert outcome.metrics["worse_rows"] == 0
    assert outcome.metrics["exact_share"] == 1
    assert outcome.metrics["worst_network_latency_ratio"] <= 1
    assert outcome.metrics["worst_network_energy_ratio"] <= 1 + 1e-9
    assert any("below the cycles" in note for note in outcome.notes)


def test_a_peer_that_is_better_is_said_to_be(tmp_path):
    """Rows with lower figures than anything reaches are worse, and listed."""
    path = pick(tmp_path, last, {"latency_cycles": "10", "version": "9.0"})
    outcome = validate("zigzag", path)
    assert outcome.metrics["worse_rows"] == 2
    assert outcome.metrics["worst_network_latency_ratio"] > 1
    assert "exact_share" not in outcome.metrics  # no nest is known of that version
    assert any(note.startswith("worse: ") for note in outcome.notes)


def test_another_machine_beside_the_data(tmp_path):
    """A machine file in the same folder is taken instead of the project's."""
    path = pick(tmp_path, last)
    machine = json.loads((REFERENCE / "zigzag_hw.json").read_text())
    machine["hardware"]["tpu_like"]["mac_energy_pj"] = 1e6
    (tmp_path / "zigzag_hw.json").write_text(json.dumps(machine))
    outcome = validate("zigzag", path)
    assert outcome.metrics["worse_rows"] == 2
    assert outcome.metrics["exact_share"] == 0


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"dims": "{"}, "dims"),
        ({"dims": '{"Q": 3}'}, "loop sizes"),
        ({"dims": '{"K": 0}'}, "loop sizes"),
        ({"version": "newest"}, "version"),
        ({"hw": "eyeriss"}, "machine"),
        ({"opt": "area"}, "objective"),
        ({"energy_pj": "much"}, "energy_pj"),
        ({"latency_cycles": "nan"}, "latency_cycles"),
        ({"latency_cycles": "0"}, "positive"),
    ],
)
def test_bad_rows(tmp_path, change, word):
    """Each is one clear error."""
    with pytest.raises(FileFormatError, match=word):
        validate("zigzag", pick(tmp_path, last, change))


def test_bad_files(tmp_path):
    """No rows, and machines that lack something."""
    with pytest.raises(FileFormatError, match="no rows"):
        validate("zigzag", pick(tmp_path, lambda _: False))
    path = tmp_path / "hw.json"
    for text in ('{"hardware": {"tpu_like": {}}}', "[]", '{"hardware": 3}', "{"):
        path.write_text(text)
        with pytest.raises(FileFormatError):
            read_array(path, "tpu_like")


def test_unknown_strides_are_said_to_be_assumed(tmp_path):
    """A layer of another network is taken with stride 1, and named."""
    rows, guessed = read_layers(
        pick(tmp_path, lambda row: row["layer"] == "/conv1/Conv", {"workload": "other.onnx"})
    )
    assert rows[0].layer.stride == (1, 1)
    assert rows[0].layer.input_size == (112, 112)
    assert guessed[0] == "other.onnx /conv1/Conv"


def test_recorded_peers():
    """Every recorded search has its seconds or its rate, and a source."""
    rows = peer("recorded").peer_rows()
    assert {row.peer for row in rows} == {"AccelForge", "Timeloop", "ZigZag"}
    for row in rows:
        assert row.source
        assert 0 < row.per_cpu_second[0] <= row.per_cpu_second[1]
    zigzag = [row.cpu_seconds for row in rows if row.peer == "ZigZag" and "resnet" in row.workload]
    assert min(zigzag) == 48.4
    resnet = [r for r in rows if r.peer == "AccelForge" and r.workload == "resnet18"]
    assert resnet[0].cpu_seconds == pytest.approx(288.94, abs=0.01)


@pytest.mark.slow
def test_no_layer_is_worse():
    """All 71 published rows, and both networks in total."""
    outcome = validate("zigzag")
    assert outcome.metrics["worse_rows"] == 0
    assert outcome.metrics["exact_share"] == 1
    assert outcome.metrics["worst_network_latency_ratio"] < 1
    assert outcome.metrics["worst_network_energy_ratio"] < 1
    assert outcome.baseline["worse_rows"] > 0


@pytest.mark.slow
def test_zigzag_itself_prices_our_nests_so(tmp_path, array):
    """ZigZag's code agrees with our accounting on nests that it did not choose."""
    live = peer("live")
    if not live.available():
        pytest.skip(live.HOW)
    rows, _ = read_layers(LAYERS)
    chosen = [row for row in rows if row.key[1:3] == ("resnet18.onnx", "EDP")]
    nests = {row.key[-1]: plain(row.layer, row.array) for row in chosen}
    path = tmp_path / "nests.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("layer", "loops", "O", "W", "I"))
        for name, nest in nests.items():
            loops = " ".join(f"{loop}:{size}" for loop, size in nest.loops)
            writer.writerow((name, loops, *("/".join(map(str, nest.held[o])) for o in "OWI")))
    priced = {layer["layer"]: layer for layer in live.zigzag("resnet18", nests=path)["layers"]}
    for row in chosen:
        cost = Accountant(row.layer, row.array, row.release).price(nests[row.key[-1]])
        assert cost.latency == priced[row.key[-1]]["latency_cycles"]
        assert cost.energy == pytest.approx(priced[row.key[-1]]["energy_pj"], rel=1e-9)
