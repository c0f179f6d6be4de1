"""How clips lie in what others packed: one row for each layout.

openuni      train/GROUP/STREAM/*_partNNN.tar.gz with videos, train/GROUP/metadata/*.csv that names them by stream
webdataset   tars of KEY.mp4, KEY.depth.mp4 …, KEY.txt or KEY.json with a caption
folder       the same files in a folder, in no tar
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from unity.data.collect.members import TARS, is_tar, is_video
from unity.data.csv_clips.convert import COLUMNS, columns_of
from unity.data.csv_clips.table import read_table
from unity.data.engine import Record

# files of a folder that are read together
_TOGETHER = 64
_NUMBER = re.compile(r"(\d+)(?=\.[A-Za-z.]+$)")
_CAPTIONS = ("caption", "prompt", "text")
# a clip's words, in place of a view
WORDS = "words"


class Place(NamedTuple):
    """Where a file belongs: rgb, a modality or `WORDS`, and its clip's key or the name that tables give it."""

    stream: str
    key: str


@dataclass(frozen=True, kw_only=True)
class Named:
    """A clip as a table names it: paths by stream."""

    name: str
    group: str
    files: dict[str, str]
    caption: str
    # why the row is no clip
    fault: str | None


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What one worker reads at a time: `record` says it all; of a group of clips, whose keys begin alike."""

    name: str
    group: str = ""
    prefix: str = ""
    record: Record = field(default_factory=dict)


# what should be there and is not, or is there and is not read, and why
Missing = list[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way to pack clips."""

    words: str
    # (place) → whether it is packed so
    fits: Callable[[Path], bool]
    units: Callable[[Path], tuple[list[Unit], Missing]]
    # (name of a file, record of its unit) → where it belongs, None for what is nothing of ours
    place: Callable[[str, Record], Place | None]
    # (place) → the clips that tables name; None: files of one key are a clip
    table: Callable[[Path], Iterator[Named]] | None = None


def _hub(place: Path) -> Path:
    return place / "train" if (place / "train").is_dir() else place


def _openuni_units(place: Path) -> tuple[list[Unit], Missing]:
    units, missing = [], []
    folders = (path for path in _hub(place).glob("*/*") if path.is_dir() and path.name != "metadata")
    for folder in sorted(folders):
        stream, tars = _stream(folder.name), sorted(filter(is_tar, folder.iterdir()))
        if stream is None:
            missing.append((str(folder), f"{folder.name} is no view that is known here: its tars are not read"))
            continue
        units += [_tar(place, path, folder.parent.name, {"stream": stream}) for path in tars]
        missing += _gaps(tars)
    return units, missing


def _stream(folder: str) -> str | None:
    return "rgb" if folder.lower() in ("rgb", "video", "videos") else COLUMNS.get(folder.lower())


def _gaps(tars: list[Path]) -> Missing:
    """What is missing in a row of numbered names."""
    found = {int(match[1]): (path, match) for path in tars if (match := _NUMBER.search(path.name))}
    if not found:
        return []
    path, match = found[max(found)]
    head, tail, digits = path.name[: match.start()], path.name[match.end() :], len(match[1])
    absent = [n for n in range(min(1, *found), max(found)) if n not in found]
    return [(str(path.with_name(f"{head}{n:0{digits}}{tail}")), "it is missing among its like") for n in absent]


def _openuni_table(place: Path) -> Iterator[Named]:
    for table in sorted(_hub(place).glob("*/metadata/*.csv")):
        names, rows = read_table(table, "video")
        columns, group = columns_of(table, names), table.parent.parent.name
        for row in rows:
            files = {stream: row.cells[name] for name, stream in columns.items() if row.cells.get(name)}
            where, stem = f"{table.name}, line {row.line}", PurePosixPath(files.get("rgb", "")).stem
            fault = row.fault or (None if stem else "the cell of 'video' is empty")
            named = {"name": f"{group}/{stem or where}", "fault": fault and f"{where}: {fault}"}
            yield Named(group=group, files=files, caption=row.cells.get("prompt", ""), **named)


def _tar(place: Path, path: Path, group: str, more: Record, prefix: str = "") -> Unit:
    shown = path.relative_to(place) if place.is_dir() else path.name
    # fetched again it has another size, and is another one
    name = f"{shown} of {path.stat().st_size} bytes"
    return Unit(name=name, group=group, prefix=prefix, record={"tar": str(path.resolve())} | more)


