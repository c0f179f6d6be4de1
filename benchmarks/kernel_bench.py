"""How fast every fused op is here, as bytes moved per second, beside a copy, eager torch, torch.compile and peers.

    python benchmarks/kernel_bench.py [--op gelu --shape 1.3b --direction backward --json FILE --plot FILE]

On a CPU it measures the C++ kernels (csrc/), on a CUDA GPU the Triton kernels. Values and every gradient are
checked first: a wrong kernel gets no speed. What cannot be measured is listed with the reason. The method is in
benchmarks/README.md.
"""

import argparse
import gc
import math
import sys
import time
from collections.abc import Callable

import torch
import torch._functorch.config
from harness import (
    RESULTS,
    admitted,
    at_least,
    copies,
    copy_bandwidth,
    core_share,
    keep_memory,
    machine,
    measure_all,
    result_file,
    write_result,
)
from kernel_cases import GRIDS, LIBRARIES, OPS, Inputs, Shape, eager, model_shape, peer
from kernel_gate import call, error, tensors, tolerance, trainable

from unity import ops
from unity.config import MODELS

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# The buffers in rotation hold more than this, several times the last cache.
ROTATION_BYTES = {"cpu": 160 << 20, "cuda": 512 << 20}
MAX_SETS = 64
# Another form may round more often than ours, but it must compute the same thing to be compared.
PEER_FACTOR = 4
DEFAULTS = {
    "cpu": {"shape": ["tiny", "1.3b"], "tokens": [1152], "dtype": "float32", "seconds": 0.25},
    "cuda": {"shape": ["10b", "5b", "14b"], "tokens": [65520, 32760], "dtype": "bfloat16", "seconds": 0.1},
}
COLUMNS = "op                        shape   tokens  direction      ms     ±   GB/s  /copy  /eager  /compile"


def ours(op: str, inputs: Inputs) -> tuple[str, Callable] | str:
    """Name of the fast implementation that serves these inputs and the door to it, or why there is none."""
    row, refused = ops.choose(op, *inputs.tensors, *inputs.rest)
    if row.name in ("torch", "reference"):
        return "; ".join(f"{name} refused: {reason}" for name, reason in refused) or f"plain {row.name} serves it"
    return row.name, getattr(ops, op)


def rivals(op: str, device: str) -> tuple[dict[str, Callable], dict[str, str]]:
    """The other forms of an op by name, and those that are absent with the reason."""
    torch._dynamo.reset()
    forms = {"eager": eager(op), "compile": eager(op, lambda form: torch.compile(form, dynamic=False))}
    absent = {}
    for name, library in LIBRARIES.items():
        try:
            form = peer(library(device), op)
        except ImportError as problem:
            absent[name] = str(problem).splitlines()[0]
            continue
        if form is not None:
            forms[name] = form
    return forms, absent


def right(forms: dict[str, Callable], op: str, inputs: Inputs, limit: float) -> tuple[dict, dict]:
    """The forms that compute what the reference computes, and the others with what is wrong with them."""

    def wrong(_, form):
        off = error(form, op, inputs)
        return None if off <= limit else f"its values are off by {off:.1e}"

    return admitted(forms, forms.get, wrong)


class WrongValues(Exception):
    """Our form of an op computes something else, or does not run."""


