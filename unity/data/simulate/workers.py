"""Processes that each do a share of the work, and that end with one another: none waits for what will not come.

A pipe each and nothing else: the semaphores of a pool's queues stay behind when a process is killed, and its end
waits for all work that has begun.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TypeVar

from unity.data.errors import WorkerEnded

Share = TypeVar("Share")
# calls its second argument whenever a piece is done
Work = Callable[[Share, Callable[[], object]], None]


def run_shares(work: Work[Share], shares: Sequence[Share], done: Callable[[], object]) -> None:
    """Do `work(share, done)` for every share in a process of its own; `done` is called here.

    Raises what the first process that fails raised, or WorkerEnded where one was killed. Whatever happens,
    none is left at the end; if this process is killed, they end too.
    """
    running: dict[Connection, BaseProcess] = {}
    try:
        for share in shares:
            running |= [_start(work, share)]
        while running:
            ready = wait(list(running))
            for pipe in [pipe for pipe in running if pipe in ready]:
                _hear(pipe, running, done)
    finally:
        # what they have written so far goes with the folder that it is in
        for process in running.values():
            process.kill()
        for process in running.values():
            process.join()


def _start(work: Work[Share], share: Share) -> tuple[Connection, BaseProcess]:
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_work, args=(work, share, theirs), daemon=True)
    with _inheriting_blocked(signal.SIGINT):
        process.start()
    # so that the pipe ends when the process does
    theirs.close()
    return ours, process


def _hear(pipe: Connection, running: dict[Connection, BaseProcess], done: Callable[[], object]) -> None:
    try:
        error = pipe.recv()
    except EOFError:
        process = running.pop(pipe)
        process.join()
        if process.exitcode:
            raise WorkerEnded(
                f"a worker was ended ({_cause(process.exitcode)}) and nothing is written; "
                f"where memory is short, give fewer --workers or a smaller --size"
            ) from None
        return
    if error is not None:
        raise error
    done()


def _cause(code: int) -> str:
    return f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"


@contextlib.contextmanager
def _inheriting_blocked(number: signal.Signals) -> Iterator[None]:
    """Processes started here never get the signal; this one gets it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(work: Work[Share], share: Share, pipe: Connection) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        work(share, lambda: pipe.send(None))
    except Exception as error:
        # a kind of its own may not survive the way
        known = isinstance(error, ValueError | OSError | MemoryError)
        with contextlib.suppress(BrokenPipeError):
            pipe.send(error if known else RuntimeError(f"{type(error).__name__}: {error}"))


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)
