"""The process that computes: one job at a time, told and asked over a pipe; when it dies, the page does not."""

import io
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from unity.command import sentence
from unity.files import whole_folder
from unity.request import Request
from unity.thrift import thrift_of

if TYPE_CHECKING:
    from unity.generate import Generator

Video = UInt8[np.ndarray, "t h w 3"]

# previews: their frames, the most pixels of a side, seconds between two, and the share of the time they may take
_FRAMES, _SIDE, _EVERY, _SHARE = 8, 160, 1.5, 0.15


@dataclass(frozen=True, kw_only=True)
class Work:
    """A job for the process; what the requests write becomes `folder`, all of it or nothing."""

    folder: Path
    requests: dict[str, Request]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a job is: steps over all of its modalities, and sometimes what it would end in (a PNG)."""

    step: int
    steps: int
    words: str
    preview: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class End:
    """What became of a job; `error` is one sentence, `notes` what was said on the way."""

    state: str
    error: str | None = None
    notes: tuple[str, ...] = ()


class Cancelled(Exception):
    """Somebody does not want the job any more."""


def work(pipe: Connection, cancel: Event) -> None:
    """Take jobs from the pipe until it closes; `cancel` ends the one that runs after its present step."""
    _settle()
    # seconds of imports, while nobody waits yet
    import unity.answer  # noqa: F401

    loaded: dict[Path | None, Generator] = {}
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        notes: list[str] = []
        try:
            _run(task, loaded, notes, Follow(pipe, cancel, task))
            end = End(state="done", notes=tuple(notes))
        except Cancelled:
            end = End(state="cancelled")
        except Exception as error:
            # whatever it is, it ends this job alone
            end = End(state="failed", error=sentence(error), notes=tuple(notes))
        try:
            pipe.send(end)
        except OSError:
            # nobody is there any more
            return


class Follow:
    """Tells the page of a job's steps, and shows it pictures as often as that costs little."""

    def __init__(self, pipe: Connection, cancel: Event, task: Work):
        self.pipe, self.cancel = pipe, cancel
        each = next(iter(task.requests.values())).steps
        # told by the model's card where nobody asked (ask.py)
        assert each is not None
        self.each = each
        self.steps, self.before = self.each * len(task.requests), 0
        self.shown, self.cost = time.monotonic(), 0.0

    def say(self, words: str) -> None:
        """Where the job stands between steps."""
        self._check()
        self.pipe.send(Progress(step=self.before, steps=self.steps, words=words))

    def step(self, name: str, number: int, draw: Callable[[], Mapping[str, Video]]) -> None:
        """After step `number` of a modality; `draw` gives the videos by stream."""
        self._check()
        picture = None
        if number < self.each and time.monotonic() - self.shown > max(_EVERY, self.cost / _SHARE):
            start = time.monotonic()
            picture = preview(draw())
            self.shown = time.monotonic()
            self.cost = self.shown - start
        words = f"{name}, step {number} of {self.each}"
        self.pipe.send(Progress(step=self.before + number, steps=self.steps, words=words, preview=picture))

    def next(self) -> None:
        """A modality is done."""
        self.before += self.each

    def _check(self) -> None:
        if self.cancel.is_set():
            raise Cancelled


def preview(videos: Mapping[str, Video]) -> bytes:
    """A PNG: a row of evenly chosen frames for each stream, small ones as they are."""
    rows = []
    for video in videos.values():
        picked = video[np.linspace(0, len(video) - 1, min(_FRAMES, len(video))).round().astype(int)]
        scale = max(1, -(-max(picked.shape[1:3]) // _SIDE))
        rows.append(np.concatenate(list(picked[:, ::scale, ::scale]), axis=1))
    data = io.BytesIO()
    Image.fromarray(np.concatenate(rows)).save(data, format="png", compress_level=1)
    return data.getvalue()


def _run(task: Work, loaded: "dict[Path | None, Generator]", notes: list[str], follow: Follow) -> None:
    from unity.answer import answer

    with whole_folder(task.folder) as stage:
        for name, request in task.requests.items():
            follow.say("loading the model")
            generator = _generator(loaded, request)
            follow.say(f"{name}: reading the video")
            asked = replace(request, out=stage / name)
            answer(asked, generator, notes.append, lambda number, draw, name=name: follow.step(name, number, draw))
            follow.next()


def _generator(loaded: "dict[Path | None, Generator]", request: Request) -> "Generator":
    """The request's model, the last one of which is kept."""
    from unity.generate import load_generator
    from unity.request import SHIPPED

    if request.checkpoint not in loaded:
        loaded.clear()
        loaded[request.checkpoint] = load_generator(
            request.checkpoint or SHIPPED,
            request.device,
            request.codec_weights,
            request.text_weights,
            thrift=thrift_of(request),
        )
    return loaded[request.checkpoint]


def _settle() -> None:
    """Ctrl-C is the server's to answer, whose pipe then closes; pages come before computing."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TQDM_DISABLE"] = "1"
    if hasattr(os, "nice"):
        os.nice(5)
    # what the model program says is in the notes and the errors
    sys.stdout = sys.stderr
