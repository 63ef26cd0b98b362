"""Checkpoints: whole or absent, verified before anything is loaded, the last few kept.

The roles are real modules and optimizers that write real files; harm is real as well: flipped
bytes, SIGKILL, full disks. Roles under DeepSpeed: `test_shards.py`.
"""

import contextlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf import processes
from rlhf.checkpoint import Checkpoints
from rlhf.errors import CheckpointError
from rlhf.manifest import files_in

SAVER = Path(__file__).with_name("saver.py")


def _saver():
    spec = importlib.util.spec_from_file_location("saver", SAVER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


saver = _saver()


def run(*arguments):
    """The saver as a process of its own."""
    return subprocess.run(
        [sys.executable, str(SAVER), *map(str, arguments)],
        capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip


def trained(steps=1):
    """A role after some steps."""
    role = saver.TorchRole(0)
    role.train(steps)
    return role


def equal(one, other):
    """Whether two roles hold the same bits."""
    pairs = zip(one.tensors().items(), other.tensors().items(), strict=True)
    return all(a == b and torch.equal(v, w) for (a, v), (b, w) in pairs)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Checkpoints of steps 1 and 2; tests that harm them put them back."""
    folder = tmp_path_factory.mktemp("two")
    role = trained()
    for step in (1, 2):
        saver.save(folder, step, role)
        role.train()
    return folder


@contextlib.contextmanager
def changed(path, data):
    """Inside, a file has another content (None: is missing)."""
    before = path.read_bytes()
    try:
        path.unlink() if data is None else path.write_bytes(data)
        yield
    finally:
        path.write_bytes(before)


def refused(folder):
    """The message with which the newest checkpoint is refused."""
    with pytest.raises(CheckpointError) as caught:
        Checkpoints(folder, 2).latest()
    return str(caught.value)


def test_a_resumed_role_goes_on_to_the_same_bits(tmp_path):
    """Saved after 3 steps, loaded into another role: state, tensors, next steps are equal."""
    role = trained(3)
    saver.save(tmp_path, 3, role)
    checkpoints, other = Checkpoints(tmp_path, 2), saver.TorchRole(9)
    found = checkpoints.latest()
    assert (found.step, found.world, found.plan_digest, found.roles) == (3, 1, "digest", ("actor",))
    state, tensors = checkpoints.load(found, {"actor": other}, "digest")
    assert state == {"step": 3, "coefficient": 0.1 * 3}
    assert torch.equal(tensors["average.weight"], role.module.weight)
    for each in (role, other):
        each.train(2)
    assert equal(role, other)


def test_no_checkpoint_is_no_error(tmp_path):
    """A run that was stopped before its first checkpoint starts anew."""
    checkpoints = Checkpoints(tmp_path / "none", 2)
    assert checkpoints.latest() is None
    assert checkpoints.newest() is None


def test_the_last_few_are_kept(tmp_path):
    """`keep` of them, the newest; hidden leftovers of killed processes go at the next start."""
    role = trained()
    for step in range(1, 6):
        saver.save(tmp_path, step, role, keep=2)
    assert Checkpoints(tmp_path, 2).steps() == [4, 5]
    assert Checkpoints(tmp_path, 2).newest() == tmp_path / "step-00000005"
    for left in (".step-00000009.partial", ".trash-step-00000001"):
        (tmp_path / left / "actor").mkdir(parents=True)
    assert Checkpoints(tmp_path, 2).latest().step == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000004", "step-00000005"]


def test_a_step_saved_again_replaces_the_first(tmp_path):
    """A run that went back and came to the same step again."""
    role = trained()
    saver.save(tmp_path, 1, role)
    role.train()
    saver.save(tmp_path, 1, role)
    checkpoints, other = Checkpoints(tmp_path, 2), saver.TorchRole(3)
    checkpoints.load(checkpoints.latest(), {"actor": other})
    assert equal(role, other)


def test_a_checkpoint_of_another_plan_or_other_roles_is_refused(two):
    """By the digest of the plan and the names of the roles."""
    checkpoints = Checkpoints(two, 2)
    found = checkpoints.latest()
    with pytest.raises(CheckpointError, match="another plan"):
        checkpoints.load(found, {"actor": trained()}, "other")
    with pytest.raises(CheckpointError, match="other roles"):
        checkpoints.load(found, {"critic": trained()})


@given(st.data())
def test_any_flipped_byte_is_found(two, data):
    """In whatever file, at whatever place: it is named, and the older checkpoint is offered."""
    newest = two / "step-00000002"
    file = data.draw(st.sampled_from([*files_in(newest), "manifest.json"]))
    content = bytearray((newest / file).read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    with changed(newest / file, bytes(content)):
        message = refused(two)
    assert str(newest / file) in message
    assert f"delete {newest} to resume from step 1, which is intact" in message
    if file != "manifest.json":
        assert message.count("sha256 ") == 2  # expected and found


@given(st.data())
def test_a_truncated_file_is_found(two, data):
    """Cut anywhere, also to nothing; sizes are told."""
    newest = two / "step-00000002"
    file = data.draw(st.sampled_from([*files_in(newest), "manifest.json"]))
    content = (newest / file).read_bytes()
    size = data.draw(st.integers(0, len(content) - 1))
    with changed(newest / file, content[:size]):
        message = refused(two)
    assert str(newest / file) in message
    if file != "manifest.json":
        assert f"{size} bytes" in message
        assert f"{len(content)} bytes" in message


@pytest.mark.parametrize("file", ["actor/rank-0.safetensors", "state.json", "manifest.json"])
def test_a_missing_file_is_found(two, file):
    """Whichever it is."""
    newest = two / "step-00000002"
    with changed(newest / file, None):
        assert str(newest / file) in refused(two)


def test_a_file_that_does_not_belong_is_named(two):
    """A shard nobody listed could be read; what a file manager leaves is let be."""
    newest = two / "step-00000002"
    extra, hidden = newest / "actor" / "rank-7.safetensors", newest / "actor" / ".DS_Store"
    for path in (extra, hidden):
        path.write_bytes(b"x")
    try:
        assert str(extra) in refused(two)
        extra.unlink()
        assert Checkpoints(two, 2).latest().step == 2
    finally:
        extra.unlink(missing_ok=True)
        hidden.unlink()


def test_a_link_out_of_the_folder_is_not_followed(two, tmp_path):
    """Even to a file of the right content."""
    path = two / "step-00000002" / "state.json"
    with changed(path, None):
        (tmp_path / "state.json").write_bytes((two / "step-00000001" / "state.json").read_bytes())
        path.symlink_to(tmp_path / "state.json")
        assert "missing" in refused(two)
        path.unlink()


def test_when_all_are_damaged_it_says_so(two):
    """Nothing is offered that is not intact."""
    names = [two / f"step-0000000{step}" / "state.json" for step in (1, 2)]
    with changed(names[0], b"{}"), changed(names[1], b"{}"):
        assert "no earlier checkpoint is intact" in refused(two)


def test_a_renamed_folder_and_another_version_are_refused(two, tmp_path):
    """The manifest says which step it is, and in which format."""
    other = two / "step-00000003"
    (two / "step-00000002").rename(other)
    try:
        assert "renamed" in refused(two)
    finally:
        other.rename(two / "step-00000002")
    path = two / "step-00000002" / "manifest.json"
    from rlhf.manifest import _text

    data = json.loads(path.read_text())
    later = _text({k: v for k, v in data.items() if k != "sha256"} | {"format": 99})
    with changed(path, later.encode()):
        message = refused(two)
    assert "another version" in message
    assert "99" in message


def test_state_must_be_plain_finite_data(tmp_path):
    """NaN is not JSON: a checkpoint that could not be read again is not written."""
    saver.save(tmp_path, 1, trained())
    with pytest.raises(CheckpointError, match="plain data"):
        Checkpoints(tmp_path, 2).save(2, {"actor": trained()}, {"kl": float("nan")}, {}, "digest")
    assert Checkpoints(tmp_path, 2).latest().step == 1
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_killed_at_any_moment_one_whole_checkpoint_is_there(tmp_path):
    """SIGKILL at each file operation of a save, in turn: the old one or the new one loads."""
    ended = run(tmp_path, "kill")
    assert ended.returncode == 0, ended.stderr
    kills = sorted(tmp_path.iterdir(), key=lambda path: int(path.name))
    old, new = trained(1), trained(2)
    steps = []
    for folder in kills:
        checkpoints, role = Checkpoints(folder, 1), saver.TorchRole(4)
        found = checkpoints.latest()
        state, _ = checkpoints.load(found, {"actor": role})
        assert state["step"] == found.step
        assert equal(role, {1: old, 2: new}[found.step])
        assert all(path.name.startswith("step-") for path in folder.iterdir())
        saver.save(folder, 3, role, keep=1)  # and the run goes on
        steps.append(found.step)
    assert len(steps) > 15
    assert steps == sorted(steps)  # first the old one, from some operation on the new one
    assert set(steps) == {1, 2}


def test_a_full_disk_leaves_the_older_checkpoint(tmp_path):
    """A real file system of 256 KiB: what was needed, where; the partial folder is gone."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a file system can only be mounted by root")
    try:
        folder = disk / "checkpoints"
        saver.save(folder, 1, saver.TorchRole(0))
        large = saver.TorchRole(0, width=160)
        large.train()
        with pytest.raises(CheckpointError) as caught:
            saver.save(folder, 2, large)
        message = str(caught.value)
        assert "no room" in message
        assert str(folder) in message
        assert re.search(r"about 401\.9 KiB needed, 2\d\d\.\d KiB free", message), message
        assert "step-00000001 is kept" in message
        assert [path.name for path in folder.iterdir()] == ["step-00000001"]
        assert Checkpoints(folder, 2).latest().step == 1
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_file_that_may_not_grow_is_told(tmp_path):
    """Limits on the size of files, hit in different files of the save."""
    limits = ["0", "100", "400", "1000"]
    ended = run(tmp_path, "limit", *limits)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("no room to write the checkpoint") == len(limits)
    assert ended.stdout.count("step-00000001 is kept") == len(limits)
    for limit in limits:
        assert [path.name for path in (tmp_path / limit).iterdir()] == ["step-00000001"]
        assert Checkpoints(tmp_path / limit, 2).latest().step == 1


def together(folder, *fails):
    """Two real processes that save together."""
    port = processes.free_port()
    started = [
        subprocess.Popen(
            [sys.executable, str(SAVER), str(folder), "save", "2", str(rank), str(port), *fails],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        for rank in (0, 1)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=300) for process in started]
    return [(p.returncode, *output) for p, output in zip(started, outputs, strict=True)]


@pytest.mark.slow
def test_two_processes_save_one_checkpoint(tmp_path):
    """Each writes its shard; the manifest knows both and that they were two."""
    assert [code for code, *_ in together(tmp_path)] == [0, 0]
    manifest = json.loads((tmp_path / "step-00000001" / "manifest.json").read_text())
    assert {"actor/rank-0.safetensors", "actor/rank-1.safetensors"} <= set(manifest["files"])
    assert manifest["world"] == 2


@pytest.mark.slow
def test_an_error_of_one_process_is_raised_by_all(tmp_path):
    """Nobody waits for the one that could not write, and nothing is left."""
    results = together(tmp_path, "1")
    assert [code for code, *_ in results] == [2, 2], results
    assert all("rank 1: no room" in said for _, said, _ in results)
    assert list(tmp_path.iterdir()) == []
