"""Gemmini's RTL: the program of a row, the cycles of a program, calibration and comparison."""

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest

from hwopt.errors import FileFormatError
from hwopt.validation.gemmini import SIDE, TRAIN, TRIVIAL_FACTOR, gemmini, training_rows
from hwopt.validation.gemmini_program import (
    Layer,
    Program,
    Tiles,
    array_side,
    parse_mapping,
    program,
)
from hwopt.validation.gemmini_rows import (
    COLUMNS,
    PEER,
    measured,
    read_rtl,
    trivial_factor,
    utilisations,
)
from hwopt.validation.gemmini_rtl import (
    NAMES,
    PARAMETERS,
    Programs,
    calibrate,
    cross_validate,
    read_parameters,
)
from hwopt.validation.harness import validate

CONV = "L3[WIO] C2 K4 - L2[WI] N1 K16X - L1[O] S3 R3 C2 Q7 P2 C16X - L0[W] P7"
MATMUL = "L3[WIO] K8 P2 - L2[WI] N1 K16X - L1[O] C8 P4 C16X - L0[W] P16"


def conv(**sizes):
    """A 3x3 convolution of 64 -> 64 channels, 7 x 14 outputs, unless said otherwise."""
    return Layer({"C": 64, "R": 3, "S": 3, "K": 64, "P": 14, "Q": 7, "N": 1} | sizes)


def matmul(rows=128, columns=128, depth=128):
    """A matrix product."""
    sizes = {"C": depth, "R": 1, "S": 1, "K": columns, "P": rows, "Q": 1, "N": 1}
    return Layer(sizes)


def test_mapping_text():
    """Loops at L3 keep their order; factors below multiply, spatial ones included."""
    factors = parse_mapping(CONV, "here")
    assert list(factors.outer)[:2] == ["C", "K"]
    assert (factors.outer["K"], factors.outer["P"]) == (4, 1)
    assert factors.tile == {"C": 32, "R": 3, "S": 3, "K": 16, "P": 14, "Q": 7, "N": 1}
    assert factors.spatial == 16
    assert factors.steps == 2 * 4 * 3 * 3 * 2 * 7 * 2 * 7


@pytest.mark.parametrize(
    "text",
    [
        "",
        "L3[WIO] C2",
        CONV.replace("L2", "L4"),
        CONV.replace("C2 K4", "C2K4"),
        CONV.replace("C2 K4", "X2"),
        CONV.replace("C2 K4", "C2 C4"),
        CONV.replace("C2 K4", "C0"),
        CONV + " - L0[W] P1",
    ],
)
def test_what_is_no_mapping(text):
    """One error with the place."""
    with pytest.raises(FileFormatError, match="row 3"):
        parse_mapping(text, "x.csv, row 3")


def test_array_side():
    """The smallest power of two that holds the spatial factors, at most the mesh."""
    text = "L3[WIO] C1 - L2[WI] K{}X - L1[O] C{}X - L0[W] N1"
    sides = [
        array_side(parse_mapping(text.format(*pair), ""), mesh)
        for pair, mesh in [((4, 3), 128), ((12, 16), 128), ((16, 48), 128), ((8, 16), 16)]
    ]
    assert sides == [4, 16, 64, 16]


def walked(layer, text, side):
    """Passes of the array as (rows) and DMA beats, by walking every loop of the driver."""
    tile, size = parse_mapping(text, "").tile, layer.extents
    passes, beats, tiles = [], 0, 0
    steps = (range(0, size[axis], tile[axis]) for axis in "QPKSRC")
    for corner in itertools.product(*steps):
        at = dict(zip("QPKSRC", corner, strict=True))
        part = {axis: min(tile[axis], size[axis] - at[axis]) for axis in at}
        tiles += 1
        for _ in itertools.product(
            range(0, part["K"], side), range(part["S"]), range(part["R"]),
            range(0, part["C"], side), range(part["Q"]),
        ):  # fmt: skip
            passes += [min(side, part["P"] - at_p) for at_p in range(0, part["P"], side)]
        pixels = (part["Q"] * layer.stride + part["S"] - 1) * (
            part["P"] * layer.stride + part["R"] - 1
        )
        beats += sum(
            -(-min(64, part["C"] - at_c) // 16)
            for _ in range(pixels)
            for at_c in range(0, part["C"], 64)
        )
        rows = part["R"] * part["S"] * part["C"]
        beats += sum(
            -(-min(64, part["K"] - at_k) // 16)
            for _ in range(rows)
            for at_k in range(0, part["K"], 64)
        )
    return sorted(passes), beats, tiles


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        (CONV, {"Q": 14}),
        (CONV.replace("P7", "P5"), {"P": 23, "Q": 23, "C": 70, "K": 40}),
        ("L3[WIO] S3 P3 - L2[WI] K4X - L1[O] R3 C3X - L0[W] P6", {"C": 3, "K": 4, "P": 18, "Q": 5}),
    ],
)
def test_a_convolution_equals_its_loops(text, sizes, stride):
    """Array passes with their rows, DMA beats and tiles are those of the nested loops."""
    layer = Layer(conv(**sizes).sizes, stride)
    got = program(layer, parse_mapping(text, ""), 128)
    passes, beats, tiles = walked(layer, text, got.side)
    counted = []
    for each in got.tiles:
        counted += [got.side] * (each.commands * each.number)
        counted += [each.last_rows] * (each.last_commands * each.number)
    assert sorted(counted) == passes
    assert sum(each.beats * each.number for each in got.tiles) == beats
    assert got.number_of_tiles == tiles
    assert not got.is_matmul


