"""Pictures of samples, and text."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from mambarium.tasks.detection.detection_predictions import draw_objects
from mambarium.tasks.drawing import arrange, class_color
from mambarium.tasks.segmentation.mask_predictions import draw_classes

SCENES = """
model: {class_path: NoSuchTask}
data:
  class_path: %s
  init_args: {batch_size: 4, train_transforms: [{class_path: WindowCrop, init_args: {height: 40, width: 40}}]}
trainer: {max_steps: 3}
"""


@pytest.mark.parametrize("name", ["DigitSceneDetection", "DigitSceneSegmentation"])
def test_pictures_of_scenes(tiny: Callable[..., int], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("scenes.yaml").write_text(SCENES % name)
    assert tiny("show-data", "--config", "scenes.yaml", "--samples", 5) == 0
    assert "5 of 1,024 train samples" in capsys.readouterr().out
    with Image.open("scenes-train.png") as picture:
        assert picture.width > 4 * 240 and picture.height > 2 * 240
    assert tiny("show-data", "--config", "scenes.yaml") == 2
    assert "scenes-train.png exists" in capsys.readouterr().err
    assert tiny("show-data", "--config", "scenes.yaml", "--part", "val", "--data.image_size", 32) == 0
    assert Path("scenes-val.png").is_file()


def test_a_picture_for_each_task(tiny: Callable[..., int]) -> None:
    tasks = "{digits: {class_path: Digits}, scenes: {class_path: DigitSceneDetection}}"
    Path("both.yaml").write_text(f"data: {{class_path: MultiTaskData, init_args: {{tasks: {tasks}}}}}")
    assert tiny("show-data", "--config", "both.yaml", "--samples", 2, "--part", "test") == 0
    assert Path("both-test-digits.png").is_file() and Path("both-test-scenes.png").is_file()


def test_pictures_of_classes_and_text(tiny: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny("show-data", "--config", "digits.yaml", "--samples", 3, "--output", "folder/few.png") == 0
    with Image.open("folder/few.png") as picture:
        assert 3 * 240 < picture.width < 4 * 240
    assert tiny("show-data", "--config", "text.yaml", "--samples", 2) == 0
    shown = capsys.readouterr().out
    assert shown.count("32 tokens, 32 predicted, 32 bytes") == 2


def test_bytes_are_those_of_the_predicted_tokens(tiny: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    """Words of 1, 3, 7 and 15 letters one after another, each with the space before it, in windows of three."""
    words = ["a" * 1, "b" * 3, "c" * 7, "d" * 15]
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="a"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save("tokenizer.json")
    Path("words.txt").write_text(" ".join(words * 50))
    Path("words.yaml").write_text(
        "data: {class_path: TextFiles, init_args: {train: words.txt, val: words.txt, tokenizer: tokenizer.json, "
        "length: 3, cache_dir: cache}}"
    )
    assert tiny("show-data", "--config", "words.yaml", "--samples", 8) == 0
    shown = re.findall(r"3 tokens, 3 predicted, (\d+) bytes\n(\w+) (\w+) (\w+)", capsys.readouterr().out)
    assert len(shown) == 8
    for num_bytes, *window in shown:
        predicted = [words[(words.index(word) + 1) % 4] for word in window]
        assert int(num_bytes) == sum(len(word) + 1 for word in predicted)


def test_tokens_of_synthetic_sequences(tiny: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    Path("copying.yaml").write_text(
        "data: {class_path: SelectiveCopying, init_args: {length: 12, num_copied: 3, vocab_size: 12}}"
    )
    assert tiny("show-data", "--config", "copying.yaml", "--samples", 2) == 0
    heads, tokens, targets = (capsys.readouterr().out.splitlines()[start::3] for start in range(3))
    assert [head.endswith("12 tokens, 3 predicted") for head in heads] == [True, True]
    for token_line, target_line in zip(tokens, targets, strict=True):
        numbers, answers = token_line.split()[1:], target_line.split()[1:]
        assert numbers[9:] == ["11"] * 3 and answers[:9] == ["."] * 9
        assert [number for number in numbers[:9] if number != "0"] == answers[9:]
        assert len(token_line) == len(target_line)


def test_bad_options(tiny: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny("show-data", "--config", "digits.yaml", "--samples", 0) == 2
    assert tiny("show-data", "--config", "digits.yaml", "--sample", 3) == 2
    assert tiny("show-data") == 2
    assert all(line.startswith("error: ") for line in capsys.readouterr().err.splitlines())


def test_objects_are_drawn_where_they_are() -> None:
    image = torch.zeros(3, 24, 24, dtype=torch.uint8)
    mask = torch.zeros(1, 24, 24, dtype=torch.bool)
    mask[0, 4:10, 6:12] = True
    boxes, label = torch.tensor([[6.0, 4, 12, 10]]), torch.tensor([1])
    drawn = draw_objects(image, boxes, label, torch.tensor([False]), mask, ["a", "b"])
    factor = 10
    assert drawn.shape[1] > 240 and drawn.shape[2] == 240
    inside = drawn[:, 8 * factor, 8 * factor].tolist()
    assert inside == pytest.approx([value / 2 for value in class_color(1)], abs=2)
    assert drawn[:, 4 * factor, 11 * factor].tolist() == list(class_color(1))  # the box's upper edge
    assert not drawn[:, 20 * factor, 20 * factor].any()


def test_classes_are_drawn_and_ignored_pixels_left() -> None:
    mask = torch.tensor([[0, 255], [2, 255]], dtype=torch.uint8).repeat_interleave(120, 0).repeat_interleave(120, 1)
    drawn = draw_classes(torch.full((3, 240, 240), 0.5), mask, ["a", "b", "c"])
    assert drawn[:, 60, 200].tolist() == [128] * 3
    assert drawn[:, 200, 60].tolist() == pytest.approx([64 + value / 2 for value in class_color(2)], abs=2)
    assert arrange([drawn, drawn[:, :10, :10], drawn], columns=2).shape[2] == 240 + 10 + 3 * 4
