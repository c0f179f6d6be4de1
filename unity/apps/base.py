"""One SQLite file, usable from any thread, that outlives the program."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Base:
    """`tables`: SQL that makes what is not there yet."""

    def __init__(self, path: Path, tables: str):
        self._lock = threading.RLock()
        self._base = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._base.row_factory = sqlite3.Row
        try:
            self._base.executescript("pragma journal_mode = wal; pragma synchronous = normal;" + tables)
        except BaseException:
            self._base.close()
            raise

    def run(self, words: str, *values: object) -> list[sqlite3.Row]:
        with self._lock:
            return self._base.execute(words, values).fetchall()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """All that runs inside happens, or nothing of it, and nothing else between."""
        with self._lock:
            self._base.execute("begin immediate")
            try:
                yield
            except BaseException:
                self._base.execute("rollback")
                raise
            self._base.execute("commit")

    def close(self) -> None:
        with self._lock:
            self._base.close()
