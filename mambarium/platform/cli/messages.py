"""What is wrong with a command line or a YAML file, in one line."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mambarium.platform.suggestions import suggestion

NOISE = (
    "Parser key",
    "Does not validate",
    "Subtypes:",
    "Errors:",
    "Given value",
    "Problem with given class_path",
    "Expected a path",
)


def brief(message: str, known_keys: Iterable[str]) -> str:
    """Return the cause in a jsonargparse message on one line, `key: what is wrong`, with the name that is near.

    jsonargparse parses a class's arguments with a parser of its own, so its messages nest; this function is called at
    each level, with the keys that the level's parser takes, and puts the level's key in front of what the level inside
    said.
    """
    known = list(known_keys)
    level = re.match(r'\s*Parser key "([^"]+)":?', message)
    cause = found_cause(message, known)
    if level is None or level.group(1) == "config":
        return cause
    joint = "." if re.match(r"[\w.]+: ", cause) else ": "
    return f"{level.group(1)}{joint}{cause}"


def found_cause(message: str, known: list[str]) -> str:
    """Return the cause without its place."""
    if unknown := re.search(r"Option '([^']+)' is not accepted|Key '([^']+)' is not expected", message):
        name = unknown.group(1) or unknown.group(2)
        return f"unknown key '{name}'{suggestion(name, known)}"
    if unknown := re.search(r"[Uu]nrecognized arguments?: (\S+)", message):
        name = unknown.group(1).split("=")[0]
        return f"unknown option '{name}'{suggestion(name, known)}"
    if required := re.search(r"the following arguments are required: ([\w.]+)", message):
        return f"{required.group(1)}: no value given, and there is no default"
    if bad_class := re.search(r"(?:Expected a dot import path string: |Unexpected import path format: )(\S+)", message):
        return f"no class or file named '{bad_class.group(1)}'{suggestion(bad_class.group(1), class_names())}"
    if denied := re.search(r"Importing '([^']+)' is not allowed", message):
        return f"{denied.group(1)} can't be named here; name a class of the kind that belongs here"
    if bad_import := re.search(r"Import path (\S+) does not correspond to a subclass of (\S+)", message):
        return f"{bad_import.group(1)} is not a {bad_import.group(2)}"
    text = re.sub(r'^\s*Parser key "[^"]+":?\s*', "", message)
    lines = [line.strip(" -\t") for line in text.splitlines() if line.strip(" -\t")]
    causes = [line for line in lines if not line.startswith(NOISE) and "NoneType" not in line]
    return plain(causes[0] if causes else lines[0], message)


def plain(cause: str, message: str) -> str:
    """Return a type error in plain words; other causes as they are."""
    expected = re.match(r"Expected a (.+?)\.?(?: Got value: (.*))?$", cause)
    if expected is None:
        return cause
    kind = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", expected.group(1))
    if literal := re.match(r"typing\.Literal\[(.*)\]", kind):
        kind = "one of " + literal.group(1).replace("'", "")
    given = expected.group(2) or next(iter(re.findall(r"Given value: (.*)", message)), "something else")
    return f"expected {kind}, found {given}"


def class_names() -> list[str]:
    """Short names of the classes that a configuration can name, and the published backbones."""
    from lightning.pytorch import LightningDataModule

    from mambarium.backbones import list_variants
    from mambarium.backbones.contract import Backbone
    from mambarium.tasks.optimization import Schedule
    from mambarium.tasks.task import Task

    found: list[type] = []
    pending: list[type] = [Backbone, Task, Schedule, LightningDataModule]
    while pending:
        children: list[type] = pending.pop().__subclasses__()
        pending += children
        found += children
    return sorted({*(found_class.__name__ for found_class in found), *list_variants()})
