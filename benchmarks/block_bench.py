"""How fast one block of the transformer is, beside diffusers' Wan block and an ordinary one in eager torch.

    python benchmarks/block_bench.py [--shape 10b --tokens 65520 --contestant unity --json FILE]

One sample of two streams: each stream has its own modulation and attends to its own text. diffusers' parts are
put together to the same function, with texts padded to 512 as that model needs them, on the same parameters.
Outputs and gradients of all contestants are compared first: a wrong one gets no speed. FLOPs are counted by the
formula of `flops`, the same for all; MFU is over the dense bf16 peak of the card, and left out for other cards.
"""

import argparse
import gc
import time
from collections.abc import Callable, Iterable

import torch
import torch._functorch.config
from block_cases import CONTESTANTS, GRAPH, GRIDS, PADDED, WORDS, Case, Forward, make_case, plain
from harness import RESULTS, Timing, admitted, at_least, deviation, measure_all, result_file, write_result
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from unity.config import MODELS, ModelConfig

# Dense bf16 FLOP/s by a part of the card's name.
PEAKS = {"H100": 989.5e12, "H200": 989.5e12}
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2}
FP8_TOLERANCE = 0.1
SHAPES = {"cpu": ["tiny", "1.3b"], "cuda": ["10b", "5b", "14b", "1.3b"]}
TOKENS = {"cpu": [1152], "cuda": [65520, 37440, 1152]}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
DTYPE = {"cpu": "float32", "cuda": "bfloat16"}
DIRECTIONS = ["forward", "backward", "both", "both, checkpointed"]
SECONDS = {"cpu": 1.0, "cuda": 0.3}
# on a CPU eight bits are emulated: right, and slow
DEFAULTS = {"cpu": [one for one in CONTESTANTS if not one.endswith("fp8")], "cuda": [*CONTESTANTS]}
COLUMNS = (
    "shape  tokens  contestant           direction                   ms      ±  TFLOP/s    MFU   kept GB  peak GB"
)


def flops(config: ModelConfig, tokens: int) -> float:
    """Of a forward pass: 2 a weight and token, 4·s²·d of self-attention, 4·s·m·d of cross-attention, text keys.

    Forward and backward are three times that. Recomputation counts nothing, nor does the modulation.
    """
    d, keys = config.dim, WORDS + 1
    weights = 6 * d * d + 2 * d * config.ffn_dim
    return 2 * tokens * weights + 4 * tokens**2 * d + 4 * tokens * keys * d + 2 * 2 * keys * 2 * d * d


def calls(forward: Forward, case: Case) -> dict[str, tuple[Callable, int]]:
    """What is timed, and how many forward passes' FLOPs it is worth."""
    inputs = case.inputs
    wanted = [x for x in inputs if x.requires_grad] + list(case.block.parameters())

    def no_grad():
        with torch.no_grad():
            forward(*inputs)

    def gradients(out, retain=False):
        torch.autograd.grad(out, wanted, case.slope, retain_graph=retain)

    graph = []

    def backward():
        if not graph:
            graph.append(forward(*inputs))
        gradients(graph[0], retain=True)

    return {
        "forward": (no_grad, 1),
        "backward": (backward, 2),
        "both": (lambda: gradients(forward(*inputs)), 3),
        "both, checkpointed": (lambda: gradients(checkpoint(forward, *inputs, use_reentrant=False)), 3),
    }


def kept_bytes(forward: Forward, case: Case, checkpointed: bool) -> int:
    """Memory that the forward keeps for the backward, inputs and parameters aside."""
    owned = {x.untyped_storage().data_ptr() for x in (*case.inputs, *case.block.parameters())}
    kept = {}

    def note(x):
        storage = x.untyped_storage()
        if storage.data_ptr() not in owned and not isinstance(x, torch.nn.Parameter):
            kept[storage.data_ptr()] = storage.nbytes(), x
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        call = checkpoint(forward, *case.inputs, use_reentrant=False) if checkpointed else forward(*case.inputs)
    del call
    return sum(size for size, _ in kept.values())


def peak_bytes(call: Callable, device: str) -> int | None:
    if device != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return torch.cuda.max_memory_allocated() - before


def wrong(forward: Forward, truth: tuple[Tensor, ...], case: Case, tolerance: float) -> str | None:
    """How far outputs and gradients of the inputs are off, if they are."""
    return deviation(("output", "x", "y", "text"), evaluate(forward, case), truth, tolerance)


def evaluate(forward: Forward, case: Case) -> tuple[Tensor, ...]:
    wanted = [x for x in case.inputs if x.requires_grad]
    out = forward(*case.inputs)
    return out.detach(), *torch.autograd.grad(out, wanted, case.slope)


def bench(
    case: Case, contestants: list[str], directions: list[str], seconds: float, device: str, end: float
) -> list[dict]:
    """Rows of one case; a contestant that is absent, wrong or late is named in the printout instead."""
    truth = [x.float() for x in evaluate(plain(case), case)]

    def check(name, forward):
        tolerance = FP8_TOLERANCE if name.endswith("fp8") else TOLERANCE[case.slope.dtype]
        return wrong(forward, truth, case, tolerance)

    found, missing = admitted(contestants, lambda name: CONTESTANTS[name](case), check, end)
    for name, reason in missing.items():
        print(f"{case.name:6} {case.tokens:6}  {name:20} not measured: {reason}", flush=True)
    return _measure(case, list(found.items()), directions, seconds, device)


