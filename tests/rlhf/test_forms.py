"""Counts of models that are never built equal those of models that are."""

import pytest

from rlhf.errors import ModelError, PlanError
from rlhf.forms import Form, facts_of, form_of
from rlhf.plan import Lora, Plan
from tests.rlhf.models import ADAPTERS, LLAMA, OPT, form, network

CASES = [
    (LLAMA, "policy", None), (LLAMA, "value", None), (LLAMA, "policy", ADAPTERS),
    (OPT, "value", ADAPTERS), (OPT, "policy", Lora(rank=2, only=False)), (OPT, "value", None),
    ({**LLAMA, "tie_word_embeddings": True}, "policy", None),
]  # fmt: skip


@pytest.mark.parametrize(("config", "kind", "adapters"), CASES)
def test_parameters_equal_the_built_model(config, kind, adapters):
    """All and trained ones, tied ones once; and their bytes."""
    of = form(config, kind, adapters)
    built, facts = network(of), facts_of(of)
    assert facts.parameters == sum(p.numel() for p in built.parameters())
    assert facts.trained == sum(p.numel() for p in built.parameters() if p.requires_grad)
    stored = sum(p.nbytes for p in built.parameters())
    assert facts.parameters * of.bytes_per_element == stored
    assert facts.head_outputs == (300 if kind == "policy" else 1)


def plan(**roles):
    """A plan of one stage with some roles."""
    return Plan(name="p", roles=roles, data={"tokenizer": {"vocabulary": 400}},
                stages=[{"algorithm": "sft"}], engine={"dtype": "bf16"})  # fmt: skip


def test_roles_start_from_one_another():
    """The critic from the reward model, the others from the actor; adapters and type are own."""
    named = plan(actor={"model": LLAMA}, reward={"model": OPT, "lora": {"rank": 2}})
    actor, critic = form_of(named, "actor"), form_of(named, "critic")
    assert actor.settings["model_type"] == form_of(named, "reference").settings["model_type"]
    assert critic.settings["model_type"] == "opt"
    assert (actor.kind, critic.kind, actor.dtype) == ("policy", "value", "bfloat16")
    assert critic.lora is None
    assert form_of(named, "reward").lora == Lora(rank=2)
    alone = plan(actor={"model": LLAMA})
    assert form_of(alone, "critic").settings["model_type"] == "llama"


def test_the_vocabulary_is_the_tokenizers():
    """Known, or what the plan will train; a named configuration keeps its own."""
    named = plan(actor={"model": LLAMA})
    assert form_of(named, "actor", 321).settings["vocab_size"] == 321
    assert form_of(named, "actor").settings["vocab_size"] == 400
    assert form_of(plan(actor={"model": "opt-125m"}), "actor").settings["vocab_size"] == 50272


def test_no_model_is_an_error():
    """Nobody says what the actor is, or transformers does not know it."""
    with pytest.raises(PlanError, match="no model"):
        form_of(plan(actor={}), "actor")
    with pytest.raises(ModelError, match="cannot build"):
        facts_of(Form('{"model_type": "nobody"}', "policy", "float32"))
