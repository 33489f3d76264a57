"""The argument parser: strict, and brief about what is wrong."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from mambarium.errors import InputError
from mambarium.platform.cli.messages import brief


class StrictParser(LightningArgumentParser):
    """Takes no abbreviated keys and raises `InputError`, one line with a suggestion, instead of printing usage."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.allow_abbrev = False

    def _get_option_tuples(self, option_string: str) -> list:
        """No option matches a prefix of its name: argparse would take `--trainer.max_epoch` for `max_epochs`."""
        return []

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise InputError(brief(message, self.known_keys())) from ex

    def known_keys(self) -> list[str]:
        """Keys and class names that a user may have meant, the long ones without their path too."""
        return sorted({*option_names(self), *(action.dest for action in self._actions)})


def option_names(parser: argparse.ArgumentParser) -> list[str]:
    """Names of all options of a parser; there is no public list of them."""
    return [name for action in parser._actions for name in action.option_strings]
