"""What a process of a plan runs on."""

import math

import pytest

import hwopt
from rlhf import device
from rlhf.device import GLOO, MARGIN, PCIE, device_of
from rlhf.errors import PlanError
from rlhf.plan import Plan


def plan(**cluster):
    """A plan on a cluster."""
    return Plan(name="p", roles={"actor": {"model": {"model_type": "llama"}}}, data={},
                stages=[{"algorithm": "sft"}], cluster=cluster)  # fmt: skip


def test_a_cluster_by_name():
    """Its device, the link between so many, nine tenths of the memory, the host's room."""
    found = device_of(plan(device="8xa100-80gb", processes=4))
    assert (found.name, found.processes, found.is_host) == ("8xa100-80gb", 4, False)
    assert found.capacity_bytes == pytest.approx((1 - MARGIN) * 80e9)
    assert found.link.name == "nvlink"
    assert found.host_bytes == 250e9
    assert found.peak_flops_per_s("bf16") == pytest.approx(312e12, rel=0.01)
    assert found.peak_flops_per_s("fp32") == pytest.approx(156e12, rel=0.01)  # TF32
    assert found.bytes_per_s == pytest.approx(2.039e12)
    assert found.runtime_bytes == 0


def test_more_processes_than_devices():
    """Names the cluster and its limit."""
    with pytest.raises(PlanError, match="at most 1 on 1xa100-80gb"):
        device_of(plan(device="1xa100-80gb", processes=2))


def test_an_accelerator_by_name_or_file(tmp_path):
    """Joined by PCIe, memory of the host unknown; a file of either kind."""
    found = device_of(plan(device="a100", processes=2))
    assert found.link == PCIE
    assert math.isinf(found.host_bytes)
    assert device_of(plan(device="a100")).link is None
    path = tmp_path / "cluster.yaml"
    path.write_text("name: mine\ndevice: a100\nlinks: [{name: x, size: 2, bytes_per_s: 1 GB/s}]\n")
    assert device_of(plan(device=str(path), processes=2)).link.name == "x"
    path.write_text("name: chip\nclock_hz: 1 GHz\nlevels: [{type: memory, name: D, kind: dram}]\n")
    assert device_of(plan(device=str(path))).capacity_bytes == math.inf
    with pytest.raises(hwopt.HwoptError, match="unknown"):
        device_of(plan(device="a-chip-that-is-not"))


def test_processes_share_the_host(monkeypatch):
    """Memory, and cores unless told; gloo between them."""
    monkeypatch.setattr(hwopt, "available_bytes", lambda: 8_000_000)
    one, two = device_of(plan()), device_of(plan(processes=2))
    assert one.link is None
    assert two.link == GLOO
    assert two.capacity_bytes == pytest.approx((1 - MARGIN) * 4_000_000)
    assert two.is_host
    assert two.runtime_bytes > 0
    assert one.bytes_per_s == pytest.approx(2 * two.bytes_per_s)
    assert device_of(plan(threads=1)).accelerator.fanouts[0].size == 1


def test_slots_of_a_hostfile_are_processes(tmp_path):
    """Two machines of three."""
    path = tmp_path / "hosts"
    path.write_text("a slots=3\nb slots=3\n")
    assert device_of(plan(device="8xa100-80gb", hostfile=str(path))).processes == 6


def test_collectives_follow_the_ring():
    """(n - 1) / n of the bytes, n - 1 messages a bucket; nothing for one process."""
    found = device_of(plan(device="8xa100-80gb", processes=8))
    assert found.all_gather(8e9) == pytest.approx(7e9 / 300e9 + 7 * 3e-6)
    assert found.all_gather(8e9, 1e9) == pytest.approx(7e9 / 300e9 + 8 * 7 * 3e-6)
    assert found.all_gather(0) == 0
    assert device_of(plan(device="1xa100-80gb")).all_gather(8e9) == 0


def test_closed_forms_are_rooflines():
    """The longer of work and traffic, and the launch."""
    found = device_of(plan(device="a100"))
    launch = found.accelerator.launch_seconds
    assert found.seconds_of(0, 2.039e12, "bf16") == pytest.approx(1 + launch)
    peak = found.peak_flops_per_s("bf16")
    assert found.seconds_of(2 * peak, 1, "bf16") == pytest.approx(2 + launch)
    assert device.HOST_STEP_BYTES_PER_S > 0
