"""NVDLA's performance sheet: its AlexNet rows, and its formulas by hand on ResNet-50."""

import pytest

from hwopt.errors import FileFormatError
from hwopt.validation.harness import validate

HEADER = (
    "network,layer,op,C,H,W,K,R,S,stride,P,Q,macs,winograd,"
    "max_cycles_4MB_cvsram,bound_4MB,max_cycles_no_cvsram,bound_no\n"
)
RESNET = """\
ResNet-50,conv1,conv,3,224,224,64,7,7,2,112,112,118013952,0,76832,MAC,153664,MAC
ResNet-50,Res2a_branch1,conv,64,56,56,256,1,1,1,56,56,51380224,0,31360,SRAM write,99600,DRAM
ResNet-50,Res2b_branch2a,conv,256,56,56,64,1,1,1,56,56,51380224,0,31360,SRAM read,99600,DRAM
ResNet-50,Res2b_branch2b,conv,64,56,56,64,3,3,1,56,56,115605504,1,26000,DRAM,50176,MAC
ResNet-50,Res2b_branch2c,conv,64,56,56,256,1,1,1,56,56,51380224,0,80000,DRAM,178000,DRAM
ResNet-50,Res3a_branch1,conv,256,56,56,512,1,1,2,28,28,102760448,0,90400,DRAM,247200,DRAM
ResNet-50,Res5c_branch2c,conv,512,7,7,2048,1,1,1,7,7,51380224,0,102600,DRAM,105250,DRAM
ResNet-50,fc1000,fc,2048,1,1,1000,1,1,1,1,1,2048000,0,12700,DRAM,200299,DRAM
"""
"""Cycles by the published formulas, worked out by hand: Res3a_branch1 without SRAM has 512 KiB of
weights beside 28 KiB of input rows, so X (784 KiB) is read twice: 2 x 784 + 512 + 392 KiB.
"""


def test_every_row_of_alexnet_is_exact():
    """Both systems equal to the sheet, and so do MAC cycles and what bounds each row."""
    outcome = validate("nvdla")
    assert len(outcome.rows) == 11
    assert outcome.metrics["exact_share"] == outcome.metrics["within_1_cycle_share"] == 1
    assert outcome.baseline["mape_percent"] > 50
    for row in outcome.rows:
        assert row["mac_cycles"] == row["published_mac_cycles"]
        for system in ("4 MB SRAM", "no SRAM"):
            assert row[system]["bound"] == row[system]["published_bound"]


def test_formulas_on_resnet(tmp_path):
    """First layer, spilling outputs, sums, groups of 128 kernels, input read twice, FC weights."""
    path = tmp_path / "rows.csv"
    path.write_text(HEADER + RESNET)
    outcome = validate("nvdla", path)
    for row in outcome.rows:
        for system in ("4 MB SRAM", "no SRAM"):
            side = row[system]
            assert (side["predicted"], side["bound"]) == (
                side["published"], side["published_bound"]
            ), (row["layer"], side["stages"])  # fmt: skip


def test_a_named_sum_is_not_also_part_of_a_convolution(tmp_path):
    """Where sums have rows of their own (which need no kernel), branch2c does without."""
    path = tmp_path / "rows.csv"
    path.write_text(
        HEADER
        + "ResNet-50,Res2a_branch2c,conv,64,56,56,256,1,1,1,56,56,51380224,0,1,,1,\n"
        + "ResNet-50,Res2a,eltwise,256,56,56,,,,,56,56,0,,1,,1,\n"
    )
    convolution, total = validate("nvdla", path).rows
    assert convolution["no SRAM"]["predicted"] == (196 + 16 + 784) * 100
    assert total["no SRAM"]["predicted"] == 3 * 784 * 100
    assert total["mac_cycles"] == 0


def test_other_networks_follow_the_general_rules(tmp_path):
    """They are priced, a note says by what, and a row that differs shows what was published."""
    path = tmp_path / "rows.csv"
    path.write_text(HEADER + "VGG,c1,conv,64,56,56,256,1,1,1,56,56,51380224,0,31360,,99999,\n")
    outcome = validate("nvdla", path)
    assert outcome.metrics["within_1_cycle_share"] == 0.5
    assert any("VGG: general rules only" in note for note in outcome.notes)
    assert any(note.endswith("published 99,999") for note in outcome.notes)


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ("AlexNet,3,conv,0,13,13,384,3,3,1,13,13,1,1,1,MAC,1,DRAM", "row 2, C"),
        ("AlexNet,3,conv,4,13,13,384,3,3,1,13,13,many,1,1,MAC,1,DRAM", "row 2, macs"),
        ("AlexNet,3,conv,4,13,13,384,3,3,1,13,13,1,1,,MAC,1,DRAM", "max_cycles_4MB_cvsram"),
        ("AlexNet,3,conv,4", "row 2"),
    ],
)
def test_bad_cells(tmp_path, row, match):
    """One error that names the file, the row and the column."""
    path = tmp_path / "rows.csv"
    path.write_text(HEADER + row + "\n")
    with pytest.raises(FileFormatError, match=match):
        validate("nvdla", path)
