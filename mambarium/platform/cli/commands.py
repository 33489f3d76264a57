"""The table of commands, and how a command's end becomes an exit code."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import NamedTuple

from mambarium.errors import InputError
from mambarium.platform.cli.boundary import brief_about_threads, run_to_exit_code
from mambarium.platform.cli.messages import brief


class Command(NamedTuple):
    """A command: what it does, in a few words, and the function that runs it with the arguments after its name."""

    summary: str
    run: Callable[[list[str]], int]


def run_training_command(name: str) -> Callable[[list[str]], int]:
    """Return the runner of one of Lightning's verbs."""

    def run(arguments: list[str]) -> int:
        from mambarium.platform.cli.training import run_verb

        return run_verb(name, arguments)

    return run


def run_compare(arguments: list[str]) -> int:
    """Run `compare`, whose configuration may be a shipped one."""
    from mambarium.platform.cli.configuration.composition import paired
    from mambarium.platform.cli.configuration.shipped_configs import find_config
    from mambarium.platform.compare.command import compare

    options = [
        (option, str(find_config(value)) if option == "--config" and value else value)
        for option, value in paired(arguments)
    ]
    return run_function("compare", compare, options)


def run_list(arguments: list[str]) -> int:
    """Run `list`, whose pattern needs no option's name."""
    from mambarium.platform.cli.configuration.composition import paired
    from mambarium.platform.cli.listing import list_backbones

    named = arguments and not arguments[0].startswith("-")
    return run_function("list", list_backbones, paired(["--pattern", *arguments] if named else arguments))


def run_show_data(arguments: list[str]) -> int:
    """Run `show-data`."""
    from mambarium.platform.cli.show_data import run_show_data

    return run_show_data(arguments)


def run_export(arguments: list[str]) -> int:
    """Run `export`; `--checkpoint` names its checkpoint too, `--trust` may be given repeatedly."""
    from mambarium.platform.cli.configuration.composition import paired
    from mambarium.platform.cli.export import export

    spellings = {"--checkpoint": "--ckpt_path", "--trust": "--trust+"}
    return run_function(
        "export", export, [(spellings.get(option, option), value) for option, value in paired(arguments)]
    )


def run_function(command: str, function: Callable[..., int], options: list[tuple[str, str | None]]) -> int:
    """Parse options by a function's signature and docstring, and call it.

    A boolean argument is a flag, `--dry_run`; every other takes a value.

    Raises:
        InputError: If the options don't fit.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False, prog=f"mambarium {command}", allow_abbrev=False)
    parser.add_function_arguments(function, as_positional=False)
    parameters = inspect.signature(function).parameters
    flags = {f"--{name}" for name, parameter in parameters.items() if parameter.default is False}
    given = [(option, "true" if value is None and option in flags else value) for option, value in options]
    try:
        parsed = parser.parse_args([option if value is None else f"{option}={value}" for option, value in given])
    except ArgumentError as error:
        raise InputError(brief(str(error), ["--help", *(f"--{name}" for name in parameters)])) from error
    return function(**parser.instantiate(parsed))


COMMANDS = {
    "fit": Command("train a model, or go on with an interrupted run", run_training_command("fit")),
    "validate": Command("evaluate a run's checkpoint on the validation data", run_training_command("validate")),
    "test": Command("evaluate a run's checkpoint on the test data", run_training_command("test")),
    "predict": Command("continue a text, or say what is in a folder of images", run_training_command("predict")),
    "show-data": Command("draw samples as a model will see them", run_show_data),
    "export": Command("write a checkpoint's weights in the format of others", run_export),
    "list": Command("show the published backbones: parameters, compute, results", run_list),
    "compare": Command("train tasks across backbones and seeds, and tabulate", run_compare),
}

USAGE = f"""usage: mambarium COMMAND [options]     (or: python main.py COMMAND [options])

Train and compare Mamba-family backbones on several tasks.

commands:
{chr(10).join(f"  {name:10} {command.summary}" for name, command in COMMANDS.items())}

  mambarium COMMAND --help             the command's options
  mambarium fit --model.help CLASS     the options of a task; likewise --data.help, --model.backbone.help
  mambarium COMMAND ... --debug        show the traceback of an error
  mambarium --version

examples:
  mambarium fit --config configs/classification/digits_vim.yaml
  mambarium test --config configs/classification/digits_vim.yaml
  mambarium compare --config configs/compare/first.yaml
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Command and options; those of the process if None.

    Returns:
        0 if it ended well, 1 after an unexpected error, 2 after bad input or a fault of the environment, 128 and the
        signal's number (130 for Ctrl-C) if a signal stopped it.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    if given[0] == "--version":
        from importlib.metadata import version

        print(version("mambarium"))
        return 0
    debug = "--debug" in given
    options = [argument for argument in given[1:] if argument != "--debug"]
    ours = arguments is None  # else threads and finalizers may be those of the program around it
    with brief_about_threads(debug) if ours else nullcontext():
        return run_to_exit_code(given[0], lambda: find_command(given[0]).run(options), debug)


def find_command(name: str) -> Command:
    """Return the command of a name.

    Raises:
        InputError: If there is none.
    """
    if name not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(name, COMMANDS, n=1)
        raise InputError(
            f"no command '{name}'" + (f"; did you mean '{near[0]}'?" if near else f"; there are: {', '.join(COMMANDS)}")
        )
    return COMMANDS[name]
