"""How far a stage is, in lines, where nobody sees a bar: in the log of a batch job, or through a pipe."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unity.command import say
from unity.data.told import lasting

_SECONDS = 30.0


@contextmanager
def progress(folder: Path, todo: int, whole: int, seconds: float = _SECONDS) -> Iterator[None]:
    """While `todo` of `whole` rows are done: a line every so many `seconds`, unless there is a terminal.

    What is done is counted in the parquet files that come to folder/out. Ray Data draws its own bar in a terminal.
    """
    if sys.stdout.isatty():
        yield
        return
    over = threading.Event()
    teller = threading.Thread(target=_tell, args=(folder, todo, whole, seconds, over), daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()


def _tell(folder: Path, todo: int, whole: int, seconds: float, over: threading.Event) -> None:
    before, begun = set((folder / "out").glob("*.parquet")), time.monotonic()
    rows: dict[Path, int] = {}
    while not over.wait(seconds):
        for file in {*(folder / "out").glob("*.parquet")} - before - rows.keys():
            if count := _rows(file):
                rows[file] = count
        done = sum(rows.values())
        rest = (todo - done) * (time.monotonic() - begun) / done if done else None
        about = "" if rest is None else f", about {lasting(rest)} to go"
        say(f"{folder}: {whole - todo + done} of {whole} done{about}")


def _rows(file: Path) -> int:
    """Of a file that is still being written, none."""
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_metadata(file).num_rows
    except (pyarrow.ArrowInvalid, OSError):
        return 0
