"""The thread that hands jobs to the process that computes, and replaces the process when it dies."""

import multiprocessing
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from unity.apps.web.store import CANCELLED, DONE, FAILED, Job, Store
from unity.apps.web.worker import End, Progress, Work, work
from unity.files import PART

# seconds that a cancelled job may take to leave by itself
_GRACE = 5.0


@dataclass(kw_only=True)
class Live:
    """What is known of the job that runs."""

    words: str = "starting the model program"
    step: int = 0
    steps: int = 0
    # seconds since 1970 of the first step's end
    first: float | None = None
    left: float | None = None
    preview: bytes | None = None
    previews: int = 0


class Runner(threading.Thread):
    """Runs the store's jobs one after the other; `changed(id)` is called after every change of one."""

    def __init__(self, store: Store, folder: Path, plan: Callable[[Job], Work], changed: Callable[[str], object]):
        super().__init__(name="runner", daemon=True)
        self.store, self.folder, self.plan, self.changed = store, folder, plan, changed
        self.live: dict[str, Live] = {}
        self._context = multiprocessing.get_context("spawn")
        self._cancel = self._context.Event()
        self._process = self._pipe = None
        self._unwanted: str | None = None
        self._wake, self._closing = threading.Event(), False

    def run(self) -> None:
        sweep(self.folder)
        while not self._closing:
            self._wake.clear()
            job = self.store.take()
            if job is None:
                # a process that was not needed yet is started before it is
                self._start()
                self._wake.wait()
                continue
            end = self._do(job)
            if not self._closing:
                self.store.end(job.id, end.state, end.error, end.notes)
                self.live.pop(job.id, None)
                self.changed(job.id)
        self._stop()

    def wake(self, name: str) -> None:
        """There is a new job."""
        self._wake.set()
        self.changed(name)

    def cancel(self, name: str) -> None:
        """End a job that waits or runs; of any other nothing changes."""
        if not self.store.cancel_waiting(name) and name in self.live:
            self._unwanted = name
            self._cancel.set()
        self.changed(name)

    def close(self) -> None:
        """Stop computing; the job that runs is queued again when the program starts."""
        self._closing = True
        self._wake.set()
        self.join(timeout=10)

    def _do(self, job: Job) -> End:
        self._cancel.clear()
        self._unwanted = None
        # from here on it can be cancelled
        self.live[job.id] = live = Live()
        self.changed(job.id)
        try:
            task = self.plan(job)
        except ValueError as error:
            # such as a model that is not there any more
            return End(state=FAILED, error=str(error))
        end = self._compute(task, live, job.id)
        if end.state != DONE:
            sweep(self.folder)
        return end

    def _compute(self, task: Work, live: Live, name: str) -> End:
        self._start()
        assert self._pipe is not None and self._process is not None
        deadline = None
        try:
            self._pipe.send(task)
            while not self._closing:
                if self._pipe.poll(0.2):
                    told = self._pipe.recv()
                    if isinstance(told, End):
                        return told
                    _follow(live, told)
                    self.changed(name)
                if self._unwanted == name:
                    deadline = deadline or time.monotonic() + _GRACE
                    if time.monotonic() > deadline:
                        self._stop()
                        return End(state=CANCELLED)
        except (EOFError, OSError):
            return self._died()
        return End(state=CANCELLED)

    def _died(self) -> End:
        assert self._process is not None
        self._process.join(timeout=5)
        code = self._process.exitcode
        self._stop()
        why = f"signal {-code}" if code is not None and code < 0 else f"code {code}"
        return End(
            state=FAILED,
            error=f"the model program ended ({why}), perhaps for lack of memory; ask for fewer frames or a "
            f"smaller size, or try again",
        )

    def _start(self) -> None:
        if self._process is not None and self._process.is_alive():
            return
        self._stop()
        self._pipe, theirs = self._context.Pipe()
        self._process = self._context.Process(target=work, args=(theirs, self._cancel), daemon=True)
        self._process.start()
        # or its end would not be seen here
        theirs.close()

    def _stop(self) -> None:
        if self._pipe is not None:
            # one that waits for a job leaves when it reads this
            self._pipe.close()
        if self._process is not None:
            self._process.join(timeout=1)
            self._process.kill()
            self._process.join()
        self._process = self._pipe = None


def sweep(folder: Path) -> None:
    """Remove what a process that was killed left half written."""
    for part in folder.glob(f"{PART}*"):
        shutil.rmtree(part, ignore_errors=True)


def _follow(live: Live, told: Progress) -> None:
    now = time.time()
    live.words, live.step, live.steps = told.words, told.step, told.steps
    if told.step and live.first is None:
        live.first = now
    if live.first is not None and told.step > 1:
        live.left = (now - live.first) / (told.step - 1) * (told.steps - told.step)
    if told.preview is not None:
        live.preview, live.previews = told.preview, live.previews + 1