def _tars(place: Path) -> list[Path]:
    found = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    return [path for path in found if is_tar(path)]


def _webdataset_units(place: Path) -> tuple[list[Unit], Missing]:
    tars = _tars(place)
    # a clip's files lie in one tar, and another one may have the same keys
    units = [_tar(place, path, _group(place, path), {}, f"{path.name.partition('.')[0]}/") for path in tars]
    folders = sorted({path.parent for path in tars})
    return units, [row for f in folders for row in _gaps([path for path in tars if path.parent == f])]


def _group(place: Path, path: Path) -> str:
    """The first folder below the place; none at its top."""
    return path.relative_to(place).parts[0] if place.is_dir() and path.parent != place else ""


def _sidecar(name: str, record: Record) -> Place | None:
    """By what stands before the ending: KEY.mp4 and KEY.rgb.mp4, KEY.depth.mp4; KEY.txt and KEY.json are words."""
    path = PurePosixPath(name)
    key, *kinds = path.name.split(".")
    whole, kind = str(path.parent / key), kinds[-2].lower() if len(kinds) > 1 else "rgb"
    if path.suffix.lower() in (".txt", ".json") and len(kinds) == 1:
        return Place(WORDS, whole)
    stream = "rgb" if kind == "rgb" else COLUMNS.get(kind)
    return Place(stream, whole) if stream and is_video(name) else None


def _folder_units(place: Path) -> tuple[list[Unit], Missing]:
    names = (path.relative_to(place) for path in place.rglob("*") if path.is_file())
    files = sorted(name.as_posix() for name in names if not any(part[0] == "." for part in name.parts))
    known = [name for name in files if _sidecar(name, {})]
    parts = [known[first : first + _TOGETHER] for first in range(0, len(known), _TOGETHER)]
    units = [Unit(name=_told(place, part), record={"files": part, "root": str(place.resolve())}) for part in parts]
    return units, [(name, "it is nothing that is known here") for name in files if not _sidecar(name, {})]


def _told(place: Path, files: list[str]) -> str:
    """A name that changes with the files."""
    return f"{files[0]} and {len(files) - 1} more of {sum((place / name).stat().st_size for name in files)} bytes"


def caption(told: str, member: str) -> str:
    """Of a text file the words, of a JSON file those under a name for them; ValueError for what is no JSON."""
    if not member.lower().endswith(".json"):
        return told
    try:
        found = json.loads(told)
    except ValueError as error:
        raise ValueError(f"{member} is no JSON ({error})") from None
    texts = [found.get(name) for name in _CAPTIONS] if isinstance(found, dict) else []
    return next((" ".join(text.split()) for text in texts if isinstance(text, str)), "")


LAYOUTS: dict[str, Layout] = {
    "openuni": Layout(
        words="train/GROUP/STREAM/*.tar.gz and train/GROUP/metadata/*.csv",
        fits=lambda place: place.is_dir() and any(_hub(place).glob("*/metadata/*.csv")),
        units=_openuni_units,
        place=lambda name, record: Place(record["stream"], PurePosixPath(name).name) if is_video(name) else None,
        table=_openuni_table,
    ),
    "webdataset": Layout(
        words=f"tars ({', '.join(TARS)}) of KEY.mp4, KEY.depth.mp4 …",
        fits=lambda place: bool(_tars(place)),
        units=_webdataset_units,
        place=_sidecar,
    ),
    "folder": Layout(
        words="KEY.mp4, KEY.depth.mp4 …, KEY.txt",
        fits=lambda place: place.is_dir() and any(is_video(path.name) for path in place.rglob("*")),
        units=_folder_units,
        place=_sidecar,
    ),
}


def layout_of(place: Path, name: str | None) -> str:
    """The layout of this name, or the first that fits; ValueError where none does."""
    if not place.exists():
        raise ValueError(f"there is no {place}; give a folder, or a tar")
    if name is not None and name not in LAYOUTS:
        raise ValueError(f"--layout {name} is none of {', '.join(LAYOUTS)}")
    asked = {row: layout for row, layout in LAYOUTS.items() if name in (None, row)}
    fitting = [row for row, layout in asked.items() if layout.fits(place)]
    if not fitting:
        ways = "; or ".join(layout.words for layout in asked.values())
        raise ValueError(f"{place} is packed in no way that is known here: {ways}")
    return fitting[0]
