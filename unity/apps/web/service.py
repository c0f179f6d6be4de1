"""What the page serves, put together: the queue, the inputs, the models, and the process that computes."""

import shlex
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock, Timeout

from unity.apps.web import shown
from unity.apps.web.ask import Ask, requests, scheduled
from unity.apps.web.events import ENDED, Feed
from unity.apps.web.inputs import Inputs
from unity.apps.web.models import Model, find_models
from unity.apps.web.options import Options
from unity.apps.web.runner import Runner, sweep
from unity.apps.web.store import DONE, Job, Store
from unity.apps.web.worker import Work
from unity.files import check_writable, json_text, remove
from unity.request import command_line

# seconds that a look for models is good for
_FRESH = 10.0
# jobs that are done whose results are remembered
_MOST_TOLD = 256


class Service:
    """One folder, held by one program at a time; ValueError where another holds it."""

    def __init__(self, options: Options):
        self.options, self.folder = options, options.out.absolute()
        check_writable(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.folder / ".lock", thread_local=False)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"another program serves {options.out}; stop it, or give another --out") from None
        self.jobs = self.folder / "jobs"
        self.store = Store(self.folder / "web.sqlite")
        self.inputs = Inputs(self.folder / "inputs", options)
        self.feed = Feed(self._statuses)
        self.runner = Runner(self.store, self.jobs, self._work, self.feed.changed)
        self._models: dict[str, Model] = {}
        self._looked = -_FRESH
        self._told: OrderedDict[str, bytes] = OrderedDict()

    def open(self) -> None:
        """Begin to compute; inside the loop that serves the pages."""
        sweep(self.inputs.folder)
        self.feed.open()
        self.runner.start()

    def close(self) -> None:
        self.runner.close()
        self.feed.close()
        self.store.close()
        self._lock.release()

    def models(self) -> dict[str, Model]:
        """By name, as they are on the disk now or were seconds ago."""
        if time.monotonic() - self._looked > _FRESH:
            self._models, self._looked = find_models(self.options.models), time.monotonic()
        return self._models

    def submit(self, ask: Ask, client: str) -> dict:
        """Queue a job; ValueError for what cannot be done, Full where too many wait."""
        self._requests(ask, Path("."))
        ask = scheduled(ask, self.models()[ask.model])
        job = self.store.add(ask.model_dump(), client, self.options.queue)
        self.runner.wake(job.id)
        return self.status(job)

    def status(self, job: Job) -> dict:
        """All that is known of a job but its results."""
        live = self.runner.live.get(job.id)
        told = asdict(live) if live else None
        if told:
            del told["preview"], told["first"]
        kept = {key: value for key, value in asdict(job).items() if key != "client"}
        waiting = self.store.waiting_before(job) if job.state not in ENDED and not live else 0
        return kept | {"progress": told, "waiting": waiting}

    def told(self, name: str) -> bytes:
        """`details` of a job as JSON; what is done does not change, and is looked up once. KeyError for no job."""
        if name in self._told:
            self._told.move_to_end(name)
            return self._told[name]
        job = self.store.get(name)
        text = json_text(self.details(job), None).encode()
        if job.state == DONE:
            self._told[name] = text
            if len(self._told) > _MOST_TOLD:
                self._told.popitem(last=False)
        return text

    def details(self, job: Job) -> dict:
        """A job with its results, and the command lines that make them again."""
        status = self.status(job)
        if job.state != DONE:
            return status
        found, lines = shown.results(self.jobs / job.id), self._lines(job)
        names = [name for name in job.ask["modalities"] if name in found]
        return status | {"results": {name: found[name] | {"command": lines.get(name)} for name in names}}

    def remove(self, job: Job) -> None:
        """Forget a job that has ended and its files, the record of it last; ValueError for one that has not."""
        if job.state not in ENDED:
            raise ValueError("the job has not ended; cancel it first")
        self._told.pop(job.id, None)
        remove(self.jobs / job.id)
        self.store.remove(job.id)
        self.feed.changed(job.id)

    def _lines(self, job: Job) -> dict[str, str]:
        try:
            asked = self._requests(Ask(**job.ask), Path("runs/again"))
        except ValueError:
            # its model or its input is not there any more
            return {}
        return {name: shlex.join(command_line(request)) for name, request in asked.items()}

    def _requests(self, ask: Ask, folder: Path):
        model = self.models().get(ask.model)
        if model is None:
            raise ValueError(f"there is no model {ask.model!r}; choose one of {', '.join(self.models())}")
        try:
            film = self.inputs.path(ask.input) if ask.input else None
        except KeyError:
            raise ValueError(f"there is no input {ask.input!r}; send the video again") from None
        return requests(ask, model, film, folder, self.options)

    def _work(self, job: Job) -> Work:
        # what a killed program had already finished is made again
        remove(self.jobs / job.id)
        return Work(folder=self.jobs / job.id, requests=self._requests(Ask(**job.ask), Path(".")))

    def _statuses(self, named: Iterable[str]) -> dict[str, dict]:
        found = {job.id: job for job in self.store.active()}
        for name in named:
            if name not in found:
                try:
                    found[name] = self.store.get(name)
                except KeyError:
                    continue
        return {name: self.status(job) for name, job in found.items()}
