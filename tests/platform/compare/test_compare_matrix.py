"""Reading a comparison's YAML file: what follows from a good one, and what a bad one is told."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mambarium.errors import InputError
from mambarium.platform.compare.matrix import read_matrix

GOOD = """
name: first
seeds: [0, 1]
tasks:
  language:
    config: tasks/language.yaml
    backbones: {small: small.yaml, medium: medium.yaml}
    overrides:
      data.passes: 3
      trainer.max_steps: null
      model.tied: true
      model.schedule: {class_path: Cosine}
  digits:
    config: tasks/digits.yaml
    backbones: {vim: small.yaml}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tasks").mkdir()
    for task in ("language", "digits"):
        (tmp_path / f"tasks/{task}.yaml").write_text("model:\n  backbone: ../small.yaml\n  rate: 0.1\n")
    (tmp_path / "small.yaml").write_text("class_path: Mamba\ninit_args: {depth: 2}\n")
    (tmp_path / "medium.yaml").write_text("class_path: Mamba\ninit_args: {depth: 4}\n")
    (tmp_path / "matrix.yaml").write_text(GOOD)
    return tmp_path


def test_cells_stand_in_the_order_of_the_file(folder: Path) -> None:
    matrix = read_matrix(folder / "matrix.yaml")
    assert matrix.name == "first"
    assert [cell.name for cell in matrix.cells] == [
        "language-small-seed0",
        "language-small-seed1",
        "language-medium-seed0",
        "language-medium-seed1",
        "digits-vim-seed0",
        "digits-vim-seed1",
    ]


def test_options_are_those_of_a_command_line(folder: Path) -> None:
    options = read_matrix(folder / "matrix.yaml").cells[3].options(Path("runs/compare/first"))
    assert dict(zip(options[::2], options[1::2], strict=True)) == {
        "--config": str(folder / "tasks/language.yaml"),
        "--model.backbone": str(folder / "medium.yaml"),
        "--seed_everything": "1",
        "--runs_dir": "runs/compare/first",
        "--name": "language-medium-seed1",
        "--data.passes": "3",
        "--trainer.max_steps": "null",
        "--model.tied": "true",
        "--model.schedule": '{"class_path": "Cosine"}',
    }


def test_paths_are_relative_to_the_file_wherever_one_stands(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder / "tasks")
    assert read_matrix(Path("../matrix.yaml")).cells[0].task_config == Path("language.yaml")


@pytest.mark.parametrize(
    ("file", "old", "new", "changes"),
    [
        ("small.yaml", "depth: 2", "depth: 3", True),
        ("tasks/language.yaml", "rate: 0.1", "rate: 0.2", True),
        ("matrix.yaml", "passes: 3", "passes: 4", True),
        ("tasks/language.yaml", "model:", "# slower\nmodel:", False),
        ("matrix.yaml", "seeds: [0, 1]", "seeds: [0, 1, 2]", False),
    ],
)
def test_definition_goes_by_content(folder: Path, file: str, old: str, new: str, changes: bool) -> None:
    before = read_matrix(folder / "matrix.yaml").cells[0].definition_hash
    (folder / file).write_text((folder / file).read_text().replace(old, new))
    assert (read_matrix(folder / "matrix.yaml").cells[0].definition_hash != before) == changes


def test_definition_follows_files_inside_files(folder: Path) -> None:
    """The task's config names small.yaml, so that a cell with another backbone depends on it too."""
    before = read_matrix(folder / "matrix.yaml").cells[2].definition_hash
    (folder / "small.yaml").write_text("class_path: Vim\n")
    assert read_matrix(folder / "matrix.yaml").cells[2].definition_hash != before


