"""How loading ends: whatever happens to a worker is told here, where a batch is asked for, and none outlives it.

torch tells of a failure with the worker's traceback, or by raising in the middle of whatever its user does; and at
the end it waits for workers that training made deaf to SIGTERM.
"""

import atexit
import math
import signal
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from unity.data.errors import WorkerEnded

# iterators whose workers run
_running: weakref.WeakSet = weakref.WeakSet()


class Failure(NamedTuple):
    """What takes the place of a batch that cannot be had: the sentence that says why."""

    words: str


def start(loader: DataLoader) -> Iterator:
    """Start a loader's workers, to be handed to `ending`."""
    main = threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD")
    before = signal.getsignal(signal.SIGCHLD) if main else None
    received = iter(loader)
    if main:
        # torch's handler raises wherever the main thread is; a batch that does not come tells the same
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)
    _running.add(received)
    # the last to be registered is the first to run: before torch and multiprocessing wait for their processes
    atexit.unregister(_end_all)
    atexit.register(_end_all)
    return received


def ending(batches: Iterator[dict | Failure], received: Iterator) -> Iterator[dict]:
    """The batches of a loader that was started; its workers have ended when this has.

    Raises ValueError for a `Failure`, WorkerEnded where a worker was killed.
    """
    try:
        for batch in batches:
            if isinstance(batch, Failure):
                raise ValueError(batch.words)
            yield batch
    except (RuntimeError, ConnectionError, EOFError) as error:
        # torch's own words, or else a worker's end while a batch was fetched from it
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        raise WorkerEnded(
            "a data worker was ended from outside, perhaps for want of memory; use fewer --workers, or 0"
        ) from error
    finally:
        _end(received)


def shared(values: Tensor) -> Tensor:
    """A tensor that a worker may send; ValueError where there is no room for it.

    Sent as it is, it would be copied by a thread of the queue, whose errors reach nobody: the batch never comes.
    """
    with _room():
        return values if get_worker_info() is None else values.share_memory_()


def empty(shape: Sequence[int]) -> Tensor:
    """A tensor of bytes to be filled, which a worker may send without a copy; else as `shared`."""
    if get_worker_info() is None:
        return torch.empty(*shape, dtype=torch.uint8)
    with _room():
        # what torch's own collate does
        storage = torch.UntypedStorage._new_shared(math.prod(shape))
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(*shape)


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise ValueError(
            f"workers send batches through shared memory, and there is none left ({error}); "
            f"give /dev/shm more room (docker: --shm-size), or load with 0 workers"
        ) from error


def _end_all() -> None:
    for received in list(_running):
        _end(received)


def _end(received: Iterator) -> None:
    """Ask the workers to end, and end those that do not: one may be stuck, or deaf to SIGTERM."""
    workers = getattr(received, "_workers", [])
    with suppress(RuntimeError):
        # what torch itself does when the iterator is forgotten, which a traceback may put off for ever
        getattr(received, "_shutdown_workers", lambda: None)()
    for worker in workers:
        if worker.is_alive():
            worker.kill()
            worker.join()
    # last: if this is interrupted, the end of the program does it again
    _running.discard(received)
