"""Plans: what is refused and where, what is written reads back, paths, the one-line form."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwopt.files import parse_yaml
from rlhf.deployment import Overrides, one_line_plan, plan_name, slotted
from rlhf.errors import ModelError, PlanError
from rlhf.plan import Plan, located

TINY = {"model_type": "llama", "hidden_size": 32}


def data(**changes):
    """The least plan, changed."""
    roles = {"actor": {"model": TINY}}
    return {"name": "t", "roles": roles, "data": {}, "stages": [{"algorithm": "sft"}]} | changes


@pytest.mark.parametrize(
    ("changes", "where", "what"),
    [
        ({"nonsense": 1}, "nonsense", ""),
        ({"name": "../x"}, "name", ""),
        ({"stages": []}, "stages", ""),
        ({"roles": {}}, "roles.actor", ""),
        ({"engine": {"zero": 4}}, "engine.zero", "3"),
        ({"engine": {"zero": 2.5}}, "engine.zero", ""),
        ({"engine": {"dtype": "int8"}}, "engine.dtype", "bf16"),
        ({"engine": {"gradient_clipping": float("nan")}}, "engine.gradient_clipping", ""),
        ({"engine": {"offload": {"parameters": True}}}, "", "zero: 3"),
        ({"data": {"sets": [{"path": "x", "hub": "y"}]}}, "data.sets[0]", "exactly one"),
        ({"data": {"sets": [{"path": "x", "stages": {"dpo": 1}}]}}, "", "dpo"),
        ({"data": {"held_out": 1.0}}, "data.held_out", ""),
        ({"stages": [{"algorithm": "sft"}, {"algorithm": "sft"}]}, "", "share a name"),
        ({"stages": [{"algorithm": "sft", "batch": 0}]}, "stages[0].batch", ""),
        ({"stages": [{"algorithm": "sft", "epochs": 1, "steps": 1}]}, "stages[0]", "not both"),
        ({"stages": [{"algorithm": "sft", "batch": 6, "micro_batch": 4}]}, "stages[0]", "multiple"),
        ({"stages": [{"algorithm": "sft", "optimizers": {"reward": {}}}]}, "stages[0]", "train"),
        ({"stages": [{"algorithm": "ppo", "sampling": {"greedy": True}}]}, "stages[0]", "explore"),
        ({"stages": [{"algorithm": {"name": "ppo", "kl": 1}}]}, "stages[0].algorithm", ""),
        ({"stages": [{"algorithm": {"name": "ppo", "lam": 2}}]}, "stages[0].algorithm", ""),
        ({"stages": [{"algorithm": "dqn"}]}, "stages[0].algorithm", ""),
        ({"stages": [{"algorithm": "ppo", "sampling": {"top_p": 0}}]}, "stages[0].sampling", ""),
        ({"roles": {"actor": {"model": TINY, "function": "a:b"}}}, "", "only the reward"),
        ({"roles": {"actor": {"model": TINY, "lora": {"rank": 0}}}}, "roles.actor.lora.rank", ""),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path, changes, where, what):
    """Each contradiction is one `PlanError` that names the field by its dotted path, from Python
    and from a file alike.
    """
    with pytest.raises(PlanError) as caught:
        Plan(**data(**changes))
    message = str(caught.value)
    assert where in message.split("\n")[0]
    assert what in message
    assert "https://" not in message
    assert caught.value.exit_code == 2


def test_a_file_that_is_no_plan(tmp_path):
    """Wrong syntax, duplicate keys, another kind of file: the file is named, with the line."""
    path = tmp_path / "plan.yaml"
    for text, where in [
        ("name: a\nname: b\n", "plan.yaml:2"), ("- 1\n", "plan.yaml"), ("name: [", "plan.yaml:"),
    ]:  # fmt: skip
        path.write_text(text)
        with pytest.raises(Exception, match=where) as caught:
            Plan.load(path)
        assert caught.value.exit_code == 2
    path.write_text("name: a\nroles: {actor: {model: x}}\ndata: {}\nstages: [{algorithm: x}]\n")
    with pytest.raises(PlanError, match=r"plan\.yaml.*stages\[0\]\.algorithm"):
        Plan.load(path)


words = st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True)
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12)
floats = st.floats(0, 1e6, allow_nan=False, exclude_min=True)
some = st.none() | floats
rates = st.fixed_dictionaries({}, optional={
    "learning_rate": floats, "betas": st.tuples(floats, floats), "epsilon": floats,
    "schedule": st.sampled_from(["cosine", "linear", "constant"]),
    "warmup_steps": st.integers(0, 99),
})  # fmt: skip
samplings = st.builds(
    dict, temperature=floats, top_k=st.integers(0, 50), top_p=st.floats(0.1, 1),
    response_tokens=st.integers(2, 64), minimum_tokens=st.integers(0, 2),
)  # fmt: skip
engines = st.builds(
    dict, zero=st.just(3), dtype=st.sampled_from(["fp32", "bf16", "fp16"]),
    offload=st.builds(dict, optimizer=st.booleans(), parameters=st.booleans()),
    hybrid=st.none() | st.builds(dict, inference_tp_size=st.integers(1, 4)),
    deepspeed=st.dictionaries(words, st.none() | st.booleans() | st.integers() | texts, max_size=3),
)  # fmt: skip
algorithms = st.one_of(
    st.just("sft"),
    st.just({"name": "reward"}),
    st.builds(dict, name=st.just("ppo"), kl_coefficient=floats, kl_target=some, clip_value=some,
              kl_estimator=st.sampled_from(["k1", "k2", "k3"]), epochs=st.integers(1, 4)),
)  # fmt: skip
stages = st.builds(dict, name=words, algorithm=algorithms, batch=st.integers(1, 9),
                   steps=st.none() | st.integers(1, 9), sampling=samplings)  # fmt: skip
sets = st.builds(
    dict, path=texts, format=st.none() | st.just("csv"), adapter=st.none() | words,
    weight=floats, columns=st.dictionaries(st.sampled_from(["prompt", "answer"]), texts),
)  # fmt: skip
adapters = st.none() | st.builds(dict, rank=st.integers(1, 8), targets=st.lists(words, max_size=2))
plans = st.builds(
    dict, name=words, seed=st.integers(0, 2**40), engine=engines,
    roles=st.fixed_dictionaries({"actor": st.builds(
        dict, model=st.none() | texts | st.just(TINY), gradient_checkpointing=st.booleans(),
        lora=adapters,
        engine=st.none() | engines)}, optional={"reward": st.builds(dict, function=texts)}),
    data=st.builds(dict, sets=st.lists(sets, max_size=2), prompt_tokens=st.integers(1, 99)),
    stages=st.lists(stages, min_size=1, max_size=3, unique_by=lambda stage: stage["name"]),
    cluster=st.builds(dict, processes=st.integers(1, 4), threads=st.none() | st.integers(1, 4)),
)  # fmt: skip


@given(plans)
def test_what_is_written_reads_back(tmp_path_factory, content):
    """`Plan.load(file of plan.text())` is the plan, for every kind of field and odd texts."""
    plan = Plan(**content)
    path = tmp_path_factory.getbasetemp() / "round-trip" / "plan.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(plan.text(), encoding="utf-8")
    assert Plan.load(path) == located(plan, path.parent)
    assert Plan.load(path).text() == located(plan, path.parent).text()


@given(rates)
def test_optimizers_read_back(optimizer):
    """Options of optimizers survive, and a role without any has the defaults."""
    plan = Plan(**data(stages=[{"algorithm": "ppo", "optimizers": {"critic": optimizer}}]))
    stage = plan.stages[0]
    assert stage.optimizer("actor").learning_rate == 9.65e-6
    for name, value in optimizer.items():
        assert getattr(stage.optimizer("critic"), name) == value


def test_paths_are_of_the_plan_file(tmp_path):
    """Relative paths that exist beside the plan become absolute; names stay names."""
    for name in ("train.jsonl", "hosts", "chat.jinja"):
        (tmp_path / name).touch()
    (tmp_path / "actor").mkdir()
    (tmp_path / "plan.yaml").write_text(
        "name: t\nroles: {actor: {model: actor}, reward: {model: opt-1.3b}}\n"
        "data: {sets: [{path: train.jsonl}, {hub: a/b}], tokenizer: {template: chat.jinja}}\n"
        "stages: [{algorithm: sft}]\ncluster: {hostfile: hosts}\n"
    )
    plan = Plan.load(tmp_path / "plan.yaml")
    assert plan.roles.actor.model == str(tmp_path / "actor")
    assert plan.roles.reward.model == "opt-1.3b"
    assert [s.path for s in plan.data.sets] == [str(tmp_path / "train.jsonl"), None]
    assert plan.data.tokenizer.template == str(tmp_path / "chat.jinja")
    assert plan.cluster.hostfile == str(tmp_path / "hosts")


@pytest.fixture
def models(tmp_path):
    """Folders of an actor, of a reward model to be trained, and of one that is trained."""
    for name in ("actor", "reward", "trained"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "trained" / "model.safetensors").touch()
    (tmp_path / "trained" / "value_head.safetensors").touch()
    (tmp_path / "pairs.jsonl").touch()
    return tmp_path


def test_one_line(models):
    """Three stages over the split 2 : 4 : 4; what is written is a plan that reads back."""
    plan = one_line_plan(actor=str(models / "actor"), reward=str(models / "reward"),
                         data=str(models / "pairs.jsonl"), deployment="single-node",
                         overrides=Overrides(processes=4, dtype="bf16"))  # fmt: skip
    assert plan.name == "actor"
    assert [stage.title for stage in plan.stages] == ["sft", "reward", "ppo"]
    assert [stage.batch for stage in plan.stages] == [32, 16, 16]
    assert plan.data.sets[0].stages == {"sft": 2, "reward": 4, "ppo": 4}
    assert (plan.engine.zero, plan.engine.dtype, plan.cluster.processes) == (2, "bf16", 4)
    assert plan.stages[2].algorithm.old_log_probs == "forward"
    assert plan.stages[2].optimizer("critic").learning_rate == 5e-6
    path = models / "plan.yaml"
    path.write_text(plan.text())
    assert Plan.load(path) == plan


def test_one_line_with_a_trained_reward_model(models):
    """A folder with a value head needs no reward stage."""
    plan = one_line_plan(actor=str(models / "actor"), reward=str(models / "trained"),
                         data=str(models / "pairs.jsonl"))  # fmt: skip
    assert [stage.title for stage in plan.stages] == ["sft", "ppo"]
    assert plan.data.sets[0].stages == {"sft": 2, "ppo": 4}
    assert plan.roles.reward.model == str(models / "trained")


def test_one_line_over_machines(models):
    """A hostfile means several machines: ZeRO-3, batches by all its slots."""
    hosts = models / "hosts"
    hosts.write_text("a slots=4\nb slots=4\n")
    plan = one_line_plan(actor="opt-1.3b", data="Dahoas/rm-static",
                         overrides=Overrides(hostfile=str(hosts)))  # fmt: skip
    assert (plan.engine.zero, plan.cluster.processes) == (3, 4)
    assert plan.stages[0].batch == 4 * 8
    assert plan.data.sets[0].hub == "Dahoas/rm-static"
    assert plan.name == "opt-1.3b"


def test_one_line_refuses_what_makes_no_sense(models):
    """Several machines without a hostfile, a hostfile for one, two processes on a GPU, no model."""
    line = {"actor": str(models / "actor"), "data": str(models / "pairs.jsonl")}
    for deployment, overrides, what in [
        ("multi-node", Overrides(), "hostfile"),
        ("single-node", Overrides(hostfile="hosts"), "several machines"),
        ("single-gpu", Overrides(processes=2), "one process"),
    ]:  # fmt: skip
        with pytest.raises(PlanError, match=what):
            one_line_plan(**line, deployment=deployment, overrides=overrides)
    with pytest.raises(ModelError, match="no such model"):
        one_line_plan(actor="/no/such/folder", data="x")


def test_overrides():
    """The command line's word about where and how, checked like a plan; nothing else changes."""
    plan = Plan(**data(engine={"zero": 2, "dtype": "fp16"}))
    changed = Overrides(zero=3, processes=2).apply(plan)
    assert (changed.engine.zero, changed.engine.dtype, changed.cluster.processes) == (3, "fp16", 2)
    assert changed.model_copy(update={"engine": plan.engine, "cluster": plan.cluster}) == plan
    assert Overrides().apply(plan) == plan
    offloaded = Plan(**data(engine={"zero": 3, "offload": {"parameters": True}}))
    with pytest.raises(PlanError, match="zero: 3"):
        Overrides(zero=2).apply(offloaded)


