"""Policies and value models of many families: building, passes, padding, export."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.errors import ModelError
from rlhf.models import build_model, export_model
from rlhf.plan import Engine, Lora, RoleModel
from tests.rlhf.tiny import TINY, WORDS, rows, shifted

PLAIN = Engine(zero=0)


def built(source, kind="policy", *, seed=1, role=None, **more):
    return build_model(
        source, kind, engine=PLAIN, role=role or RoleModel(), seed=seed, **more
    ).eval()  # fmt: skip


@pytest.mark.parametrize("family", TINY)
def test_log_probs_are_those_of_the_plain_model(family):
    """Each family's log-probs are log-softmax of its own logits, one column later."""
    policy = built(TINY[family])
    tokens, attended = rows()
    with torch.no_grad():
        found = policy(tokens, attended, entropy=True, temperature=0.8)
        logits = policy.model(input_ids=tokens, attention_mask=attended.long()).logits / 0.8
    logs = logits.log_softmax(-1)[:, :-1]
    expected = logs.gather(2, tokens[:, 1:, None])[..., 0]
    real = attended[:, 1:]
    torch.testing.assert_close(found.log_probs[:, 1:][real], expected[real])
    torch.testing.assert_close(
        found.entropy[:, 1:][real], -(logs.exp() * logs).sum(-1)[real], rtol=1e-4, atol=1e-5
    )
    assert (found.log_probs[:, 0] == 0).all()
    assert (found.log_probs[:, 1:][~real] == 0).all()


@pytest.mark.parametrize("family", TINY)
def test_value_model_of_any_family(family):
    """DeepSpeed-Chat looked the backbone up by private class names, and failed for BLOOM: here each
    family gets a head of its output's width, and no vocabulary head is kept.
    """
    model = built(TINY[family], "value")
    tokens, attended = rows()
    heads = model(tokens, attended).heads
    assert heads.shape == tokens.shape
    assert heads.dtype == torch.float32
    assert model.model.get_output_embeddings() is None
    assert sum(p.shape[0] == WORDS for p in model.parameters()) == 1
    width = model.model(input_ids=tokens).last_hidden_state.shape[-1]
    assert model.head.weight.shape == (1, width)
    heads.sum().backward()
    assert model.head.weight.grad.abs().sum() > 0


def test_head_starts_small():
    """The head's spread is 1 / sqrt(width + 1)."""
    wide = {**TINY["llama"], "hidden_size": 1024, "num_hidden_layers": 1}
    weight = built(wide, "value").head.weight.detach()
    assert float(weight.std()) == pytest.approx(1025**-0.5, rel=0.1)


@settings(max_examples=12)
@given(st.sampled_from(sorted(TINY)), st.integers(0, 3), st.integers(0, 3), st.integers(-5, 400))
def test_padding_changes_nothing(family, left, right, pad):
    """Columns on either side with any id, even one outside the vocabulary: the same outputs."""
    policy, model = built_pair(family)
    tokens, attended = rows()
    moved, mask = shifted(tokens, attended, left, right, pad)
    columns = slice(left, left + tokens.shape[1])
    with torch.no_grad():
        before, after = policy(tokens, attended), policy(moved, mask)
        torch.testing.assert_close(
            after.log_probs[:, columns], before.log_probs, rtol=1e-4, atol=2e-5
        )
        assert (after.log_probs[~mask] == 0).all()
        heads, same = model(tokens, attended).heads, model(moved, mask).heads[:, columns]
        torch.testing.assert_close(same[attended], heads[attended], rtol=1e-4, atol=2e-5)


def test_padding_changes_no_gradient():
    """Left padding with a strange id: gradients of a masked loss are equal."""
    tokens, attended = rows()
    policies = built(TINY["opt"]), built(TINY["opt"])
    for policy, (ids, mask) in zip(
        policies, ((tokens, attended), shifted(tokens, attended, 3, 1, 96)), strict=True
    ):
        policy(ids, mask).log_probs.sum().backward()
    for one, two in zip(*(p.parameters() for p in policies), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-5)


PAIRS: dict[str, tuple] = {}


def built_pair(family):
    """A policy and a value model of a family, built once."""
    if family not in PAIRS:
        PAIRS[family] = built(TINY[family]), built(TINY[family], "value")
    return PAIRS[family]


