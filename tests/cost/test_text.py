"""How an operator is carried out, as text and as data."""

import json
import re

import pytest

from hwopt.cost.cost import evaluate
from hwopt.errors import UnknownNameError


def test_the_mapping_says_all(make):
    """Nest with levels and tiles, footprints with shares, traffic, lanes, certificate, levers."""
    cost = evaluate(make.layer(1, 24, 24), make.machine(dram_bytes_per_s=1e8))
    text = cost.mapping_text("mm")
    assert re.search(r"for \w+ in tiles of \d+   # \d+ times", text)
    assert re.search(r"spread \w+ in tiles of \d+ over PE\.x   # \d+ copies", text)
    assert re.search(r"keep .* in GLB   # .*weight \d+ B", text)
    assert re.search(r"^GLB +weight w .*%", text, re.MULTILINE)
    assert re.search(r"^DRAM +output y .* 96\.0 B$", text, re.MULTILINE)
    assert "mappings of" in text
    assert "of lanes used" in text
    assert "why not faster: bound by DRAM port" in text
    assert "twice the bandwidth of DRAM" in text
    assert cost.mapping_text("relu") == text  # the group's nest
    with pytest.raises(UnknownNameError, match="mm"):
        cost.mapping_text("nothing")


def test_data_agree_with_the_cost(make):
    """JSON: bytes per memory and tensor add up to the traffic; shares and lanes are the counts'."""
    cost = evaluate(make.layer(8, 16, 32), make.machine(buffer_bytes=1024.0))
    data = json.loads(json.dumps(cost.mapping_json("mm")))
    (stage,) = data["stages"]
    rows = {(row["memory"], row["role"]): row for row in stage["memories"]}
    for role in ("input", "weight", "output"):
        ways = cost.traffic["DRAM"][role]
        assert rows["DRAM", role]["read_bytes"] == ways["read"]
        assert rows["DRAM", role]["written_bytes"] == ways["write"]
    whole = rows["GLB", "all"]
    assert whole["tile_bytes"] == sum(
        rows["GLB", role]["tile_bytes"] for role in ("input", "weight", "output")
    )
    assert whole["capacity_share"] == whole["tile_bytes"] / 1024 <= 1
    assert rows["GLB", "weight"]["tensor"] == "w"
    assert 0 < stage["lanes_used"] <= 1
    assert stage["seconds"] == pytest.approx(cost.seconds)
    assert stage["mapping"][0].startswith("keep input weight output in DRAM")
    assert stage["certificate"]["gap"] >= 0


def test_nothing_to_gain_is_said(make):
    """A launch that lasts longer than everything else: no part of the machine helps."""
    cost = evaluate(make.layer(2, 2, 2), make.machine(launch_seconds=1.0))
    text = cost.mapping_text("mm")
    assert "bound by launch" in text
    assert "twice of any one part brings nothing" in text