def _measure(
    case: Case, found: list[tuple[str, Forward]], directions: list[str], seconds: float, device: str
) -> list[dict]:
    rows = []
    for direction in directions:
        # a CUDA graph keeps its activations in memory of its own and recomputes nothing
        able = [one for one in found if one[0] != GRAPH or "checkpointed" not in direction]
        # graphs that wait for their backward do not fit beside each other: one contestant at a time
        together = [[one] for one in able] if direction == "backward" else [able]
        for part in together:
            rows += _measure_together(case, part, direction, seconds, device)
            gc.collect()
    return rows


def _measure_together(
    case: Case, part: list[tuple[str, Forward]], direction: str, seconds: float, device: str
) -> list[dict]:
    rows, timed = [], {name: calls(forward, case)[direction] for name, forward in part}
    timings = measure_all({n: c for n, (c, _) in timed.items()}, seconds, warmup=1, runs=50, device=device)
    for name, forward in part:
        row = {"shape": case.name, "tokens": case.tokens, "contestant": name, "direction": direction}
        call, share = timed[name]
        row |= _figures(call, share, timings[name], case, device)
        if direction.startswith("both") and name != GRAPH:
            row["kept_bytes"] = kept_bytes(forward, case, "checkpointed" in direction)
        rows.append(row)
        _print(row)
    return rows


def _figures(call: Callable, share: int, timing: Timing, case: Case, device: str) -> dict:
    rate = share * flops(case.config, case.tokens) / timing.median
    peak = peak_flops(device)
    row = {"ms": 1e3 * timing.median, "spread_ms": 1e3 * timing.spread, "tflops": rate / 1e12}
    row |= {"mfu": peak and rate / peak, "peak_bytes": peak_bytes(call, device)}
    return row


def peak_flops(device: str) -> float | None:
    """Dense bf16 FLOP/s of this card, where they are known."""
    name = torch.cuda.get_device_name() if device == "cuda" else ""
    return next((peak for card, peak in PEAKS.items() if card in name), None)


def or_blank(value: float | None, form: str) -> str:
    """The formatted number, or as many blanks."""
    return " " * len(format(0.0, form)) if value is None else format(value, form)


def _print(row: dict) -> None:
    kept, peak = (row.get(key) and row[key] / 1e9 for key in ("kept_bytes", "peak_bytes"))
    print(
        f"{row['shape']:6} {row['tokens']:6}  {row['contestant']:20} {row['direction']:20} {row['ms']:9.2f} "
        f"{row['spread_ms']:6.2f} {row['tflops']:8.3f} {or_blank(row['mfu'], '6.1%')} "
        f"{or_blank(kept, '9.3f')} {or_blank(peak, '8.2f')}",
        flush=True,
    )


# how MFU is counted, as results state it
MFU = " ".join(flops.__doc__.split())


def command_line(
    name: str,
    about: str,
    device: str,
    contestants: Iterable[str],
    shapes: Iterable[str] = MODELS,
    **defaults: dict[str, object],
) -> argparse.ArgumentParser:
    """The options that benchmarks of blocks, steps and inference share; `defaults` holds some for each device."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--shape", nargs="+", choices=shapes)
    parser.add_argument("--tokens", nargs="+", type=int, choices=GRIDS)
    parser.add_argument("--contestant", nargs="+", choices=contestants, help="default: those that suit the device")
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPE[device])
    parser.add_argument("--seconds", type=at_least(0, float), help="spent on each timing")
    parser.add_argument(
        "--limit", type=at_least(0, float), default=1e9, help="seconds after which nothing new is started"
    )
    parser.add_argument("--json", type=result_file, default=RESULTS / f"{name}_{device}.json")
    parser.set_defaults(**{option: table[device] for option, table in defaults.items()})
    return parser


def measure_cases(
    args: argparse.Namespace, device: str, measure: Callable[[str, int, float], Iterable[dict]], **about: object
) -> None:
    """Write the rows that `measure(shape, tokens, end)` gives of every case asked for, after each of them."""
    end = time.perf_counter() + args.limit
    about = {"words": WORDS, "dtype": args.dtype} | about
    rows = []
    for tokens in args.tokens:
        for name in args.shape:
            torch._dynamo.reset()
            if time.perf_counter() > end:
                print(f"{name:6} {tokens:6}  not measured: the time is up")
                continue
            for row in measure(name, tokens, end):
                rows.append(row)
                # after every row, so that a run cut short keeps what it has
                write_result(args.json.stem, rows, device, args.json.parent, **about)
            gc.collect()
    if rows:
        print(args.json)


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # a graph whose backward is timed again and again must keep its buffers
    torch._functorch.config.donated_buffer = False
    parser = command_line(
        "block_bench",
        __doc__,
        device,
        CONTESTANTS,
        shape=SHAPES,
        tokens=TOKENS,
        seconds=SECONDS,
        contestant=DEFAULTS,
    )
    parser.add_argument("--direction", nargs="+", choices=DIRECTIONS, default=DIRECTIONS)
    args = parser.parse_args()

    def measure(name: str, tokens: int, end: float) -> list[dict]:
        case = make_case(name, tokens, device, DTYPES[args.dtype])
        return bench(case, args.contestant, args.direction, args.seconds, device, end)

    print(COLUMNS)
    measure_cases(args, device, measure, padded=PADDED, mfu=MFU)


if __name__ == "__main__":
    main()