def replaced(old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        assert old in GOOD
        (folder / "matrix.yaml").write_text(GOOD.replace(old, new))

    return change


def written(file: str, text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / file).write_text(text)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replaced("seeds:", "seed:"), r"matrix.yaml: unknown key 'seed'; did you mean 'seeds'\?"),
        (replaced("name: first\n", ""), r"the key 'name' is missing"),
        (replaced("name: first", "name: ../first"), r"name: '../first' is no name"),
        (replaced("name: first", "name: 1"), r"name: 1 is no name"),
        (replaced("[0, 1]", "[0, 0]"), r"seeds: 0 is given twice"),
        (replaced("[0, 1]", "[]"), r"seeds: expected a list of whole numbers"),
        (replaced("[0, 1]", "3"), r"seeds: expected a list of whole numbers such as \[0, 1\], found 3"),
        (replaced("[0, 1]", "[true]"), r"seeds: True is no seed"),
        (replaced("[0, 1]", "[-1]"), r"seeds: -1 is no seed"),
        (
            replaced("vim: small.yaml", "vim: smal.yaml"),
            r"digits.backbones.vim: no file .*did you mean 'small.yaml'\?",
        ),
        (replaced("tasks/digits", "task/digits"), r"tasks.digits.config: no file .*there is no folder"),
        (
            replaced("vim: small.yaml", "vim: tasks/digits.yaml"),
            r"is no backbone file: it has no 'class_path'",
        ),
        (replaced("vim: small.yaml", "vim: {class_path: Vim}"), r"vim: expected the path of a YAML file"),
        (replaced("medium: medium.yaml", "small: medium.yaml"), r"line 7: not valid YAML: 'small' is given twice"),
        (replaced("  digits:\n", "  language:\n"), r"line 13: not valid YAML: 'language' is given twice"),
        (
            replaced("data.passes: 3", "seed_everything: 3"),
            r"'seed_everything' is set by the comparison itself",
        ),
        (
            replaced("data.passes: 3", "--data.passes: 3"),
            r"'--data.passes' is no option; write them without dashes",
        ),
        (replaced("    backbones: {vim: small.yaml}", ""), r"tasks.digits: the key 'backbones' is missing"),
        (replaced("{vim: small.yaml}", "{}"), r"digits.backbones: expected a mapping"),
        (replaced("seeds: [0, 1]", "seeds: [0, 1"), r"matrix.yaml, line \d+: "),
        (written("matrix.yaml", "- 1\n"), r"matrix.yaml: expected a mapping of 'name', 'seeds' and 'tasks'"),
        (written("small.yaml", "a: [\n"), r"small.yaml, line .*: not valid YAML"),
        (written("small.yaml", "class_path: X\ninit_args: small.yaml\n"), r"name each other in a circle"),
        (written("tasks/digits.yaml", "a: [\n"), r"digits.yaml, line .*: not valid YAML"),
    ],
)
def test_bad_files_get_one_line(folder: Path, change: Callable[[Path], None], message: str) -> None:
    change(folder)
    with pytest.raises(InputError) as caught:
        read_matrix(folder / "matrix.yaml")
    assert re.search(message, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_gets_a_suggestion(folder: Path) -> None:
    with pytest.raises(InputError, match=r"matrx.yaml: no such file; did you mean 'matrix.yaml'\?"):
        read_matrix(folder / "matrx.yaml")


def test_two_pairs_that_make_one_cell_name(folder: Path) -> None:
    (folder / "matrix.yaml").write_text(
        "name: first\nseeds: [0]\ntasks:\n"
        "  a-b: {config: tasks/digits.yaml, backbones: {c: small.yaml}}\n"
        "  a: {config: tasks/digits.yaml, backbones: {b-c: small.yaml}}\n"
    )
    with pytest.raises(InputError, match="both make a cell 'a-b-c-seed0'"):
        read_matrix(folder / "matrix.yaml")


def test_selection_by_pattern(folder: Path) -> None:
    matrix = read_matrix(folder / "matrix.yaml")
    assert [cell.name for cell in matrix.select("*-seed1")] == [
        "language-small-seed1",
        "language-medium-seed1",
        "digits-vim-seed1",
    ]
    with pytest.raises(InputError, match=r"'digits' fits no cell .* the cells are: language-small-seed0, "):
        matrix.select("digits")
