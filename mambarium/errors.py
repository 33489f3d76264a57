"""The one exception that stands for a user's mistake."""


class InputError(ValueError):
    """Bad input from a user: a path, a key, a size, a checkpoint.

    The message is one line that says what is wrong and how to mend it. The command line prints it without a
    traceback and exits with code 2.

    Args:
        message: The line, or what a data loader makes of it in a worker.
    """

    def __init__(self, message: str) -> None:
        super().__init__(original_line(message))


def original_line(message: str) -> str:
    """Return the message of an error from another process, such as a data loader's worker; any other message as it is.

    A process can't hand its exception over: torch makes a new one of the same class and passes it the whole traceback
    as the message. Its last line is the original message, after the exception's name.
    """
    if "Traceback (most recent call last)" not in message:
        return message
    return message.strip().splitlines()[-1].partition(": ")[2]
