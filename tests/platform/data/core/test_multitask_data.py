"""Several tasks' data dealt out by one position."""

from collections import Counter
from typing import Any

import pytest
import torch

from mambarium.errors import InputError
from mambarium.platform.data.core.multitask import MultiTaskData
from mambarium.platform.data.core.order import GlobalBatches
from mambarium.platform.data.core.task_turns import MultiTaskBatches, Turns
from mambarium.platform.data.images.classification.digits import Digits
from mambarium.platform.data.synthetic.induction_heads import InductionHeads
from mambarium.platform.position import Position

TURNS: list[Turns] = ["joint", "round_robin", "proportional"]


def streams(rank: int = 0, world_size: int = 1) -> dict[str, GlobalBatches]:
    """One task with 2 batches per pass, one with 6."""
    return {
        "few": GlobalBatches(9, 4, seed=1, rank=rank, world_size=world_size),
        "many": GlobalBatches(13, 2, seed=1, rank=rank, world_size=world_size),
    }


def dealt(turns: Turns, finished: int = 0, rank: int = 0, world_size: int = 1) -> list[list[tuple[str, int, int]]]:
    position = Position(seed=0)
    position.finished_batches = finished
    return list(MultiTaskBatches(streams(rank, world_size), turns, 40, seed=3, position=position))


@pytest.mark.parametrize("turns", TURNS)
def test_dealing_goes_on_from_any_position(turns: Turns) -> None:
    whole = dealt(turns)
    assert len(whole) == 40
    for finished in (1, 2, 7, 39, 40):
        assert dealt(turns, finished) == whole[finished:]


@pytest.mark.parametrize("turns", TURNS)
def test_each_task_sees_its_own_batches_in_their_own_order(turns: Turns) -> None:
    keys = [key for step in dealt(turns) for key in step]
    for name, stream in streams().items():
        seen = [(pass_index, index) for task, pass_index, index in keys if task == name]
        size = len(stream[0])
        assert seen == [key for number in range(len(seen) // size) for key in stream[number]]


@pytest.mark.parametrize("turns", TURNS)
def test_processes_share_the_same_turns(turns: Turns) -> None:
    shares = [dealt(turns, rank=rank, world_size=2) for rank in (0, 1)]
    for whole, first, second in zip(dealt(turns), *shares, strict=True):
        assert [key[0] for key in first] == [key[0] for key in second]
        assert sorted(first + second) == sorted(whole)


def test_whose_turn_it_is() -> None:
    assert all({key[0] for key in step} == {"few", "many"} for step in dealt("joint"))
    assert [step[0][0] for step in dealt("round_robin")] == ["few", "many"] * 20
    drawn = Counter(step[0][0] for step in dealt("proportional"))
    assert 22 <= drawn["many"] <= 37  # 3 of 4 are expected


def data(turns: Turns = "joint", **sizes: int) -> MultiTaskData:
    tasks: dict[str, Any] = {name: Digits(batch_size=size) for name, size in sizes.items()}
    return MultiTaskData(tasks, turns, passes=2, seed=5)


@pytest.mark.parametrize(("turns", "steps"), [("joint", 44), ("round_robin", 88), ("proportional", 66)])
def test_a_pass_is_through_the_longest_data(turns: Turns, steps: int) -> None:
    both = data(turns, digits=64, again=128)  # 22 and 11 batches
    assert both.batches_per_pass == steps / 2 and both.total_batches == steps
    assert both.num_classes == {"digits": 10, "again": 10}
    assert both.class_frequencies == {"digits": None, "again": None}


def test_images_seen_by_all_tasks_are_recognised() -> None:
    for sizes, shared in (((4, 4), True), ((4, 6), False)):
        both = data(digits=sizes[0], again=sizes[1])
        step = next(iter(MultiTaskBatches(both._streams(), "joint", 1, both.seed, Position(seed=0))))
        batch = both.collate([both.training_samples()[key] for key in step])
        assert {name: len(part["label"]) for name, part in batch["tasks"].items()} == {
            "digits": sizes[0],
            "again": sizes[1],
        }
        assert batch["shared_images"] == shared


def test_evaluation_sees_each_sample_of_each_task_once() -> None:
    both = data(digits=50, again=364)
    seen: Counter[str] = Counter()
    labels = []
    for batch in both.val_dataloader():
        ((name, part),) = batch["tasks"].items()
        seen[name] += len(part["label"])
        labels.append(part["label"])
    assert seen == {"digits": 364, "again": 364}
    assert torch.equal(torch.cat(labels[:-1]), labels[-1])


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({}, "data.tasks is empty"),
        ({"a": {"passes": 2.0}}, "data.tasks.a; give passes beside"),
        ({"a": {"num_workers": 1}}, "data.tasks.a; give num_workers beside"),
    ],
)
def test_settings_that_belong_to_all_tasks_are_refused_in_one(tasks: dict[str, dict[str, Any]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MultiTaskData({name: Digits(**options) for name, options in tasks.items()})


def test_data_without_classes_are_refused() -> None:
    with pytest.raises(InputError, match=r"data\.tasks\.b: InductionHeads has no classes"):
        MultiTaskData({"a": Digits(), "b": InductionHeads()})