@pytest.mark.parametrize("family", ["opt", "bloom", "llama"])
def test_first_saves_logits_and_changes_nothing(family):
    """Columns before `first` are 0, the others as without; and their logits are not computed."""
    policy, _ = built_pair(family)
    tokens, attended = rows()
    seen = []
    hook = policy.model.get_output_embeddings().register_forward_hook(
        lambda _, __, out: seen.append(out.shape[1])
    )
    with torch.no_grad():
        whole, part = policy(tokens, attended), policy(tokens, attended, first=6)
        last = policy(tokens, attended, first=tokens.shape[1])
    hook.remove()
    assert (part.log_probs[:, :6] == 0).all()
    torch.testing.assert_close(part.log_probs[:, 6:], whole.log_probs[:, 6:])
    assert (last.log_probs == 0).all()
    assert seen == [8, 3, 0]


def test_random_start_is_by_seed():
    """The same seed the same weights, another seed others; torch's own generator is left alone."""
    torch.manual_seed(11)
    before = torch.get_rng_state()
    one, two, other = (built(TINY["opt"], seed=s).state_dict() for s in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(
        one["network.model.lm_head.weight"], other["network.model.lm_head.weight"]
    )


@pytest.mark.parametrize("family", ["opt", "llama", "gpt2"])
def test_random_start_is_the_family_s_own(family):
    """Spread and special rows are those of transformers' initialisation."""
    model = built(TINY[family]).model
    weight = model.get_input_embeddings().weight.detach()
    assert float(weight.std()) == pytest.approx(0.02, rel=0.1)
    plain = transformers.AutoModelForCausalLM.from_config(model.config)
    for (name, mine), (_, theirs) in zip(
        model.named_parameters(), plain.named_parameters(), strict=True
    ):
        assert float(mine.detach().std()) == pytest.approx(
            float(theirs.detach().std()), rel=0.35
        ), name


def test_dropout_is_the_role_s(tmp_path):
    """Every dropout is 0 unless the role says otherwise; an export keeps the model's own."""
    config = {**TINY["opt"], "dropout": 0.1, "attention_dropout": 0.2, "layerdrop": 0.3}
    quiet, noisy = built(config).train(), built(config, role=RoleModel(dropout=0.5)).train()
    tokens, attended = rows()
    assert torch.equal(
        quiet(tokens, attended).log_probs, quiet(tokens, attended).log_probs
    )  # fmt: skip
    assert not torch.equal(
        noisy(tokens, attended).log_probs, noisy(tokens, attended).log_probs
    )  # fmt: skip
    assert noisy.model.config.attention_dropout == 0.5
    assert noisy.model.config.layerdrop == 0.0
    export_model(noisy, tmp_path / "actor")
    kept = json.loads((tmp_path / "actor" / "config.json").read_text())
    assert {name: kept[name] for name in ("dropout", "attention_dropout", "layerdrop")} == {
        "dropout": 0.1, "attention_dropout": 0.2, "layerdrop": 0.3,
    }  # fmt: skip


@pytest.mark.parametrize("family", TINY)
def test_export_is_a_plain_folder(tmp_path, family):
    """`AutoModelForCausalLM` loads it with equal logits; `build_model` reads it back equal."""
    policy = built(TINY[family])
    export_model(policy, tmp_path / "actor")
    tokens, attended = rows()
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "actor").eval()
    with torch.no_grad():
        logits = plain(input_ids=tokens, attention_mask=attended.long()).logits
        expected = policy.model(input_ids=tokens, attention_mask=attended.long()).logits
    torch.testing.assert_close(logits, expected)
    again = built(tmp_path / "actor", seed=9).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in policy.state_dict().items())


