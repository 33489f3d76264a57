"""The comparison's YAML file: what it may say, and the cells that follow from it."""

import itertools
import json
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

from mambarium.errors import InputError
from mambarium.platform.compare.cell_definition import Definition, digest
from mambarium.platform.suggestions import suggestion
from mambarium.platform.yaml_files import YAML_ENDINGS, load_yaml, resolve_yaml

# Options that the comparison sets for every cell by itself.
OWN_OPTIONS = ("config", "model.backbone", "seed_everything", "runs_dir", "name", "resume", "ckpt_path")

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Cell:
    """One task with one backbone and one seed.

    Attributes:
        task: The task's name in the comparison.
        backbone: The backbone's name within the task.
        seed: Passed to `fit` as `--seed_everything`.
        task_config: An ordinary `fit` configuration.
        backbone_config: An ordinary backbone file, with `class_path` and perhaps `init_args`, or a published backbone's
            name.
        overrides: Further options and values, as given on a command line.
    """

    task: str
    backbone: str
    seed: int
    task_config: Path
    backbone_config: Path | str
    overrides: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """The cell's name, also that of its run."""
        return f"{self.task}-{self.backbone}-seed{self.seed}"

    @cached_property
    def definition(self) -> Definition:
        """The cell's settings, read from its files once.

        Files that an override names are not read: their names count, not their content.
        """
        return {
            "config": resolve_yaml(self.task_config),
            "backbone": published(self.backbone_config)
            if isinstance(self.backbone_config, str)
            else resolve_yaml(self.backbone_config),
            "overrides": dict(self.overrides),
            "seed": self.seed,
        }

    @cached_property
    def definition_hash(self) -> str:
        """The hash of `definition`."""
        return digest(self.definition)

    def options(self, runs_dir: Path) -> list[str]:
        """Return the command-line options that `fit` and `test` of this cell take, its run folder in `runs_dir`."""
        pairs = [
            ("config", str(self.task_config)),
            ("model.backbone", str(self.backbone_config)),
            ("seed_everything", str(self.seed)),
            ("runs_dir", str(runs_dir)),
            ("name", self.name),
            *self.overrides,
        ]
        return [text for key, value in pairs for text in (f"--{key}", value)]


@dataclass(frozen=True)
class Matrix:
    """A comparison: its name and its cells, in the order in which they run and are reported."""

    name: str
    cells: tuple[Cell, ...]

    def select(self, pattern: str | None) -> tuple[Cell, ...]:
        """Return the cells whose names fit a shell-style pattern, all for None.

        Raises:
            InputError: No cell's name fits.
        """
        if pattern is None:
            return self.cells
        selected = tuple(cell for cell in self.cells if fnmatchcase(cell.name, pattern))
        if not selected:
            names = ", ".join(cell.name for cell in self.cells)
            raise InputError(f"--only {pattern!r} fits no cell (patterns like '*-seed0'); the cells are: {names}")
        return selected


