"""The Python language reference that comes with every Python: real text on a machine without network."""

from functools import cached_property

from mambarium.platform.data.text.text_data import Text, TextSplits
from mambarium.platform.data.text.token_stream import byte_stream


class PydocTopics(Text):
    """The topics of `pydoc_data.topics` as bytes: about 465 kB of English and Python, vocabulary 256.

    The topics in the order of their names make one text: the first nine tenths of its bytes are trained on,
    the last tenth, which is the end of one topic and the whole topics after it, is held out. Validation and
    test are the same held-out text. The text changes with the minor version of Python: compare results only
    under one.

    Args:
        length: Bytes per training window.
        eval_length: Bytes per evaluation window; None: as in training.
        batch_size: Windows per optimisation step, over all processes together.
        passes: How often the run goes through the training text; None if `trainer.max_steps` says the length.
        num_workers: Processes that load windows; 0 loads them in the training process.
        seed: Seed of order and offsets.
    """

    def __init__(
        self,
        length: int = 256,
        eval_length: int | None = None,
        batch_size: int = 16,
        passes: float | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            tokenizer=None,
            length=length,
            eval_length=eval_length,
            batch_size=batch_size,
            passes=passes,
            num_workers=num_workers,
            seed=seed,
        )

    @cached_property
    def splits(self) -> TextSplits:
        """Nine tenths of the text, and the last tenth twice."""
        held_out = byte_stream(self._parts[1])
        return TextSplits(byte_stream(self._parts[0]), held_out, held_out)

    def raw_text(self, split: str, limit: int) -> bytes:
        """Returns the first bytes of a split."""
        return self._parts[0 if split == "train" else 1][:limit]

    @cached_property
    def _parts(self) -> tuple[bytes, bytes]:
        from pydoc_data.topics import topics

        text = "".join(topics[name] for name in sorted(topics)).encode()
        cut = len(text) * 9 // 10
        return text[:cut], text[cut:]