class Case:
    """One op at one shape: cold buffers in rotation, and the calls to time."""

    def __init__(self, op: str, shape: Shape, dtype: torch.dtype, device: str):
        self.op, self.shape, self.dtype, self.device = OPS[op], shape, dtype, device
        self.name, first = op, self._inputs()
        self.activation = (first.tensors or first.rest)[0]
        self.unit = self.activation.numel() * self.activation.element_size()
        moved = self.unit * max(self.op.forward, self.op.backward or 0)
        count = min(MAX_SETS, max(2, math.ceil(ROTATION_BYTES[device] / moved)))
        self.sets = [first, *(self._inputs() for _ in range(count - 1))]

    def _inputs(self) -> Inputs:
        return trainable(self.op.make(self.shape, self.dtype, self.device))

    def time(self, direction: str, forms: dict[str, Callable], seconds: float) -> dict:
        """Seconds of every form and of the copies, measured in turn."""
        calls = self._forward(forms) if direction == "forward" else self._backward(forms)
        spare = [torch.empty_like(self.activation) for _ in self.sets]
        sources = [(inputs.tensors or inputs.rest)[0].detach() for inputs in self.sets]
        for name, copy in copies(self.device).items():
            calls[name] = lambda i, copy=copy: copy(sources[i], spare[i])
        rotate = [(i,) for i in range(len(self.sets))]
        return measure_all(calls, seconds, device=self.device, rotate=rotate)

    def _forward(self, forms: dict[str, Callable]) -> dict[str, Callable]:
        return {name: lambda i, form=form: call(form, self.sets[i]) for name, form in forms.items()}

    def _backward(self, forms: dict[str, Callable]) -> dict[str, Callable]:
        graphs = {name: [tensors(call(form, inputs)) for inputs in self.sets] for name, form in forms.items()}
        grads = [[torch.randn_like(x) for x in found] for found in graphs["ours"]]

        def back(i, found):
            return torch.autograd.grad(found[i], self.sets[i].tensors, grads[i], retain_graph=True)

        return {name: lambda i, found=found: back(i, found) for name, found in graphs.items()}

    def row(self, direction: str, timings: dict) -> dict:
        """What is printed and kept of one measurement."""
        moved = self.unit * (self.op.forward if direction == "forward" else self.op.backward)
        bar = 2 * self.unit / min(timings[name].median for name in copies(self.device)) / 1e9
        taken = timings["ours"].median
        others = {name: timing for name, timing in timings.items() if name not in ("ours", *copies(self.device))}
        return {
            "op": self.name,
            "shape": self.shape.name,
            "dim": self.shape.dim,
            "tokens": self.shape.tokens,
            "dtype": str(self.dtype).removeprefix("torch."),
            "direction": direction,
            "megabytes": moved / 1e6,
            "ms": taken * 1e3,
            "spread_ms": timings["ours"].spread * 1e3,
            "gb_per_s": moved / taken / 1e9,
            "copy_gb_per_s": bar,
            "of_copy": moved / taken / 1e9 / bar,
            "other_ms": {name: timing.median * 1e3 for name, timing in others.items()},
            "times_faster_than": {name: timing.median / taken for name, timing in others.items()},
        }


def bench(op: str, shape: Shape, options: argparse.Namespace, skip: Callable[[str, str], None]) -> list[dict]:
    """The rows of one op at one shape; `skip(what, why)` hears of everything that is left out."""
    case = Case(op, shape, DTYPES[options.dtype], options.device)
    fast, limit = ours(op, case.sets[0]), tolerance(op, case.dtype)
    if isinstance(fast, str):
        skip(op, fast)
        return []
    name, form = fast
    good, bad = right({"ours": form}, op, case.sets[0], limit)
    if bad:
        raise WrongValues(f"{op} {shape.name} {shape.tokens}: WRONG, {bad['ours']} (allowed {limit:.0e})")
    forms, absent = rivals(op, options.device)
    forms, bad = right(forms, op, case.sets[0], PEER_FACTOR * limit)
    for rival, why in (absent | bad).items():
        skip(rival, why)
    directions = [d for d in options.direction if d == "forward" or case.op.backward]
    rows = [case.row(d, case.time(d, good | forms, options.seconds)) for d in directions]
    return [{"implementation": name} | row for row in rows]


def line(row: dict) -> str:
    """One row of the table."""
    faster = row["times_faster_than"]
    known = [f"{faster[name]:.2f}x" if name in faster else "-" for name in ("eager", "compile")]
    text = (
        f"{row['op']:<25} {row['shape']:<6} {row['tokens']:>7}  {row['direction']:<9} {row['ms']:>8.3f}"
        f" {row['spread_ms']:>5.3f} {row['gb_per_s']:>6.1f} {row['of_copy']:>6.2f} {known[0]:>7} {known[1]:>9}"
    )
    peers = [f"{name} {ratio:.2f}x" for name, ratio in faster.items() if name not in ("eager", "compile")]
    return "  ".join([text, *peers])


