"""What of a role's weights and optimizer state this process keeps under DeepSpeed.

ZeRO cuts every parameter, or a flat row of them, into ranges and gives each process some. A `Piece`
is such a range by the name of its parameter, so what is saved depends neither on the number of
processes nor on the ZeRO stage:

    stage 0      every process holds every parameter and its moments
    stages 1, 2  every process holds every parameter, and ranges of the float32 weights and moments
    stage 3      every process holds ranges of both

DeepSpeed has public functions only for whole tensors, which it assembles by a collective for each;
ranges are read and written here where it keeps them (0.19: `_hp_mapping`, `grad_position`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rlhf.errors import CheckpointError


@dataclass(frozen=True)
class Piece:
    """Elements `start : start + numel` of a flattened parameter that this process keeps.

    `weight`: a flat view, float32 where an optimizer keeps a master copy. `copy`: a second place
    that holds the same range in the precision of the forward pass. `flat`, `offset`: the tensor in
    the optimizer's state, and where in it the range begins; None: not trained. `shared`: every
    process holds the same range.
    """

    name: str
    start: int
    weight: Tensor
    copy: Tensor | None = None
    flat: Tensor | None = None
    offset: int = 0
    shared: bool = False

    def part(self, moment: Tensor) -> Tensor:
        """The range of a tensor shaped like `flat`."""
        return moment.detach().view(-1).narrow(0, self.offset, self.weight.numel())


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """The whole shape of every parameter by name."""
    return {
        name: tuple(getattr(parameter, "ds_shape", parameter.shape))
        for name, parameter in network.named_parameters()
    }


def pieces(network: nn.Module, engine: Any) -> Iterator[Piece]:
    """Of every parameter of `network`, which `engine` (DeepSpeed's) wraps, in its order."""
    zero = engine.optimizer
    if getattr(zero, "swap_optimizer", False) or getattr(zero, "params_in_nvme_and_cpu", False):
        raise CheckpointError(
            "weights or optimizer state on NVMe cannot be saved", where="engine.deepspeed",
            fix="offload to the host's memory: engine.offload",
        )  # fmt: skip
    for name, parameter in network.named_parameters():
        piece: Piece | None
        if hasattr(parameter, "ds_id"):
            piece = _sharded(name, parameter, zero)
        elif hasattr(parameter, "_hp_mapping"):
            piece = _mapped(name, parameter, zero)
        else:
            flat = parameter if parameter.requires_grad else None
            piece = Piece(name, 0, parameter.detach().view(-1), flat=flat, shared=True)
        if piece is not None and piece.weight.numel():
            yield piece


def _sharded(name: str, parameter: Any, zero: Any) -> Piece:
    """ZeRO-3: equal ranges of each parameter, the last padded."""
    size = parameter.ds_tensor.numel()
    start = zero._get_param_partition_rank(parameter) * size  # noqa: SLF001 - no other way
    held = max(0, min(size, parameter.ds_numel - start))
    own = parameter.ds_tensor.detach().view(-1)[:held]
    if not parameter.requires_grad:
        return Piece(name, start, own)
    group, offset, _ = zero.grad_position[zero.get_param_id(parameter)]
    flat = zero.fp32_partitioned_groups_flat[group]
    return Piece(name, start, flat.detach()[offset : offset + held], own, flat, offset)


def _mapped(name: str, parameter: Any, zero: Any) -> Piece | None:
    """ZeRO-1 and 2: a range of a flat row of parameters."""
    mapping = parameter._hp_mapping  # noqa: SLF001 - no other way
    if mapping is None:
        return None
    groups = getattr(zero, "single_partition_of_fp32_groups", None)
    flat = (groups or zero.fp32_groups_flat_partition)[mapping.param_group_index]
    offset = mapping.get_hp_fragment_address().start
    start = mapping.lp_fragment_address.start
    return Piece(name, start, mapping.get_hp_fragment().detach(), flat=flat, offset=offset)


def moments(piece: Piece, engine: Any) -> tuple[dict[str, Tensor], int | None]:
    """The optimizer's tensors of a piece by key, and its step; nothing before the first step."""
    if piece.flat is None:
        return {}, None
    state = engine.basic_optimizer.state.get(piece.flat, {})
    found = {
        key: piece.part(value)
        for key, value in state.items()
        if torch.is_tensor(value) and value.shape == piece.flat.shape and value.dim()
    }
    step = state.get("step")
    return found, None if step is None else int(step)


def set_moments(piece: Piece, engine: Any, values: dict[str, Tensor], step: int | None) -> None:
    """Write what `moments` gave, into the state of an optimizer that may not have stepped yet."""
    if piece.flat is None or step is None:
        return
    optimizer = engine.basic_optimizer
    state = optimizer.state[piece.flat]
    for key, value in values.items():
        if key not in state:
            state[key] = torch.zeros_like(piece.flat, requires_grad=False)
        piece.part(state[key]).copy_(value)
    # As torch's AdamW makes it: a number on the host, on the GPU where the kernel reads it.
    on_device = any(optimizer.defaults.get(key) for key in ("fused", "capturable"))
    device = piece.flat.device if on_device else torch.device("cpu")
    state["step"] = torch.tensor(float(step), dtype=torch.float32, device=device)


def refresh(engine: Any) -> None:
    """After writing pieces: bring the copies that the forward pass reads up to date.

    All processes call it: ZeRO gathers.
    """
    zero = engine.optimizer
    if hasattr(zero, "update_lp_params"):
        zero.update_lp_params()
    if hasattr(zero, "persistent_parameters"):
        zero.checkpoint_event_epilogue()
