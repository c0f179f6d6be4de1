"""Folders of datasets while they are written, which may take days: what a killed run leaves, the next one removes.

The folder grows under a hidden name with a locked file in it. The lock ends with its process however that ends; a
hidden folder whose lock is free, made on this machine, is provably nobody's any more.
"""

import logging
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from unity.files import check_writable, whole_folder

# locks of network file systems may hold within one machine only
_CLAIM = f".writing-on-{socket.gethostname()}"


@contextmanager
def dataset_folder(path: Path) -> Iterator[Path]:
    """Folder to fill, which is `path` at the end, dataset.json last, and gone on an error.

    Raises ValueError where `path` holds something, or nothing can be written there.
    """
    refuse_taken(path)
    check_writable(path if path.exists() else path.parent)
    for place in (path.parent, path):
        _sweep(place)
    with whole_folder(path, last="dataset.json") as new:
        claim = FileLock(new / _CLAIM)
        with claim:
            yield new
        (new / _CLAIM).unlink(missing_ok=True)


def refuse_taken(path: Path) -> None:
    """ValueError where `path` is anything but absent or an empty folder."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ValueError(f"{path} exists; choose another folder, or delete it first")


def _sweep(place: Path) -> None:
    """Remove the folders that killed runs on this machine left in `place`."""
    for claim in place.glob(f".part-*/{_CLAIM}"):
        # whoever holds the lock is at work; without locks nobody can tell
        with suppress(Timeout, OSError, NotImplementedError), FileLock(claim, timeout=0):
            logging.getLogger(__name__).warning("removing %s, which a killed run left", claim.parent)
            shutil.rmtree(claim.parent)
