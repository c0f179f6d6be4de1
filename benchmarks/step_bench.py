"""How fast a whole training step is: routed loss on two streams, backward and AdamW.

    python benchmarks/step_bench.py [--shape 10b --tokens 65520 --layers 4 --contestant "unity full" --json FILE]

A sample of two streams on one device, or eight where a contestant's name says x8, with as many of the model's
blocks as fit (`fitting_layers`): `layers` says how many ran, and nothing is scaled up to the whole model. A
contestant is what is recomputed (a row of unity.config.RECOMPUTE), in which precision, by whose code. Loss and the
norm of every parameter's gradient are compared first: a wrong contestant gets no speed. FLOPs are those of the
blocks, by the formula of `block_bench`. Beside the measured figures stand those that the planner
(`python -m unity.train.planner`) has for this card. On a GPU, contestants are measured one after the other and
every row is written at once.

    torchrun --standalone --nproc-per-node 2 benchmarks/step_bench.py --contestant "unity full sp2"

`sp2` and the like cut the tokens over so many ranks of a launcher; weights and optimizer are whole on each.
"""

import math
import time
from collections.abc import Iterator
from functools import cache, partial

import torch
from block_bench import (
    DTYPES,
    FP8_TOLERANCE,
    MFU,
    TOLERANCE,
    command_line,
    flops,
    measure_cases,
    or_blank,
    peak_flops,
)
from harness import Timing, admitted, at_least, deviation, measure_all
from step_cases import (
    CONTESTANTS,
    DEFAULTS,
    TRUTH,
    Case,
    default_layers,
    fitting_layers,
    gradients,
    make_case,
    step,
    twin,
)
from step_plan import planned
from step_ranks import RANK, SIZE, together

from unity.config import MODELS

SHAPES = {"cpu": ["tiny", "1.3b"], "cuda": ["10b", "5b", "1.3b"]}
TOKENS = {"cpu": [1152], "cuda": [65520, 37440, 1152]}
SECONDS = {"cpu": 1.0, "cuda": 1.0}
COLUMNS = "shape  tokens  layers  contestant                   ms      ±  ms/layer  samples/s   tokens/s  TFLOP/s"
COLUMNS += "    MFU  peak GB  plan ms  plan GB     loss  took s"


def bench(case: Case, contestants: list[str], seconds: float, device: str, end: float) -> Iterator[dict]:
    """Rows of one case, as they come; a contestant that is absent, wrong or late is named in the printout instead.

    On a CPU, which others use, all are timed in turn. A GPU is ours: there each is done before the next is begun.
    """
    truth = cache(lambda samples: gradients(TRUTH.loss(twin(case.model)), case, case.batch(samples)))
    for part in [[one] for one in contestants] if device == "cuda" else [contestants]:
        yield from _together(case, part, truth, seconds, device, end)


def _together(case: Case, part: list[str], truth, seconds: float, device: str, end: float) -> Iterator[dict]:
    start, losses = time.perf_counter(), {}

    def check(name, loss):
        entrant = CONTESTANTS[name]
        found = gradients(loss, case, case.batch(entrant.samples, entrant.padded))
        losses[name] = found[0].item()
        tolerance = FP8_TOLERANCE if entrant.fp8 else TOLERANCE[case.dtype]
        return deviation(("loss", "gradient norm"), found, truth(entrant.samples), tolerance)

    found, missing = admitted(part, lambda name: CONTESTANTS[name].loss(twin(case.model)), check, end)
    batches = {name: case.batch(CONTESTANTS[name].samples, CONTESTANTS[name].padded) for name in found}
    steps = {name: partial(step, loss, case, batches[name]) for name, loss in found.items()}
    try:
        timings, peak = _timed(steps, seconds, device) if steps else ({}, None)
    except torch.OutOfMemoryError as problem:
        timings, peak, missing = {}, None, dict.fromkeys(steps, str(problem).splitlines()[0])
    for name, reason in missing.items():
        print(f"{case.name:6} {case.tokens:6} {case.layers:7}  {name:20} not measured: {reason}", flush=True)
    took = (time.perf_counter() - start) / len(part)
    for name, timing in timings.items():
        row = _row(name, timing, case, device) | {"peak_bytes": peak, "loss": losses[name], "took_s": took}
        _print(row)
        yield row