def test_processes_follow_the_hostfile(tmp_path):
    """Who plans by processes per machine reads the hostfile's number."""
    path = tmp_path / "hosts"
    path.write_text("a slots=8\nb slots=8\n")
    assert slotted(Plan(**data(cluster={"hostfile": str(path)}))).cluster.processes == 8


@pytest.mark.parametrize(
    ("actor", "name"),
    [("/m/opt-1.3b/", "opt-1.3b"), ("/m/tiny/config.json", "tiny"), ("/m/...", "run"),
     ("/m/mein Modell", "mein-Modell"), ("/m/-x", "x")],
)  # fmt: skip
def test_names(actor, name):
    """A run is named after its actor."""
    assert plan_name(actor) == name
    assert Plan(**data(name=plan_name(actor)))


def test_shipped_plans_are_plans():
    """The demo's plan loads."""
    folder = Path(__file__).parents[2] / "rlhf" / "data"
    for path in folder.glob("*.yaml"):
        assert Plan.load(path).stages


def test_the_plans_that_people_are_shown_are_plans():
    """The README's own, and those that come with the project."""
    root = Path(__file__).parents[2]
    pattern = re.compile(r"```yaml\n(# yaml-language-server.*?)```", re.DOTALL)
    shown = pattern.findall((root / "README.md").read_text())
    assert len(shown) == 1
    assert [s.title for s in Plan(**parse_yaml(shown[0])).stages] == ["sft", "reward", "ppo"]
    for path in (root / "benchmarks" / "plans").glob("*.yaml"):
        assert Plan.load(path).stages
