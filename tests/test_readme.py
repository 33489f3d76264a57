"""Every command that the README shows can be parsed, and what it configures can be built."""

import functools
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mambarium.platform.cli import commands, main, training
from mambarium.platform.cli.configuration.composition import compose
from mambarium.platform.cli.configuration.shipped_configs import find_config
from mambarium.platform.cli.training import TrainingCLI

pytestmark = pytest.mark.thorough

README = Path(__file__).parents[1] / "README.md"
COMMANDS = re.findall(r"^(?:python main\.py|mambarium) (.+)$", README.read_text(), re.MULTILINE)
INLINE = re.findall(r"`(?:python main\.py|mambarium) ([a-z-]+ [^`]+)`", README.read_text())

MY_CONFIG = """
model: {class_path: ImageClassification, init_args: {backbone: vim_tiny}}
data: {class_path: Digits, init_args: {image_size: 224, passes: 1}}
"""


class Parsed(SystemExit):
    """The command line was understood."""


def test_the_readme_shows_commands() -> None:
    verbs = {command.split()[0] for command in (*COMMANDS, *INLINE)}
    assert {"fit", "test", "predict", "export", "show-data", "compare", "list"} <= verbs <= set(commands.COMMANDS)


@pytest.mark.parametrize("command", [*COMMANDS, *INLINE])
def test_command(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    data_options: Callable[[Path], list[str]],
) -> None:
    (tmp_path / "my.yaml").write_text(MY_CONFIG)
    monkeypatch.chdir(tmp_path)
    verb, *arguments = shlex.split(command)
    if "FOLDER" in arguments and "--data.path" in arguments:
        place = arguments.index("--data.path")
        arguments[place : place + 2] = data_options(find_config(arguments[arguments.index("--config") + 1]))
    if verb == "fit":
        if "--config" in arguments and "timm." in find_config(arguments[1]).read_text():
            pytest.importorskip("timm")
        monkeypatch.setattr(TrainingCLI, "_run_subcommand", lambda self, subcommand: None)
        with torch.device("meta"):
            assert main([verb, *arguments]) == 0
    elif verb in ("test", "validate", "predict"):

        def parsed(self: TrainingCLI) -> None:
            raise Parsed

        # Where a checkpoint has the configuration, any will do to see whether the options are understood.
        monkeypatch.setattr(
            training, "compose_from_checkpoint", lambda options: (compose(["--config", "my.yaml", *options]), None)
        )
        monkeypatch.setattr(TrainingCLI, "before_instantiate_classes", parsed)
        with pytest.raises(Parsed):
            main([verb, *arguments])
    elif verb == "export":
        import mambarium.platform.cli.export as module

        given: dict[str, Any] = {}

        @functools.wraps(module.export)
        def export(**options: Any) -> int:
            given.update(options)
            return 0

        monkeypatch.setattr(module, "export", export)
        assert main([verb, *arguments]) == 0 and given["output"]
    else:
        flags = {"compare": ["--dry_run"], "list": [], "show-data": ["--samples", "1"]}[verb]
        assert main([verb, *arguments, *flags]) == 0
