"""What one process of a plan runs on: its accelerator, its memory, the links to the others.

`cluster.device` of a plan is a cluster, an accelerator, a file of either, or "host". Assumed where
nothing says:

* processes on the host share its cores, bandwidth and free memory equally, and exchange tensors
  through gloo: 1 GB/s each way, 100 us a message;
* accelerators named alone are joined by PCIe 4.0 x16: 31.5 GB/s each way, 5 us a message;
* a tenth of a device's memory stays unused: fragments, contexts, other programs;
* an optimizer in the host's memory steps at 100 GB/s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hwopt
from hwopt import Accelerator, Cluster, HwoptError, Link, read_json, read_yaml
from rlhf.errors import PlanError
from rlhf.hosts import hosts, world_size
from rlhf.plan import Plan

MARGIN = 0.1
HOST_STEP_BYTES_PER_S = 100e9
GLOO = Link(name="gloo", size=2, bytes_per_s=1e9, latency_seconds=100e-6)
PCIE = Link(name="pcie", size=2, bytes_per_s=31.5e9, latency_seconds=5e-6)
HOST_RUNTIME_BYTES = 550 * 2**20
"""Resident in each process on the host before any model: Python, torch, transformers, DeepSpeed
(measured with torch 2.13 and DeepSpeed 0.19.8)."""


WIDTHS = {"fp32": 4, "bf16": 2, "fp16": 2, "float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of an element."""


@dataclass(frozen=True)
class Device:
    """`capacity_bytes`: what a process may use. `host_bytes`: of the host's memory, for offload
    (infinite: unknown). `link`: the slowest between processes; None for one. `processes`: of the
    job, over all machines.
    """

    name: str
    accelerator: Accelerator
    processes: int
    capacity_bytes: float
    host_bytes: float
    host_bytes_per_s: float
    link: Link | None
    is_host: bool

    def peak_flops_per_s(self, dtype: str) -> float:
        """Of one process for an element type; operands wider than its units take several steps."""
        bits = 8 * WIDTHS[dtype]
        steps = max(1, -(-bits // self.accelerator.compute.bits))
        return 2 * self.accelerator.peak_macs_per_s / steps

    @property
    def bytes_per_s(self) -> float:
        """Of the outermost memory."""
        memory = self.accelerator.memories[0]
        rates = (memory.bytes_per_s, memory.read_bytes_per_s, memory.write_bytes_per_s)
        return next((rate for rate in rates if rate), math.inf)

    @property
    def runtime_bytes(self) -> int:
        """Taken before any model; on a GPU it is in the margin: allocators do not see it."""
        return HOST_RUNTIME_BYTES if self.is_host else 0

    def seconds_of(self, flops: float, moved_bytes: float, dtype: str) -> float:
        """One operator in closed form: its roofline and its launch."""
        roof = max(flops / self.peak_flops_per_s(dtype), moved_bytes / self.bytes_per_s)
        return roof + self.accelerator.launch_seconds

    def all_gather(self, size_bytes: float, bucket_bytes: float = math.inf) -> float:
        """Seconds in which every process gets the whole of what each has an equal part of.

        A ring: (n - 1) / n of the bytes over the link, n - 1 messages for each bucket. A
        reduce-scatter takes as long, an all-reduce twice as long.
        """
        n = self.processes
        if n < 2 or self.link is None or size_bytes <= 0:
            return 0.0
        buckets = max(1, math.ceil(size_bytes / bucket_bytes))
        moved = size_bytes * (n - 1) / n / self.link.bytes_per_s
        return moved + buckets * (n - 1) * self.link.latency_seconds


def device_of(plan: Plan) -> Device:
    """The device of one process of a plan.

    Raises `PlanError` for more processes than the cluster has devices, and what `hwopt.load` raises
    for a name that is neither a cluster nor an accelerator.
    """
    processes = world_size(plan)
    if plan.cluster.device == "host":
        return _host(plan, processes)
    found = _load(plan.cluster.device)
    if isinstance(found, Accelerator):
        link = PCIE if processes > 1 else None
        return _device(found.name, found, processes, math.inf, PCIE.bytes_per_s, link)
    if processes > found.devices:
        raise PlanError(
            "more processes than the cluster has devices", where="cluster", value=processes,
            allowed=f"at most {found.devices} on {found.name}",
            fix="lower cluster.processes, or name a larger cluster.device",
        )  # fmt: skip
    host = found.host
    return _device(
        found.name, found.accelerator, processes,
        host.capacity_bytes if host is not None else math.inf,
        host.bytes_per_s if host is not None else PCIE.bytes_per_s,
        found.link_of(processes),
    )  # fmt: skip


def _device(
    name: str, accelerator: Accelerator, processes: int, host_bytes: float,
    host_bytes_per_s: float, link: Link | None,
) -> Device:  # fmt: skip
    # The tensors' own widths hold: a plan says what it trains in.
    own = accelerator.model_copy(update={"bits": {}})
    capacity = own.memories[0].capacity_bytes
    usable = (1 - MARGIN) * capacity if capacity is not None else math.inf
    return Device(name, own, processes, usable, host_bytes, host_bytes_per_s, link, False)


def _host(plan: Plan, processes: int) -> Device:
    """This machine, shared by the processes that it runs."""
    here = hosts(plan.cluster)[0].slots
    machine = hwopt.this_machine(cores=plan.cluster.threads, processes=here)
    free = (1 - MARGIN) * hwopt.available_bytes() / here
    link = GLOO if processes > 1 else None
    rate = machine.memories[0].bytes_per_s or math.inf
    return Device("host", machine, processes, free, free, rate, link, True)


def _load(name: str) -> Accelerator | Cluster:
    """A cluster or accelerator by name or file."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml", ".json"):
        data: Any = read_json(path) if path.suffix == ".json" else read_yaml(path)
        is_cluster = isinstance(data, dict) and "device" in data
        return hwopt.load_cluster(path) if is_cluster else hwopt.load(path)
    try:
        return hwopt.load_cluster(name)
    except HwoptError:
        return hwopt.load(name)
