"""The processor that this program runs on, as an accelerator.

    DRAM ── LLC ──┬── core ── L1 ── FMA units x lanes
                  └── ...

Read from Linux: cores that the process may use (affinity, cgroup quota; two threads of one core are
one), the clock, instruction sets, cache sizes. Assumed, because nothing tells:

* fused multiply-adds per core and cycle: two units of 16 fp32 lanes with AVX-512 (AMD before Zen 5:
  of 8), two of 8 with AVX2 and FMA, two of 4 with Arm's Advanced SIMD, else one of 4;
* caches keep up with the lanes;
* 15 us to start an operator: what a deep-learning framework and the Python around it spend on one.

The bandwidth of memory is measured once (a tenth of a second: every core copies) and kept on disk.
Peak figures: what a library reaches is less.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hwopt.errors import HwoptError
from hwopt.files import cache_dir, read_json, write_json
from hwopt.hardware.accelerator import Accelerator, Compute, Fanout, FanoutDim, Memory, Vector

LAUNCH_SECONDS = 15e-6
DEFAULT_CLOCK_HZ = 2.0e9
"""Where the system does not tell."""
ZEN5_FAMILY = 26
"""AMD's first family whose AVX-512 units are 512 bits wide."""
MEASURED_BYTES, MEASURED_TIMES = 16 * 2**20, 16
"""Per core and copy, and copies: short ones, so that one falls between other programs' turns."""

_CPU = Path("/sys/devices/system/cpu")


@dataclass(frozen=True)
class Processor:
    """What is known of a processor. `lanes`: fp32 multiply-adds per core and cycle."""

    model: str
    cores: int
    clock_hz: float
    lanes: int
    l1_bytes: int = 32 * 1024
    last_level_bytes: int = 8 * 2**20


