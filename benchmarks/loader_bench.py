"""Clips per second of the loader, of clips by both decoders and of latents, beside what others would use.

    python benchmarks/loader_bench.py [--clips 16] [--batches 12] [--size 128] [--workers 0]

Every door delivers the same simulated clips (RGB + one view) at the same size, or their latents. They take turns
in one run, so that whatever else loads the machine slows them alike. CPU time, and MB of what is delivered by
second of a core, are of a run without workers, which counts itself exactly. H.264 files are smaller and lossy
(`mp4_error`), shards exact but for RGB; webdataset gets the shards' own bytes in tars, mosaicml's StreamingDataset
the shards themselves, and either of them, which decode no video, PyAV as its documentation has it or our decoder.
"""

import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from harness import write_result
from loader_peers import DECODERS, Door, Files, files, mosaic, tars, with_opencv, with_pyav

from unity.config import STAGES
from unity.data.clips import SOURCES, Clip
from unity.data.loader import Reading, training_batches
from unity.data.shards import STREAMS, Shards, open_shards, write_shards
from unity.data.simulate.clip import simulate
from unity.data.video import RGB_QUALITY, decode, encode

BATCH = 8
PEERS = {"webdataset": tars, "mosaicml": mosaic}


@dataclass(frozen=True, kw_only=True)
class Options:
    clips: int = 16
    frames: int = 33
    size: int = 128
    # timed batches of each door and round
    batches: int = 12
    rounds: int = 3
    # of the loaders; 0 counts its processor time, others its clips a second
    workers: tuple[int, ...] = (0, 2)
    # where to write the JSON; benchmarks/results by default
    out: Path | None = None


def _doors(scratch: Path, shards: Shards, data: Files, opencv: Files) -> dict[str, Door]:
    def ours(folder: Path, decode: str) -> Door:
        return lambda workers: training_batches(
            folder, STAGES[2], BATCH, reading=Reading(decode=decode, workers=workers)
        )

    doors = {
        "ours, shards, PyAV": ours(shards.folder, "pyav"),
        "ours, shards, DALI": ours(shards.folder, "dali"),
        "ours, latents": ours(scratch / "latents", "pyav"),
        "mp4 files, PyAV": files(data, BATCH),
        "mp4 files, OpenCV": files(opencv, BATCH),
    }
    for (peer, make), (decoder, read) in itertools.product(PEERS.items(), DECODERS.items()):
        name = f"{peer}, {decoder}"
        try:
            doors[name] = make(shards, scratch / name, BATCH, read)
        except ModuleNotFoundError as error:
            print(f"{name}: left out, {error.name} is not installed")
    return doors


def _time(door: Door, workers: int, batches: int) -> tuple[float, float, int]:
    """Clips per second once running, CPU seconds of this process per clip, and bytes of one."""
    stream = door(workers)
    for _ in range(2):
        batch = next(stream)
    held = sum(batch[name].nbytes for name in ("rgb", "aux")) // len(batch["rgb"])
    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(batches):
        next(stream)
    clips = batches * BATCH
    return clips / (time.perf_counter() - start), (time.process_time() - cpu) / clips, held


def _encode(folder: Path, out: Path) -> None:
    words = ["-m", "unity.data.latents", folder, "--out", out, "--model", "tiny"]
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)


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


def _loading_rows(doors: dict[str, Door], options: Options) -> list[dict]:
    runs = list(itertools.product(doors.items(), options.workers))
    taken = {(name, workers): [] for (name, _), workers in runs}
    for _ in range(options.rounds):
        for (name, door), workers in runs:
            taken[name, workers].append(_time(door, workers, options.batches))
    return [_row(name, workers, *zip(*times, strict=True)) for (name, workers), times in taken.items()]


def _row(name: str, workers: int, speeds: tuple[float, ...], cpu: tuple[float, ...], held: tuple) -> dict:
    row = {"door": name, "workers": workers, "clips_per_s": round(statistics.median(speeds), 1)}
    row |= {"slowest": round(min(speeds), 1), "fastest": round(max(speeds), 1)}
    if workers:
        return row
    spent = statistics.median(cpu)
    per_core = {"clips_per_core_s": round(1 / spent, 1), "mb_per_core_s": round(held[0] / spent / 1e6, 1)}
    return row | {"cpu_ms_per_clip": round(1e3 * spent, 2), **per_core}


def main(options: Options):
    sources = itertools.islice(itertools.cycle(SOURCES), options.clips)
    size = (options.size, options.size)
    clips = [simulate(seed, source, options.frames, size) for seed, source in enumerate(sources)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_shards(clips, Path(scratch) / "data")
        _check(folder)
        _encode(folder, Path(scratch) / "latents")
        data, opencv = (Files(clips, Path(scratch) / "files", read) for read in (with_pyav, with_opencv))
        rows = _loading_rows(_doors(Path(scratch), open_shards(folder), data, opencv), options)
        rows += _encoding_rows(clips)
        lost = {"mp4_error": round(opencv.loss(), 2), "mp4_bytes_per_sample": round(opencv.size())}
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    # clips per second fall with what else runs here; CPU time hardly does
    about = {"frames": options.frames, "size": size, "batch": BATCH, "load": os.getloadavg()[0], **lost}
    print(write_result("loader_bench", rows, folder=options.out, **about))


if __name__ == "__main__":
    main(tyro.cli(Options))
