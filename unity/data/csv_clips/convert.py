"""Clips of the authors' release layout: a metadata CSV that names one video file per stream."""

import csv
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from unity.command import check_bounds, real, whole
from unity.data.alignment import check_aligned, undamaged
from unity.data.clips import SOURCES, Clip
from unity.data.csv_clips.table import Row, read_table
from unity.data.film import look
from unity.data.shards.write import write_shards
from unity.files import whole_file
from unity.modality.table import MODALITIES

# column → modality, by all the names that modalities go by
COLUMNS = {name: row.name for row in MODALITIES.values() for name in (row.name, *row.also_called)}
REFUSED = "refused.csv"


@dataclass
class Ledger:
    """What became of the rows of some tables: a bad one is written down, and the others go on."""

    taken: int = 0
    # without a prompt, among those taken
    wordless: int = 0
    # table, line, reason
    refused: list[tuple[str, int, str]] = field(default_factory=list)
    # the row that each video was first seen in, and names that are given away
    seen: dict[Path, str] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)

    def name(self, file: Path, where: str) -> str:
        """A name for the clip of a video; ValueError if it is one already."""
        file = file.resolve()
        if file in self.seen:
            raise ValueError(f"{file.name} is the video of {self.seen[file]} already; delete one of the rows")
        names = itertools.chain([file.stem], (f"{file.stem}-{number}" for number in itertools.count(2)))
        name = next(name for name in names if name not in self.names)
        self.seen[file] = where
        self.names.add(name)
        return name

    def __str__(self) -> str:
        words = [f"{self.taken} clips"]
        if self.wordless:
            words.append(f"{self.wordless} of them without a prompt")
        if self.refused:
            path, line, reason = self.refused[0]
            words.append(f"{len(self.refused)} rows refused, the first: {path}, line {line}: {reason}")
        return "; ".join(words)


def csv_clips(
    path: str | Path,
    source: str,
    frames: int = 33,
    size: tuple[int, int] = (256, 256),
    fps: float = 16.0,
    encoding: str | None = None,
    ledger: Ledger | None = None,
) -> Iterator[Clip]:
    """Read the rows of a metadata CSV as clips.

    Columns: `video`, `prompt`, and one per modality (depth, flow or raft, densepose, skeleton, segmentation);
    paths are absolute or relative to the CSV, and an empty cell is a modality that the clip does not have. As
    in the release, `frames` of each video are spread evenly over its length, resized to cover `size` (h, w) and
    cut to the centre; `fps` is what the clip is then said to have. The colours of the modality videos are taken
    as they are, and their decode constants are those of unknown ones.

    Raises ValueError for a missing CSV or column, or text of another `encoding` (see `read_table`). A row whose
    videos are missing, damaged, or do not agree (see `check_aligned`), or that an earlier row holds already, goes
    to the `ledger`; without one it is a ValueError too.
    """
    path = Path(path)
    if source not in SOURCES:
        raise ValueError(f"source is {source!r}; choose one of {SOURCES}")
    names, rows = read_table(path, "video", encoding)
    columns = columns_of(path, names)
    book = ledger or Ledger()
    for row in rows:
        try:
            clip = _clip(path, row, columns, source, (frames, size, fps), book)
        except (ValueError, OSError) as error:
            if ledger is None:
                raise ValueError(f"{path}, line {row.line}: {error}") from error
            ledger.refused.append((str(path), row.line, " ".join(str(error).split())))
            continue
        book.taken += 1
        book.wordless += not clip.caption
        yield clip


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write the clips of metadata CSVs as one dataset of shards, one source per CSV."""

    csv: tuple[Path, ...]
    # of each CSV: single_person, two_persons, general or subject
    source: tuple[str, ...]
    # folder to write; it must not exist, or be empty
    out: Path
    # of each clip, spread evenly over its video; the codec wants 4k + 1
    frames: Annotated[int, whole(1, 10_000)] = 33
    # height and width in pixels
    size: Annotated[int, whole(16, 4096)] = 256
    # frames a second that the clips are then said to have
    fps: Annotated[float, real(0, 1000, above=True)] = 16.0
    # of the CSVs, such as gbk or cp1252, if it is not UTF-8 and no byte order mark tells
    encoding: str | None = None


def convert(options: Options) -> Ledger:
    """Write the dataset, with the rows that were left out in its refused.csv; ValueError if none is left."""
    check_bounds(options)
    if len(options.csv) != len(options.source):
        raise ValueError(
            f"{len(options.csv)} CSVs and {len(options.source)} sources; give --source one word for each --csv"
        )
    ledger = Ledger()
    size = (options.size, options.size)
    tables = [
        csv_clips(table, source, options.frames, size, options.fps, options.encoding, ledger)
        for table, source in zip(options.csv, options.source, strict=True)
    ]
    write_shards(_some(itertools.chain.from_iterable(tables), ledger), options.out)
    if ledger.refused:
        with whole_file(options.out / REFUSED) as file, file.open("w", newline="", encoding="utf-8") as text:
            csv.writer(text).writerows([("csv", "line", "reason"), *ledger.refused])
    return ledger


def _some(clips: Iterator[Clip], ledger: Ledger) -> Iterator[Clip]:
    yield from clips
    if not ledger.taken:
        raise ValueError(f"no row can be used: {ledger}" if ledger.refused else "the tables have no rows")


def columns_of(path: Path, names: list[str]) -> dict[str, str]:
    """Column name to stream, for the columns that hold videos."""
    known = {"video": "rgb"} | COLUMNS
    columns = {name: known[name] for name in names if name in known}
    if not {"video", "prompt"} <= set(names) or len(columns) < 2:
        raise ValueError(
            f"{path} has columns {names}; it needs 'video', 'prompt' and at least one of {sorted(known)[:-1]}"
        )
    if len(set(columns.values())) < len(columns):
        raise ValueError(f"{path} has columns {names}, of which two are the same modality; rename one")
    return columns


def _clip(
    path: Path,
    row: Row,
    columns: dict[str, str],
    source: str,
    taken: tuple[int, tuple[int, int], float],
    book: Ledger,
) -> Clip:
    frames, size, fps = taken
    if row.fault:
        raise ValueError(row.fault)
    files = {stream: path.parent / row.cells[name] for name, stream in columns.items() if row.cells[name]}
    if "rgb" not in files:
        raise ValueError("the cell of 'video' is empty; give the path of a video, or delete the line")
    streams = {stream: look(file) for stream, file in files.items()}
    check_aligned(streams, frames)
    video = {stream: undamaged(facts, frames, size, stream) for stream, facts in streams.items()}
    return Clip(
        name=book.name(files["rgb"], f"{path.name}, line {row.line}"),
        source=source,
        caption=row.cells["prompt"],
        fps=fps,
        video=video,
        constants={name: MODALITIES[name].unknown_constants(*size) for name in video if name != "rgb"},
        meta={"file": row.cells["video"]},
    )
