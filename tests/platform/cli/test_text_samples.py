"""Samples of a language model in TensorBoard."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

pytestmark = pytest.mark.thorough


def test_a_run_shows_what_its_model_writes(tiny: Callable[..., int]) -> None:
    assert tiny("fit", "--config", "text.yaml", "--trainer.val_check_interval", "2") == 0
    (events,) = Path("runs/text/tensorboard").glob("events*")
    board = EventAccumulator(str(events))
    board.Reload()
    samples = board.Tensors("sample/text_summary")
    assert [sample.step for sample in samples] == [2, 3]
    text = samples[0].tensor_proto.string_val[0].decode()
    given, added = text.split("added:")
    assert len(given.removeprefix("given:\n```\n").removesuffix("\n```\n").encode()) == 64
    assert len(added) > 100


def test_one_s_own_samples_take_the_place_of_ours(tiny: Callable[..., int]) -> None:
    own = "{class_path: mambarium.platform.callbacks.TextSamples, init_args: {new_tokens: 0}}"
    config = Path("text.yaml").read_text().replace("max_steps: 3", f"max_steps: 1, callbacks: [{own}]")
    Path("text.yaml").write_text(config)
    assert tiny("fit", "--config", "text.yaml") == 0
    board = EventAccumulator("runs/text/tensorboard")
    board.Reload()
    assert board.Tags()["tensors"] == []