def test_export_in_shards(tmp_path, monkeypatch):
    """A model above the size of a shard becomes numbered files with an index."""
    monkeypatch.setattr("rlhf.export.SHARD_BYTES", 4096)
    policy = built(TINY["gpt2"])
    export_model(policy, tmp_path / "actor")
    index = json.loads((tmp_path / "actor" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    again = built(tmp_path / "actor").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in policy.state_dict().items())


def test_export_replaces_a_folder_whole(tmp_path):
    """A second export takes the first one's place, and nothing else is left behind."""
    folder = tmp_path / "actor"
    export_model(built(TINY["opt"], seed=1), folder)
    (folder / "stale").touch()
    export_model(built(TINY["llama"]), folder)
    assert [path.name for path in tmp_path.iterdir()] == ["actor"]
    assert not (folder / "stale").exists()
    assert built(folder).model.config.model_type == "llama"


def test_export_that_cannot_be_written(tmp_path):
    """One clear error, and nothing half-made."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="cannot write"):
        export_model(built(TINY["opt"]), tmp_path / "file" / "actor")


def test_reward_model_from_a_policy_and_critic_from_it(tmp_path):
    """A policy's folder gives a value model its backbone and a new head; a value model's folder
    gives both back, and cannot be a policy.
    """
    policy = built(TINY["qwen2"])
    export_model(policy, tmp_path / "actor")
    reward = built(tmp_path / "actor", "value", seed=5)
    own = dict(reward.model.named_parameters())
    taken = {n.removeprefix("model."): p for n, p in policy.model.named_parameters()}
    assert own.keys() <= taken.keys()
    assert all(torch.equal(value, taken[name]) for name, value in own.items())
    export_model(reward, tmp_path / "reward")
    critic = built(tmp_path / "reward", "value", seed=6)
    assert torch.equal(critic.head.weight, reward.head.weight)
    tokens, attended = rows()
    assert torch.equal(critic(tokens, attended).heads, reward(tokens, attended).heads)
    with pytest.raises(ModelError, match="cannot be a policy"):
        built(tmp_path / "reward")


def test_adapters_are_merged_in_an_export(tmp_path):
    """The exported model computes what the adapted one does."""
    policy = built(TINY["gpt2"], role=RoleModel(lora=Lora(rank=3, alpha=6)))
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_b" in name:
                parameter.normal_(0, 0.1)
    export_model(policy, tmp_path / "actor")
    tokens, attended = rows()
    torch.testing.assert_close(
        built(tmp_path / "actor")(tokens, attended).log_probs, policy(tokens, attended).log_probs
    )


def test_library_names_and_config_files(tmp_path):
    """A name of `hwopt list models` and a config.json are models without weights."""
    (tmp_path / "config.json").write_text(json.dumps(TINY["llama"]))
    by_file = built(tmp_path / "config.json")
    by_folder = built(tmp_path)
    assert torch.equal(
        by_file.model.lm_head.weight, by_folder.model.lm_head.weight
    )  # fmt: skip
    import hwopt

    assert hwopt.model_config("opt-125m")["model_type"] == "opt"


class Words:
    """What a tokenizer tells a model."""

    bos_token_id, eos_token_id, pad_token_id = 5, 6, 7

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count


def test_tokenizer_sizes_a_new_model(tmp_path):
    """Vocabulary and special ids come from the tokenizer; a model with weights must have enough."""
    model = built(TINY["opt"], tokenizer=Words(123)).model
    assert model.get_input_embeddings().weight.shape[0] == 123
    assert (model.config.bos_token_id, model.config.eos_token_id) == (5, 6)
    assert model.config.pad_token_id == 7
    export_model(built(TINY["opt"]), tmp_path / "actor")
    with pytest.raises(ModelError, match="more words than the model"):
        built(tmp_path / "actor", tokenizer=Words(WORDS + 1))


def test_no_such_model():
    """The message names what is allowed and where to look."""
    with pytest.raises(ModelError, match=r"no such model(.|\n)*opt-125n(.|\n)*hwopt list models"):
        built("opt-125n")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "pickled"),
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "config.json").write_text("{}"), "no model_type"),
        (lambda f: (f / "model.safetensors").write_bytes(b"junk" * 9), "cannot make"),
        (lambda f: edit(f, hidden_size=64, num_attention_heads=8), "cannot make|lacks"),
        (lambda f: edit(f, num_hidden_layers=3), "lacks"),
        (lambda f: edit(f, num_attention_heads=5), "refuses|cannot make"),
        (lambda f: edit(f, auto_map={"AutoModel": "code.Model"}), "never run"),
    ],
)  # fmt: skip
def test_folders_that_cannot_be_used(tmp_path, spoil, message):
    """Pickled weights, missing or broken files, weights of another model: one clear error each."""
    export_model(built(TINY["llama"]), tmp_path / "actor")
    spoil(tmp_path / "actor")
    with pytest.raises(ModelError, match=message):
        built(tmp_path / "actor")


def edit(folder: Path, **values):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


@pytest.mark.parametrize("lora", [None, Lora(rank=2)])
@pytest.mark.parametrize("family", ["opt", "gpt2", "llama"])
def test_gradient_checkpointing_changes_nothing(family, lora):
    """Recomputed activations give the same gradients, with adapters alone too."""
    tokens, attended = rows()
    found = []
    for recompute in (False, True):
        role = RoleModel(gradient_checkpointing=recompute, lora=lora)
        policy = built(TINY[family], role=role).train()
        policy(tokens, attended).log_probs.sum().backward()
        found.append([p.grad for p in policy.parameters() if p.requires_grad])
    assert len(found[0]) == len(found[1]) > 0
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two)
