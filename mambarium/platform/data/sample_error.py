"""The error for a sample that cannot be read, also from inside a data-loading worker."""

from mambarium.errors import InputError


class SampleError(InputError):
    """A file or row that cannot become a sample.

    A worker process cannot hand its exception over: the data loader makes a new one of the same class and
    passes it the worker's whole traceback as the message. Its last line is the original message; only that is
    kept, so the user reads the same line with and without workers.

    Args:
        message: The one-line message, or a worker's traceback that ends with it.
    """

    def __init__(self, message: str) -> None:
        last_line = message.strip().splitlines()[-1]
        super().__init__(last_line.removeprefix(f"{type(self).__module__}.{type(self).__qualname__}: "))
