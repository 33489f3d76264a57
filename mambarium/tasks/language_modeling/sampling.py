"""Drawing the next token from logits."""

import torch
from torch import Tensor

from mambarium.errors import InputError


def pick_next_token(
    logits: Tensor,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    generator: torch.Generator | None,
) -> Tensor:
    """Draw a token (batch,) per row of logits (batch, vocab_size), with the options of `LanguageModeling.generate`.

    Nucleus sampling (Holtzman et al. 2020) comes after temperature and `top_k`.
    """
    if not temperature >= 0:
        raise InputError(f"temperature is {temperature}; give 0 for the likeliest token, or a number above 0")
    if top_k is not None and top_k < 1:
        raise InputError(f"top_k is {top_k}; give 1 or more")
    if top_p is not None and not 0 < top_p <= 1:
        raise InputError(f"top_p is {top_p}; give a number above 0, at most 1")
    if temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits / temperature
    if top_k is not None:
        threshold = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < threshold, float("-inf"))
    if top_p is not None:
        ordered, order = logits.softmax(dim=-1).sort(dim=-1, descending=True)
        likelier = ordered.cumsum(dim=-1) - ordered  # probability of all tokens before this one
        dropped = (likelier >= top_p).scatter(-1, order, likelier >= top_p)
        logits = logits.masked_fill(dropped, float("-inf"))
    return torch.multinomial(logits.softmax(dim=-1), num_samples=1, generator=generator)[:, 0]