def _timed(steps: dict, seconds: float, device: str) -> tuple[dict[str, Timing], int | None]:
    """Times, and all memory in use at the worst moment, weights and optimizer included."""
    # several ranks take as many steps each
    seconds, runs = (seconds, 20) if SIZE == 1 else (math.inf, 5)
    if device != "cuda":
        return measure_all(steps, seconds, warmup=1, runs=runs), None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    timings = measure_all(steps, seconds, warmup=1, runs=runs, device=device)
    return timings, torch.cuda.max_memory_allocated()


def _row(name: str, timing: Timing, case: Case, device: str) -> dict:
    samples, attention = CONTESTANTS[name].samples, CONTESTANTS[name].attends(case)
    rate = 3 * samples * case.layers * flops(case.model.config, case.tokens) / timing.median
    peak = peak_flops(device) and SIZE * peak_flops(device)
    return {
        "shape": case.name,
        "tokens": case.tokens,
        "layers": case.layers,
        "contestant": name,
        "samples": samples,
        "attention": attention,
        "ms": 1e3 * timing.median,
        "spread_ms": 1e3 * timing.spread,
        "ms_per_layer": 1e3 * timing.median / case.layers,
        "samples_per_s": samples / timing.median,
        "tokens_per_s": samples * case.tokens / timing.median,
        "tflops": rate / 1e12,
        "mfu": peak and rate / peak,
        **planned(CONTESTANTS[name], case.model.config, case.tokens, case.dtype, attention),
    }


def _print(row: dict) -> None:
    print(
        f"{row['shape']:6} {row['tokens']:6} {row['layers']:7}  {row['contestant']:20} {row['ms']:9.1f} "
        f"{row['spread_ms']:6.1f} {row['ms_per_layer']:9.2f} {row['samples_per_s']:10.2f} "
        f"{row['tokens_per_s']:10.0f} {row['tflops']:8.3f} "
        f"{or_blank(row['mfu'], '6.1%')} {or_blank(row['peak_bytes'] and row['peak_bytes'] / 1e9, '8.2f')} "
        f"{or_blank(row['planned_ms'], '8.1f')} "
        f"{or_blank(row['planned_bytes'] and row['planned_bytes'] / 1e9, '8.2f')} "
        f"{row['loss']:8.5f} {row['took_s']:7.1f}",
        flush=True,
    )


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = command_line(
        "step_bench",
        __doc__,
        device,
        CONTESTANTS,
        shape=SHAPES,
        tokens=TOKENS,
        seconds=SECONDS,
        contestant=DEFAULTS,
    )
    parser.add_argument(
        "--layers", type=at_least(1), help="default: as many as fit on the card, by the formula in the code"
    )
    args = parser.parse_args()
    for name in args.contestant:
        if (cut := CONTESTANTS[name].cut) != SIZE:
            start = f"torchrun --standalone --nproc-per-node {cut}"
            parser.error(f"{name!r} is of {cut} ranks, and here are {SIZE}; {start} starts as many")
    samples = max(CONTESTANTS[name].samples for name in args.contestant)

    def measure(name: str, tokens: int, end: float) -> Iterator[dict]:
        layers = args.layers or default_layers(MODELS[name], tokens, device)
        case = make_case(name, tokens, layers, device, DTYPES[args.dtype], samples)
        # all ranks make them, rank 0 writes them
        return (row for row in bench(case, args.contestant, args.seconds, device, end) if RANK == 0)

    with together():
        print(COLUMNS, flush=True)
        measure_cases(args, device, measure, layers=" ".join(fitting_layers.__doc__.split()), mfu=MFU)


if __name__ == "__main__":
    main()
