"""Sequences made by a rule: what they ask, at any length, and that they depend on (seed, pass, index) alone."""

import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from mambarium.errors import InputError
from mambarium.platform.data import AssociativeRecall, InductionHeads, SelectiveCopying
from mambarium.platform.data.synthetic.synthetic_data import SyntheticSequences
from mambarium.platform.data.text.token_windows import TokenWindow
from mambarium.tasks import LanguageModeling
from mambarium.tasks.batches import IGNORED_TARGET

MODULES: dict[str, Callable[..., SyntheticSequences]] = {
    "induction": InductionHeads,
    "copying": SelectiveCopying,
    "recall": AssociativeRecall,
}


def answers(module: SyntheticSequences, window: TokenWindow) -> dict[int, int]:
    """What a reader who knows the task says at each position that asks."""
    tokens = window.tokens.tolist()
    if isinstance(module, InductionHeads):
        place = tokens.index(module.vocab_size - 1)
        return {len(tokens) - 1: tokens[place + 1]}
    if isinstance(module, SelectiveCopying):
        begin = tokens.index(module.vocab_size - 1)
        return dict(enumerate((token for token in tokens[:begin] if token != 0), start=begin))
    pairs = module.rule.num_pairs
    values = dict(zip(tokens[0 : 2 * pairs : 2], tokens[1 : 2 * pairs : 2], strict=True))
    asked = [i for i, target in enumerate(window.targets.tolist()) if target != IGNORED_TARGET]
    assert all(i >= 2 * pairs and i % 2 == 0 for i in asked) and len(asked) == len(values) == pairs
    return {i: values[tokens[i]] for i in asked}


@pytest.mark.parametrize("length", [None, 40, 1000])
@pytest.mark.parametrize("name", MODULES)
def test_targets_are_what_the_task_asks_at_any_length(name: str, length: int | None) -> None:
    module = MODULES[name](eval_length=length)
    samples = module.validation_samples()
    for index in range(5):
        window = samples[(0, index)]
        assert len(window.tokens) == len(window.targets) == (length or module.length)
        assert window.tokens.dtype == window.targets.dtype == np.int64
        assert window.tokens.min() >= 0 and window.tokens.max() < module.vocab_size
        asked = {i: t for i, t in enumerate(window.targets.tolist()) if t != IGNORED_TARGET}
        assert asked == answers(module, window) and window.num_bytes == len(asked)


@pytest.mark.parametrize("name", MODULES)
def test_a_sample_depends_on_seed_pass_and_index_alone(name: str) -> None:
    samples = MODULES[name](seed=3).training_samples()
    first = samples[(1, 7)]
    np.random.seed(5)
    _ = samples[(0, 0)]
    for again in (samples, MODULES[name](seed=3).training_samples(), pickle.loads(pickle.dumps(samples))):
        assert np.array_equal(again[(1, 7)].tokens, first.tokens)
    others = [samples[(0, 7)], samples[(1, 8)], MODULES[name](seed=4).training_samples()[(1, 7)]]
    others += [part[(1, 7)] for part in (MODULES[name]().validation_samples(), MODULES[name]().test_samples())]
    assert not any(np.array_equal(other.tokens, first.tokens) for other in others)


@pytest.mark.parametrize("name", MODULES)
def test_validation_is_the_same_for_all_seeds_and_lengths_can_differ(name: str) -> None:
    module, other = (MODULES[name](eval_length=48, test_length=60, num_eval_samples=9, seed=seed) for seed in (0, 1))
    one, two = (next(iter(each.val_dataloader()))["tokens"] for each in (module, other))
    assert torch.equal(one, two) and one.shape[1] == 48
    assert sum(len(batch["tokens"]) for batch in module.test_dataloader()) == 9
    assert next(iter(module.test_dataloader()))["tokens"].shape[1] == 60


@pytest.mark.parametrize("name", MODULES)
def test_all_next_tokens_can_be_trained_on_but_are_not_measured(name: str) -> None:
    module = MODULES[name](predict_all=True)
    window = module.training_samples()[(0, 0)]
    asked = answers(module, MODULES[name]().training_samples()[(0, 0)])
    for position in range(len(window.tokens) - 1):
        expected = asked.get(position, window.tokens[position + 1])
        assert window.targets[position] == expected
    assert (module.validation_samples()[(0, 0)].targets == IGNORED_TARGET).any()


def test_recall_asks_sooner_with_a_smaller_power() -> None:
    def mean_place(power: float) -> float:
        samples = AssociativeRecall(length=256, power=power).validation_samples()
        return np.mean([np.flatnonzero(samples[(0, i)].targets != IGNORED_TARGET).mean() for i in range(50)])

    assert mean_place(0.01) + 20 < mean_place(1.0)


class Reader(torch.nn.Module):
    """Gives the right answer a logit of 9 where the batch asks for one."""

    def forward(self, targets: Tensor, vocab_size: int) -> Tensor:
        return 9.0 * torch.nn.functional.one_hot(targets.clamp(min=0), vocab_size).float()


@pytest.mark.parametrize("name", MODULES)
def test_language_modeling_takes_its_batches(name: str) -> None:
    from mambarium.backbones import Mamba

    module = MODULES[name](batch_size=4, num_eval_samples=4, vocab_size=20)
    (batch,) = module.val_dataloader()
    task = LanguageModeling(Mamba(8, 1), vocab_size=module.vocab_size)
    assert sum(task.training_losses(batch).values()).isfinite()
    metrics = task.objective.new_metrics()
    metrics.update(Reader()(batch["targets"], 20), batch)
    values = metrics.compute()
    assert values["accuracy"] == 1 and values["bits_per_byte"] < 0.01
    assert 0 < module.reference_figures()["chance accuracy"] <= 0.25


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InductionHeads(length=2), r"data\.length is 2; the special token"),
        (lambda: InductionHeads(vocab_size=2), r"data\.vocab_size is 2; give 3 or more"),
        (lambda: InductionHeads(num_samples=0), r"data\.num_samples is 0; give 1 or more"),
        (lambda: InductionHeads(test_length=1), r"data\.test_length is 1"),
        (lambda: SelectiveCopying(eval_length=31), r"data\.eval_length is 31; 16 tokens and as many markers are 32"),
        (lambda: SelectiveCopying(num_copied=0), r"data\.num_copied is 0"),
        (lambda: AssociativeRecall(length=17), r"data\.length is 17; give an even number of at least 16"),
        (lambda: AssociativeRecall(length=14), r"data\.length is 14; give an even number of at least 16"),
        (lambda: AssociativeRecall(vocab_size=8), r"data\.vocab_size is 8; give 10 or more"),
        (lambda: AssociativeRecall(vocab_size=21), r"data\.vocab_size is 21; give an even number"),
        (lambda: AssociativeRecall(power=0.0), r"data\.power is 0\.0"),
        (lambda: AssociativeRecall(num_pairs=0), r"data\.num_pairs is 0"),
    ],
)
def test_what_cannot_be(make: Callable[[], SyntheticSequences], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
