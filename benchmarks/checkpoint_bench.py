"""How long a save holds up the steps, and how long until it is whole on the disk.

    python benchmarks/checkpoint_bench.py [--model tiny --repeats 5 --folder DISK --json FILE]

One process. The contestants take turns: our checkpoint beside the steps, the same while the steps wait, the
same files by safetensors alone (written, flushed, read again for their SHA-256), and DeepSpeed's own: weights,
masters and moments, without an average, a model for inference or a flush to the disk.
What ours have written is loaded and compared first: a wrong one gets no time.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from harness import at_least, machine, result_file, write_result
from safetensors.torch import save_file

from unity.config import MODELS
from unity.files import flush
from unity.train import checkpoint, zero
from unity.train.config import resolve
from unity.train.options import Options
from unity.train.run import Run, build, content
from unity.train.saver import Manner, Saver
from unity.train.world import start_world, stop_world
from unity.train.writer import digest

COLUMNS = f"{'':22} {'held up s':>10} {'whole s':>9} {'MB':>8}"


def prepared(name: str, folder: Path) -> Run:
    """A run whose numbers are all drawn at random."""
    launcher = Path(__file__).parents[1] / "launchers/zero3.json"
    options = Options(
        model=name, architecture=MODELS[name], out=folder / "run", data=folder, batch_size=1, deepspeed=launcher,
        picture_every=0,
    )  # fmt: skip
    run = build(resolve(options, {"frames": 17, "size": (64, 64)}), start_world(), lambda line: None)
    for flats in run.shards.values():
        for flat in flats:
            flat.uniform_(0, 1)
    return run


def ours(run: Run, folder: Path, beside: bool) -> Callable[[int], Callable[[], None]]:
    """Begins a save, and returns what waits for it."""
    saver = Saver(run.world, Manner(run=folder, beside=beside), lambda line: None)

    def save(step: int) -> Callable[[], None]:
        saver.save(step, content(run, step))
        return saver.finish

    return save


def by_library(run: Run, folder: Path, step: int) -> Callable[[], None]:
    """Shards and model by safetensors, then flushed, then read again for their sums."""
    target = folder / f"step-{step}"
    target.mkdir(parents=True)
    for kind, flats in run.shards.items():
        save_file({str(i): flat.cpu() for i, flat in enumerate(flats)}, target / f"{kind}.safetensors")
    average = zero.gather(run.world, zero.layout(run.engine), run.ema.flats)
    save_file({name: value for name, value in average if value is not None}, target / "model.safetensors")
    for path in target.iterdir():
        flush(path)
        digest(path)
    return lambda: None


def by_deepspeed(run: Run, folder: Path, step: int) -> Callable[[], None]:
    run.engine.save_checkpoint(str(folder), tag=f"step-{step}")  # pyright: ignore[reportAttributeAccessIssue]
    return lambda: None


# name → run, folder → begins the save of a step
CONTESTANTS: dict[str, Callable[[Run, Path], Callable[[int], Callable[[], None]]]] = {
    "ours, beside": partial(ours, beside=True),
    "ours, steps wait": partial(ours, beside=False),
    "safetensors": lambda run, folder: partial(by_library, run, folder),
    "DeepSpeed": lambda run, folder: partial(by_deepspeed, run, folder),
}


def check(run: Run, folder: Path) -> None:
    """Raises AssertionError unless the newest checkpoint holds the run's values."""
    found = {kind: [torch.full_like(flat, torch.nan) for flat in flats] for kind, flats in run.shards.items()}
    checkpoint.load(run.world, checkpoint.newest_whole(run.world, folder, print), found, zero.layout(run.engine))
    for kind, flats in run.shards.items():
        # what lies between the parameters' fragments is nobody's
        known = [torch.nan_to_num(flat, -1.0) != -1.0 for flat in found[kind]]
        assert all(torch.equal(a[k], b[k]) for a, b, k in zip(found[kind], flats, known, strict=True)), kind


def bench(run: Run, folder: Path, repeats: int) -> list[dict]:
    places = {name: folder / str(i) for i, name in enumerate(CONTESTANTS)}
    contestants = {name: make(run, places[name]) for name, make in CONTESTANTS.items()}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    # the first of each takes memory and makes folders
    for step in range(repeats + 1):
        for name, save in contestants.items():
            start = time.perf_counter()
            wait = save(step + 1)
            held = time.perf_counter() - start
            wait()
            taken[name].append((held, time.perf_counter() - start))
            if step == 0 and name.startswith("ours"):
                check(run, places[name])
            # ours keep two by themselves
            if not name.startswith("ours") and step < repeats:
                shutil.rmtree(places[name])
    rows = []
    for name, times in taken.items():
        held, whole = (statistics.median(part) for part in zip(*times[1:], strict=True))
        size = sum(path.stat().st_size for path in _newest(places[name]).rglob("*") if path.is_file())
        rows.append({"contestant": name, "held_seconds": held, "whole_seconds": whole, "bytes": size})
        print(f"{name:22} {held:10.3f} {whole:9.3f} {size / 1e6:8.1f}", flush=True)
    return rows


def _newest(place: Path) -> Path:
    """The last checkpoint in a contestant's folder."""
    folder = place / "checkpoints" if (place / "checkpoints").is_dir() else place
    return max((path for path in folder.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)


def main() -> None:
    parser = argparse.ArgumentParser(prog="checkpoint_bench", description=__doc__)
    parser.add_argument("--model", default="small" if torch.cuda.is_available() else "tiny", choices=list(MODELS))
    parser.add_argument("--repeats", type=at_least(1), default=5)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured; default: the temporary one's")
    parser.add_argument("--json", type=result_file, help="default: benchmarks/results/checkpoint_bench.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        run = prepared(args.model, Path(folder))
        device = run.world.device.type
        print(f"{args.model} on {machine(device)['cpu']}, {args.repeats} saves each, median\n{COLUMNS}")
        rows = bench(run, Path(folder), int(args.repeats))
        stop_world()
    out = args.json or Path(__file__).parent / "results/checkpoint_bench.json"
    about = {"model": args.model, "repeats": args.repeats, "method": " ".join(__doc__.split())}
    print(write_result(out.stem, rows, device, out.parent, **about))


if __name__ == "__main__":
    main()
