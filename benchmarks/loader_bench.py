"""Clips per second of the loader's two decoders, and of what a user would write: files, OpenCV, a DataLoader.

    python benchmarks/loader_bench.py [--clips 16] [--batches 12] [--size 128]

Every door delivers simulated clips (RGB + one modality) at the same size. They take turns in one run, so that
whatever else loads the machine slows them alike. CPU time is that of a run without workers, which counts itself
exactly; H.264 files are smaller and lossy (`mp4_error`), shards exact but for RGB.
"""

import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import tyro
from harness import write_result
from torch.utils.data import DataLoader, Dataset

from unity.config import STAGES
from unity.data.clips import SOURCES, Clip
from unity.data.loader import Reading, training_batches
from unity.data.shards import STREAMS, write_shards
from unity.data.simulate.clip import simulate
from unity.data.video import RGB_QUALITY, decode, encode, write_video

BATCH = 8
WORKERS = (0, 2)


@dataclass(frozen=True, kw_only=True)
class Options:
    clips: int = 16
    frames: int = 33
    size: int = 128
    # timed batches of each door and round
    batches: int = 12
    rounds: int = 3
    # where to write the JSON; benchmarks/results by default
    out: Path | None = None


class Files(Dataset):
    """The usual way: one H.264 mp4 per stream, read with OpenCV."""

    def __init__(self, clips: list[Clip], folder: Path):
        self.files = [file for clip in clips for file in _write_pairs(clip, folder / clip.name)]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> dict:
        rgb, aux, _ = self.files[number]
        return {"rgb": _read_with_opencv(rgb), "aux": _read_with_opencv(aux)}

    def loss(self) -> float:
        """Mean error, in levels of 255, of the modality videos that these files give back."""
        errors = [np.abs(_read_with_opencv(aux).numpy().astype(int) - exact) for _, aux, exact in self.files]
        return float(np.mean([error.mean() for error in errors]))

    def size(self) -> int:
        """Bytes of the two videos of a sample."""
        return statistics.mean(Path(rgb).stat().st_size + Path(aux).stat().st_size for rgb, aux, _ in self.files)


def _write_pairs(clip: Clip, stem: Path) -> list[tuple[str, str, np.ndarray]]:
    paths = {name: str(write_video(video, f"{stem}-{name}.mp4", clip.fps)) for name, video in clip.video.items()}
    return [(paths["rgb"], paths[name], clip.video[name]) for name in clip.available]


def _read_with_opencv(path: str) -> torch.Tensor:
    capture, frames = cv2.VideoCapture(path), []
    while True:
        there, frame = capture.read()
        if not there:
            return torch.from_numpy(np.stack(frames))
        frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))


def _doors(folder: Path, files: Files) -> dict[str, Callable[[int], Iterator[dict]]]:
    def ours(decode: str) -> Callable[[int], Iterator[dict]]:
        return lambda workers: training_batches(
            folder, STAGES[2], BATCH, reading=Reading(decode=decode, workers=workers)
        )

    def usual(workers: int) -> Iterator[dict]:
        loader = DataLoader(files, BATCH, shuffle=True, num_workers=workers, drop_last=True)
        return itertools.chain.from_iterable(itertools.repeat(loader))

    return {"shards, PyAV": ours("pyav"), "shards, DALI": ours("dali"), "mp4 files, OpenCV": usual}


def _time(door: Callable[[int], Iterator[dict]], workers: int, batches: int) -> tuple[float, float]:
    """Clips per second once running, and CPU seconds of this process per clip."""
    stream = door(workers)
    for _ in range(2):
        next(stream)
    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(batches):
        next(stream)
    clips = batches * BATCH
    return clips / (time.perf_counter() - start), (time.process_time() - cpu) / clips


def _check(folder: Path):
    """No speed is printed for wrong values: both decoders give the same batches."""
    readings = [Reading(decode=decode) for decode in ("pyav", "dali")]
    doors = [training_batches(folder, STAGES[2], BATCH, reading=reading) for reading in readings]
    for ours, theirs in itertools.islice(zip(*doors, strict=True), 3):
        if not (torch.equal(ours["rgb"], theirs["rgb"]) and torch.equal(ours["aux"], theirs["aux"])):
            raise SystemExit("PyAV and DALI give different frames; nothing was timed")


def _encoding_rows(clips: list[Clip]) -> list[dict]:
    """What writing costs: CPU seconds and bytes per stream of a clip, and the mean error in levels of 255."""
    rows = []
    for stream in STREAMS:
        videos = [clip.video[stream] for clip in clips if stream in clip.video]
        start = time.process_time()
        coded = [encode(video, 16.0, RGB_QUALITY if stream == "rgb" else None) for video in videos]
        spent = (time.process_time() - start) / len(videos)
        error = np.mean(
            [np.abs(decode(data).astype(int) - v).mean() for data, v in zip(coded, videos, strict=True)]
        )
        size = round(statistics.mean(map(len, coded)))
        rows.append({"encode": stream, "cpu_s": round(spent, 4), "bytes": size, "error": round(float(error), 3)})
    return rows


def _loading_rows(folder: Path, files: Files, options: Options) -> list[dict]:
    runs = list(itertools.product(_doors(folder, files).items(), WORKERS))
    taken = {(name, workers): [] for (name, _), workers in runs}
    for _ in range(options.rounds):
        for (name, door), workers in runs:
            taken[name, workers].append(_time(door, workers, options.batches))
    return [_row(name, workers, *zip(*times, strict=True)) for (name, workers), times in taken.items()]


def _row(name: str, workers: int, speeds: tuple[float, ...], cpu: tuple[float, ...]) -> dict:
    row = {"door": name, "workers": workers, "clips_per_s": round(statistics.median(speeds), 1)}
    row |= {"slowest": round(min(speeds), 1), "fastest": round(max(speeds), 1)}
    return row if workers else row | {"cpu_ms_per_clip": round(1e3 * statistics.median(cpu), 1)}


def main(options: Options):
    sources = itertools.islice(itertools.cycle(SOURCES), options.clips)
    size = (options.size, options.size)
    clips = [simulate(seed, source, options.frames, size) for seed, source in enumerate(sources)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_shards(clips, Path(scratch) / "data")
        _check(folder)
        files = Files(clips, Path(scratch) / "files")
        rows = _loading_rows(folder, files, options) + _encoding_rows(clips)
        lost = {"mp4_error": round(files.loss(), 2), "mp4_bytes_per_sample": round(files.size())}
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    # clips per second fall with what else runs here; CPU time hardly does
    about = {"frames": options.frames, "size": size, "batch": BATCH, "load": os.getloadavg()[0], **lost}
    print(write_result("loader_bench", rows, folder=options.out, **about))


if __name__ == "__main__":
    main(tyro.cli(Options))
