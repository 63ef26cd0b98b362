"""Evaluating real (tiny) models of a run folder on held-out rows."""

import importlib.util
import io
import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from hwopt import write_json
from rlhf.data import load_data
from rlhf.errors import DataError, ModelError, RunError
from rlhf.evaluated import print_evaluation, wilson
from rlhf.evaluation import evaluate_run, matches
from rlhf.export import export_model
from rlhf.models import build_model
from rlhf.plan import Engine, Plan, RoleModel
from rlhf.runs import Run
from rlhf.sampling import Sampling

SENTENCE = "Half of 144.\n#### 72"
GREEDY = Sampling(greedy=True, response_tokens=40)


def _talker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("talker", Path(__file__).with_name("talker.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run: an untrained sft actor, a ppo actor that says 72, a reward model."""
    talker = _talker()
    path: Path = tmp_path_factory.mktemp("runs") / "x"
    path.mkdir()
    questions = [f"What is half of 144, {name}?" for name in "abcdefghijkl"]
    answers = [{"question": q, "answer": SENTENCE, "reference": "72"} for q in questions]
    pairs = [{"prompt": q, "chosen": "72 it is", "rejected": "no " * (i + 1)}
             for i, q in enumerate(questions)]  # fmt: skip
    (path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    (path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    base = path / "base"
    talker.make(base, steps=0)
    (path / "plan.yaml").write_text(f"""\
name: x
roles: {{actor: {{model: {base}}}}}
data:
  prompt_tokens: 80
  answer_tokens: 60
  held_out: 0.5
  sets:
    - {{path: answers.jsonl, stages: {{sft: 1, ppo: 1}}}}
    - {{path: pairs.jsonl, stages: {{reward: 1}}}}
stages:
  - {{algorithm: sft, batch: 2}}
  - {{algorithm: reward, batch: 2}}
  - {{algorithm: ppo, batch: 2, steps: 1, sampling: {{response_tokens: 40}}}}
""")
    talker.make(path / "stages/sft/actor", steps=0)
    talker.make(
        path / "stages/ppo/actor", sentence=SENTENCE, questions=tuple(questions[:4]), steps=80
    )
    words = AutoTokenizer.from_pretrained(base)
    words.save_pretrained(path / "tokenizer")
    value = build_model(base, "value", engine=Engine(zero=0), role=RoleModel(), seed=3)
    export_model(value, path / "stages/reward/reward", words)
    write_json(path / "stages/reward/reward/score_scale.json", {"gain": 2.0, "bias": 0.5})
    return path


@pytest.fixture(scope="module")
def result(run: Path) -> dict[str, Any]:
    """The default evaluation of that run."""
    return evaluate_run(run, rows=6, samples=2, sampling=GREEDY)


def policy(result: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in result["policies"] if one["name"] == name)


def test_newest_policy_against_earlier_ones_on_held_out_prompts(result: dict[str, Any]) -> None:
    """Newest first; the trained one is right, ends by itself and is hardly surprised."""
    assert [one["name"] for one in result["policies"]] == ["ppo", "sft"]
    assert 1 <= result["rows"] <= 6
    ppo, sft = policy(result, "ppo"), policy(result, "sft")
    assert ppo["exact_match"] == 1.0
    assert sft["exact_match"] == 0.0
    assert ppo["eos_rate"] == 1.0
    assert ppo["perplexity"] < 1.5 < 100 < sft["perplexity"]
    assert result["samples"][0]["answers"]["ppo"]["answer"] == SENTENCE
    assert result["samples"][0]["reference"] == "72"
    (win,) = result["wins"]
    assert (win["policy"], win["over"]) == ("ppo", "sft")
    assert win["wins"] + win["ties"] + win["losses"] == result["rows"]
    assert win["rate"] == (win["wins"] + win["ties"] / 2) / result["rows"]


def test_perplexity_is_that_of_transformers_loss(run: Path, result: dict[str, Any]) -> None:
    """The mean over all held-out answer tokens, end of text included, prompts excluded."""
    plan, words = Run(run).plan, AutoTokenizer.from_pretrained(run / "tokenizer")
    _, held_out = load_data(plan, plan.stages[0], words)
    model = AutoModelForCausalLM.from_pretrained(run / "stages/sft/actor")
    total, count = 0.0, 0
    for group in range(min(6, len(held_out))):
        row = held_out.experience([group])
        labels = row.tokens.masked_fill(~row.trained, -100)
        with torch.no_grad():
            loss = model(input_ids=row.tokens, labels=labels).loss
        total += float(loss) * int(row.trained.sum())
        count += int(row.trained.sum())
    assert policy(result, "sft")["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-5)


def test_scores_are_the_scaled_head_after_the_last_token(run: Path, result: dict[str, Any]) -> None:
    """The judge of an evaluation is the judge of training: end of text seen, scale applied."""
    from safetensors.torch import load_file

    folder = run / "stages/reward/reward"
    words = AutoTokenizer.from_pretrained(run / "tokenizer")
    plan = Run(run).plan
    _, held_out = load_data(plan, plan.stages[2], words)
    prompt = held_out.prompts([0])[0]
    answer = words(SENTENCE, add_special_tokens=False)["input_ids"]
    tokens = torch.tensor([[*prompt.tokens, *answer, words.eos_token_id]])
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(folder)(input_ids=tokens).last_hidden_state[0, -1]
    head = load_file(folder / "value_head.safetensors")["weight"][0]
    expected = 2.0 * float(hidden @ head) + 0.5
    assert result["samples"][0]["answers"]["ppo"]["score"] == pytest.approx(expected, abs=1e-4)


def test_the_reward_model_is_measured_on_held_out_pairs(result: dict[str, Any]) -> None:
    """Accuracy with its interval, margin, calibration, length correlation."""
    found = result["reward_model"]
    assert 1 <= found["pairs"] <= 6
    low, high = found["accuracy_interval"]
    assert 0 <= low <= found["accuracy"] <= high <= 1
    assert -1 <= found["length_correlation"] <= 1
    assert 0 <= found["calibration_error"] <= 1
    assert "the reward model (reward)" in result["judge"]


def test_the_result_is_kept_and_can_be_repeated(run: Path, result: dict[str, Any]) -> None:
    """`evaluation.json` is what was returned; the same call gives the same figures."""
    kept = json.loads((run / "evaluation.json").read_text())
    assert kept["policies"] == result["policies"]
    again = evaluate_run(run, rows=6, samples=2, sampling=GREEDY)
    assert again == result


def test_other_policies_by_folder_and_the_one_before_training(run: Path) -> None:
    """A policy against itself is all ties; "base" is the plan's actor."""
    same = str(run / "stages/ppo/actor")
    found = evaluate_run(run, against=[same, "base"], rows=2, samples=0, sampling=GREEDY)
    assert [one["name"] for one in found["policies"]] == ["ppo", same, "base"]
    ties = found["wins"][0]
    assert (ties["rate"], ties["ties"], ties["wins"]) == (0.5, 2, 0)
    assert found["samples"] == []


def test_a_function_judges_where_there_is_no_reward_model(run: Path, tmp_path: Path) -> None:
    """A verifiable reward alone gives win rates; plain folders need a plan only."""
    plan = Run(run).plan
    data = plan.model_dump(mode="json", exclude_defaults=True)
    data["roles"]["reward"] = {"function": "rlhf.data.gsm8k:reward"}
    data["stages"] = [{"algorithm": {"name": "ppo"}, "steps": 1, "batch": 2}]
    data["data"]["sets"] = [{"path": str(run / "answers.jsonl")}]
    found = evaluate_run(
        None, plan=Plan(**data), actor=str(run / "stages/ppo/actor"),
        against=[str(run / "stages/sft/actor")], rows=3, sampling=GREEDY,
    )  # fmt: skip
    assert found["wins"][0]["rate"] == 1.0
    assert found["policies"][0]["mean_reward"] == 1.0
    assert found["reward_model"] is None
    assert found["judge"] == "the function rlhf.data.gsm8k:reward"


def test_tables_for_people(result: dict[str, Any]) -> None:
    """Everything of the result is said; text of models is escaped and no markup."""
    hostile = {**result, "notes": ["[red]a\x1b[2J"]}
    hostile["samples"] = [{"prompt": "p\x07", "reference": None, "answers": {
        "ppo": {"answer": "[bold]\x1b]0;x\x07", "score": 1.0},
        "sft": {"answer": "s"}}}]  # fmt: skip
    console = Console(file=io.StringIO(), width=150)
    print_evaluation(hostile, console)
    file = console.file
    assert isinstance(file, io.StringIO)
    text = file.getvalue()
    for wanted in ("ppo over sft", "exact match", "100.0%", "Reward model on", "[bold]\\x1b]0;x",
                   "note: [red]a\\x1b[2J", "p\\x07", "perplexity",
                   "calibration error"):  # fmt: skip
        assert wanted in text, wanted
    assert "\x1b" not in text


def test_what_cannot_be_evaluated_is_a_clear_error(run: Path, tmp_path: Path) -> None:
    """No run, no such policy, another vocabulary, nothing held out."""
    with pytest.raises(RunError, match="no such run"):
        evaluate_run(tmp_path / "none")
    with pytest.raises(RunError, match="nothing to evaluate"):
        evaluate_run(None)
    with pytest.raises(RunError, match="no such actor") as error:
        evaluate_run(run, against=["pro"])
    assert "sft, ppo, base" in error.value.allowed
    with pytest.raises(RunError, match="no actor has been exported by stage reward"):
        evaluate_run(run, actor="reward")
    with pytest.raises(ModelError, match="no value head"):
        evaluate_run(run, reward=str(run / "base"), rows=2, sampling=GREEDY)
    other = tmp_path / "other"
    AutoModelForCausalLM.from_pretrained(run / "base").save_pretrained(other)
    words = AutoTokenizer.from_pretrained(run / "base")
    words.add_tokens(["<new>"])
    words.save_pretrained(other)
    with pytest.raises(ModelError, match="tokenizer is another"):
        evaluate_run(run, actor=str(other), rows=2, sampling=GREEDY)
    plan = Run(run).plan
    none = plan.model_copy(update={"data": plan.data.model_copy(update={"held_out": 0.0})})
    with pytest.raises(DataError, match="no held-out rows"):
        evaluate_run(run, plan=none)


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("so it is #### 1,072.0", "1072", True), ("#### 71", "72", False), ("72", "#### 72", True),
        ("no idea", "72", False), ("  The Old Mill ", "the old mill", True),
        ("mill", "mall", False),
    ],
)  # fmt: skip
def test_exact_match(answer: str, reference: str, right: bool) -> None:
    """Numbers by their stated value, texts as they are."""
    assert matches(answer, reference) is right


def test_wilson_interval() -> None:
    """Against published values: 81 of 263 (Newcombe 1998, table I: 0.2553 to 0.3662); edges."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(5, 5)[1] == 1.0
