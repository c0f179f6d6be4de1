"""The queue and the gallery: one SQLite file that outlives the program."""

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unity.apps.base import Base

# how a job can stand
QUEUED, RUNNING, DONE, FAILED, CANCELLED = STATES = ("queued", "running", "done", "failed", "cancelled")

_TABLE = """
create table if not exists jobs (
    number integer primary key autoincrement,
    id text unique not null,
    client text not null,
    ask text not null,
    state text not null,
    error text,
    notes text not null default '[]',
    created real not null,
    started real,
    ended real
);
create index if not exists by_state on jobs (state, number);
"""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job as it is kept; times are seconds since 1970."""

    number: int
    id: str
    client: str
    # what was asked for, as it came
    ask: dict[str, Any]
    state: str
    # one sentence where it failed
    error: str | None = None
    # what the model and the film said of themselves
    notes: list[str] = field(default_factory=list)
    created: float
    started: float | None = None
    ended: float | None = None


class Full(ValueError):
    """A client has as many jobs waiting as it may."""


class Store:
    """Jobs by id, usable from any thread. What was running when the program ended is queued again."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._base = Base(path, _TABLE)
        self._run = self._base.run
        self._run("update jobs set state = ?, started = null where state = ?", QUEUED, RUNNING)

    def add(self, ask: dict[str, Any], client: str, most: int) -> Job:
        """Queue a job; raises Full where `most` of this client wait already."""
        with self._base.whole():
            waiting = self._run("select count(*) from jobs where state = ? and client = ?", QUEUED, client)[0][0]
            if waiting >= most:
                raise Full(f"{waiting} of your jobs wait already; cancel one, or come back when one is done")
            name = secrets.token_hex(6)
            self._run(
                "insert into jobs (id, client, ask, state, created) values (?, ?, ?, ?, ?)",
                name, client, json.dumps(ask), QUEUED, time.time(),
            )  # fmt: skip
            return self.get(name)

    def get(self, name: str) -> Job:
        """Raises KeyError where there is none."""
        found = self._jobs("where id = ?", name)
        if not found:
            raise KeyError(name)
        return found[0]

    def newest(self, most: int, before: int | None = None) -> list[Job]:
        """The newest first, of those with a number below `before`."""
        return self._jobs("where number < ? order by number desc limit ?", before or 1 << 62, most)

    def active(self) -> list[Job]:
        """Those that run or wait, in their order."""
        return self._jobs("where state in (?, ?) order by number", RUNNING, QUEUED)

    def waiting_before(self, job: Job) -> int:
        """How many jobs come before one that waits."""
        return self._run(
            "select count(*) from jobs where state in (?, ?) and number < ?", RUNNING, QUEUED, job.number
        )[0][0]

    def take(self) -> Job | None:
        """The job that has waited longest, now running."""
        with self._base.whole():
            found = self._jobs("where state = ? order by number limit 1", QUEUED)
            if not found:
                return None
            self._run("update jobs set state = ?, started = ? where id = ?", RUNNING, time.time(), found[0].id)
            return self.get(found[0].id)

    def end(self, name: str, state: str, error: str | None = None, notes: Sequence[str] = ()) -> None:
        """What became of a job that runs or waits; of one that has ended, nothing changes."""
        self._run(
            "update jobs set state = ?, error = ?, notes = ?, ended = ? where id = ? and state in (?, ?)",
            state, error, json.dumps(list(notes)), time.time(), name, RUNNING, QUEUED,
        )  # fmt: skip

    def cancel_waiting(self, name: str) -> bool:
        """Whether the job waited, and now will not run."""
        with self._base.whole():
            waits = bool(self._jobs("where id = ? and state = ?", name, QUEUED))
            if waits:
                self.end(name, CANCELLED)
            return waits

    def remove(self, name: str) -> None:
        self._run("delete from jobs where id = ?", name)

    def close(self) -> None:
        self._base.close()

    def _jobs(self, where: str, *values: object) -> list[Job]:
        rows = [dict(row) for row in self._run(f"select * from jobs {where}", *values)]
        return [Job(**row | {key: json.loads(row[key]) for key in ("ask", "notes")}) for row in rows]
