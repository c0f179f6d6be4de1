"""Work on many rows by Ray Data, on this machine or a cluster: what was written is never done again.

A stage has a folder: out/ holds results, a few rows a file, and settings.json what they depend on. Those files are
the checkpoint: a killed job leaves whole ones, and ones without an end, which the next run removes and does again.
(Ray Data's own checkpoints are read by 32 processes on any machine, and want them on every start.) A row is a name
and a record of JSON; its result a record and, if it has any, bytes.
"""

import functools
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from filelock import FileLock, Timeout

from unity.command import sentence, whole
from unity.data.progress import progress
from unity.extras import extra
from unity.files import check_space, json_text, write_json

Record = dict[str, Any]
# does one row: (name, record) → record, bytes
Work = Callable[[str, Record], tuple[Record, bytes]]

_NAME, _RECORD, _DATA = "name", "record", "data"
# rows that are written together, at most: what a killed job may have to do again, per worker
_TOGETHER = 32
# a row that ends its process this often and once more is left out: Ray Data itself would try forever
_RETRIES = 2
# bytes that a disk has at least, or it is held for full where a result is missing
_ROOM = 64 << 20
# bytes of shared memory of a cluster of this machine's own; what does not fit goes to the disk
_STORE = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where a stage is done."""

    # processes that work; on a Ray cluster that is already there, all of its machines together
    workers: Annotated[int, whole(1, 100_000)] = os.cpu_count() or 1
    # GPUs in all; each worker has an equal share of them
    gpus: Annotated[int, whole(0, 100_000)] = 0
    # of a Ray cluster that is there already ("auto" finds it); empty: a cluster of this machine's own, for the job
    address: str = ""


def start(cluster: Cluster) -> None:
    """Connect to the cluster, or start one; later calls find it started."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with extra("data"):
        import ray
        import ray.data
    if not ray.is_initialized():
        # one more for what reads and writes: where workers hold every CPU, nothing would be read, forever
        own = {"num_cpus": cluster.workers + 1, "num_gpus": cluster.gpus, "object_store_memory": _STORE}
        where: dict[str, Any] = (
            {"address": cluster.address} if cluster.address else own | {"include_dashboard": False}
        )
        ray.init(**where, logging_level=logging.ERROR, log_to_driver=False)
    # what it says of a worker that ended is in what `run` returns
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


