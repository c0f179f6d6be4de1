"""What annotators cost: CPU-seconds of one clip by each that needs no GPU, of one process and one thread.

    python benchmarks/annotate_bench.py --video film.mp4 [--frames 33] [--size 256] [--weights mediapipe=WHEEL]

Processor time (user + system), so that other processes hardly count; each is loaded, and has seen a clip, before.
What the engine (Ray Data) adds is the wall time of a whole stage, on one worker and with its cluster started, in
which no clip was worked on, as a share of that in which one was.
"""

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import tyro
from harness import write_result

from unity.data import engine
from unity.data.annotate.clip import annotated, worker
from unity.data.annotate.table import ANNOTATORS, GATES, WEIGHTS
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
    # that the engine gets, to see what it adds
    clips: int = 16
    # NAME=PATH, of annotators that have weights: the others are left out
    weights: tuple[str, ...] = ()
    # where to write the JSON; benchmarks/results by default
    out: Path | None = None


def clip_seconds(name: str | None, options: Options) -> list[float]:
    """CPU-seconds of each repetition, reading the film and encoding what was drawn included; None: those alone."""
    weights = found_weights(options.weights, WEIGHTS)
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


def timed_worker(**settings: object) -> engine.Work:
    """The stage's own worker, which tells how long each clip took, its loading with the first."""
    begun = time.perf_counter()
    work, waited = worker(**settings), [time.perf_counter() - begun]

    def timed(name: str, record: engine.Record) -> tuple[engine.Record, bytes]:
        start = time.perf_counter()
        told, data = work(name, record)
        return told | {"seconds": time.perf_counter() - start + (waited.pop() if waited else 0)}, data

    return timed


def engine_share(options: Options) -> dict:
    """Wall seconds of a stage of DIS on one worker, those in which it worked, and the rest as a share of those."""
    length, cluster = (options.frames - 1) / options.fps, engine.Cluster(workers=1)
    film = {"video": str(options.video.resolve()), "source": "general", "caption": "", "rate": options.fps}
    starts = {f"{n:03}": 0.1 * n for n in range(options.clips)}
    rows = {name: film | {"start": start, "end": start + length} for name, start in starts.items()}
    gates = {"flow": [vars(rule) for rule in GATES["flow"]]}
    size = [options.size, options.size]
    settings = {"names": ["dis"], "weights": {}, "gates": gates, "frames": options.frames, "size": size}
    engine.start(cluster)
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        lost = engine.run(Path(folder) / "work", rows, timed_worker, settings | {"device": "cpu"}, cluster)
        whole = time.perf_counter() - begun
        done = [record for _, record in engine.records(Path(folder) / "work")]
    if lost or any("error" in record for record in done):
        raise SystemExit(f"the engine did not do all clips: {lost or done}")
    spent = sum(record["seconds"] for record in done)
    return {"clips": len(done), "wall_s": whole, "work_s": spent, "overhead": whole / spent - 1}


def main(options: Options) -> None:
    cv2.setNumThreads(1)
    given = {word.partition("=")[0] for word in options.weights}
    usable = [name for name in CPU if given.issuperset(ANNOTATORS[name].weights)]
    base = statistics.median(clip_seconds(None, options))
    print(f"reading a clip of {options.frames} frames: {base:.2f} CPU s")
    rows = {}
    for name in usable:
        rows[name] = statistics.median(clip_seconds(name, options)) - base
        print(f"{name}: {rows[name]:.2f} CPU s more, {3600 / (base + rows[name]):.0f} clips a CPU-hour")
    added = engine_share(options)
    print(f"the engine adds {added['overhead']:.1%} to {added['clips']} clips in {added['wall_s']:.0f} s")
    shape = {"frames": options.frames, "size": options.size}
    named = [
        {"annotator": name, "seconds": value, "per_hour": 3600 / (base + value)} for name, value in rows.items()
    ]
    write_result("annotate_bench", named, folder=options.out, read=base, engine=added, **shape)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
