"""What every benchmark here shares: timing, the machine, the memory's copy bandwidth, and the result file.

A script finds this file beside itself (`from harness import measure`). It needs torch, and unity.files.
"""

import argparse
import contextlib
import ctypes
import itertools
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from unity import files

RESULTS = Path(__file__).parent / "results"
GPU_BACKLOG_CYCLES = 2_000_000
NUMBERS = {int: "a whole number", float: "a number"}
SUFFIXES = (".json", ".png")


class Timing(NamedTuple):
    """Seconds of one call: the median, and the distance between the quartiles."""

    median: float
    spread: float


def measure(
    call: Callable[[], object], seconds: float = 0.5, warmup: int = 2, runs: int = 200, device: str = "cpu"
) -> Timing:
    """Time `call` for about `seconds`, at least 3 and at most `runs` times, after `warmup` calls."""
    return measure_all({"call": call}, seconds, warmup, runs, device)["call"]


def measure_all(
    calls: dict[str, Callable[..., object]],
    seconds: float = 0.5,
    warmup: int = 2,
    runs: int = 200,
    device: str = "cpu",
    rotate: Sequence[tuple] = ((),),
) -> dict[str, Timing]:
    """Time several calls in turn, so that whatever else loads the machine slows them all alike.

    `seconds` is spent on each call. Ratios of medians out of one such run are comparable; two runs are not.
    Every single call takes the next arguments of `rotate`: with buffers of more than the last cache in total,
    each call finds its own cold, whichever call ran before it.
    """
    clock = _gpu_seconds if torch.device(device).type == "cuda" else _cpu_seconds
    turn = itertools.cycle(rotate)
    for call in calls.values():
        for _ in range(warmup):
            call(*next(turn))
    taken = {name: [] for name in calls}
    end = time.perf_counter() + seconds * len(calls)
    for count in range(1, runs + 1):
        for name, call in calls.items():
            taken[name].append(clock(call, next(turn)))
        if count >= 3 and time.perf_counter() > end:
            break
    return {name: Timing(statistics.median(times), _spread(times)) for name, times in taken.items()}


def admitted(
    contestants: Iterable[str],
    make: Callable[[str], Callable],
    wrong: Callable[[str, Callable], str | None],
    end: float = float("inf"),
) -> tuple[dict[str, Callable], dict[str, str]]:
    """The contestants that run and are right, and why the others are not measured; none is started after `end`."""
    found, missing = {}, {}
    for name in contestants:
        if time.perf_counter() > end:
            missing[name] = "the time is up"
            continue
        try:
            form = make(name)
            reason = wrong(name, form)
        except Exception as problem:  # one that does not run must not cost the others their speeds
            reason = " ".join([f"{type(problem).__name__}:", *str(problem).splitlines()[:2]])
        if reason:
            missing[name] = reason
        else:
            found[name] = form
    return found, missing


def deviation(names: Iterable[str], found: Iterable, truth: Iterable, tolerance: float) -> str | None:
    """The first of the named tensors whose relative error (of norms, in float32) is above the tolerance."""
    for name, value, exact in zip(names, found, truth, strict=True):
        off = ((value.float() - exact).norm() / exact.norm()).item()
        if not off <= tolerance:
            return f"{name} is off by {off:.1e}"
    return None


def _cpu_seconds(call: Callable[..., object], arguments: tuple) -> float:
    # A single thread can be timed by the processor time it got: other processes then do not count.
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    call(*arguments)
    return clock() - start


def _gpu_seconds(call: Callable[..., object], arguments: tuple) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    # The device is kept busy while Python queues the call: launch latency is not what we measure.
    torch.cuda._sleep(GPU_BACKLOG_CYCLES)
    start.record()
    call(*arguments)
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


def _spread(times: list[float]) -> float:
    low, _, high = statistics.quantiles(times, n=4)
    return high - low


def copies(device: str = "cpu") -> dict[str, Callable[[torch.Tensor, torch.Tensor], object]]:
    """The plain copies whose fastest is the bar for a kernel that only moves memory."""
    found = {"copy": lambda source, target: target.copy_(source)}
    if torch.device(device).type == "cpu":
        # memmove of one thread writes past the cache, which torch's copy does not.
        found["memmove"] = lambda source, target: ctypes.memmove(
            target.data_ptr(), source.data_ptr(), target.numel() * target.element_size()
        )
    return found


def copy_bandwidth(device: str = "cpu", size: int | None = None, seconds: float = 0.5) -> float:
    """GB/s (1e9 bytes read plus written, a second) of the fastest plain copy of `size` bytes, cold."""
    size = size or (1 << 30 if torch.device(device).type == "cuda" else 1 << 26)
    pairs = [tuple(torch.zeros(size // 4, device=device) for _ in range(2)) for _ in range(3)]
    timings = measure_all(copies(device), seconds, device=device, rotate=pairs).values()
    return 2 * size / min(timing.median for timing in timings) / 1e9


def keep_memory() -> None:
    """Let this process keep the memory that it frees.

    The C library hands large buffers back to the system, so that every call would first pay for new pages: up to
    several times what an op costs, and by chance, depending on what else lies on the heap.
    """
    trim_threshold, mmap_max = -1, -4
    with contextlib.suppress(AttributeError):  # not the GNU library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)


def core_share(seconds: float = 0.3) -> float:
    """The part of a core that one thread gets here: 1 on an idle machine, less when others want the cores."""
    start, end = time.thread_time(), time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
    return min(1.0, (time.thread_time() - start) / seconds)


def machine(device: str = "cpu") -> dict[str, object]:
    """What was measured on: processor, cores, torch threads, accelerator and the versions that matter."""
    found = {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "vector": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if "triton" in sys.modules:
        found["triton"] = sys.modules["triton"].__version__
    if torch.device(device).type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {"gpu": properties.name, "gpu_memory_gib": round(properties.total_memory / 2**30, 1)}
    return found


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name, family, model = (fields.get(key, "?") for key in ("model name", "cpu family", "model"))
    return f"{name} (family {family}, model {model})"


def commit() -> str:
    """The short commit of this checkout, with `+changes` for a dirty tree; $COMMIT where there is no git."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD").strip() + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("COMMIT", "unknown")


def write_result(
    name: str, rows: list[dict], device: str = "cpu", folder: Path | str | None = None, **about: object
) -> Path:
    """Write `<folder>/<name>.json` (default benchmarks/results): rows with machine, commit and date.

    `about` holds what the rows share (method, copy bandwidth...). The file appears whole or not at all.
    """
    folder = Path(folder or RESULTS)
    head = {"name": name, "machine": machine(device), "commit": commit(), "date": _now()}
    folder.mkdir(parents=True, exist_ok=True)
    return files.write_json(folder / f"{name}.json", head | about | {"rows": rows}, indent=1)


def at_least(low: float, kind: type = int) -> Callable[[str], float]:
    """The type of an option that is a finite number from `low` on: anything else is a sentence of argparse's."""

    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value < math.inf:
            raise argparse.ArgumentTypeError(f"{text!r} is not {NUMBERS[kind]} from {low} on")
        return value

    return read


def result_file(text: str) -> Path:
    """The type of an option that names a file to be written: found out before anything is measured."""
    path = Path(text)
    if path.is_dir() or path.suffix not in SUFFIXES:
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a {' or '.join(SUFFIXES)} file")
    try:
        files.check_writable(path.parent)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from problem
    return path


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
