"""Roles under DeepSpeed on disk: exact, and free of the number of processes and the ZeRO stage."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from rlhf import processes
from rlhf.errors import CheckpointError
from rlhf.shards import Shards, read_weights, save_engine

WORKER = Path(__file__).with_name("shards_worker.py")
TOLERANCE = {"fp32": 2e-5, "bf16": 2**-8}
"""Of losses and norms (relative) over three steps where sums are made in another order. In bf16 the
stages round gradients differently, without any checkpoint too: one unit in the last place."""


def run(world, folder, save=(), load=()):
    """Curves by name, from `world` real processes."""
    told = json.dumps({"folder": str(folder), "save": list(save), "load": list(load)})
    port = str(processes.free_port())
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    root = str(Path(__file__).parents[2])
    started = [
        subprocess.Popen(
            [sys.executable, str(WORKER), told], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PATH": path, "PYTHONPATH": root, "RANK": str(rank),
                 "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1",
                 "MASTER_PORT": port},
        )
        for rank in range(world)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=600) for process in started]
    for process, (_, said) in zip(started, outputs, strict=True):
        assert process.returncode == 0, said[-3000:]
    return json.loads(outputs[0][0].strip().splitlines()[-1])


def close(one, other, dtype="fp32"):
    """Whether two curves agree within the tolerance."""
    pairs = [(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)]
    return all(a == pytest.approx(b, rel=TOLERANCE[dtype]) for a, b in pairs)


def check(world, folder, engines, moves=()):
    """Each engine goes on exactly; `moves` (from, to) go on within the tolerance."""
    exact = [[index, engine] for index, engine in enumerate(engines)]
    across = [[source, engines[target]] for source, target in moves]
    curves = run(world, folder, save=engines, load=exact + across)
    names = [json.dumps(engine, sort_keys=True) for engine in engines]
    for index, name in enumerate(names):
        assert curves[f"{index} {name}"] == curves[name], name
    for source, target in moves:
        dtype = engines[source].get("dtype", "fp32")
        moved = curves[f"{source} {names[target]}"]
        assert close(moved, curves[names[source]], dtype), (source, target)
    return curves


def test_a_resumed_role_repeats_the_curve(tmp_path):
    """Loss, gradient norm and learning rate after loading are those without the interruption, to
    the bit; and within the tolerance at another ZeRO stage.
    """
    check(1, tmp_path, [{"zero": 0}, {"zero": 2}, {"zero": 3}], [(0, 2), (1, 0), (2, 1)])


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_every_way_to_train_resumes_exactly(tmp_path, world, dtype, lora):
    """Stages, offloading, partitioned small parameters, adapters: bit for bit; and every stage
    loads what every other one saved.
    """
    optimizer, both = {"optimizer": True}, {"optimizer": True, "parameters": True}
    unkept = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
    engines = [
        {"zero": 1}, {"zero": 2}, {"zero": 2, "offload": optimizer}, {"zero": 3},
        {"zero": 3, "offload": both}, {"zero": 3, "deepspeed": unkept},
        *([{"zero": 0}] if dtype == "fp32" else []),
    ]  # fmt: skip
    engines = [{**engine, "dtype": dtype, "lora": lora} for engine in engines]
    moves = [(0, 3), (3, 1), (2, 5), (5, 0)] + ([(6, 3), (3, 6)] if dtype == "fp32" else [])
    check(world, tmp_path, engines, moves)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (3, 2)])
def test_another_number_of_processes_goes_on(tmp_path, before, after):
    """Saved by some processes, loaded by more or fewer: within the tolerance, at every stage."""
    engines = [{"zero": 0}, {"zero": 2}, {"zero": 3}]
    saved = run(before, tmp_path, save=engines)
    moves = [[index, engine] for index, engine in enumerate(engines)] + [[1, engines[2]]]
    loaded = run(after, tmp_path, load=moves)
    for index, engine in moves:
        name = json.dumps(engine, sort_keys=True)
        before_name = json.dumps(engines[index], sort_keys=True)
        assert close(loaded[f"{index} {name}"], saved[before_name]), (index, name)


# ---- the files, without DeepSpeed ----------------------------------------------------------------


class Plain:
    """What `save_engine` reads of an engine without ZeRO."""

    def __init__(self, network):
        self.basic_optimizer = self.optimizer = torch.optim.AdamW(network.parameters())
        self.lr_scheduler = None
        self.global_steps = self.global_samples = self.micro_steps = self.skipped_steps = 1


@pytest.fixture
def saved(tmp_path):
    """A layer that has taken a step, and its files."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    engine = Plain(network)
    network(torch.randn(5, 4)).square().sum().backward()
    engine.optimizer.step()
    save_engine(network, engine, tmp_path)
    return network, engine, tmp_path


def test_weights_are_read_whole_by_name(saved):
    """As `named_parameters` gives them."""
    network, _, folder = saved
    found = dict(read_weights(folder))
    assert found.keys() == dict(network.named_parameters()).keys()
    assert all(torch.equal(found[name], value) for name, value in network.named_parameters())


def test_ranges_split_anywhere_are_put_together(saved):
    """A parameter whose elements lie in several files, in ranges of any size."""
    _, _, folder = saved
    path = folder / "rank-00000-000.safetensors"
    whole = load_file(path)
    weight = whole.pop("weight/0.weight")
    rest = {key: value for key, value in whole.items() if not key.endswith("/0.weight")}
    with_pieces = json.loads(_metadata(path)["pieces"])
    with_pieces.pop("0.weight")
    save_file(rest, path, {"pieces": json.dumps(with_pieces)})
    for number, (start, end) in enumerate([(7, 12), (0, 1), (1, 7)]):
        piece = {"0.weight": {"start": start, "numel": end - start, "step": 1}}
        save_file(
            {"weight/0.weight": weight[start:end].clone()},
            folder / f"rank-00001-{number:03d}.safetensors", {"pieces": json.dumps(piece)},
        )  # fmt: skip
    stored = Shards(folder)
    for start in range(12):
        for count in range(1, 13 - start):
            read = stored.read("weight", "0.weight", start, count)
            assert torch.equal(read, weight[start : start + count])


def _metadata(path):
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return file.metadata()


def test_another_model_is_refused(saved):
    """Another shape, another name, other trained parameters: named, and nothing is changed."""
    network, _, folder = saved
    stored, names = Shards(folder), {name for name, _ in network.named_parameters()}
    shapes = {name: tuple(value.shape) for name, value in network.named_parameters()}
    stored.check(shapes, names)
    with pytest.raises(CheckpointError, match=r"another model[\s\S]*\(3, 4\)[\s\S]*\(4, 4\)"):
        stored.check(shapes | {"0.weight": (4, 4)}, names)
    with pytest.raises(CheckpointError, match=r"2\.weight: saved from another model"):
        stored.check(shapes | {"2.weight": (1,)}, names)
    with pytest.raises(CheckpointError, match="other parameters trained"):
        stored.check(shapes, names - {"0.bias"})


def test_missing_elements_and_strange_files_are_told(saved):
    """A shard that is not there, a file that is not one of ours."""
    network, _, folder = saved
    shapes = {name: tuple(value.shape) for name, value in network.named_parameters()}
    path = folder / "rank-00000-000.safetensors"
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(CheckpointError, match="missing"):
        Shards(folder).check(shapes, set(shapes))
    for data in (b"", b"garbage", content[:100]):
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match="not the saved state"):
            Shards(folder)
    (folder / "engine.json").write_text("[]")
    with pytest.raises(CheckpointError, match="not the saved state"):
        Shards(folder)