def run(
    folder: Path,
    rows: Mapping[str, Record],
    make: Callable[..., Work],
    settings: Record,
    cluster: Cluster,
) -> dict[str, str]:
    """Do the rows that are not done yet; `make(**settings)` gives each worker what does one.

    A row whose work raises gets a record {"error": sentence}. Returned are names of rows that are not done even
    so, with the reason: their worker was killed, or something could not be written. The next run tries them again.
    Raises ValueError where the folder holds results of other settings, or its disk is full: what is written stays.
    """
    _agree(folder / "settings.json", settings)
    with _alone(folder):
        return _finish(folder, rows, make, settings, cluster)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Another job would take what this one is writing for what a killed one left."""
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"another job is at work in {folder}; wait for it, or give another --out") from None
    try:
        yield
    finally:
        lock.release()


def _finish(
    folder: Path, rows: Mapping[str, Record], make: Callable[..., Work], settings: Record, cluster: Cluster
) -> dict[str, str]:
    todo = rows.keys() - {name for name, *_ in _index(folder)}
    if not todo:
        return {}
    start(cluster)
    with progress(folder, len(todo), len(rows)):
        fault = _run(folder, {name: rows[name] for name in sorted(todo)}, make, settings, cluster)
    left = todo - {name for name, *_ in _index(folder)}
    if left:
        _check_room(folder, f"{len(left)} of {len(rows)}")
    return {name: f"its worker ended ({fault}); the next run tries it again" for name in sorted(left)}


def _check_room(folder: Path, left: str) -> None:
    """Raises ValueError where results are missing for want of room: that is no fault of their rows.

    Ray Data tells nobody why a block was not written.
    """
    largest = max((file.stat().st_size for file in (folder / "out").glob("*.parquet")), default=0)
    try:
        check_space(folder, _ROOM + 2 * largest)
    except ValueError as error:
        raise ValueError(f"{left} are not done: {error}. What is done is kept; the same command goes on") from None


def records(folder: Path) -> Iterator[tuple[str, Record]]:
    """Results in the order of their names, without their bytes."""
    for name, record, _ in results(folder, (_NAME, _RECORD)):
        yield name, record


def results(folder: Path, columns: Sequence[str] = (_NAME, _RECORD, _DATA)) -> Iterator[tuple[str, Record, bytes]]:
    """Results in the order of their names, whichever worker did them first."""
    table = functools.lru_cache(maxsize=8)(functools.partial(_table, columns=columns))
    for name, file, place in sorted(_index(folder)):
        row = table(file)[place]
        yield name, json.loads(row[_RECORD]), row.get(_DATA, b"")


@functools.cache
def _work(make: Callable[..., Work], settings: str) -> Work:
    """Made once in each process: models take long to load."""
    return make(**json.loads(settings))


def _do(row: dict[str, Any], make: Callable[..., Work], settings: str) -> dict[str, Any]:
    """What a worker does."""
    try:
        record, data = _work(make, settings)(row[_NAME], json.loads(row[_RECORD]))
    except Exception as error:
        # whatever it is, it is in the ledger, and the others go on
        record, data = {"error": sentence(error)}, b""
    return {_NAME: row[_NAME], _RECORD: json_text(record, indent=None), _DATA: data}


class _OnGpu:
    """The same in a process that keeps its GPU: Ray ends others after each task."""

    def __call__(self, row: dict[str, Any], make: Callable[..., Work], settings: str) -> dict[str, Any]:
        return _do(row, make, settings)


def _run(
    folder: Path, todo: Mapping[str, Record], make: Callable[..., Work], settings: Record, cluster: Cluster
) -> str:
    """Why some of it may be left undone."""
    import ray
    from ray.exceptions import RayError
    from ray.util.annotations import RayDeprecationWarning

    context = ray.data.DataContext.get_current()
    # a block that is lost costs its rows, not the job
    context.max_errored_blocks = -1
    context.print_on_execution_start = False
    rows = ray.data.from_arrow(_blocks(todo, max(1, min(_TOGETHER, len(todo) // (16 * cluster.workers)))))
    with warnings.catch_warnings():
        # it has no other way to say how often
        warnings.simplefilter("ignore", RayDeprecationWarning)
        rows = rows.map(**_where(cluster), num_cpus=1, fn_args=(make, json_text(settings)))
    try:
        rows.write_parquet(str(folder.resolve() / "out"))
    except RayError as error:
        return " ".join(str(error).split())[:300]
    return "it was killed, or ran out of memory"


def _where(cluster: Cluster) -> dict[str, Any]:
    """What runs the rows: tasks, which start anew where their process is killed; on GPUs actors."""
    import ray

    if not cluster.gpus:
        tries = {"max_retries": _RETRIES}
        return {
            "fn": _do,
            "compute": ray.data.TaskPoolStrategy(size=cluster.workers),
            "ray_remote_args_fn": lambda: tries,
        }
    pool = ray.data.ActorPoolStrategy(size=cluster.workers)
    tries = {"max_task_retries": _RETRIES, "max_restarts": -1}
    return {
        "fn": _OnGpu,
        "compute": pool,
        "num_gpus": cluster.gpus / cluster.workers,
        "ray_remote_args_fn": lambda: tries,
    }


def _blocks(todo: Mapping[str, Record], together: int) -> list:
    """Tables of a few rows, which are computed and written together."""
    import pyarrow

    rows = [{_NAME: name, _RECORD: json_text(record, indent=None)} for name, record in todo.items()]
    parts = [rows[first : first + together] for first in range(0, len(rows), together)]
    return [pyarrow.Table.from_pylist(part) for part in parts]


def _index(folder: Path) -> Iterable[tuple[str, Path, int]]:
    """Names of all results, and the file and the row in it that hold them."""
    found = {}
    for file in sorted((folder / "out").glob("*.parquet")):
        for place, row in enumerate(_names(file)):
            found.setdefault(row[_NAME], (file, place))
    return [(name, *where) for name, where in found.items()]


def _names(file: Path) -> list[dict[str, Any]]:
    """Of a file without an end, which a killed job left, none; it is removed."""
    with extra("data"):
        import pyarrow
    try:
        return _table(file, (_NAME,))
    except (pyarrow.ArrowInvalid, OSError):
        file.unlink()
        return []


def _table(file: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    with extra("data"):
        import pyarrow.parquet
    return pyarrow.parquet.read_table(file, columns=list(columns)).to_pylist()


def _agree(path: Path, settings: Record) -> None:
    """Results of other settings must not be taken for these."""
    wanted = json.loads(json_text(settings))
    if not path.exists():
        write_json(path, wanted)
        return
    found = json.loads(path.read_text())
    if differing := sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key)):
        key = differing[0]
        raise ValueError(
            f"{path.parent} was begun with {key} {found.get(key)!r}, and now it is {wanted.get(key)!r}; "
            f"give another --out, or the same settings, or delete that folder"
        )
