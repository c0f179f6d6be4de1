"""The videos that jobs start from: received within bounds, read by a process of their own, kept by made-up names.

inputs/<id>/film         the bytes as they came
inputs/<id>/shown.mp4    what browsers play
inputs/<id>/truth/       exact views of a simulated clip
inputs/<id>/about.json   name, frames, size (h, w), fps, notes
"""

import asyncio
import json
import re
import secrets
import shutil
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from unity.apps.web.decode import SHOWN
from unity.apps.web.options import Options
from unity.files import check_space, names, whole_folder, write_json
from unity.request import SAMPLE

BUNDLED = "people"
ABOUT = "about.json"
# an id as `Inputs` makes them
_ID = re.compile(r"[0-9a-f]{12}").fullmatch
# seconds without a byte after which a sender is gone, that sending may take, and a simulated clip
_SILENCE, _SENDING, _FILMING = 30, 1800, 180
# seconds that a reading process may take to start and end beside its work
_PATIENCE = 5.0
# uploads and readings at a time
_AT_ONCE = 4


class TooLarge(ValueError):
    """More bytes than a video may have."""


class Inputs:
    """The folder of inputs."""

    def __init__(self, folder: Path, options: Options):
        self.folder, self.options = folder, options
        self._turn = asyncio.Semaphore(_AT_ONCE)

    async def receive(self, name: str, body: AsyncIterator[bytes]) -> dict:
        """Keep a video that arrives; ValueError for one that cannot be used, of which nothing stays."""

        async def fill(stage: Path) -> dict:
            await self._write(stage / "film", body)
            words = ["--film", str(stage / "film"), "--name", _shown(name)]
            facts = await self._read(words, stage, self.options.most_seconds)
            return {"name": _shown(name), "kind": "upload"} | facts

        return await self._add(fill)

    async def adopt(self, path: Path, name: str) -> dict:
        """Keep a video of a result as an input, which stays when the result goes."""

        async def fill(stage: Path) -> dict:
            shutil.copyfile(path, stage / "film")
            facts = await self._read(["--film", str(stage / "film")], stage, self.options.most_seconds)
            return {"name": name, "kind": "result"} | facts

        return await self._add(fill)

    async def film(self, source: str, seed: int, frames: int, size: int) -> dict:
        """Keep a clip of the simulated world, with its exact views."""
        words = {"source": source, "seed": seed, "frames": frames, "size": size}

        async def fill(stage: Path) -> dict:
            flags = [part for key, value in words.items() for part in (f"--{key}", str(value))]
            facts = await self._read(flags, stage, _FILMING)
            return facts | {"kind": "simulated"}

        return await self._add(fill)

    def get(self, name: str) -> dict:
        """What is known of an input; KeyError where there is none."""
        if name == BUNDLED:
            return {"id": BUNDLED, "name": "two people (bundled)", "kind": "bundled"}
        return json.loads((self._at(name) / ABOUT).read_bytes())

    def path(self, name: str) -> Path:
        """The video that a job reads; KeyError where there is none."""
        return SAMPLE if name == BUNDLED else self._at(name) / "film"

    def shown(self, name: str, view: str | None = None) -> Path:
        """The video that a browser plays, or a simulated clip's exact `view`; KeyError where there is none."""
        if view is None:
            return SAMPLE if name == BUNDLED else self._at(name) / SHOWN
        if view not in self.get(name).get("truth", ()):
            raise KeyError(view)
        return self._at(name) / "truth" / f"{view}.mp4"

    def known(self) -> list[dict]:
        """All inputs, the newest first."""
        found = [self.folder / name for name in names(self.folder)] if self.folder.is_dir() else []
        whole = [path for path in found if _ID(path.name) and (path / ABOUT).is_file()]
        whole.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        return [self.get(BUNDLED), *(self.get(path.name) for path in whole)]

    def _at(self, name: str) -> Path:
        if not _ID(name) or not (self.folder / name / ABOUT).is_file():
            raise KeyError(name)
        return self.folder / name

    async def _add(self, fill: Callable[[Path], Awaitable[dict]]) -> dict:
        name = secrets.token_hex(6)
        async with self._turn:
            with whole_folder(self.folder / name, last=ABOUT) as stage:
                about = {"id": name} | await fill(stage)
                write_json(stage / ABOUT, about)
        return about

    async def _write(self, path: Path, body: AsyncIterator[bytes]) -> None:
        most, size, end = self.options.most_megabytes * 1_000_000, 0, time.monotonic() + _SENDING
        check_space(self.folder, 2 * most)
        parts = aiter(body)
        with path.open("wb") as file:
            while True:
                try:
                    part = await asyncio.wait_for(anext(parts), _SILENCE)
                except StopAsyncIteration:
                    break
                except TimeoutError:
                    raise ValueError(f"nothing came for {_SILENCE} s; send the video again") from None
                if time.monotonic() > end:
                    raise ValueError(f"sending took more than {_SENDING} s; cut the video shorter")
                size += len(part)
                if size > most:
                    raise TooLarge(f"the video has more than {self.options.most_megabytes} MB; cut it shorter")
                file.write(part)
        if not size:
            raise ValueError("the video is empty; choose another file")

    async def _read(self, words: list[str], stage: Path, seconds: int) -> dict:
        """What the reading process says; it is killed when it takes too long."""
        options = self.options
        bounds = {"most-frames": options.most_frames, "most-pixels": options.most_pixels, "most-seconds": seconds}
        flags = [part for key, value in bounds.items() for part in (f"--{key}", str(value))]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "unity.apps.web.decode", "--folder", str(stage), *words, *flags,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            told, errors = await asyncio.wait_for(process.communicate(), seconds + _PATIENCE)
        except TimeoutError:
            raise ValueError(f"reading the video takes more than {seconds} s; cut it shorter") from None
        finally:
            with suppress(ProcessLookupError):
                process.kill()
        if process.returncode:
            spent = "reading the video takes too much time or memory; make it shorter or smaller"
            raise ValueError(spent if process.returncode < 0 else _last_line(errors))
        return json.loads(told)


def _shown(name: str) -> str:
    """A sender's name for a file, as words that can stand anywhere."""
    words = "".join(c if c.isprintable() else " " for c in name.replace("\\", "/").rpartition("/")[2])
    return words.strip()[:80] or "video"


def _last_line(errors: bytes) -> str:
    lines = errors.decode(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("decode: ") if lines else "the video cannot be read; give another"
