"""YAML files that name other YAML files, each relative to the file that names it."""

from pathlib import Path
from typing import Any

import yaml

from mambarium.errors import InputError

YAML_ENDINGS = (".yaml", ".yml")
MOST_VALUES = 100_000
"""Values that a file may stand for once its `*aliases` are written out: a few lines can stand for billions."""


def load_yaml(path: Path) -> Any:
    """Read a YAML file, strictly.

    Raises:
        InputError: The file can't be read or is not valid YAML, or a mapping says a key twice.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    return parse_yaml(content, str(path))


def parse_yaml(content: str | bytes, place: str) -> Any:
    """Parse YAML, strictly; messages name the place where it stands.

    Raises:
        InputError: It is not valid YAML, or a mapping says a key twice.
    """
    try:
        return yaml.load(content.decode() if isinstance(content, bytes) else content, _StrictLoader)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        raise InputError(f"{place}{line}: not valid YAML: {error.problem}") from error
    except RecursionError as error:
        raise InputError(
            f"{place}: mappings or lists inside each other, deeper than can be read; flatten it"
        ) from error
    except (yaml.YAMLError, ValueError) as error:  # a date such as 2024-02-30 is a plain ValueError
        raise InputError(f"{place}: not valid YAML: {' '.join(str(error).split())}") from error


def mentions_class(path: Path) -> bool:
    """Whether a file's text says `class_path`; without it, it describes no class and may be data in any format."""
    try:
        with path.open("rb") as lines:
            return any(b"class_path" in line for line in lines)
    except OSError as error:
        raise _unreadable(path, error) from error


def resolve_yaml(path: Path) -> Any:
    """Read a YAML file, each YAML file that it names by a path relative to itself put in that name's place.

    Mapping keys become strings. Only a description of a class takes its name's place: the name of another file, such as
    data that is YAML too, stays a string.

    Raises:
        InputError: A file can't be read or is not valid YAML, or files name each other in a circle.
    """
    return _resolve_file(path, ())


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a mapping that says a key twice is an error instead of the last one winning.

    Keys are compared as they are written, before `<<` puts those of another mapping among them. An anchor that holds
    itself is an error too, and so are aliases that stand for more than `MOST_VALUES` values.
    """

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            _written_out(node, {})
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                problem = "found {...} or [...] where a key belongs; fill in the {{ ... }} of a template, or quote it"
                raise yaml.composer.ComposerError(None, None, problem, key.start_mark)
            if (key.tag, key.value) in seen:
                problem = f"{key.value!r} is given twice; rename or remove one"
                raise yaml.composer.ComposerError(None, None, problem, key.start_mark)
            seen.add((key.tag, key.value))
        return node


def _written_out(node: yaml.Node, counts: dict[int, int]) -> int:
    """Return the values that a node stands for with its aliases written out.

    Counts are those of the nodes seen so far, by identity; 0 for those that this one lies in.
    """
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in counts:
        counts[id(node)] = 0
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        counts[id(node)] = 1 + sum(_written_out(part, counts) for part in parts)
        if counts[id(node)] > MOST_VALUES:
            problem = f"stands for more than {MOST_VALUES:,} values, its *aliases written out; use fewer"
            raise yaml.composer.ComposerError(None, None, problem, node.start_mark)
    elif counts[id(node)] == 0:
        raise yaml.composer.ComposerError(None, None, "an &anchor holds itself; remove the *alias", node.start_mark)
    return counts[id(node)]


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path}: can't be read ({error.strerror}); name a file that you may read")


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
    if isinstance(value, str) and value.endswith(YAML_ENDINGS):
        file = folder / value
        if file.is_file() and mentions_class(file):
            content = _resolve_file(file, inside)
            return content if isinstance(content, dict) and "class_path" in content else value
    return value
