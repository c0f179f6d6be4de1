"""What one simulated clip costs: CPU-seconds of one process, per source, all streams and encodings included.

    python benchmarks/simulate_bench.py [--clips 8] [--frames 33] [--size 128]

CPU time (user + system) of a single thread, so that other processes hardly count; kernels are compiled before.
"""

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from harness import write_result

from unity.data.clips import SOURCES
from unity.data.simulate.camera import film
from unity.data.simulate.clip import simulate
from unity.data.simulate.physics import run
from unity.data.simulate.render import Renderer
from unity.data.simulate.scene import draw_scene
from unity.data.simulate.truth import Truth

# CPU-seconds of a clip of 33 frames at 128 x 128 that this project set out to reach.
TARGET = 2.5


@dataclass(frozen=True, kw_only=True)
class Options:
    # clips of every source
    clips: int = 8
    frames: int = 33
    size: int = 128
    # where to write the JSON; benchmarks/results by default
    out: Path | None = None


def clip_seconds(seed: int, source: str, options: Options) -> dict[str, float]:
    """CPU-seconds of a whole clip, and of its parts run apart."""
    size, start = (options.size, options.size), time.process_time()
    simulate(seed, source, options.frames, size)
    marks = [start, time.process_time()]
    world = run(draw_scene(seed, source), options.frames, 16.0)
    cameras = film(world, size, 16.0)
    marks.append(time.process_time())
    renderer = Renderer(world)
    for frame, camera in enumerate(cameras):
        renderer.picture(camera, frame)
    marks.append(time.process_time())
    truth = Truth(world, cameras)
    for frame in range(options.frames):
        truth.measure(frame)
    marks.append(time.process_time())
    total, motion, picture, measured = (b - a for a, b in zip(marks[:-1], marks[1:], strict=True))
    rest = total - motion - picture - measured
    return {"total": total, "motion": motion, "picture": picture, "truth": measured, "encoding": rest}


def main(options: Options) -> None:
    """Measure, print a table and write the JSON."""
    torch.set_num_threads(1)
    rows = []
    for source in SOURCES:
        clip_seconds(0, source, options)
        taken = [clip_seconds(seed, source, options) for seed in range(1, options.clips + 1)]
        parts = {name: round(statistics.median(row[name] for row in taken), 3) for name in taken[0]}
        worst = round(max(row["total"] for row in taken), 3)
        rows.append({"source": source, "clips": options.clips, "cpu_seconds": parts, "worst": worst})
        print(f"{source:14s}" + "".join(f"  {name} {seconds:5.2f} s" for name, seconds in parts.items()))
    mean = round(statistics.mean(row["cpu_seconds"]["total"] for row in rows), 3)
    print(f"mean of sources: {mean} CPU-seconds a clip of {options.frames} x {options.size} x {options.size}")
    shape = [options.frames, options.size, options.size]
    path = write_result("simulate", rows, folder=options.out, shape=shape, mean=mean, target=TARGET)
    print(path)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
