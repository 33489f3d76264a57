"""The data that comes with Python and scikit-learn, and what all data modules share."""

from pathlib import Path

import pytest
import torch
from lightning import Trainer
from PIL import Image
from torchvision.transforms import v2

from mambarium.errors import InputError
from mambarium.platform.data import Digits, ExactDataModule, PydocTopics
from mambarium.platform.position import Position


def with_trainer(data: ExactDataModule, finished: int = 0, **arguments: int) -> ExactDataModule:
    position = Position(0)
    position.finished_batches = finished
    data.trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[position], **arguments
    )
    return data


def noisy_digits(num_workers: int = 0, seed: int = 0, passes: float = 2) -> Digits:
    transforms = [v2.RandomCrop(8, padding=1), v2.TrivialAugmentWide()]
    return Digits(batch_size=100, passes=passes, train_transforms=transforms, num_workers=num_workers, seed=seed)


def test_digits_are_split_by_class_without_overlap() -> None:
    data = Digits()
    splits = data.splits
    assert (len(splits.train.labels), len(splits.val.labels)) == (1433, 364)
    keys = [{source.name(i) for i in range(len(source.labels))} for source in (splits.train, splits.val)]
    assert not keys[0] & keys[1] and len(keys[0] | keys[1]) == 1797
    assert splits.test is splits.val
    assert min(torch.bincount(torch.tensor(splits.val.labels))) >= 35
    assert data.num_classes == 10 and data.class_names[3] == "3" and data.image_size == 8


def test_digits_are_normalised_and_resized() -> None:
    batch = next(iter(Digits(batch_size=364).val_dataloader()))
    assert batch["image"].shape == (364, 3, 8, 8) and batch["image"].dtype == torch.float32
    assert batch["label"].dtype == torch.int64
    assert abs(batch["image"].mean()) < 0.05 and abs(batch["image"].std() - 1) < 0.05
    assert Digits(image_size=32).validation_samples()[(0, 5)].image.shape == (3, 32, 32)


@pytest.mark.parametrize("image_size", [8, 32])
def test_preparing_held_out_digits_leaves_their_pixels(image_size: int) -> None:
    data, plain = (
        Digits(batch_size=400, image_size=image_size, eval_transforms=transforms) for transforms in (None, [])
    )
    (batch,), (expected,) = data.test_dataloader(), plain.test_dataloader()
    assert torch.equal(batch["image"], expected["image"]) and torch.equal(batch["label"], expected["label"])


@pytest.mark.parametrize(("height", "width"), [(20, 30), (5, 3), (8, 8)])
def test_images_of_any_size_can_be_predicted(tmp_path: Path, height: int, width: int) -> None:
    Image.new("RGB", (width, height), (200, 200, 200)).save(tmp_path / "image.png")
    data = Digits(image_size=8)
    data.predict_path = str(tmp_path)
    (batch,) = data.predict_dataloader()
    assert batch["image"].shape == (1, 3, 8, 8)
    assert torch.allclose(batch["image"], torch.tensor((200 / 255 - 0.305) / 0.376))


def test_digits_reference_is_computed_on_the_same_split() -> None:
    assert Digits().reference_figures() == {"RBF-SVM accuracy": pytest.approx(0.989, abs=0.003)}


def test_samples_depend_on_seed_pass_and_index_alone() -> None:
    samples = noisy_digits().training_samples()
    first = samples[(1, 7)].image
    torch.manual_seed(99)
    _ = samples[(0, 3)]
    assert torch.equal(samples[(1, 7)].image, first)
    assert torch.equal(noisy_digits().training_samples()[(1, 7)].image, first)
    elsewhere = [samples[(2, 7)].image, noisy_digits(seed=1).training_samples()[(1, 7)].image]
    assert not any(torch.equal(other, first) for other in elsewhere)


def test_workers_do_not_change_the_batches() -> None:
    loaders = [with_trainer(noisy_digits(n, passes=16 / 14), finished=12).train_dataloader() for n in (0, 2)]
    alone, helped = (list(loader) for loader in loaders)
    assert len(alone) == len(helped) == 4  # two batches of the first pass and two of the second
    for one, other in zip(alone, helped, strict=True):
        assert torch.equal(one["image"], other["image"]) and torch.equal(one["label"], other["label"])


def test_length_of_a_run() -> None:
    assert noisy_digits(passes=3).total_batches == 3 * 14
    assert noisy_digits(passes=0.5).total_batches == 7
    data = with_trainer(Digits(batch_size=100), max_steps=5, accumulate_grad_batches=3)
    assert data.total_batches == len(data.train_dataloader()) == 15
    with pytest.raises(InputError, match=r"data\.passes or trainer\.max_steps"):
        _ = Digits().total_batches


@pytest.mark.parametrize(("name", "value"), [("batch_size", 0), ("passes", 0.0), ("num_workers", -1)])
def test_numbers_out_of_range(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"data.{name}"):
        Digits(**{name: value})


def test_a_batch_larger_than_the_data() -> None:
    with pytest.raises(InputError, match="batch_size is 5000, but there are 1433 training samples; give no more"):
        with_trainer(Digits(batch_size=5000, passes=1)).train_dataloader()


def test_transforms_that_change_the_size_are_reported() -> None:
    data = Digits(batch_size=4, passes=1, train_transforms=[v2.RandomCrop(6)])
    with pytest.raises(InputError, match=r"^scikit-learn digit \d+: .* data\.image_size") as caught:
        next(iter(with_trainer(data).train_dataloader()))
    assert "\n" not in str(caught.value)


def test_pydoc_topics() -> None:
    data = PydocTopics(length=128, batch_size=8)
    text = data.raw_text("train", 10**9) + data.raw_text("val", 10**9)
    assert len(text) > 300_000 and data.vocab_size == 256
    assert len(data.raw_text("val", 10**9)) == pytest.approx(0.1 * len(text), abs=1)
    assert data.decode(data.encode("yield")) == "yield"
    batch = next(iter(data.val_dataloader()))
    assert {name: tuple(value.shape) for name, value in batch.items()} == {
        "tokens": (8, 128),
        "targets": (8, 128),
        "num_bytes": (8,),
    }
    assert torch.equal(batch["tokens"][:, 1:], batch["targets"][:, :-1])
    figures = data.reference_figures()
    assert 4 < figures["unigram bits/byte"] < 5.2
    assert 1.5 < figures["order-4 n-gram bits/byte"] < 2.4
    assert 1 < figures["lzma bits/byte"] < 2
