"""YAML files that name other YAML files, each relative to the file that names it."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from mambarium.errors import InputError


def load_yaml(path: Path) -> Any:
    """Read a YAML file, strictly.

    Args:
        path: The file to read.

    Raises:
        InputError: The file is not valid YAML, or a mapping says a key twice.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _StrictLoader)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        raise InputError(f"{path}{line}: not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error


def resolve_yaml(path: Path) -> Any:
    """Read a YAML file, each YAML file that it names by a path relative to itself put in that name's place.

    Args:
        path: The file to read.

    Returns:
        The content, with mapping keys as strings. A string that names no existing file stays a string.

    Raises:
        InputError: A file is not valid YAML, or files name each other in a circle.
    """
    return _resolve_file(path, ())


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a mapping that says a key twice is an error instead of the last one winning."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r} stands there twice; rename or remove one", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _resolve_file(path: Path, inside: tuple[Path, ...]) -> Any:
    absolute = path.resolve()
    if absolute in inside:
        circle = " -> ".join(str(file) for file in (*inside[inside.index(absolute) :], absolute))
        raise InputError(f"{path}: these files name each other in a circle: {circle}")
    return _resolve_value(load_yaml(path), path.parent, (*inside, absolute))


def _resolve_value(value: Any, folder: Path, inside: tuple[Path, ...]) -> Any:
    if isinstance(value, dict):
        return {str(key): _resolve_value(item, folder, inside) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolve_value(item, folder, inside) for item in value]
    if isinstance(value, str) and value.endswith((".yaml", ".yml")) and (folder / value).is_file():
        content = _resolve_file(folder / value, inside)
        # A data file may be YAML too; only a description of a class stands for its content.
        return content if isinstance(content, dict) and "class_path" in content else value
    return value
