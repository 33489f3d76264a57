"""The command line."""

from mambarium.platform.cli.commands import main

__all__ = ["main"]
