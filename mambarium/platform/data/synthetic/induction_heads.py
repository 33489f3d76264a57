"""Induction heads: what came after this token when it was last seen?"""

from dataclasses import dataclass

import numpy as np

from mambarium.inherited_options import Inherited
from mambarium.platform.data.synthetic.synthetic_data import Rule, SequenceOptions, SyntheticSequences


class InductionHeads(SyntheticSequences):
    """Noise in which a special token stands once, and again at the end: there the token that followed it is asked for.

    As in "Mamba" (Gu and Dao 2023, arXiv 2312.00752, section 4.1.2 and appendix E.1), after "In-context Learning and
    Induction Heads" (Olsson et al. 2022): trained at length 256 with 16 tokens, tested at 64 and up to a million.

    Args:
        length: Tokens per training sequence, 3 or more.
        vocab_size: Number of different tokens, the special one included.
        options: The others of `SyntheticSequences`.
    """

    def __init__(
        self,
        length: int = 256,
        *,
        vocab_size: int = 16,
        num_eval_samples: int = 512,
        batch_size: int = 8,
        **options: Inherited[SequenceOptions],
    ) -> None:
        super().__init__(
            InductionRule(vocab_size),
            length=length,
            num_eval_samples=num_eval_samples,
            batch_size=batch_size,
            **options,
        )


@dataclass(frozen=True)
class InductionRule(Rule):
    """The last token of the vocabulary is the special one."""

    def __post_init__(self) -> None:
        self.require_tokens(3)

    @property
    def chance(self) -> float:
        return 1 / (self.vocab_size - 1)

    def check(self, length: int) -> str | None:
        return None if length >= 3 else "the special token, what follows it, and it again are 3 tokens"

    def draw(self, random: np.random.Generator, length: int) -> tuple[np.ndarray, np.ndarray]:
        special = self.vocab_size - 1
        tokens = random.integers(special, size=length)
        place = random.integers(length - 2)
        tokens[place] = tokens[-1] = special
        targets = self.no_answers(length)
        targets[-1] = tokens[place + 1]
        return tokens, targets