def test_a_matrix_product_by_hand():
    """128 x 128 x 128, tiles of 64 rows, 16 columns and the whole depth, on 16 x 16."""
    got = program(matmul(), parse_mapping(MATMUL, ""), 128)
    assert (got.is_matmul, got.side, got.reductions) == (True, 16, 1)
    # 8 blocks of weights, 4 passes each; 64 rows of 128 bytes and 128 rows of 16; 64 rows out
    assert got.tiles == (Tiles(16, 32, 0, 0, 64 * 8 + 128, 64),)
    thin = MATMUL.replace("P4", "P1").replace("P2", "P64").replace("P16", "P2")
    assert program(matmul(), parse_mapping(thin, ""), 128).number_of_tiles == 64, "a whole block"
    one = program(matmul(rows=1), parse_mapping("L3[WIO] K8 - L2[WI] K16X - L1[O] C8 C16X - "
                                                "L0[W] N1", ""), 16)  # fmt: skip
    assert one.tiles == (Tiles(8, 0, 8, 1, 8 + 128, 1),)


def test_sides_of_a_convolution():
    """Square in outputs and kernel; an even kernel makes one output more."""
    assert conv(P=120, Q=12).extents["Q"] == 120
    assert conv(R=2, S=2, P=7, Q=7).extents["P"] == 8
    assert matmul(rows=5).extents["Q"] == 1


def test_cache_misses():
    """What fits misses nothing; what is larger moves anew unless what is between two uses fits."""
    small = program(conv(), parse_mapping(CONV, ""), 16)
    assert small.l2_misses == small.llc_misses == 0
    rows = 1 << 14
    wide = "L3[WIO] {} - L2[WI] K16X - L1[O] C4 C16X - L0[W] P16"
    near = program(matmul(rows, 64, 64), parse_mapping(wide.format("P1024 K4"), ""), 16)
    far = program(matmul(rows, 64, 64), parse_mapping(wide.format("K4 P1024"), ""), 16)
    # rows of A and of the output are one line each; B has 64, each touched for every 16 columns
    assert near.l2_misses == rows + 64 + rows
    assert far.l2_misses == 4 * (rows + rows + 64)
    assert near.llc_misses == far.llc_misses == 0


def plain(**changes):
    """Parameters that make the arithmetic plain: nothing but a command floor of 4."""
    zero = dict.fromkeys(NAMES, 0.0) | {"command_floor": 4.0, "overlap": 50.0}
    return zero | changes


def test_cycles_by_hand():
    """Each term of the docstring, alone and overlapped."""
    tiles = (Tiles(3, 10, 5, 2, 100, 40), Tiles(1, 10, 0, 0, 100, 40))
    batch = Programs([Program(False, 16, tiles, 4, 80.0, 8.0)])
    execute, load, store, issue = batch.shares(
        plain(beat=2.0, l2_miss=1.0, llc_miss=10.0, store_row=3.0, conv_issue=7.0)
    )
    assert execute == pytest.approx(3 * (160 + 5 * 4) + 160)
    assert load == pytest.approx(4 * (200 + 20 + 20))
    assert store == pytest.approx(4 * 40 * 3 / 4)
    assert issue == pytest.approx(4 * 7)
    assert batch.cycles(plain()) == pytest.approx(execute, rel=1e-6)
    assert batch.cycles(plain(start=50.0)) == pytest.approx(execute + 50, rel=1e-6)
    added = batch.cycles(plain(beat=2.0, conv_issue=7.0, overlap=1.0))
    assert added == pytest.approx(execute + 4 * 200 + issue)
    product = Programs([Program(True, 16, tiles, 4, 0.0, 0.0)])
    assert product.cycles(plain(matmul_issue=1e6)) == pytest.approx(4e6, rel=1e-3)
    assert product.cycles(plain(conv_issue=1e6)) == pytest.approx(execute, rel=1e-6)


