"""SIGUSR1 and SIGTERM ask a run to save and leave; the ranks agree on the step in their metrics' reduction."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
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
