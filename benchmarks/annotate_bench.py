"""What annotators cost: CPU-seconds of one clip by each that needs no GPU, of one process and one thread.

    python benchmarks/annotate_bench.py --video film.mp4 [--frames 33] [--size 256] [--weights mediapipe=WHEEL]

Processor time (user + system), so that other processes hardly count; each is loaded, and has seen a clip, before.
"""

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import tyro
from harness import write_result

from unity.data.annotate.clip import annotated
from unity.data.annotate.table import ANNOTATORS, GATES
from unity.data.weights import found_weights

# of those that need no network of their own
CPU = ("dis", "mediapipe-pose", "salient")


@dataclass(frozen=True, kw_only=True)
class Options:
    video: Path
    frames: int = 33
    size: int = 256
    fps: float = 16.0
    repeats: int = 3
    # NAME=PATH, of annotators that have weights: the others are left out
    weights: tuple[str, ...] = ()
    # where to write the JSON; benchmarks/results by default
    out: Path | None = None


def clip_seconds(name: str | None, options: Options) -> list[float]:
    """CPU-seconds of each repetition, reading the film and encoding what was drawn included; None: those alone."""
    weights = found_weights(options.weights, tuple(row.weights for row in ANNOTATORS.values() if row.weights))
    rows = [ANNOTATORS[name]] if name else []
    loaded = [(row, row.load(weights, row.settings, "cpu")) for row in rows]
    end = (options.frames - 1) / options.fps
    record = {"video": str(options.video), "source": "general", "caption": "", "start": 0.0, "end": end}
    seconds = []
    for number in range(1 + options.repeats):
        # another beginning, as the same clip's people are remembered
        shift = {"start": 0.1 * number, "end": end + 0.1 * number, "rate": options.fps}
        start = time.process_time()
        annotated("clip", record | shift, loaded, GATES, options.frames, (options.size, options.size))
        seconds.append(time.process_time() - start)
    return seconds[1:]


def main(options: Options) -> None:
    cv2.setNumThreads(1)
    given = {word.partition("=")[0] for word in options.weights}
    usable = [name for name in CPU if not ANNOTATORS[name].weights or ANNOTATORS[name].weights in given]
    base = statistics.median(clip_seconds(None, options))
    print(f"reading a clip of {options.frames} frames: {base:.2f} CPU s")
    rows = {}
    for name in usable:
        rows[name] = statistics.median(clip_seconds(name, options)) - base
        print(f"{name}: {rows[name]:.2f} CPU s more, {3600 / (base + rows[name]):.0f} clips a CPU-hour")
    shape = {"frames": options.frames, "size": options.size}
    named = [
        {"annotator": name, "seconds": value, "per_hour": 3600 / (base + value)} for name, value in rows.items()
    ]
    write_result("annotate_bench", named, folder=options.out, read=base, **shape)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
