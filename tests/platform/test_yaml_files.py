"""YAML files: strict about keys, clear about what can't be read, and which files stand in their names' places."""

from pathlib import Path

import pytest

from mambarium.errors import InputError
from mambarium.platform.yaml_files import load_yaml, resolve_yaml


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "run.yaml"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a:\n  b: {path: {{ DATA }}}", r"run\.yaml, line 2: not valid YAML: .* fill in the \{\{ \.\.\. \}\}"),
        ("[a, b]: 1", r"run\.yaml, line 1: not valid YAML: .* where a key belongs"),
        ("a: 1\nb: 2\na: 3", r"run\.yaml, line 3: .*'a' is given twice"),
        ("x: {a: 1, 'a': 3}", r"run\.yaml, line 1: .*'a' is given twice"),
        ("a: 2024-02-30", r"run\.yaml: not valid YAML: day is out of range"),
        ("a: " + "[" * 2000 + "]" * 2000, r"run\.yaml: mappings or lists inside each other"),
        ("a: &a [1, {b: *a}]", r"run\.yaml, line 1: .* an &anchor holds itself"),
        ("a: {<<: 5}", r"run\.yaml, line 1: not valid YAML: expected a mapping"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(file: Path, text: str, words: str) -> None:
    file.write_text(text)
    with pytest.raises(InputError, match=words) as error:
        load_yaml(file)
    assert "\n" not in str(error.value)


def test_aliases_do_not_stand_for_billions_of_values(file: Path) -> None:
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x]"]
    lines += [f"l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * 8)}]" for level in range(1, 12)]
    file.write_text("\n".join(lines[:4]))
    assert len(resolve_yaml(file)["l3"]) == 8
    file.write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"run\.yaml, line 6: .* more than 100,000 values"):
        resolve_yaml(file)


def test_what_can_not_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"^{tmp_path}: can't be read \(Is a directory\)"):
        load_yaml(tmp_path)


def test_merge_keys(file: Path) -> None:
    file.write_text("""
base: &base {depth: 1, width: 8}
outer:
  inner: &derived {<<: *base, depth: 2}
both: {<<: [*derived, *base], width: 9}
""")
    content = resolve_yaml(file)
    assert content["outer"]["inner"] == {"depth": 2, "width": 8}
    assert content["both"] == {"depth": 2, "width": 9}
    file.write_text("a: &a {x: 1}\nb: {<<: *a, y: 1, y: 2}")
    with pytest.raises(InputError, match="'y' is given twice"):
        load_yaml(file)


def test_only_a_description_of_a_class_stands_in_its_name_s_place(tmp_path: Path, file: Path) -> None:
    (tmp_path / "vim.yaml").write_text("{class_path: Vim, init_args: {norm: norm.yml}}")
    (tmp_path / "norm.yml").write_text("class_path: Norm")
    (tmp_path / "text.yaml").write_text("a: b: c\n\t{[")
    (tmp_path / "list.yaml").write_text("- class_path: Vim\n")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    file.write_text("{a: vim.yaml, b: [text.yaml, list.yaml, bytes.yaml, none.yaml]}")
    assert resolve_yaml(file) == {
        "a": {"class_path": "Vim", "init_args": {"norm": {"class_path": "Norm"}}},
        "b": ["text.yaml", "list.yaml", "bytes.yaml", "none.yaml"],
    }
    (tmp_path / "vim.yaml").write_text("class_path: Vim\ninit_args: {depth: 1\n")
    with pytest.raises(InputError, match=r"vim\.yaml, line 3: not valid YAML"):
        resolve_yaml(file)
