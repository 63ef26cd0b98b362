"""Clusters: many devices, and the links that join them.

    link[1]  (between nodes)        ┌─────────── switch ───────────┐
    link[0]  (inside a node)   ┌─ switch ─┐                   ┌─ switch ─┐
    devices                    0 1 2 3 ...                    8 9 10 ...

`links` are listed from the inside out; each joins `size` groups of what the link inside it joins,
so a cluster has the product of their sizes of devices.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from hwopt.errors import HardwareError
from hwopt.hardware.accelerator import (
    Accelerator,
    Bytes,
    BytesPerSecond,
    Joules,
    Part,
    Seconds,
)

Topology = Literal["switch", "ring", "mesh", "fully-connected"]


class Link(Part):
    """A network that joins `size` devices or groups of devices.

    `bytes_per_s`: what one device can send while it receives as much (one direction).
    `latency_seconds`: of one message between two of them. `joules_per_byte`: energy of one byte
    sent over it.
    """

    name: str
    size: int = Field(ge=1, description="devices, or groups of the link inside, that it joins")
    topology: Topology = "switch"
    bytes_per_s: BytesPerSecond = Field(gt=0)
    latency_seconds: Seconds = 0.0
    joules_per_byte: Joules = 0.0


class Host(Part):
    """The host memory that devices of one node may offload to; numbers are per device."""

    capacity_bytes: Bytes = Field(gt=0)
    bytes_per_s: BytesPerSecond = Field(gt=0, description="device to host, one direction")


class Cluster(Part):
    """Devices of one kind, joined by links. No link: one device.

    `device` is the name of a library accelerator, the path of a file, or the accelerator itself.
    `dollars_per_device_hour`: what it costs to rent, where known.
    """

    name: str
    description: str = ""
    source: str = ""
    device: str | Accelerator
    links: tuple[Link, ...] = ()
    host: Host | None = None
    dollars_per_device_hour: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Cluster:
        names = [link.name for link in self.links]
        if len(set(names)) != len(names):
            raise HardwareError("two links share a name", where=self.name, value=names)
        return self

    @property
    def devices(self) -> int:
        """Number of devices."""
        return math.prod(link.size for link in self.links)

    @property
    def accelerator(self) -> Accelerator:
        """The device, loaded if it is a name."""
        if isinstance(self.device, Accelerator):
            return self.device
        from hwopt.hardware.library import load

        return load(self.device)

    def link_of(self, devices: int) -> Link | None:
        """The slowest link that a group of neighbouring devices needs; None for one device.

        Raises `HardwareError` for more devices than there are.
        """
        if not 1 <= devices <= self.devices:
            raise HardwareError("not that many devices", where=self.name, value=devices,
                                allowed=f"1 to {self.devices}")  # fmt: skip
        joined, slowest = 1, None
        for link in self.links:
            if joined >= devices:
                break
            joined *= link.size
            if link.size > 1 and (slowest is None or link.bytes_per_s < slowest.bytes_per_s):
                slowest = link
        return slowest
