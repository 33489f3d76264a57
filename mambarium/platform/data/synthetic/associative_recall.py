"""Associative recall: which value came with this key?"""

from dataclasses import dataclass

import numpy as np

from mambarium.errors import InputError
from mambarium.inherited_options import Inherited
from mambarium.platform.data.synthetic.synthetic_data import Rule, SequenceOptions, SyntheticSequences


class AssociativeRecall(SyntheticSequences):
    """Pairs of a key and a value, then each key once more among random tokens: there its value is asked for (MQAR).

    "Zoology: Measuring and Improving Recall in Efficient Language Models" (Arora et al. 2023, arXiv 2312.04927, section
    3.1 and appendix), as its official code draws it: the gap n to a key's query, counted in pairs of tokens, has a
    probability in proportion to n^(power - 1).

    Args:
        length: Tokens per training sequence, an even number, at least four for each pair.
        num_pairs: Keys with a value.
        vocab_size: Number of different tokens, an even number: the lower half are keys, the upper half values.
        power: Above 0; the smaller, the sooner keys are asked for.
        options: The others of `SyntheticSequences`.
    """

    def __init__(
        self,
        length: int = 64,
        *,
        num_pairs: int = 4,
        vocab_size: int = 8192,
        power: float = 0.01,
        num_eval_samples: int = 512,
        batch_size: int = 32,
        **options: Inherited[SequenceOptions],
    ) -> None:
        super().__init__(
            RecallRule(vocab_size, num_pairs, power),
            length=length,
            num_eval_samples=num_eval_samples,
            batch_size=batch_size,
            **options,
        )


@dataclass(frozen=True)
class RecallRule(Rule):
    """Keys are 1 to vocab_size / 2 - 1, values from vocab_size / 2 on."""

    num_pairs: int
    power: float

    def __post_init__(self) -> None:
        if self.num_pairs < 1:
            raise InputError(f"data.num_pairs is {self.num_pairs}; give 1 or more")
        self.require_tokens(2 * self.num_pairs + 2)
        if self.vocab_size % 2:
            raise InputError(
                f"data.vocab_size is {self.vocab_size}; give an even number, half for keys and half for values"
            )
        if not self.power > 0:
            raise InputError(f"data.power is {self.power}; give a number above 0")

    @property
    def chance(self) -> float:
        return 1 / self.num_pairs

    def check(self, length: int) -> str | None:
        if length >= 4 * self.num_pairs and length % 2 == 0:
            return None
        return f"give an even number of at least {4 * self.num_pairs}, four tokens for each of {self.num_pairs} pairs"

    def draw(self, random: np.random.Generator, length: int) -> tuple[np.ndarray, np.ndarray]:
        half, begin = self.vocab_size // 2, 2 * self.num_pairs  # where the pairs end
        keys = 1 + random.choice(half - 1, self.num_pairs, replace=False)
        values = half + random.choice(half, self.num_pairs, replace=False)
        gaps = np.arange(1, (length - begin) // 2 + 1, dtype=np.float64) ** (self.power - 1)
        queries = begin + 2 * random.choice(len(gaps), self.num_pairs, replace=False, p=gaps / gaps.sum())
        tokens = random.integers(self.vocab_size, size=length)
        tokens[0:begin:2], tokens[1:begin:2], tokens[queries] = keys, values, keys
        targets = self.no_answers(length)
        targets[queries] = values
        return tokens, targets
