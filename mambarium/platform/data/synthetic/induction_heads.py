"""Induction heads: what came after this token when it was last seen?"""

from dataclasses import dataclass

import numpy as np

from mambarium.platform.data.synthetic.synthetic_data import SyntheticSequences, check_vocabulary, no_answers


class InductionHeads(SyntheticSequences):
    """Noise in which a special token stands once, and again at the end: there the token that followed it is asked for.

    As in "Mamba" (Gu and Dao 2023, arXiv 2312.00752, section 4.1.2 and appendix E.1), after "In-context Learning and
    Induction Heads" (Olsson et al. 2022): trained at length 256 with 16 tokens, tested at 64 and up to a million.

    Args:
        length: Tokens per training sequence, 3 or more.
        eval_length: Tokens per validation sequence; None: as in training.
        test_length: Tokens per test sequence; None: as in validation.
        vocab_size: Number of different tokens, the special one included.
        num_samples: Training sequences per pass.
        num_eval_samples: Sequences to validate on, and again to test on.
        predict_all: Whether training counts the prediction of every next token, not of the answers alone.
        batch_size: Sequences per optimisation step, over all processes together.
        passes: How many passes the run has; None if `trainer.max_steps` says the length.
        num_workers: Processes that draw sequences; 0 draws them in the training process.
        seed: Seed of order and training sequences.
    """

    def __init__(
        self,
        length: int = 256,
        eval_length: int | None = None,
        test_length: int | None = None,
        vocab_size: int = 16,
        num_samples: int = 65536,
        num_eval_samples: int = 512,
        predict_all: bool = False,
        batch_size: int = 8,
        passes: float | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            InductionRule(vocab_size),
            length=length,
            eval_length=eval_length,
            test_length=test_length,
            num_samples=num_samples,
            num_eval_samples=num_eval_samples,
            predict_all=predict_all,
            batch_size=batch_size,
            passes=passes,
            num_workers=num_workers,
            seed=seed,
        )


@dataclass(frozen=True)
class InductionRule:
    """The last token of the vocabulary is the special one."""

    vocab_size: int

    def __post_init__(self) -> None:
        check_vocabulary(self.vocab_size, 3)

    @property
    def chance(self) -> float:
        """See `Rule.chance`."""
        return 1 / (self.vocab_size - 1)

    def check(self, length: int) -> str | None:
        """See `Rule.check`."""
        return None if length >= 3 else "the special token, what follows it, and it again are 3 tokens"

    def draw(self, random: np.random.Generator, length: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Rule.draw`."""
        special = self.vocab_size - 1
        tokens = random.integers(special, size=length)
        place = random.integers(length - 2)
        tokens[place] = tokens[-1] = special
        targets = no_answers(length)
        targets[-1] = tokens[place + 1]
        return tokens, targets
