"""Commands that are plain typed functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from jsonargparse import ArgumentError, ArgumentParser

from mambarium.errors import InputError
from mambarium.platform.cli.configuration.parser import option_names
from mambarium.platform.cli.messages import brief


def run_function(command: str, function: Callable[..., int], arguments: list[str]) -> int:
    """Parse arguments by a function's signature and docstring, and call it.

    A boolean argument is a flag, `--dry_run`; every other takes a value.

    Raises:
        InputError: If the arguments don't fit.
    """
    parser = ArgumentParser(exit_on_error=False, prog=f"mambarium {command}", allow_abbrev=False)
    parser.add_function_arguments(function, as_positional=False)
    flags = {f"--{name}" for name, value in inspect.signature(function).parameters.items() if value.default is False}
    given = [f"{argument}=true" if argument in flags else argument for argument in arguments]
    try:
        parsed = parser.parse_args(given)
    except ArgumentError as error:
        raise InputError(brief(str(error), option_names(parser))) from error
    return function(**parser.instantiate(parsed))
