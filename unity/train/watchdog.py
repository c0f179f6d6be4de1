"""A watch over the steps: where none ends for too long, it names the rank that holds the others up.

Every rank has a thread that tells the others where its rank is, through the store by which they met, and one that
looks how long it has been there. Steps pay for two assignments.

    runs/x/stuck/rank-00003.txt      the Python stacks of all of the rank's threads, when the run was ended
"""

import faulthandler
import json
import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch.distributed as dist

from unity.command import say
from unity.train.meeting import TEMPORARY
from unity.train.world import World

FOLDER = "stuck"
# where a rank is inside of a step, in this order
PHASES = ("read", "compute", "draw", "save")
_ALARM = "watchdog/alarm"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a rank is, and since when."""

    step: int
    phase: str
    host: str
    # of the rank's own clock
    since: float

    @property
    def order(self) -> tuple[int, int]:
        return self.step, PHASES.index(self.phase)


def stuck(places: Mapping[int, Place | None], silent: frozenset[int]) -> list[int]:
    """The ranks that the others wait for: those without a sign of life, else those that are behind; maybe none."""
    missing = sorted(rank for rank, place in places.items() if place is None or rank in silent)
    if missing:
        return missing
    orders = {rank: place.order for rank, place in places.items() if place is not None}
    least = min(orders.values())
    behind = sorted(rank for rank, order in orders.items() if order == least)
    return behind if len(behind) < len(orders) else []


def told(places: Mapping[int, Place | None], silent: frozenset[int], seconds: float) -> str:
    """A sentence on who holds the run up."""
    guilty = stuck(places, silent)
    if not guilty:
        place = next(place for place in places.values() if place is not None)
        return f"all ranks have been in step {place.step} ({place.phase}) for {seconds:.0f} s, none behind others"
    words = []
    for rank in guilty[:8]:
        place = places[rank]
        if place is None:
            words.append(f"rank {rank}, which has never said where it is")
        else:
            where = f"in step {place.step} ({place.phase})"
            mute = f"which gives no sign of life, last {where}"
            words.append(f"rank {rank} on {place.host}, {mute if rank in silent else where}")
    more = f" and {len(guilty) - 8} more" if len(guilty) > 8 else ""
    return f"no step has ended for {seconds:.0f} s; the run waits for {'; '.join(words)}{more}"


@dataclass(kw_only=True)
class Watchdog:
    """Watches this rank; `at` is called by the training loop."""

    world: World
    run: Path
    # seconds in one place after which the run is ended
    patience: float
    store: dist.Store
    place: Place | None = None
    over: threading.Event = field(default_factory=threading.Event)
    # held by whoever ends the run
    ending: threading.Lock = field(default_factory=threading.Lock)

    @property
    def period(self) -> float:
        return min(10.0, self.patience / 4)

    def at(self, step: int, phase: str) -> None:
        """From now on, this rank is there."""
        self.place = Place(step=step, phase=phase, host=socket.gethostname(), since=time.monotonic())

    def tell(self) -> None:
        """Say where this rank is, again and again, and hear of an alarm; until the watch is over."""
        with suppress(dist.DistError, RuntimeError):
            while not self.over.wait(self.period):
                self._say_where()
                if self.store.check([_ALARM]):
                    self.end()

    def watch(self) -> None:
        """End the run when this rank has been in one place for too long."""
        while not self.over.wait(self.period / 4):
            place = self.place
            if place is not None and time.monotonic() - place.since > self.patience:
                self.end()

    def end(self) -> None:
        """Dump the stacks of this rank; rank 0 says who is stuck; the process ends with the code TEMPORARY."""
        with self.ending:
            # if the store, which lives with rank 0, does not answer any more
            last = threading.Timer(8 * self.period, _leave)
            last.daemon = True
            last.start()
            self._dump()
            with suppress(dist.DistError, RuntimeError):
                self.store.set(_ALARM, "1")
                self._say_where()
                self.store.set(_alive(self.world.rank), "1")
                if self.world.leads:
                    self._accuse()
            # the others hear of it within a period, and rank 0 holds the store for them
            time.sleep((4 if self.world.leads else 3) * self.period)
            _leave()

    def _dump(self) -> None:
        folder = self.run / FOLDER
        with suppress(OSError):
            folder.mkdir(exist_ok=True)
            with (folder / f"rank-{self.world.rank:05}.txt").open("w") as file:
                file.write(f"{socket.gethostname()}, process {os.getpid()}, {self.place}\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)

    def _say_where(self) -> None:
        if self.place is not None:
            self.store.set(f"watchdog/{self.world.rank}", json.dumps(vars(self.place)))

    def _accuse(self) -> None:
        # time for the others to hear of the alarm
        time.sleep(2.5 * self.period)
        ranks = range(self.world.size)
        silent = frozenset(rank for rank in ranks if not self.store.check([_alive(rank)]))
        seconds = time.monotonic() - self.place.since if self.place else self.patience
        say(
            f"train: {told(self._places(), silent, seconds)}. Stacks of the ranks are in {self.run / FOLDER}; the "
            f"run is ended, and --resume {self.run} goes on from the last checkpoint"
        )

    def _places(self) -> dict[int, Place | None]:
        found: dict[int, Place | None] = {}
        for rank in range(self.world.size):
            key = f"watchdog/{rank}"
            found[rank] = Place(**json.loads(self.store.get(key))) if self.store.check([key]) else None
        return found


@contextmanager
def watched(world: World, run: Path, minutes: float) -> Iterator[Watchdog]:
    """Inside, a watchdog looks on, but for 0 minutes; it waits until it is first told where the rank is."""
    dog = Watchdog(world=world, run=run, patience=60 * minutes, store=world.store)
    threads = [threading.Thread(target=part, daemon=True) for part in (dog.tell, dog.watch)] if minutes else []
    for thread in threads:
        thread.start()
    try:
        yield dog
    finally:
        dog.over.set()
        for thread in threads:
            thread.join(1.0)


def _alive(rank: int) -> str:
    return f"watchdog/{rank}/alive"


def _leave() -> None:
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(TEMPORARY)
