"""Selective copying: which tokens stood among the noise, in order?"""

from dataclasses import dataclass

import numpy as np

from mambarium.errors import InputError
from mambarium.inherited_options import Inherited
from mambarium.platform.data.synthetic.synthetic_data import Rule, SequenceOptions, SyntheticSequences


class SelectiveCopying(SyntheticSequences):
    """Some tokens at random places among noise, then as many markers: at the markers the tokens are asked for in order.

    As in "Mamba" (Gu and Dao 2023, arXiv 2312.00752, section 4.1.1 and appendix E.1), whose generator was not
    published: there 16 of 4096 tokens are to be copied, with 16 different tokens in all.

    Args:
        length: Tokens per training sequence, markers included: at least twice `num_copied`.
        num_copied: Tokens to copy.
        vocab_size: Number of different tokens, noise and marker included.
        options: The others of `SyntheticSequences`.
    """

    def __init__(
        self,
        length: int = 256,
        *,
        num_copied: int = 16,
        vocab_size: int = 16,
        num_eval_samples: int = 256,
        batch_size: int = 64,
        **options: Inherited[SequenceOptions],
    ) -> None:
        super().__init__(
            CopyingRule(vocab_size, num_copied),
            length=length,
            num_eval_samples=num_eval_samples,
            batch_size=batch_size,
            **options,
        )


@dataclass(frozen=True)
class CopyingRule(Rule):
    """Token 0 is noise, the last one the marker."""

    num_copied: int

    def __post_init__(self) -> None:
        self.require_tokens(3)
        if self.num_copied < 1:
            raise InputError(f"data.num_copied is {self.num_copied}; give 1 or more")

    @property
    def chance(self) -> float:
        return 1 / (self.vocab_size - 2)

    def check(self, length: int) -> str | None:
        least = 2 * self.num_copied
        return None if length >= least else f"{self.num_copied} tokens and as many markers are {least} tokens"

    def draw(self, random: np.random.Generator, length: int) -> tuple[np.ndarray, np.ndarray]:
        begin = length - self.num_copied  # of the markers
        copied = random.integers(1, self.vocab_size - 1, size=self.num_copied)
        tokens = np.zeros(length, dtype=np.int64)
        tokens[np.sort(random.choice(begin, self.num_copied, replace=False))] = copied
        tokens[begin:] = self.vocab_size - 1
        targets = self.no_answers(length)
        targets[begin:] = copied
        return tokens, targets
