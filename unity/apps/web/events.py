"""Server-sent events: what changes of jobs, to every page that listens.

Whatever changes, and however many listen, each state is looked up and written as text once.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable

from unity.files import json_text

# seconds between two looks at most, and after which a silent line says that it is alive
_PAUSE, _BEAT = 0.1, 15.0
# jobs whose last state is remembered for listeners that were late
_MOST = 200
ENDED = ("done", "failed", "cancelled")


class Feed:
    """`look(names)` gives the status of all jobs that run or wait, and of the named ones, by id."""

    def __init__(self, look: Callable[[Iterable[str]], dict[str, dict]]):
        self.look = look
        self.texts: dict[str, str] = {}
        # jobs that ran or waited at the last look, and those that changed since
        self._active: set[str] = set()
        self._touched: set[str] = set()
        self._listeners: set[asyncio.Event] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._due = False

    def open(self) -> None:
        """Inside the loop that serves the pages."""
        self._loop = asyncio.get_running_loop()
        self._tell()

    def close(self) -> None:
        """Nothing is looked up any more."""
        self._loop = None

    def changed(self, name: str) -> None:
        """From any thread: a job is not what it was."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._soon, name)

    async def listen(self, job: str | None = None) -> AsyncIterator[str]:
        """Lines for a page: the jobs that run or wait, then every change; of one `job`, until it has ended."""
        event = asyncio.Event()
        self._listeners.add(event)
        sent = {name: text for name, text in self.texts.items() if name not in self._active}
        if job is not None:
            sent = {}
            self.texts.setdefault(job, json_text(self.look([job])[job], None))
        try:
            while True:
                event.clear()
                for name, text in list(self.texts.items()):
                    if job in (None, name) and sent.get(name) != text:
                        sent[name] = text
                        yield f"data: {text}\n\n"
                if job is not None and json.loads(sent[job])["state"] in ENDED:
                    return
                try:
                    await asyncio.wait_for(event.wait(), _BEAT)
                except TimeoutError:
                    yield ": still here\n\n"
        finally:
            self._listeners.discard(event)

    def _soon(self, name: str) -> None:
        self._touched.add(name)
        if not self._due and self._loop is not None:
            self._due = True
            self._loop.call_later(_PAUSE, self._tell)

    def _tell(self) -> None:
        self._due = False
        if self._loop is None:
            return
        found = self.look(self._active | self._touched)
        self._touched.clear()
        for name, status in found.items():
            # the newest stand last, and the oldest go first
            self.texts.pop(name, None)
            self.texts[name] = json_text(status, None)
        self._active = {name for name, status in found.items() if status["state"] not in ENDED}
        for name in list(self.texts)[: max(0, len(self.texts) - _MOST)]:
            if name not in self._active:
                del self.texts[name]
        for event in self._listeners:
            event.set()