def test_more_cost_is_never_faster():
    """Every parameter but the overlap costs; more overlap saves."""
    batch = Programs([program(conv(Q=14), parse_mapping(CONV, ""), 16)])
    usual = {name: each.fitted for name, each in read_parameters().items()}
    for name in NAMES:
        more = batch.cycles(usual | {name: 1.5 * usual[name]})[0]
        assert (
            more <= batch.cycles(usual)[0] if name == "overlap" else more >= batch.cycles(usual)[0]
        )


def made_programs():
    """Programs of every kind, with the layer of each."""
    texts = [
        f"L3[WIO] C{64 // (c * cx)} K{64 // kx} P{rows // p} - L2[WI] K{kx}X - L1[O] C{c} S3 R3 "
        f"C{cx}X - L0[W] P{p}"
        for rows in (16, 240)
        for p in (2, 8, 16)
        for c, cx in ((1, 16), (4, 16), (2, 4))
        for kx in (4, 16)
    ]
    layers = [conv(P=16, Q=1)] * (len(texts) // 2) + [conv(P=240, Q=1)] * (len(texts) // 2)
    programs = [program(layer, parse_mapping(text, ""), 16)
                for layer, text in zip(layers, texts, strict=True)]  # fmt: skip
    product = "L3[WIO] K{} P{} - L2[WI] K16X - L1[O] C8 C16X - L0[W] P{}"
    for p in (1, 4, 16, 64, 128):
        programs.append(program(matmul(), parse_mapping(product.format(8, 128 // p, p), ""), 16))
        layers.append(matmul())
    return programs, [str(layer.extents) for layer in layers]


def test_calibration_finds_what_made_the_rows():
    """Cycles made by known parameters are predicted again; a few wrong rows do not decide."""
    programs, layers = made_programs()
    known = read_parameters()
    truth = {name: each.fitted for name, each in known.items()}
    cycles, used = Programs(programs).cycles(truth), np.full(len(programs), 0.5)
    found = Programs(programs).cycles(calibrate(programs, cycles, used, known))
    np.testing.assert_allclose(found, cycles, rtol=0.01)
    held = cross_validate(programs, cycles, used, layers, known, folds=3)
    assert np.all(held > 0)
    assert not np.array_equal(held, cycles)
    wrong = cycles.copy()
    wrong[:3] *= 20
    robust = Programs(programs).cycles(calibrate(programs, wrong, used, known))
    assert np.median(np.abs(robust / cycles - 1)) < 0.1, "outliers do not decide"


def test_parameters_of_the_file():
    """All nine, none slower on the data sheet than fitted, none on a bound; bad files say so."""
    known = read_parameters()
    assert tuple(known) == NAMES
    for each in known.values():
        assert each.low < each.fitted < each.high
        assert each.datasheet <= each.fitted or each.name == "overlap"


@pytest.mark.parametrize(
    ("old", "new"),
    [("overlap,exponent,40,3", "overlap,exponent,40,-3"), ("store_row", "stroe_row"),
     ("start,cycles,100", "start,cycles,many")],
)  # fmt: skip
def test_bad_parameters(tmp_path, old, new):
    """Out of bounds, unknown, not a number."""
    text = PARAMETERS.read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "p.csv").write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(FileFormatError):
        read_parameters(tmp_path / "p.csv")


def rtl_file(path: Path, **changes):
    """A file of two rows in the form of the published ones."""
    base = {f"prob.{axis}": 1 for axis in "CRSKPQN"} | dict.fromkeys(COLUMNS[3:7], 1)
    rows = [
        base | {"prob.C": 64, "prob.R": 3, "prob.S": 3, "prob.K": 64, "prob.P": 14, "prob.Q": 7,
                "mapping.mapping": CONV, "arch.meshX": 16, "target.gemmini_cycle": 50000.0,
                PEER: 40000.0, "target.gemmini_auto_cycle": 1.0, "dse.auto_tiling": "a"},
        base | {"prob.C": 128, "prob.K": 128, "prob.P": 128, "mapping.mapping": MATMUL,
                "arch.meshX": 16, "target.gemmini_cycle": 16000.0, PEER: 9000.0,
                "target.gemmini_auto_cycle": 2.0, "dse.auto_tiling": "b"},
    ]  # fmt: skip
    rows = [row | changes for row in rows]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_comparison_of_another_file(tmp_path):
    """Any file of the columns is compared, with fixed parameters, the peer beside."""
    outcome = validate("gemmini", rtl_file(tmp_path / "x.csv"))
    assert [row["path"] for row in outcome.rows] == ["convolution", "matrix product"]
    fitted = {name: each.fitted for name, each in read_parameters().items()}
    cycles = Programs([row.program for row in read_rtl(tmp_path / "x.csv")]).cycles(fitted)
    assert [row["predicted"] for row in outcome.rows] == list(cycles)
    assert any("Timeloop" in note for note in outcome.notes)
    assert any("unfitted" in note for note in outcome.notes)
    assert outcome.to_json()["rows"] == 2
    assert "204 of 835" in outcome.calibrated_on


def test_no_feature_is_another_tilers_or_a_peers(tmp_path):
    """Timeloop's cycles and those of Gemmini's own tiler do not reach the prediction."""
    ours = gemmini(rtl_file(tmp_path / "x.csv"))
    changed = {PEER: 7.0, "target.gemmini_auto_cycle": 9.0, "dse.auto_tiling": "z"}
    other = gemmini(rtl_file(tmp_path / "y.csv", **changed))
    assert [row["predicted"] for row in ours.rows] == [row["predicted"] for row in other.rows]


@pytest.mark.parametrize(
    "changes",
    [{"prob.C": 63}, {"prob.P": ""}, {"prob.K": "x"}, {"target.gemmini_cycle": 0},
     {"target.gemmini_cycle": "nan"}, {"prob.Wstride": 2}, {"arch.meshX": 0},
     {"mapping.mapping": "L3"}, {PEER: "?"}],
)  # fmt: skip
def test_bad_rows(tmp_path, changes):
    """One error with file and row."""
    with pytest.raises(FileFormatError, match=r"x\.csv"):
        gemmini(rtl_file(tmp_path / "x.csv", **changes))


def test_missing_columns(tmp_path):
    """Named."""
    (tmp_path / "x.csv").write_text("mapping.mapping\nL3\n", encoding="utf-8")
    with pytest.raises(FileFormatError, match=r"target\.gemmini_cycle"):
        gemmini(tmp_path / "x.csv")


@pytest.mark.data
def test_the_bound_that_tells_the_arrays_apart(reference):
    """No training row is faster than its array passes; none loops where half its array would do."""
    rows = read_rtl(reference / TRAIN)
    passes = Programs([row.program for row in rows]).shares(plain())[0]
    assert 1 <= (measured(rows) / passes).min() < 1.0001
    for row in rows:
        levels = row.mapping.split(" - ")
        for axis, level in (("K", 1), ("C", 2)):
            across = [int(word[1:-1]) for word in levels[level].split() if word.endswith("X")]
            inside = row.factors.tile[axis] // (across[0] if across else 1)
            assert inside == 1 or (across or [1])[0] > row.program.side // 2


@pytest.mark.data
def test_parameters_are_those_of_the_training_rows(reference):
    """The calibration, run again, finds the numbers of the file, and the trivial constant."""
    rows = training_rows(reference / TRAIN)
    assert [row.program.side for row in rows] == [SIDE] * 204
    known = read_parameters()
    found = calibrate([row.program for row in rows], measured(rows), utilisations(rows), known)
    for name, value in found.items():
        assert value == pytest.approx(known[name].fitted, rel=0.02), name
    assert trivial_factor(rows) == pytest.approx(TRIVIAL_FACTOR, rel=1e-3)


@pytest.mark.data
def test_rtl_cycles(reference):
    """The promise: at most 20 % mean error and a rank correlation of at least 0.98."""
    outcome = validate("gemmini", reference)
    assert len(outcome.rows) == 135
    assert outcome.metrics["mape_percent"] <= 20
    assert outcome.metrics["spearman"] >= 0.98
    assert outcome.metrics["mape_percent"] < outcome.baseline["mape_percent"] / 2
