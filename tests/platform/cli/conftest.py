"""A run small enough to train in a second, through the real command line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mambarium.platform.cli import main

TINY_DIGITS = """
model:
  class_path: ImageClassification
  init_args:
    backbone: {class_path: Vim, init_args: {image_size: 8, patch_size: 4, width: 8, depth: 1, d_state: 2, dropout: 0.1}}
    schedule: WarmupCosine
data:
  class_path: Digits
  init_args: {batch_size: 64, passes: 0.25}
trainer: {accelerator: cpu, enable_progress_bar: false}
"""

TINY_TEXT = """
model:
  class_path: LanguageModeling
  init_args: {backbone: {class_path: Mamba, init_args: {width: 8, depth: 1, d_state: 2}}}
data:
  class_path: PydocTopics
  init_args: {batch_size: 4, length: 32, eval_length: 4096, passes: null}
trainer: {accelerator: cpu, max_steps: 3, enable_progress_bar: false}
"""


@pytest.fixture(scope="session")
def tiny_digits() -> str:
    """The configuration of `digits.yaml`."""
    return TINY_DIGITS


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs a command in an empty folder that holds `digits.yaml` and `text.yaml`."""
    (tmp_path / "digits.yaml").write_text(TINY_DIGITS)
    (tmp_path / "text.yaml").write_text(TINY_TEXT)
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: main([str(argument) for argument in arguments])
