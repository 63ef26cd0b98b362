"""This machine as an accelerator."""

import os

import pytest

from hwopt.files import read_json
from hwopt.hardware import host
from hwopt.hardware.host import Processor, accelerator_of, this_machine

KNOWN = Processor("a processor", 8, 2.0e9, 16, 48 * 1024, 32 * 2**20)


@pytest.mark.parametrize(
    ("flags", "vendor", "family", "lanes"),
    [
        ("avx2 fma", "GenuineIntel", 6, 16),
        ("avx2 fma avx512f", "GenuineIntel", 6, 32),
        ("avx2 fma avx512f", "AuthenticAMD", 25, 16),
        ("avx2 fma avx512f", "AuthenticAMD", 26, 32),
        ("sse4_2", "GenuineIntel", 6, 4),
        ("asimd", "", 0, 8),
    ],
)
def test_lanes_follow_the_instruction_sets(flags, vendor, family, lanes):
    """Two units of 8 fp32 lanes with AVX2, of 16 with AVX-512 (AMD: of 8 until Zen 5)."""
    assert host._lanes(frozenset(flags.split()), vendor, family) == lanes


def test_peak_is_cores_lanes_and_clock():
    """8 cores of 16 multiply-adds at 2 GHz."""
    machine = accelerator_of(KNOWN, 8, 20e9)
    assert machine.peak_macs_per_s == 8 * 16 * 2.0e9
    assert machine.vector.lanes == 8 * 8
    assert machine.memories[0].bytes_per_s == 20e9
    assert machine.resolved().area_m2 > 0


def test_this_machine_is_what_the_process_may_use():
    """Its cores are no more than the affinity allows, and its caches have sizes."""
    known = host.processor()
    assert 1 <= known.cores <= len(os.sched_getaffinity(0))
    assert known.clock_hz > 1e8
    assert known.lanes in (4, 8, 16, 32)
    assert known.l1_bytes >= 8 * 1024
    assert host.available_bytes() > 2**20


def test_processes_share_the_machine(monkeypatch):
    """Cores, bandwidth and the last cache are divided, or cores as told."""
    monkeypatch.setattr(host, "processor", lambda: KNOWN)
    monkeypatch.setattr(host, "memory_bandwidth", lambda known: 40e9)
    whole, half = this_machine(), this_machine(processes=2)
    assert whole.peak_macs_per_s == 2 * half.peak_macs_per_s
    assert half.memories[0].bytes_per_s == 20e9
    assert half.memories[1].capacity_bytes == 16 * 2**20
    assert this_machine(cores=3).fanouts[0].size == 3
    assert this_machine(cores=99).fanouts[0].size == 8
    assert this_machine(processes=100).fanouts[0].size == 1


def test_bandwidth_is_measured_once(tmp_path, monkeypatch):
    """The second time it is read from the disk; a damaged file is measured again."""
    monkeypatch.setenv("HWOPT_CACHE", str(tmp_path))
    rates = iter([3e9, 4e9])
    monkeypatch.setattr(host, "measured_bandwidth", lambda cores: next(rates))
    assert host.memory_bandwidth(KNOWN) == host.memory_bandwidth(KNOWN) == 3e9
    assert list(read_json(tmp_path / "host.json").values()) == [3e9]
    (tmp_path / "host.json").write_text("{")
    assert host.memory_bandwidth(KNOWN) == 4e9


def test_measured_bandwidth_is_plausible():
    """Between a hundred megabytes and ten terabytes a second."""
    assert 1e8 < host.measured_bandwidth(1) < 1e13


def test_quota_and_missing_files(tmp_path):
    """What cannot be read is absent, not an error."""
    assert host._lines(tmp_path / "absent") == []
    assert host._number(tmp_path / "absent") is None
    assert host._clock_hz({}) > 0