def read_matrix(path: Path) -> Matrix:
    """Read and check a comparison's YAML file.

    Its keys: `name`, `seeds` (whole numbers), and `tasks`: for each task a `config` (an ordinary `fit`
    configuration), `backbones` (name -> backbone file, or a published backbone's name) and optionally `overrides`
    (option -> value, as on the command line, for every cell of the task). The paths of `config` and `backbones` are
    relative to the YAML file; a path within an override is handed to `fit` as it stands, so it is relative to the
    folder in which `compare` is called. Cells are ordered by task, backbone and seed as in the file.

    Raises:
        InputError: The file is missing or says something that it may not; one line names the place and the
            way out.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file{_suggest_file(path)}")
    content = _checked_mapping(load_yaml(path), str(path), "'name', 'seeds' and 'tasks'")
    place = str(path)
    _check_keys(content, required=("name", "seeds", "tasks"), optional=(), place=place)
    name = _checked_name(content["name"], f"{place}: name")
    seeds = _checked_seeds(content["seeds"], f"{place}: seeds")
    tasks = _checked_mapping(content["tasks"], f"{place}: tasks", "task names with 'config' and 'backbones'")
    cells: list[Cell] = []
    for task, entry in tasks.items():
        cells += _task_cells(_checked_name(task, f"{place}: tasks"), entry, seeds, path)
    for first, second in itertools.combinations(cells, 2):
        if first.name == second.name:
            raise InputError(
                f"{place}: {first.task!r} with {first.backbone!r} and {second.task!r} with "
                f"{second.backbone!r} both make a cell {first.name!r}; rename one of them"
            )
    for cell in cells:
        _ = cell.definition_hash  # a file that can't be read is found before anything runs
    return Matrix(name, tuple(cells))


def _task_cells(task: str, entry: object, seeds: list[int], path: Path) -> list[Cell]:
    place = f"{path}: tasks.{task}"
    mapping = _checked_mapping(entry, place, "'config' and 'backbones'")
    _check_keys(mapping, required=("config", "backbones"), optional=("overrides",), place=place)
    config = _checked_file(mapping["config"], path, f"{place}.config")
    overrides = _checked_overrides(mapping.get("overrides"), f"{place}.overrides")
    backbones = _checked_mapping(mapping["backbones"], f"{place}.backbones", "backbone names with their files")
    cells = []
    for backbone, value in backbones.items():
        backbone_place = f"{place}.backbones.{backbone}"
        _checked_name(backbone, f"{place}.backbones")
        if isinstance(value, str) and not value.endswith(YAML_ENDINGS):
            published(value, f"{backbone_place}: ")
            file: Path | str = value
        else:
            file = _checked_file(value, path, backbone_place)
            content = resolve_yaml(file)
            if not isinstance(content, dict) or "class_path" not in content:
                raise InputError(f"{backbone_place}: {file} is no backbone file: it has no 'class_path' at its top")
        cells += [Cell(task, backbone, seed, config, file, overrides) for seed in seeds]
    return cells


def _checked_mapping(value: object, place: str, expected: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        raise InputError(f"{place}: expected a mapping of {expected}, found {_shown(value)}")
    return value


def _check_keys(mapping: dict[str, Any], required: tuple[str, ...], optional: tuple[str, ...], place: str) -> None:
    known = (*required, *optional)
    for key in mapping:
        if key not in known:
            hint = suggestion(str(key), known) or f"; known are {', '.join(known)}"
            raise InputError(f"{place}: unknown key {key!r}{hint}")
    for key in required:
        if key not in mapping:
            raise InputError(f"{place}: the key {key!r} is missing")


def _checked_name(value: object, place: str) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise InputError(
            f"{place}: {_shown(value)} is no name; names are text of letters, digits, '_', '.' and '-' "
            "(they become folder names)"
        )
    return value


def _checked_seeds(value: object, place: str) -> list[int]:
    if not isinstance(value, list) or not value:
        raise InputError(f"{place}: expected a list of whole numbers such as [0, 1], found {_shown(value)}")
    for seed in value:
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
            raise InputError(f"{place}: {_shown(seed)} is no seed; seeds are whole numbers from 0 to 2**32 - 1")
        if value.count(seed) > 1:
            raise InputError(f"{place}: {seed} is given twice; remove one")
    return value


def published(name: str, place: str = "") -> dict[str, Any]:
    """Return the configuration of a published backbone.

    Raises:
        InputError: There is none of that name.
    """
    # Imports torch, which a comparison of files alone has no need of.
    from mambarium.backbones.variants import VARIANTS, variant_config

    if name not in VARIANTS:
        raise InputError(f"{place}{name!r} is no YAML file and no published backbone{suggestion(name, VARIANTS)}")
    return variant_config(name)


def _checked_file(value: object, matrix_path: Path, place: str) -> Path:
    if not isinstance(value, str):
        raise InputError(f"{place}: expected the path of a YAML file, found {_shown(value)}")
    file = (matrix_path.parent / value).resolve()
    if file.is_relative_to(Path.cwd()):
        file = file.relative_to(Path.cwd())
    if not file.is_file():
        raise InputError(f"{place}: no file {file} (paths are relative to {matrix_path.name}){_suggest_file(file)}")
    return file


def _checked_overrides(value: object, place: str) -> tuple[tuple[str, str], ...]:
    if value is None or value == {}:
        return ()
    overrides = _checked_mapping(value, place, "options with values, such as data.passes: 3")
    pairs = []
    for key, item in overrides.items():
        if not isinstance(key, str) or not re.fullmatch(r"[A-Za-z_][\w.]*", key):
            raise InputError(f"{place}: {_shown(key)} is no option; write them without dashes, such as data.passes: 3")
        if key in OWN_OPTIONS:
            raise InputError(f"{place}: {key!r} is set by the comparison itself for every cell; remove it here")
        pairs.append((key, item if isinstance(item, str) else json.dumps(item, default=str)))
    return tuple(pairs)


def _shown(value: object) -> str:
    return "nothing" if value is None else repr(value)


def _suggest_file(file: Path) -> str:
    if not file.parent.is_dir():
        return f"; there is no folder {file.parent}"
    return suggestion(file.name, sorted(other.name for other in file.parent.iterdir() if other.is_file()))
