"""What every command line of the project shares: bounds of its numbers, and an end without a traceback.

Steps = Annotated[int, whole(1, 1000)]      a field of the options; --help shows "1..1000"
check_bounds(options)                       one sentence for the first number out of its bounds
end("infer", main)                          runs main; whatever goes wrong is one sentence and an exit code
"""

import contextlib
import dataclasses
import errno
import io
import math
import os
import signal
import sys
import typing
from collections.abc import Callable
from types import FrameType, NoneType
from typing import Any, NoReturn

from tyro.constructors import PrimitiveConstructorSpec

# set to see where an error comes from
TRACEBACK = "UNITY_TRACEBACK"
# every Ctrl-C so far
_interrupts: list[int] = []
# the largest that numpy, torch and JSON readers agree on
MOST = 2**53


@dataclasses.dataclass(frozen=True)
class Bounds(PrimitiveConstructorSpec):
    """Metadata of a number's annotation: the least and the most it may be."""

    low: float = -math.inf
    high: float = math.inf
    # the least itself is too little
    above: bool = False

    def holds(self, value: float) -> bool:
        """False for what is no number, too."""
        return (self.low < value if self.above else self.low <= value) and value <= self.high

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"above {self.low:g}" if self.above else f"{self.low:g} or more"
        return f"above {self.low:g}, up to {self.high:g}" if self.above else f"from {self.low:g} to {self.high:g}"


def whole(low: int, high: int = MOST) -> Bounds:
    """Bounds of an int."""
    return _bounds(int, low, high, False)


def real(low: float, high: float = sys.float_info.max, *, above: bool = False) -> Bounds:
    """Bounds of a float; `above`: more than `low`."""
    return _bounds(float, low, high, above)


def check_bounds(options: Any) -> None:
    """Raises ValueError for the first number of a dataclass, or of one inside it, that is out of its bounds."""
    hints = typing.get_type_hints(type(options), include_extras=True)
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if dataclasses.is_dataclass(value):
            check_bounds(value)
        elif value is not None:
            _check(field.name, value, hints[field.name])


def share_of(part: str) -> slice:
    """What of a list the process with `--part i/n` does: every n-th from the i-th on; ValueError for no part."""
    place, _, count = part.partition("/")
    if not (place.isdecimal() and count.isdecimal() and 1 <= int(place) <= int(count) <= 100_000):
        raise ValueError(f"--part {part} is no share of the jobs; give 1/4 to 4/4 to four processes")
    return slice(int(place) - 1, None, int(count))


def end(name: str, main: Callable[[], object]) -> None:
    """Run a command's `main` and leave the process with what became of it, in one sentence on stderr.

    Exit codes: 0 done, 2 something that its user can mend, 130 interrupted, 143 terminated, 141 nobody reads its
    output any more, 1 a fault of the program itself; UNITY_TRACEBACK=1 shows where an error comes from.
    """
    prepare()
    try:
        main()
        if sys.stdout:
            sys.stdout.flush()
    except BrokenPipeError:
        _leave(141)
    except KeyboardInterrupt:
        _end_interrupted(name)
    except Exception as error:
        # an import that is interrupted may end in an error of its own
        if _interrupts:
            _end_interrupted(name)
        if os.environ.get(TRACEBACK):
            raise
        say(f"{name}: {sentence(error)}")
        _leave(2 if _is_expected(error) else 1)


def prepare() -> None:
    """Let no character end a command, and let SIGTERM run what cleans up."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def say(words: str) -> None:
    """A line on stderr, if there is still somebody to read it."""
    with contextlib.suppress(OSError, ValueError):
        print(words, file=sys.stderr, flush=True)


def sentence(error: BaseException) -> str:
    """What an exception says to a user: one line, with the way out."""
    words = " ".join(str(error).split())
    if isinstance(error, ValueError) and not isinstance(error, UnicodeError):
        return words
    if isinstance(error, OSError):
        return _os_sentence(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "there is not enough memory; ask for fewer frames or a smaller size, or close other programs"
    if isinstance(error, ModuleNotFoundError):
        return f"{words}; install it, see the extras in the README"
    return f"a fault of this program, {type(error).__name__}: {words} ({TRACEBACK}=1 shows where)"


def _interrupt(number: int, frame: FrameType | None) -> None:
    _interrupts.append(number)
    raise KeyboardInterrupt


def _end_interrupted(name: str) -> NoReturn:
    say(f"{name}: interrupted; what was not whole yet is removed")
    _leave(130)


def _bounds(kind: type, low: float, high: float, above: bool) -> Bounds:
    upper = "" if high >= MOST else f"{high:g}"
    shown = f"{'>' if above else ''}{low:g}..{upper}"
    return Bounds(
        nargs=1,
        metavar=shown,
        instance_from_str=lambda words: kind(words[0]),
        is_instance=lambda value: isinstance(value, (int, kind)) and not isinstance(value, bool),
        str_from_instance=lambda value: [str(value)],
        low=low,
        high=math.inf if high >= MOST and kind is float else high,
        above=above,
    )


def _check(name: str, value: Any, hint: object) -> None:
    """Bounds may stand inside `X | None` and `tuple[X, X]`."""
    if isinstance(value, tuple | list):
        hints = [part for part in _parts(hint) if part is not NoneType and part is not Ellipsis]
        for item, part in zip(value, hints * len(value), strict=False):
            _check(name, item, part)
        return
    for bounds in (mark for part in (hint, *_parts(hint)) for mark in getattr(part, "__metadata__", ())):
        if isinstance(bounds, Bounds) and not (bounds.holds(value) and abs(value) != math.inf):
            flag = name.replace("_", "-")
            raise ValueError(f"{name} is {value}; give --{flag} a number {bounds}")


def _parts(hint: object) -> tuple:
    """Types inside a union or a tuple, also of an optional tuple."""
    args = typing.get_args(hint)
    inner = [arg for arg in args if typing.get_origin(arg) in (tuple, list)]
    return typing.get_args(inner[0]) if inner else args


def _is_expected(error: Exception) -> bool:
    return isinstance(error, ValueError | OSError | MemoryError | ModuleNotFoundError) and not isinstance(
        error, UnicodeError
    )


def _os_sentence(error: OSError) -> str:
    ways: dict[int | None, str] = {
        errno.ENOSPC: "make room there, or write elsewhere",
        errno.EDQUOT: "make room there, or write elsewhere",
        errno.EROFS: "write elsewhere",
        errno.EACCES: "ask for the right to, or use another place",
        errno.EPERM: "ask for the right to, or use another place",
        errno.ENOENT: "look at the name again",
        errno.EISDIR: "give another name",
        errno.EMFILE: "allow more open files (ulimit -n)",
    }
    files = [str(name) for name in (error.filename, error.filename2) if name is not None]
    way = ways.get(error.errno, "try again, or use another place")
    return f"{': '.join([*files, error.strerror or ' '.join(str(error).split()) or type(error).__name__])}; {way}"


def _leave(code: int) -> NoReturn:
    """Exit; Python's own last flush must not complain where nobody reads."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(code)
