"""The edge of a command: however it ends, the user gets an exit code and at most one line.

What a user or the environment can mend ends with exit code 2 and its cause. Anything else is a fault of this program
or of the user's own code: exit code 1, and a line that says what it was and where.
"""

from __future__ import annotations

import linecache
import os
import re
import select
import sys
import sysconfig
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from mambarium.errors import InputError, original_line
from mambarium.platform.cli.messages import brief

PACKAGE = Path(__file__).parents[2]
BROKEN_PIPE = 141
"""128 + SIGPIPE: what other programs end with when the reader of their output is gone, as in `list | head`."""

LONGEST_CAUSE = 600
"""Characters of a library's message that are shown."""


class Place(NamedTuple):
    """A line of code on an error's way: its module and function, its file, number and text."""

    module: str
    function: str
    file: str
    line: int
    text: str

    @property
    def package(self) -> str:
        """The first part of the module's name."""
        return self.module.split(".")[0]

    @property
    def is_ours(self) -> bool:
        """Whether it is a line of this package."""
        return Path(self.file).is_relative_to(PACKAGE)

    @property
    def is_of_a_library(self) -> bool:
        """Whether it is a line of Python itself or of an installed package."""
        libraries = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
        return self.file.startswith("<") or any(Path(self.file).is_relative_to(folder) for folder in libraries)

    def __str__(self) -> str:
        file = Path(self.file)
        return f"{file.relative_to(PACKAGE.parent) if self.is_ours else file}:{self.line}"


def run_to_exit_code(doing: str, run: Callable[[], int], debug: bool) -> int:
    """Run the command of a name to its exit code, and print why it failed on one line, tracebacks too for debugging.

    Returns:
        The command's own exit code; 2 after bad input or a fault of the environment, 1 after an unexpected error, 130
        after Ctrl-C.

    Raises:
        SystemExit: As the command raised it, after `--help`.
    """
    try:
        code = run()
        sys.stdout.flush()
        return code
    # Some libraries' errors, such as a panic of Rust code, derive from BaseException.
    except BaseException as error:
        if debug:
            traceback.print_exc()
        if isinstance(error, BrokenPipeError) and reader_is_gone():
            return BROKEN_PIPE
        if any(
            isinstance(cause, KeyboardInterrupt) for cause in causes_of(error)
        ):  # Lightning turns it into SystemExit(1)
            print("stopped", file=sys.stderr)
            return 130
        if isinstance(error, SystemExit):
            raise
        line, code = explain(error)
        print(
            f"error: {line}" if isinstance(root_of(error), InputError) else f"error: {doing}: {line}", file=sys.stderr
        )
        return code


def explain(error: BaseException) -> tuple[str, int]:
    """Return the cause of an error on one line, and the exit code that it ends with."""
    error = root_of(error)
    if isinstance(error, InputError):
        return one_line(error), 2
    if cause := cause_in_the_environment(error) or cause_in_the_options(error):
        return cause, 2
    kind = f"{type(error).__name__}: {one_line(error)}".removesuffix(": ")
    places = places_of(error)
    foreign = [place for place in places if place.is_ours or not place.is_of_a_library]
    if foreign and not foreign[-1].is_ours:
        return f"{kind} ({foreign[-1]}); run again with --debug for the traceback", 1
    where = f" ({(foreign or places)[-1]})" if places else ""
    return f"unexpected {kind}{where}; run again with --debug for the traceback and report it", 1


def root_of(error: BaseException) -> BaseException:
    """Return the error behind those that jsonargparse makes of a constructor's, an `InputError` if there is one."""
    chain = list(causes_of(error))
    while chain[0].__cause__ is not None and is_raised_by(chain[0], "jsonargparse"):
        for behind in chain:
            if isinstance(behind, InputError):
                return behind
        chain = list(causes_of(chain[0].__cause__))
    return chain[0]


