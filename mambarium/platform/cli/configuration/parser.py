"""The argument parser: strict, and brief about what is wrong."""

from __future__ import annotations

from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from mambarium.errors import InputError
from mambarium.platform.cli.messages import brief


class StrictParser(LightningArgumentParser):
    """Takes no abbreviated keys and raises `InputError`, one line with a suggestion, instead of printing usage."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        keys = ["help", "print_config", *self.get_defaults(skip_validation=True).keys()]
        raise InputError(brief(message, [*keys, *(f"--{key}" for key in keys)])) from ex
