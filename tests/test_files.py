"""Files: safe reading, atomic writing, paths inside their root."""

import pytest

from hwopt import files
from hwopt.errors import FileFormatError, PathError


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a: 1\na: 2\n", "duplicate"),
        ("a: [1, 2\n", "invalid YAML"),
        ("a: .nan\n", "finite"),
        ("a: {b: -.inf}\n", "finite"),
        ("a: &x [*x]\n", "contains itself"),
        ("a: !!python/object/apply:os.system ['true']\n", "invalid YAML"),
    ],
)
def test_bad_yaml(text, word):
    """Each kind of bad YAML is one error that says where."""
    with pytest.raises(FileFormatError, match=word) as caught:
        files.parse_yaml(text, where="study.yaml")
    assert "study.yaml" in str(caught.value)


def test_yaml_numbers():
    """1e9 is a number, and `on` is text: YAML 1.2."""
    assert files.parse_yaml("{a: 1e9, b: on, c: 0x10}") == {"a": 1e9, "b": "on", "c": 16}


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 2}', '{"a": NaN}', "[Infinity]", "{", "[" * 100_000]
)
def test_bad_json(text):
    """Duplicate keys, non-numbers, broken and bottomless JSON are refused."""
    with pytest.raises(FileFormatError):
        files.parse_json(text)


def test_write_is_whole_or_nothing(tmp_path):
    """A failed write leaves the old file and no litter."""
    path = tmp_path / "a.json"
    files.write_json(path, {"b": 1, "a": 2})
    assert path.read_text() == '{\n  "a": 2,\n  "b": 1\n}\n'
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(path, {"a": float("nan")})
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert files.read_json(path) == {"a": 2, "b": 1}


@pytest.mark.parametrize("relative", ["../x", "/etc/passwd", "a/../../x", "link/x"])
def test_inside(tmp_path, relative):
    """A path stays in its root: no absolute path, no `..`, no link that leads out."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    with pytest.raises(PathError, match="leaves its root"):
        files.inside(root, relative)
    assert files.inside(root, "a/b") == root.resolve() / "a" / "b"


def test_unreadable(tmp_path):
    """Missing files, folders and binary files are one clear error each."""
    with pytest.raises(PathError):
        files.read_text(tmp_path / "absent")
    with pytest.raises(PathError):
        files.read_text(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FileFormatError, match="UTF-8"):
        files.read_text(tmp_path / "binary")


def test_yaml_round_trip(tmp_path):
    """What is written reads back equal."""
    data = {"b": [1, 2.5, "x: y"], "a": {"c": None, "d": True}}
    files.write_yaml(tmp_path / "x.yaml", data)
    assert files.read_yaml(tmp_path / "x.yaml") == data
