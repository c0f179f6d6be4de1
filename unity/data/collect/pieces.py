"""A piece: one view of one clip, encoded as shards have it, with the facts that tell whether it suits the others.

A unit of work (a tar, or some files of a folder) becomes one file of pieces, whole or absent, and a record of what
lies where. Views of a clip may come from different tars, in any order: `unity.data.collect.job` joins them.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import Any

from unity.command import sentence
from unity.data.alignment import undamaged
from unity.data.collect.layouts import LAYOUTS, Place
from unity.data.collect.members import Cut, as_file, is_video, members, words
from unity.data.engine import Record, Work
from unity.data.film import Facts, look
from unity.data.video import RGB_QUALITY, encode
from unity.files import whole_file


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What is taken of every video."""

    frames: int
    size: tuple[int, int]
    fps: float


@dataclass(frozen=True)
class Where:
    """A piece in its file of pieces."""

    member: str
    file: Path
    at: int
    head: int
    length: int

    def read(self) -> tuple[Record, bytes]:
        """Its facts and its video; ValueError with the reason where the member could not be read."""
        with self.file.open("rb") as file:
            file.seek(self.at)
            facts, data = json.loads(file.read(self.head)), file.read(self.length)
        if "fault" in facts:
            raise ValueError(f"{self.member}: {facts['fault']}")
        return facts, data


def unit_worker(layout: str, frames: int, size: list[int], fps: float) -> Work:
    """Reads a unit and writes its pieces into the file that its record names."""
    taken = Taken(frames=frames, size=(size[0], size[1]), fps=fps)

    def work(name: str, record: Record) -> tuple[Record, bytes]:
        rows, strange, fault = [], Counter[str](), None
        with whole_file(record["pieces"]) as part, part.open("wb") as file:
            try:
                for member, place, data in _files(record, layout):
                    if place is None or data is None:
                        strange[PurePosixPath(member).suffix.lower() or member] += 1
                        continue
                    facts, video = _piece(member, place.stream, data, taken)
                    head = json.dumps(facts).encode()
                    rows.append([member, place.stream, place.key, file.tell(), len(head), len(video)])
                    file.write(head + video)
            except Cut as error:
                fault = str(error)
        return {"rows": rows, "strange": strange, "fault": fault}, b""

    return work


def _files(record: Record, layout: str) -> Iterator[tuple[str, Place | None, Path | BufferedReader | None]]:
    """Files of a unit: their names, where they belong, and what they are read from."""
    place = LAYOUTS[layout].place
    if "tar" not in record:
        for name in record["files"]:
            yield name, place(name, record), Path(record["root"]) / name
        return
    with closing(members(Path(record["tar"]))) as found:
        for name, data in found:
            yield name, place(name, record), data


def _piece(member: str, stream: str, data: Path | BufferedReader, taken: Taken) -> tuple[Record, bytes]:
    """Facts and video of a member; one that cannot be read says why, and the others go on."""
    try:
        if isinstance(data, Path):
            with data.open("rb") as file:
                return _encoded(member, stream, data, taken) if is_video(member) else _told(member, file)
        if not is_video(member):
            return _told(member, data)
        with as_file(member, data) as path:
            return _encoded(member, stream, path, taken)
    except ValueError as error:
        return {"fault": sentence(error)}, b""


def _told(member: str, data: BufferedReader) -> tuple[Record, bytes]:
    return {"words": words(member, data)}, b""


def _encoded(member: str, stream: str, path: Path, taken: Taken) -> tuple[Record, bytes]:
    try:
        facts = look(path)
        shown = undamaged(facts, taken.frames, taken.size, stream)
    except ValueError as error:
        # of a file that had its name for a moment
        raise ValueError(str(error).replace(str(path), member)) from error
    return plain(facts), encode(shown, taken.fps, RGB_QUALITY if stream == "rgb" else None)


def plain(facts: Facts) -> Record:
    """What of a file's facts decides whether it agrees with others, as JSON has it."""
    told: dict[str, Any] = {"stamps": list(facts.stamps), "timed": facts.timed, "size": list(facts.size)}
    told |= {"tick": str(facts.tick), "rate": str(facts.rate)}
    return told | {"matrix": facts.matrix and list(facts.matrix), "pixel": facts.pixel and str(facts.pixel)}


def facts_of(member: str, told: Mapping[str, Any]) -> Facts:
    """The facts that `plain` has written."""
    matrix = told["matrix"]
    return Facts(
        path=Path(member), stream=0, keys=(), stamps=tuple(told["stamps"]), timed=told["timed"],
        size=(told["size"][0], told["size"][1]), tick=Fraction(told["tick"]), rate=Fraction(told["rate"]),
        matrix=matrix and (matrix[0], matrix[1], matrix[2], matrix[3]),
        pixel=told["pixel"] and Fraction(told["pixel"]),
    )  # fmt: skip
