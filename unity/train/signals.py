"""SIGUSR1 and SIGTERM ask a run to save and leave; the ranks agree on the step in their metrics' reduction."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = (signal.SIGUSR1, signal.SIGTERM)


class StopRequest:
    """Inside this context the signals only set `asked`; afterwards they act as they did before."""

    asked = False

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


@contextmanager
def deaf_children() -> Iterator[None]:
    """Processes forked in here never see the signals, which a scheduler may send to the whole process group.

    A data worker that dies of one would take the run down before it could save.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def leave_after(main: Callable[[], object]) -> None:
    """Run `main` and end this process and its data workers at once, with its exit code.

    Python itself would ask the workers to end, which are deaf, and wait for them without end.
    """
    code: object = 0
    try:
        main()
    except SystemExit as error:
        code = error.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    # a dead worker's own signal must not raise here any more
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in multiprocessing.active_children():
        child.kill()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)