def cause_in_the_environment(error: BaseException) -> str | None:
    """Return what is wrong with the machine, its files or its packages; None if nothing is."""
    text = one_line(error)
    name = type(error).__name__
    if isinstance(error, MemoryError) or name == "OutOfMemoryError" or "t allocate memory" in text:
        asked = re.search(r"tried to allocate (\d+) bytes", text)
        wanted = f"{int(asked[1]) / 2**30:,.1f} GiB more asked for" if asked else text
        return f"out of memory ({wanted or name}); lower data.batch_size, or the size of the inputs or of the model"
    if "DataLoader worker" in text and "killed by signal" in text:
        return f"{text}: the machine may be out of memory, lower data.num_workers or data.batch_size"
    if is_lost_connection(error):
        return f"the connection to another process of the run is lost ({text})"
    if isinstance(error, OSError):
        file = "" if error.filename is None else f"{error.filename}: "
        return f"{file}{error.strerror or text or name}"
    if isinstance(error, ImportError) and not (error.name or "").startswith("mambarium"):
        return text
    return None


def cause_in_the_options(error: BaseException) -> str | None:
    """Return what a library that acts on the user's options says against them; None if the error is no such thing."""
    text = one_line(error)
    if isinstance(error, OverflowError):
        return "a number is out of range (" + ", in ".join([text, *map(str, places_of(error)[-1:])]) + ")"
    if isinstance(error, RecursionError) and is_raised_by(error, "json", "yaml"):
        return "a file holds mappings or lists inside each other, deeper than can be read"
    if type(error).__name__ == "PanicException":
        return f"a library of Rust code gave up ({text}): a file that it reads is damaged"
    places = places_of(error)
    own = [number for number, place in enumerate(places) if place.is_ours or not place.is_of_a_library]
    libraries = places[own[-1] + 1 :] if own else places
    parsing = [number for number, place in enumerate(libraries) if place.package == "jsonargparse"]
    if parsing:
        made = libraries[parsing[-1] + 1 :]
        return f"{made[0].function.removesuffix('.__init__')}: {text}" if made else brief(str(error), ())
    is_of_lightning = any(place.package in ("lightning", "lightning_fabric") for place in libraries)
    if is_of_lightning and libraries[-1].text.startswith("raise "):
        return text
    # Lightning's name for a wrong option, also where a call of ours brings it to light.
    return text if type(error).__name__ == "MisconfigurationException" else None


def is_lost_connection(error: BaseException) -> bool:
    """Whether a process of a run failed because another one is gone; torch has no type for all its backends."""
    return type(error).__name__ in ("DistBackendError", "DistNetworkError", "DistStoreError") or "/gloo/" in str(error)


def is_raised_by(error: BaseException, *packages: str) -> bool:
    """Whether the line that raised an error is one of these packages'."""
    places = places_of(error)
    return bool(places) and places[-1].package in packages


def places_of(error: BaseException) -> list[Place]:
    """Return the lines on an error's way, the one that raised it last."""
    places = []
    for frame, line in traceback.walk_tb(error.__traceback__):
        code, values = frame.f_code, frame.f_globals
        text = linecache.getline(code.co_filename, line, values).strip()
        places.append(Place(str(values.get("__name__", "")), code.co_qualname, code.co_filename, line, text))
    return places


def causes_of(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that it was raised from or while handling."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def one_line(error: BaseException) -> str:
    """Return an error's message on one line, also of one that comes from a data loader's worker."""
    text = " ".join(original_line(str(error)).split())
    return text if len(text) <= LONGEST_CAUSE else f"{text[:LONGEST_CAUSE]}..."


def reader_is_gone() -> bool:
    """Whether nobody reads standard output any more; what is left in its buffer is then thrown away."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if not any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


@contextmanager
def brief_about_threads(debug: bool) -> Iterator[None]:
    """Have errors of threads and finalizers, which no caller sees, printed on one line; as they are for debugging."""
    if debug:
        yield
        return
    in_thread, in_finalizer = threading.excepthook, sys.unraisablehook

    def tell(found: threading.ExceptHookArgs | sys.UnraisableHookArgs) -> None:
        if found.exc_value is not None and sys.stderr is not None:
            print(f"error: beside the command: {explain(found.exc_value)[0]}", file=sys.stderr)

    threading.excepthook = sys.unraisablehook = tell
    try:
        yield
    finally:
        threading.excepthook, sys.unraisablehook = in_thread, in_finalizer
