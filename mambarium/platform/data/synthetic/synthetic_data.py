"""Sequences made by a rule, to ask what mechanism a backbone can learn; the rules are left to subclasses."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mambarium.errors import InputError
from mambarium.platform.data.core.data_module import ExactDataModule, Part, RunOptions
from mambarium.platform.data.core.known_facts import Facts
from mambarium.platform.data.text.token_windows import TokenWindow, collate_windows
from mambarium.platform.randomness import mixed_seed
from mambarium.tasks.batches import IGNORED_TARGET, TokenBatch


@dataclass(frozen=True)
class Rule(ABC):
    """How a sequence and its answers are drawn; must be picklable."""

    vocab_size: int
    """Number of different tokens."""

    @property
    @abstractmethod
    def chance(self) -> float:
        """Accuracy of guessing one of the possible answers."""

    @abstractmethod
    def check(self, length: int) -> str | None:
        """Say what is wrong with sequences of so many tokens, None if nothing is."""

    @abstractmethod
    def draw(self, random: np.random.Generator, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw tokens (length,) int64, and targets (length,) int64, `IGNORED_TARGET` where there is no answer."""

    def require_tokens(self, least: int) -> None:
        """Raise InputError unless there are enough different tokens."""
        if self.vocab_size < least:
            raise InputError(f"data.vocab_size is {self.vocab_size}; give {least} or more")

    def no_answers(self, length: int) -> np.ndarray:
        """Return targets (length,) int64 without an answer."""
        return np.full(length, IGNORED_TARGET, dtype=np.int64)


class SequenceOptions(RunOptions, total=False):
    """Options of `SyntheticSequences` whose defaults are the same for all rules."""

    eval_length: int | None
    test_length: int | None
    num_samples: int
    predict_all: bool


class SyntheticSequences(ExactDataModule):
    """Sequences drawn by a rule, as many as wanted and as long as wanted, fresh ones in each pass.

    A training sequence is a function of (seed, pass, index). Those of validation and test do not depend on the seed,
    so that runs with different seeds are measured on the same ones. A token counts as one byte, so bits per byte are
    bits per answer; `accuracy` is the share of right answers.

    Args:
        rule: How a sequence is drawn.
        length: Tokens per training sequence.
        eval_length: Tokens per validation sequence; None: as in training.
        test_length: Tokens per test sequence; None: as in validation.
        num_samples: Training sequences per pass.
        num_eval_samples: Sequences to validate on, and again to test on.
        predict_all: Whether training counts the prediction of every next token, not of the answers alone.
        options: Those of `ExactDataModule`.
    """

    fact_names = ("vocab_size",)

    @abstractmethod
    def __init__(
        self,
        rule: Rule,
        length: int,
        eval_length: int | None = None,
        test_length: int | None = None,
        num_samples: int = 65536,
        num_eval_samples: int = 512,
        predict_all: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.rule = rule
        self.length = length
        self.eval_length = length if eval_length is None else eval_length
        self.test_length = self.eval_length if test_length is None else test_length
        lengths = {"length": self.length, "eval_length": self.eval_length, "test_length": self.test_length}
        for name, value in lengths.items():
            complaint = rule.check(value)
            if complaint is not None:
                raise InputError(f"data.{name} is {value}; {complaint}")
        for name, value in {"num_samples": num_samples, "num_eval_samples": num_eval_samples}.items():
            if value < 1:
                raise InputError(f"data.{name} is {value}; give 1 or more")
        self.num_samples, self.num_eval_samples, self.predict_all = num_samples, num_eval_samples, predict_all

    @property
    def vocab_size(self) -> int:
        """Number of different tokens."""
        return self.rule.vocab_size

    def read_facts(self) -> Facts:
        return {"vocab_size": self.vocab_size}

    def samples(self, part: Part) -> "DrawnSequences":
        if part == "train":
            return DrawnSequences(self.rule, self.length, self.num_samples, "training", self.seed, self.predict_all)
        length, purpose = (self.eval_length, "validation") if part == "val" else (self.test_length, "test")
        return DrawnSequences(self.rule, length, self.num_eval_samples, purpose, seed=0)

    @property
    def collate(self) -> Callable[[list[TokenWindow]], TokenBatch]:
        return collate_windows

    def sample_text(self, index: int, sample: TokenWindow) -> str:
        """Show tokens as numbers, and below each the target that is predicted there, a dot where none is."""
        width = len(str(self.vocab_size - 1))
        targets = ["." if target == IGNORED_TARGET else str(target) for target in sample.targets.tolist()]
        predicted = len(targets) - targets.count(".")
        return "\n".join(
            [
                f"--- sequence {index}: {len(sample.tokens)} tokens, {predicted} predicted",
                "tokens  " + " ".join(str(token).rjust(width) for token in sample.tokens.tolist()),
                "targets " + " ".join(target.rjust(width) for target in targets),
            ]
        )

    def reference_figures(self) -> dict[str, float]:
        return {"chance accuracy": self.rule.chance}


@dataclass(frozen=True)
class DrawnSequences:
    """So many sequences of a length, each a function of their purpose, a seed and its key.

    `predict_all` makes every next token a target.
    """

    rule: Rule
    length: int
    count: int
    purpose: str
    seed: int
    predict_all: bool = False

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, key: tuple[int, int]) -> TokenWindow:
        number = mixed_seed(f"seq {self.purpose}", self.seed, *key)
        tokens, targets = self.rule.draw(np.random.default_rng(number), self.length)
        if self.predict_all:
            targets[:-1] = np.where(targets[:-1] == IGNORED_TARGET, tokens[1:], targets[:-1])
        return TokenWindow(tokens, targets, int((targets != IGNORED_TARGET).sum()))
