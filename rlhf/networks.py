"""The two kinds of models of RLHF, over any causal language model of the transformers library.

A `Policy` (actor, reference) gives the log-probability of each token; a `ValueModel` (critic,
reward) gives one number after each token. Both are token-aligned (see `rlhf.experience`).

Masks come from lengths: unattended columns hold any id, on either side, and change nothing, because
they are never attended and positions count attended tokens (attended.cumsum - attended).
Nothing here looks a class or a module up by a private name: the backbone comes from transformers'
own `AutoModel` and `AutoModelForCausalLM`, the width of its output from a run on the meta device.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from rlhf.algorithm import Outputs
from rlhf.log_probs import token_log_probs


class PolicyNetwork(nn.Module):
    """What DeepSpeed wraps: tensors in, a tuple of tensors out. `model` is the causal LM."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._accepts = frozenset(inspect.signature(model.forward).parameters)

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self.model.config

    def generate(self, *args: Any, **values: Any) -> Any:
        """The model's own generation."""
        return self.model.generate(*args, **values)  # type: ignore[operator]

    def forward(
        self,
        tokens: Tensor,
        attended: Tensor,
        *,
        temperature: float = 1.0,
        entropy: bool = False,
        first: int = 1,
    ) -> tuple[Tensor, ...]:
        """Log-probs (rows, time), and entropies if asked; see `Policy.forward`."""
        first = max(first, 1)
        time = tokens.shape[1]
        values = _inputs(tokens, attended, self._accepts)
        kept = torch.arange(first - 1, time - 1, device=tokens.device)
        if "logits_to_keep" in self._accepts:
            logits = self.model(**values, logits_to_keep=kept).logits
        else:
            logits = self.model(**values).logits[:, first - 1 : time - 1]
        targets = tokens.masked_fill(~attended.bool(), 0)[:, first:]
        found = token_log_probs(logits, targets, temperature=temperature, entropy=entropy)
        mask = attended.bool()
        real = (mask[:, 1:] & mask[:, :-1])[:, first - 1 :]
        return tuple(
            nn.functional.pad(value.where(real, 0.0), (min(first, time), 0)) for value in found
        )


class Policy(nn.Module):
    """Log-probabilities of tokens under a causal language model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.network = PolicyNetwork(model)

    @property
    def model(self) -> Any:
        """The causal language model of transformers."""
        return self.network.model

    def forward(
        self,
        tokens: Tensor,
        attended: Tensor,
        *,
        temperature: float = 1.0,
        entropy: bool = False,
        first: int = 1,
    ) -> Outputs:
        """log_probs[:, t] = log p(token t | attended tokens before it), float32 (rows, time).

        Args:
            tokens: (rows, time) int64.
            attended: (rows, time) bool, the real tokens.
            temperature: Divides the logits: of the distribution that was sampled from.
            entropy: Also gives the entropy (rows, time) of that distribution.
            first: The first column wanted; earlier ones are 0 and their logits are not computed.
                Unattended columns are 0, and so is each row's first token, which nothing predicts.
        """
        return outputs_of(
            self.network(tokens, attended, temperature=temperature, entropy=entropy, first=first),
            "policy",
        )


class ValueNetwork(nn.Module):
    """What DeepSpeed wraps: `model` is the backbone, `head` the linear map to one number."""

    def __init__(self, model: nn.Module, width: int) -> None:
        super().__init__()
        self.model = model
        self.head = nn.Linear(width, 1, bias=False)
        self._accepts = frozenset(inspect.signature(model.forward).parameters)

    @property
    def config(self) -> Any:
        """The backbone's configuration."""
        return self.model.config

    def forward(self, tokens: Tensor, attended: Tensor) -> tuple[Tensor, ...]:
        """The head's outputs (rows, time) float32."""
        hidden = self.model(**_inputs(tokens, attended, self._accepts)).last_hidden_state
        return (self.head(hidden).squeeze(-1).float(),)


class ValueModel(nn.Module):
    """One number after each token: a reward model or a critic, without a vocabulary head."""

    def __init__(self, model: nn.Module, width: int) -> None:
        super().__init__()
        self.network = ValueNetwork(model, width)

    @property
    def model(self) -> Any:
        """The backbone."""
        return self.network.model

    @property
    def head(self) -> nn.Linear:
        """The linear map from the backbone's output to one number."""
        return self.network.head

    def forward(self, tokens: Tensor, attended: Tensor) -> Outputs:
        """heads[:, t] = the number after token t, float32 (rows, time)."""
        return outputs_of(self.network(tokens, attended), "value")


RoleModule = Policy | ValueModel


def outputs_of(tensors: tuple[Tensor, ...], kind: str) -> Outputs:
    """What a network's tuple of tensors means."""
    if kind == "value":
        return Outputs(heads=tensors[0])
    return Outputs(log_probs=tensors[0], entropy=tensors[1] if len(tensors) > 1 else None)


def _inputs(tokens: Tensor, attended: Tensor, accepts: frozenset[str]) -> dict[str, Any]:
    """The arguments of a transformers model: pads replaced, positions from attended tokens."""
    mask = attended.to(torch.int64)
    values: dict[str, Any] = {
        "input_ids": tokens.masked_fill(mask == 0, 0),
        "attention_mask": mask,
        "use_cache": False,
    }
    if "position_ids" in accepts:  # BLOOM derives its distances from the mask
        values["position_ids"] = mask.cumsum(1) - mask
    return values
