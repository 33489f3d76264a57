"""The error for a sample that cannot be read, also from inside a data-loading worker."""

from mambarium.errors import InputError


class SampleError(InputError):
    """A file or row that cannot become a sample."""
