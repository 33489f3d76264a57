"""The Python language reference that comes with every Python: real text on a machine without network."""

from collections.abc import Iterator
from functools import cached_property

from mambarium.inherited_options import Inherited
from mambarium.platform.data.text.text_data import Text, TextOptions
from mambarium.platform.data.text.token_stream import TokenStream, byte_stream


class PydocTopics(Text):
    """The topics of `pydoc_data.topics` as bytes: about 465 kB of English and Python, vocabulary 256.

    The topics in the order of their names make one text: the first nine tenths of its bytes are trained on,
    the last tenth, which is the end of one topic and the whole topics after it, is held out. Validation and
    test are the same held-out text. The text changes with the minor version of Python: compare results only
    under one.

    Args:
        options: Those of `Text`; tokens are bytes.
    """

    def __init__(self, **options: Inherited[TextOptions]) -> None:
        super().__init__(tokenizer=None, **options)

    @cached_property
    def texts(self) -> dict[str, bytes]:
        from pydoc_data.topics import topics

        text = "".join(topics[name] for name in sorted(topics)).encode()
        cut = len(text) * 9 // 10
        return {"train": text[:cut], "val": text[cut:]}

    def pieces(self, part: str) -> Iterator[tuple[bytes, str]]:
        yield self.texts[part], "pydoc_data.topics"

    def stream(self, part: str) -> TokenStream:
        return byte_stream(self.texts[part])