def run(options: argparse.Namespace) -> dict:
    """Measure all rows, printing each as it comes; returns what is written to the JSON file."""
    # A graph is run backward many times, so nothing in it may be given away after the first.
    torch._functorch.config.donated_buffer = False
    about = {"dtype": options.dtype, "copy_gb_per_s": copy_bandwidth(options.device), "core_share": core_share()}
    print(", ".join(f"{key} {value}" for key, value in machine(options.device).items()))
    print(f"copy bandwidth {about['copy_gb_per_s']:.1f} GB/s, {options.dtype}; ratios are how many times faster")
    if about["core_share"] < 0.9 and options.device == "cpu" and torch.get_num_threads() > 1:
        print(
            f"BUSY: a thread gets {about['core_share']:.0%} of a core; --threads 1 counts processor time instead"
        )
    print(COLUMNS)
    cases = [(op, model_shape(s, t)) for t in options.tokens for s in options.shape for op in options.op]
    rows, skipped, wrong, start = [], [], [], time.monotonic()
    for number, (op, shape) in enumerate(cases, 1):
        spent, where = time.monotonic() - start, f"{op} {shape.name} {shape.tokens}"
        if options.limit and spent > options.limit:
            skipped.append((where, f"more than {options.limit:.0f} s had passed"))
            continue
        _progress(f"[{number}/{len(cases)}, {spent:.0f} s] {where}")
        try:
            found = bench(op, shape, options, lambda *skip: skipped.append(skip))
        except WrongValues as problem:
            wrong.append(str(problem))
            found = []
        _progress("")
        for row in found:
            print(line(row), flush=True)
        rows += found
        gc.collect()
    print("".join(f"{words}; no speed is printed\n" for words in wrong), end="")
    about["wrong"] = wrong
    about["skipped"] = list(dict.fromkeys(f"{what}: {why}" for what, why in skipped))
    print("".join(f"skipped {words}\n" for words in about["skipped"]), end="")
    return {"rows": rows, **about}


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    elif text:
        print(text, file=sys.stderr, flush=True)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line, with the defaults of the device filled in."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--op", nargs="+", choices=OPS, default=list(OPS))
    parser.add_argument("--shape", nargs="+", choices=MODELS, help="names of models")
    parser.add_argument("--tokens", nargs="+", type=int, choices=GRIDS, help="tokens of a sample, both streams")
    parser.add_argument("--direction", nargs="+", choices=["forward", "backward"], default=["forward", "backward"])
    parser.add_argument("--dtype", choices=DTYPES)
    parser.add_argument("--device", choices=DEFAULTS, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=at_least(1), help="CPU threads; with 1, processor time is measured")
    parser.add_argument("--seconds", type=at_least(0, float), help="time spent on each form of each row")
    parser.add_argument("--limit", type=at_least(0, float), help="start no further case after so many seconds")
    parser.add_argument("--json", type=result_file, help="where the rows go (default: benchmarks/results)")
    parser.add_argument("--plot", type=result_file, help="where the picture goes (default: beside the rows)")
    options = parser.parse_args(arguments)
    for name, value in DEFAULTS[options.device].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: this machine has no CUDA GPU; --device cpu measures the C++ kernels")
    options.json = options.json or RESULTS / f"kernel_bench_{options.device}.json"
    options.plot = options.plot or options.json.with_suffix(".png")
    return options


def main() -> None:
    """Measure, write the rows, draw the picture where matplotlib is there."""
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    keep_memory()
    found = run(options)
    path = write_result(options.json.stem, found.pop("rows"), options.device, options.json.parent, **found)
    print(f"wrote {path}")
    try:
        from kernel_plot import draw
    except ImportError as problem:
        print(f"no picture: {problem}")
    else:
        print(f"wrote {draw(path, options.plot)}")
    sys.exit(bool(found["wrong"]))


if __name__ == "__main__":
    main()
