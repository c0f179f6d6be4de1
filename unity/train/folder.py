"""A run's folder: what is in it, and who may write there."""

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from unity.files import check_writable

LOCK = ".lock"
# a holder on another machine gives a sign of life this often; it is gone when three fail to appear
BEAT = 5.0


def checkpoints(run: Path) -> list[Path]:
    """What was saved, newest first; a checkpoint that was cut off while it was written is none."""
    found = (run / "checkpoints").glob("step-*") if (run / "checkpoints").is_dir() else ()
    return sorted((path for path in found if path.suffix != ".partial"), reverse=True)


def find_run(path: Path) -> Path:
    """The run folder that `path` is, or is a checkpoint of."""
    for folder in (path, *path.parents[:2]):
        if (folder / "checkpoints").is_dir() and ((folder / "config.json").exists() or checkpoints(folder)):
            return folder
    raise ValueError(f"{path} is no run folder (with config.json and checkpoints/) nor a checkpoint in one")


def configurations(run: Path) -> Iterator[tuple[object, Path]]:
    """What may say how a run was configured, best first, and where it stands; a str says why it cannot be read."""
    yield _read(run / "config.json"), run / "config.json"
    for checkpoint in checkpoints(run):
        state = _read(checkpoint / "state.json")
        if isinstance(state, dict) and "config" in state:
            state = state["config"]
        elif not isinstance(state, str):
            state = "carries no configuration"
        yield state, checkpoint / "state.json"


@contextmanager
def held(run: Path) -> Iterator[None]:
    """Inside, no other process may write in a run's folder, which is made if need be; nothing of it stays behind.

    The lock is the operating system's, which ends with its process however that ends. Where a network file system
    keeps such locks to one machine, the holder's signs of life in the file stand in for it. Raises ValueError that
    names the holder.
    """
    check_writable(run)
    made = [folder for folder in (run, *run.parents) if not folder.exists()]
    run.mkdir(parents=True, exist_ok=True)
    path, over = run / LOCK, threading.Event()
    descriptor = _take(path, run)
    beat = threading.Thread(target=_beat, args=(path, over), daemon=True)
    beat.start()
    try:
        yield
    finally:
        over.set()
        path.unlink(missing_ok=True)
        os.close(descriptor)
        for folder in made:
            # only what is empty goes
            with suppress(OSError):
                folder.rmdir()


def _take(path: Path, run: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        # not flock: forked data workers would inherit that and outlive their parent with it
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _told(descriptor)
        os.close(descriptor)
        raise _taken(run, holder) from None
    except OSError:
        # no locks on this file system
        pass
    if not os.path.exists(path) or os.stat(path).st_ino != os.fstat(descriptor).st_ino:
        # its holder has just removed it
        os.close(descriptor)
        return _take(path, run)
    holder = _told(descriptor)
    if _lives(path, holder):
        os.close(descriptor)
        raise _taken(run, holder)
    mine = {"host": socket.gethostname(), "process": os.getpid(), "started": psutil.Process().create_time()}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(mine).encode(), 0)
    os.fsync(descriptor)
    return descriptor


def _lives(path: Path, holder: dict) -> bool:
    """Whether a holder that no lock speaks for is at work: its process here, or its signs of life elsewhere."""
    if not holder:
        return False
    if holder["host"] == socket.gethostname():
        if holder["process"] == os.getpid():
            return False
        with suppress(psutil.Error):
            return psutil.Process(holder["process"]).create_time() == holder["started"]
        return False
    before, end = path.stat().st_mtime_ns, time.monotonic() + 3 * BEAT
    while time.monotonic() < end:
        time.sleep(BEAT / 10)
        if path.stat().st_mtime_ns != before:
            return True
    return False


def _beat(path: Path, over: threading.Event) -> None:
    while not over.wait(BEAT):
        with suppress(OSError):
            os.utime(path)


def _told(descriptor: int) -> dict:
    """Whoever a lock file names; {} where it names nobody."""
    with suppress(ValueError):
        told = json.loads(os.pread(descriptor, 4096, 0))
        if isinstance(told, dict) and {"host", "process", "started"} <= told.keys():
            return told
    return {}


def _taken(run: Path, holder: dict) -> ValueError:
    who = f"process {holder['process']} on {holder['host']}" if holder else "another process"
    return ValueError(f"{run} is being written by {who}; wait for it, end it, or give another --out")


def _read(path: Path) -> object:
    """JSON, or why it cannot be read."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except (ValueError, RecursionError):
        return "is damaged"
    return {"": content} if isinstance(content, str) else content
