"""The one exception that stands for a user's mistake."""


class InputError(ValueError):
    """Bad input from a user: a path, a key, a size, a checkpoint.

    The message is one line that says what is wrong and how to mend it. The command line prints it without a
    traceback and exits with code 2.
    """
