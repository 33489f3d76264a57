"""Language modelling: exact metrics, published size, sampling with the recurrent state."""

import math

import pytest
import torch

from mambarium.backbones import Mamba, Vim, from_variant
from mambarium.errors import InputError
from mambarium.tasks import LanguageModeling
from mambarium.tasks.language_modeling.language_modeling_task import LanguageMetrics, LanguageModelingObjective
from mambarium.tasks.language_modeling.sampling import pick_next_token


def small_model(vocab_size: int = 13) -> LanguageModeling:
    torch.manual_seed(0)
    return LanguageModeling(Mamba(width=16, depth=2), vocab_size=vocab_size)


def test_published_size_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = LanguageModeling(backbone=from_variant("mamba_130m"), vocab_size=50280)
    assert sum(parameter.numel() for parameter in model.parameters()) == 129_135_360


def test_calling_returns_logits() -> None:
    logits = small_model()(torch.randint(13, (2, 7)))
    assert logits.shape == (2, 7, 13)


def test_metrics_equal_float64_arithmetic_over_ragged_batches() -> None:
    generator = torch.Generator().manual_seed(1)
    metrics = LanguageMetrics()
    nats, tokens, correct, num_bytes = 0.0, 0, 0, 0
    for rows, padded in ((3, 0), (2, 4), (1, 1)):
        logits = torch.randn(rows, 6, 9, generator=generator) * 8
        targets = torch.randint(9, (rows, 6), generator=generator)
        targets[-1, 6 - padded :] = -100
        lengths = torch.randint(6, 30, (rows,), generator=generator)
        metrics.update(logits, {"tokens": targets, "targets": targets, "num_bytes": lengths})
        log_probabilities = logits.double().log_softmax(-1)
        for row in range(rows):
            for position in range(6):
                if targets[row, position] >= 0:
                    nats -= log_probabilities[row, position, targets[row, position]].item()
                    tokens += 1
                    correct += int(logits[row, position].argmax() == targets[row, position])
        num_bytes += int(lengths.sum())
    values = metrics.compute()
    assert values["bits_per_byte"].item() == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-6)
    assert values["perplexity"].item() == pytest.approx(math.exp(nats / tokens), rel=1e-6)
    assert values["loss"].item() == pytest.approx(nats / tokens, rel=1e-6)
    assert 0 < correct < tokens and values["accuracy"].item() == pytest.approx(correct / tokens)


def test_metrics_of_two_processes_add_up() -> None:
    generator = torch.Generator().manual_seed(2)
    logits, targets = torch.randn(4, 6, 9, generator=generator), torch.randint(9, (4, 6), generator=generator)
    lengths = torch.tensor([7, 8, 9, 20])
    whole, first, second = (LanguageMetrics() for _ in range(3))
    for metrics, rows in ((whole, slice(None)), (first, slice(1)), (second, slice(1, None))):
        metrics.update(logits[rows], {"tokens": targets[rows], "targets": targets[rows], "num_bytes": lengths[rows]})
    first.merge_state(second)
    expected = {name: value.item() for name, value in whole.compute().items()}
    assert {name: value.item() for name, value in first.compute().items()} == pytest.approx(expected)


def test_extreme_bfloat16_logits_give_a_finite_exact_loss() -> None:
    logits = torch.tensor([[[200.0, 0.0], [0.0, 200.0]]], dtype=torch.bfloat16)
    targets = torch.tensor([[1, 1]])
    metrics = LanguageMetrics()
    metrics.update(logits, {"tokens": targets, "targets": targets, "num_bytes": torch.tensor([2])})
    assert metrics.compute()["loss"].item() == pytest.approx(100.0)


def test_greedy_generation_equals_full_passes_over_the_growing_text() -> None:
    model = small_model().eval()
    tokens = torch.randint(13, (2, 5))
    generated = model.generate(tokens, max_new_tokens=12, temperature=0)
    for _ in range(12):
        with torch.no_grad():
            tokens = torch.cat([tokens, model(tokens)[:, -1].argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(generated, tokens)


def test_generation_leaves_training_mode_as_it_was_and_follows_its_generator() -> None:
    model = small_model().train()
    prompt = torch.zeros(1, 1, dtype=torch.long)
    first, again, other = (
        model.generate(prompt, 20, generator=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    )
    assert model.training
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(InputError, match="prompt is empty"):
        small_model().generate(torch.zeros(1, 0, dtype=torch.long), 3)


def test_a_vision_backbone_is_refused() -> None:
    with pytest.raises(InputError, match="Vim is not a causal sequence backbone"):
        LanguageModeling(Vim(image_size=8, patch_size=2, width=16, depth=1), vocab_size=5)


def test_top_k_draws_only_the_likeliest() -> None:
    logits = torch.tensor([[0.0, 3.0, 2.0, -1.0]]).expand(200, 4)
    drawn = pick_next_token(logits, 1.0, 2, None, torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == {1, 2}


def test_top_p_draws_the_smallest_sufficient_set() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(400, 4)
    assert set(pick_next_token(logits, 1.0, None, 0.5, torch.Generator().manual_seed(0)).tolist()) == {0}
    assert set(pick_next_token(logits, 1.0, None, 0.6, torch.Generator().manual_seed(0)).tolist()) == {0, 1}
    assert set(pick_next_token(logits, 1.0, None, 0.9, torch.Generator().manual_seed(0)).tolist()) == {
        0,
        1,
        2,
    }


@pytest.mark.parametrize(
    ("option", "value"),
    [("temperature", -0.5), ("temperature", math.nan), ("top_k", 0), ("top_k", -3), ("top_p", 0.0), ("top_p", 1.5)],
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_sampling_options_out_of_range(option: str, value: float, temperature: float) -> None:
    options = {"temperature": temperature, option: value}
    model = small_model().train()
    with pytest.raises(InputError, match=f"^{option} is {value}; give ") as caught:
        model.generate(torch.zeros(1, 1, dtype=torch.long), 1, **options)
    assert "\n" not in str(caught.value)
    assert model.training, "refused options leave the mode as it was"


def test_no_new_tokens_leave_the_prompt() -> None:
    prompt = torch.randint(13, (2, 5))
    assert torch.equal(small_model().generate(prompt, 0), prompt)


@pytest.mark.parametrize("tie_embedding", [True, False])
def test_embedding_and_head_start_with_small_weights(tie_embedding: bool) -> None:
    torch.manual_seed(0)
    head = LanguageModelingObjective(64, 200, tie_embedding)
    assert (head.embedding.weight is head.head.weight) == tie_embedding
    for weight in (head.embedding.weight, head.head.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_a_negative_number_of_tokens_is_refused() -> None:
    with pytest.raises(InputError, match="max_new_tokens is -1; give 0 or more"):
        small_model().generate(torch.zeros(1, 1, dtype=torch.long), -1)


def test_the_whole_probability_keeps_every_token() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(400, 4)
    assert set(pick_next_token(logits, 1.0, None, 1.0, torch.Generator().manual_seed(0)).tolist()) == {0, 1, 2, 3}


def test_temperature_sharpens() -> None:
    logits = torch.tensor([[1.0, 0.0]]).expand(4000, 2)
    share = [
        (pick_next_token(logits, temperature, None, None, torch.Generator().manual_seed(0)) == 0).float().mean().item()
        for temperature in (0.5, 1.0, 2.0)
    ]
    expected = [1 / (1 + math.exp(-1 / temperature)) for temperature in (0.5, 1.0, 2.0)]
    assert share == pytest.approx(expected, abs=0.03)
