"""Adapters: where they go, what they compute, and that merging leaves no trace."""

import pytest
import torch
from torch import nn

from rlhf import lora
from rlhf.errors import ModelError
from rlhf.models import build_model
from rlhf.plan import Engine, Lora, RoleModel
from tests.rlhf.tiny import TINY, rows


def adapted(family="opt", **options):
    role = RoleModel(lora=Lora(**{"rank": 3, **options}))
    policy = build_model(TINY[family], "policy", engine=Engine(zero=0), role=role, seed=1)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if name.endswith("lora_b"):
                parameter.normal_(0, 0.2, generator=torch.Generator().manual_seed(len(name)))
    return policy.eval()


@pytest.mark.parametrize("family", ["opt", "llama", "gpt2", "bloom", "gpt_neox"])
def test_every_linear_layer_but_the_head(family):
    """Without targets each linear layer has adapters, the vocabulary head none; names stay."""
    policy = adapted(family)
    layers = lora.adapted_layers(policy.model)
    linear = {n for n, m in policy.model.named_modules() if lora._linear(m)}
    head = {n for n, m in policy.model.named_modules() if m is policy.model.get_output_embeddings()}
    assert set(layers) == linear - head
    plain = build_model(TINY[family], "policy", engine=Engine(zero=0), role=RoleModel(), seed=1)
    kept = {name for name, _ in policy.model.named_parameters() if not lora.is_adapter(name)}
    assert kept == {name for name, _ in plain.model.named_parameters()}


def test_only_the_adapters_train():
    """`only` freezes the rest; without it everything trains."""
    assert all(p.requires_grad == lora.is_adapter(n) for n, p in adapted().named_parameters())
    assert all(p.requires_grad for p in adapted(only=False).parameters())


def test_value_head_trains_beside_adapters():
    """A reward model or critic with adapters trains its head, which is new."""
    role = RoleModel(lora=Lora(rank=2))
    model = build_model(TINY["opt"], "value", engine=Engine(zero=0), role=role, seed=1)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert "network.head.weight" in trained
    assert all(name == "network.head.weight" or lora.is_adapter(name) for name in trained)


def test_starts_as_the_plain_model():
    """B is zero at the start: nothing is added."""
    role = RoleModel(lora=Lora(rank=3))
    policy = build_model(TINY["opt"], "policy", engine=Engine(zero=0), role=role, seed=1)
    plain = build_model(TINY["opt"], "policy", engine=Engine(zero=0), role=RoleModel(), seed=1)
    assert torch.equal(policy(*rows()).log_probs, plain(*rows()).log_probs)


def test_targets():
    """Only layers whose names contain a target; none at all is an error that names some."""
    layers = lora.adapted_layers(adapted(targets=("q_proj", "v_proj")).model)
    assert {name.rsplit(".", 1)[-1] for name in layers} == {"q_proj", "v_proj"}
    with pytest.raises(ModelError, match=r"no linear layer(.|\n)*nope(.|\n)*q_proj"):
        adapted(targets=("nope",))


@pytest.mark.parametrize("alpha", [None, 12.0])
def test_closed_form(alpha):
    """Y = W x + b + (alpha / rank) B A x, alpha being the rank unless given."""
    layer = nn.Linear(5, 4)
    plain = nn.Linear(5, 4)
    plain.load_state_dict(layer.state_dict())
    lora.add(nn.Sequential(layer), Lora(rank=3, alpha=alpha), seed=0)
    layer.lora_b.data.normal_(generator=torch.Generator().manual_seed(1))
    x = torch.randn(2, 5, generator=torch.Generator().manual_seed(2))
    scale = (alpha or 3.0) / 3
    expected = plain(x) + scale * (x @ layer.lora_a.T @ layer.lora_b.T)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("family", ["opt", "gpt2"])
def test_merged_and_restored_exactly(family):
    """Inside, the weights hold the adapters and compute the same; afterwards the kept originals
    are back, bit for bit and in the same memory, even after an error.
    """
    policy = adapted(family)
    before = {n: (p.data.clone(), p.data_ptr()) for n, p in policy.named_parameters()}
    expected = policy(*rows()).log_probs

    def inside():
        with lora.merged(policy.model):
            torch.testing.assert_close(policy(*rows()).log_probs, expected, rtol=1e-4, atol=1e-5)
            changed = [n for n, p in policy.named_parameters() if not torch.equal(p, before[n][0])]
            assert len(changed) == len(lora.adapted_layers(policy.model))
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        inside()
    for name, parameter in policy.named_parameters():
        value, place = before[name]
        assert torch.equal(parameter, value)
        assert parameter.data_ptr() == place
    assert torch.equal(policy(*rows()).log_probs, expected)


def test_dropout_only_in_training():
    """The adapters' dropout acts in training and is off in evaluation."""
    policy = adapted(dropout=0.5)
    assert torch.equal(policy(*rows()).log_probs, policy(*rows()).log_probs)
    policy.train()
    assert not torch.equal(policy(*rows()).log_probs, policy(*rows()).log_probs)


def test_adapters_are_by_seed():
    """The same seed, the same A."""
    one, two = (lora.adapted_layers(adapted().model) for _ in range(2))
    assert all(torch.equal(layer.lora_a, two[name].lora_a) for name, layer in one.items())
