"""Clips of the authors' release layout: a metadata CSV that names one video file per stream.

python -m unity.data.csv_clips --csv train/Koala36M/metadata/a.csv --source general --out data
"""

import csv
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import tyro

from unity.data.clips import Clip
from unity.data.shards import write_shards
from unity.data.video import read_video
from unity.modality.table import MODALITIES

# column → modality, by all the names that modalities go by
_COLUMNS = {name: row.name for row in MODALITIES.values() for name in (row.name, *row.also_called)}


def csv_clips(
    path: str | Path, source: str, frames: int = 33, size: tuple[int, int] = (256, 256), fps: float = 16.0
) -> Iterator[Clip]:
    """Read the rows of a metadata CSV as clips.

    Columns: `video`, `prompt`, and one per modality (depth, flow or raft, densepose, skeleton, segmentation);
    paths are absolute or relative to the CSV, and an empty cell is a modality that the clip does not have. As
    in the release, `frames` of each video are spread evenly over its length, resized to cover `size` (h, w) and
    cut to the centre; `fps` is what the clip is then said to have. The colours of the modality videos are taken
    as they are, and their decode constants are those of unknown ones.

    Raises ValueError for a missing CSV, column or video, and for videos of a row that differ in length.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no metadata file {path}; give the path of an existing CSV")
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        columns = _columns(path, rows.fieldnames or [])
        for line, row in enumerate(rows, start=2):
            try:
                yield _clip(path, row, columns, source, frames, size, fps)
            except ValueError as error:
                raise ValueError(f"{path}, line {line}: {error}") from error


def convert(
    csv: tuple[Path, ...], source: tuple[str, ...], out: Path, frames: int = 33, size: int = 256, fps: float = 16.0
):
    """Write the clips of metadata CSVs as one dataset of shards, one source per CSV."""
    if len(csv) != len(source):
        raise ValueError(f"{len(csv)} CSVs and {len(source)} sources; give one --source per --csv")
    clips = (csv_clips(c, s, frames, (size, size), fps) for c, s in zip(csv, source, strict=True))
    print(f"wrote {write_shards(itertools.chain.from_iterable(clips), out)}")


def _columns(path: Path, names: list[str]) -> dict[str, str]:
    """Column name to stream, for the columns that hold videos."""
    known = {"video": "rgb"} | _COLUMNS
    columns = {name: known[name] for name in names if name in known}
    if not {"video", "prompt"} <= set(names) or len(columns) < 2:
        raise ValueError(
            f"{path} has columns {names}; it needs 'video', 'prompt' and at least one of {sorted(known)[:-1]}"
        )
    return columns


def _clip(path: Path, row: dict, columns: dict[str, str], source: str, frames: int, size, fps: float) -> Clip:
    files = {stream: path.parent / row[name] for name, stream in columns.items() if row[name]}
    if "rgb" not in files:
        raise ValueError("the cell of 'video' is empty; give the path of a video, or delete the line")
    video = {stream: read_video(file, frames, size, stream) for stream, file in files.items()}
    constants = {name: MODALITIES[name].unknown_constants(*size) for name in video if name != "rgb"}
    return Clip(
        name=files["rgb"].stem,
        source=source,
        caption=row["prompt"],
        fps=fps,
        video=video,
        constants=constants,
        meta={"file": row["video"]},
    )


def main(arguments: list[str] | None = None) -> int:
    """Run `convert` from the command line; 2 after one sentence about what was wrong."""
    try:
        tyro.cli(convert, args=arguments)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
