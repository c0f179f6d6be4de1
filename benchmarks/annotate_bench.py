"""What annotators cost: CPU-seconds of one clip by each that needs no GPU, of one process and one thread.

    python benchmarks/annotate_bench.py --video film.mp4 [--frames 33] [--size 256] [--weights mediapipe=WHEEL]

Processor time (user + system), so that other processes hardly count; each is loaded, and has seen a clip, before.
What the engine (Ray Data) adds is the processor time of all of its processes beyond that of work on clips: once
for the cluster, once for a stage, and a share of each clip's own (of two stages, one with a quarter of the clips).
"""

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import contextlib
import math
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import psutil
import tyro
from harness import write_result

from unity.data import engine
from unity.data.annotate.clip import annotated, worker
from unity.data.annotate.table import ANNOTATORS, GATES, WEIGHTS
from unity.data.film import look
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
    clips: int = 24
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
    """The stage's own worker, which tells the processor time of each clip, that of its loading with the first."""
    begun = time.process_time()
    work, waited = worker(**settings), [time.process_time() - begun]

    def timed(name: str, record: engine.Record) -> tuple[engine.Record, bytes]:
        start = time.process_time()
        told, data = work(name, record)
        return told | {"seconds": time.process_time() - start + (waited.pop() if waited else 0)}, data

    return timed


def engine_share(options: Options) -> dict:
    """Processor time of stages of DIS on one worker beside that of its clips: what a stage adds, and each clip."""
    cluster = engine.Cluster(workers=1)
    begun = _spent()
    engine.start(cluster)
    started = _spent() - begun
    counts = [max(1, options.clips // 4), options.clips]
    (few, few_work), (many, many_work) = (_stage(options, count, cluster) for count in counts)
    a_clip = (many - few) / (many_work - few_work) - 1
    stage = few - few_work * (1 + a_clip)
    told = {"clips": counts[1], "cpu_s": many, "work_s": many_work, "start_s": started, "stage_s": stage}
    whole = (started + stage) * counts[1] / many_work
    return told | {
        "a_clip": a_clip,
        "clips_for_5_percent": math.ceil(whole / (0.05 - a_clip)) if a_clip < 0.05 else None,
    }


def _stage(options: Options, clips: int, cluster: engine.Cluster) -> tuple[float, float]:
    """Processor time of a stage of so many clips, and of its worker in them."""
    length = (options.frames - 1) / options.fps
    film = {"video": str(options.video.resolve()), "source": "general", "caption": "", "rate": options.fps}
    starts = {f"{n:03}": 0.1 * n for n in range(clips)}
    rows = {name: film | {"start": start, "end": start + length} for name, start in starts.items()}
    gates, size = {"flow": [vars(rule) for rule in GATES["flow"]]}, [options.size, options.size]
    settings = {"names": ["dis"], "weights": {}, "gates": gates, "frames": options.frames, "size": size}
    with tempfile.TemporaryDirectory() as folder:
        begun = _spent()
        lost = engine.run(Path(folder) / "work", rows, timed_worker, settings | {"device": "cpu"}, cluster)
        whole = _spent() - begun
        done = [record for _, record in engine.records(Path(folder) / "work")]
    if lost or any("error" in record for record in done):
        raise SystemExit(f"the engine did not do all clips: {lost or done}")
    return whole, sum(record["seconds"] for record in done)


def _spent() -> float:
    """Processor seconds of this process and of all that it started, those that have ended too."""
    spent, here = 0.0, psutil.Process()
    for process in (here, *here.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            spent += sum(process.cpu_times()[:4])
    return spent


def check_length(options: Options) -> None:
    """Before anything is measured: every clip begins a tenth of a second after the one before it."""
    facts = look(options.video)
    room = float((facts.stamps[-1] - facts.stamps[0]) * facts.tick)
    needed = (options.frames - 1) / options.fps + 0.1 * max(options.repeats, options.clips - 1)
    if room < needed:
        raise SystemExit(f"{options.video} lasts {room:.1f} s, and {needed:.1f} are wanted: take fewer --clips")


def main(options: Options) -> None:
    check_length(options)
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
    print(
        f"the engine adds {added['a_clip']:.1%} to a clip's {added['work_s'] / added['clips']:.2f} CPU s, "
        f"{added['start_s']:.1f} CPU s to start and {added['stage_s']:.1f} for a stage: "
        f"5% in all from {added['clips_for_5_percent']} clips on"
    )
    shape = {"frames": options.frames, "size": options.size}
    named = [
        {"annotator": name, "seconds": value, "per_hour": 3600 / (base + value)} for name, value in rows.items()
    ]
    write_result("annotate_bench", named, folder=options.out, read=base, engine=added, **shape)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