def this_machine(*, cores: int | None = None, processes: int = 1) -> Accelerator:
    """This machine's processor, or what one of several equal processes on it may use.

    `cores` limits the cores of a process; by default they are shared out. Memory bandwidth and the
    last cache are shared out in any case.
    """
    known = processor()
    own = cores if cores is not None else max(1, known.cores // processes)
    own = min(own, known.cores)
    return accelerator_of(known, own, memory_bandwidth(known) / processes, processes)


def accelerator_of(
    known: Processor, cores: int, bytes_per_s: float, processes: int = 1
) -> Accelerator:
    """A processor's description as an accelerator."""
    units, width = (2, known.lanes // 2) if known.lanes > 4 else (1, known.lanes)
    return Accelerator(
        name="host",
        description=f"{known.model}, {cores} cores of {known.lanes} fp32 FMAs",
        source="read from this machine; see hardware/host.py for what is assumed",
        technology_nm=10,
        clock_hz=known.clock_hz,
        compute=Compute(bits=32, floating=True),
        vector=Vector(lanes=cores * known.lanes // units, memory="LLC"),
        launch_seconds=LAUNCH_SECONDS,
        levels=(
            Memory(name="DRAM", kind="dram", bytes_per_s=bytes_per_s),
            Memory(name="LLC", capacity_bytes=max(1, known.last_level_bytes // processes)),
            Fanout(name="core", dims=(FanoutDim(name="core", size=cores),), multicast=(),
                   reduces=False),
            Memory(name="L1", capacity_bytes=known.l1_bytes),
            Fanout(name="fma", dims=(FanoutDim(name="unit", size=units),
                                     FanoutDim(name="lane", size=width)), reduces=False),
        ),
    )  # fmt: skip


def processor() -> Processor:
    """What Linux tells of this machine; elsewhere, cores alone."""
    info = _cpuinfo()
    flags = frozenset(info.get("flags", info.get("Features", "")).split())
    cpus = _allowed()
    model = info.get("model name", info.get("CPU part", "processor")).strip()
    caches = _caches(min(cpus, default=0))
    return Processor(
        model=model or "processor",
        cores=_cores(cpus),
        clock_hz=_clock_hz(info),
        lanes=_lanes(flags, info.get("vendor_id", ""), int(info.get("cpu family", "0") or 0)),
        l1_bytes=caches.get(1, 32 * 1024),
        last_level_bytes=caches[max(caches)] if len(caches) > 1 else 8 * 2**20,
    )


def available_bytes() -> int:
    """Memory that a program may still take: of the system, or of its cgroup where that is less."""
    free = math.inf
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    group = Path("/sys/fs/cgroup")
    limit, used = _number(group / "memory.max"), _number(group / "memory.current")
    if limit is not None and used is not None:
        free = min(free, max(0, limit - used))
    if math.isinf(free):
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(free)


def memory_bandwidth(known: Processor) -> float:
    """Bytes per second between memory and all cores; measured once, then kept on disk."""
    path = cache_dir() / "host.json"
    key = f"{known.model}, {known.cores} cores"
    try:
        stored = read_json(path)[key]
        if isinstance(stored, int | float) and stored > 0:
            return float(stored)
    except (HwoptError, KeyError, TypeError):
        pass
    rate = measured_bandwidth(known.cores)
    try:
        write_json(path, {key: rate})
    except HwoptError:
        return rate  # a cache that cannot be written is no reason to fail
    return rate


def measured_bandwidth(cores: int) -> float:
    """The best of a few copies in which every core takes part: a byte read and a byte written."""
    sources = [np.ones(MEASURED_BYTES // 8) for _ in range(cores)]
    targets = [np.empty_like(source) for source in sources]
    best = math.inf
    with ThreadPoolExecutor(cores) as pool:
        for _ in range(MEASURED_TIMES):
            began = time.perf_counter()
            list(pool.map(np.copyto, targets, sources))
            best = min(best, time.perf_counter() - began)
    return 2 * MEASURED_BYTES * cores / best


def _lanes(flags: frozenset[str], vendor: str, family: int) -> int:
    """fp32 multiply-adds of one core in a cycle."""
    if "avx512f" in flags:
        return 16 if vendor == "AuthenticAMD" and family < ZEN5_FAMILY else 32
    if {"avx2", "fma"} <= flags:
        return 16
    return 8 if "asimd" in flags else 4


def _clock_hz(info: dict[str, str]) -> float:
    """The highest clock that the system names."""
    most = _number(_CPU / "cpu0/cpufreq/cpuinfo_max_freq")
    if most:
        return most * 1e3
    try:
        return float(info["cpu MHz"]) * 1e6
    except (KeyError, ValueError):
        return DEFAULT_CLOCK_HZ


def _allowed() -> frozenset[int]:
    """Logical processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def _cores(cpus: Iterable[int]) -> int:
    """Cores among logical processors, within the quota of the cgroup."""
    cores = set()
    for cpu in cpus:
        place = _CPU / f"cpu{cpu}/topology"
        core = _number(place / "core_id")
        cores.add((_number(place / "physical_package_id"), core if core is not None else -cpu - 1))
    count = max(1, len(cores))
    quota = next(iter(_lines(Path("/sys/fs/cgroup/cpu.max"))), "").split()
    if len(quota) == 2 and quota[0].isdigit() and int(quota[1]) > 0:
        count = max(1, min(count, int(quota[0]) // int(quota[1])))
    return count


def _caches(cpu: int) -> dict[int, int]:
    """Bytes of the data cache of each level."""
    found: dict[int, int] = {}
    for place in sorted((_CPU / f"cpu{cpu}/cache").glob("index*")):
        kind = next(iter(_lines(place / "type")), "")
        level = _number(place / "level")
        size = next(iter(_lines(place / "size")), "")
        if level is not None and kind in ("Data", "Unified") and size.endswith("K"):
            found[level] = int(size[:-1]) * 1024
    return found


def _cpuinfo() -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo."""
    found: dict[str, str] = {}
    for line in _lines(Path("/proc/cpuinfo")):
        name, _, value = line.partition(":")
        if not name.strip() and found:
            break
        found.setdefault(name.strip(), value.strip())
    return found


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    text = next(iter(_lines(path)), "").strip()
    return int(text) if text.isdigit() else None
