"""Whether a form of an op computes what the reference computes, values and every gradient.

    python benchmarks/kernel_gate.py [--op gelu --jobs 8]

checks every fast op of this machine at sizes that fill no vector and on strided tensors, and every library for
self-attention at many sizes of heads; exit 1 if one is wrong.
"""

import argparse
import itertools
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F
from harness import at_least
from kernel_cases import OPS, Inputs, Op, Shape
from torch import Tensor

from unity import ops
from unity.kernels import reference

# Largest error allowed, as a fraction of the largest true value: a few roundings of the storage type.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1.5e-2}
# Half of the last place of a large e4m3 number, 16 of 448.
FP8_TOLERANCE = 0.04
# Odd counts and widths that fill no vector.
SHAPES = (
    Shape("d24", 24, 56, 3, (1, 3, 5)),
    Shape("d200", 200, 328, 5, (3, 5, 7)),
    Shape("d1544", 1544, 1000, 4, (1, 1, 37)),
    Shape("d5120", 5120, 136, 40, (2, 3, 11)),
)


def _linear(shape: Shape, dtype: torch.dtype, device: str) -> Inputs:
    into, out = (16 * -(-size // 16) for size in (shape.dim, shape.ffn_dim))
    sizes = (1, shape.tokens, into), (out, into), (out,)
    x, weight, bias = (torch.randn(size, device=device).to(dtype) for size in sizes)
    return Inputs((x, weight, bias))


def _attention(shape: Shape, dtype: torch.dtype, device: str) -> Inputs:
    """Queries, keys and values as a fused projection leaves them."""
    sizes = 1, shape.tokens, 3, shape.heads, shape.dim // shape.heads
    return Inputs(torch.randn(sizes, device=device).to(dtype).unbind(2))


# Sizes of heads, at tokens that fill no tile, of which a GPU's libraries want many.
HEADS = (16, 32, 40, 64, 80, 96, 128, 256)
TOKENS = {"cpu": (1, 5, 13), "cuda": (2, 25, 41)}
# Bound by arithmetic, so checked here and timed in the block.
CHECKED = OPS | {"linear_fp8": Op(_linear, 0, None), "self_attention": Op(_attention, 0, None)}


def tolerance(op: str, dtype: torch.dtype) -> float:
    """The largest error allowed of an op on tensors of a dtype."""
    if op == "linear_fp8":
        # both factors are rounded
        return 2 * FP8_TOLERANCE
    return FP8_TOLERANCE if op.endswith("_fp8") else TOLERANCE[dtype]


def call(form: Callable, inputs: Inputs):
    """The form on these inputs, as it returns."""
    return form(*inputs.tensors, *inputs.rest)


def tensors(found: Tensor | tuple) -> list[Tensor]:
    """All tensors that a form returned; 8-bit rows are multiplied out, and their carrier left out."""
    if isinstance(found, Tensor):
        return [found]
    flat = [x for part in found for x in (part if isinstance(part, tuple) else (part,))]
    narrow = [at for at, x in enumerate(flat) if x.dtype == torch.float8_e4m3fn]
    return [*flat[: narrow[0]], flat[narrow[0]].float() * flat[narrow[0] + 1]] if narrow else flat


def trainable(inputs: Inputs, dtype: torch.dtype | None = None) -> Inputs:
    """The same inputs as leaves that want a gradient, all in another dtype if one is given."""
    leaves = tuple(x.detach().to(dtype or x.dtype).requires_grad_() for x in inputs.tensors)
    rest = tuple(x.to(dtype or x.dtype) if isinstance(x, Tensor) else x for x in inputs.rest)
    return Inputs(leaves, rest)


def error(form: Callable, op: str, inputs: Inputs) -> float:
    """The largest error of outputs and gradients, each as a fraction of its largest true value; inf for NaN.

    The truth is the reference in float64; for the tensors of a production size, in float32. Forms that write 8
    bits are compared with the op that does not.
    """
    large = (inputs.tensors or inputs.rest)[0].numel() > 1 << 25
    wide = trainable(inputs, torch.float32 if large else torch.float64)
    name = op.removesuffix("_fp8")
    truth = _values_and_gradients(F.linear if name == "linear" else getattr(reference, name), wide)
    found = _values_and_gradients(form, trainable(inputs))
    return max(_relative(x, y) for x, y in zip(found, truth, strict=True))


def _values_and_gradients(form: Callable, inputs: Inputs) -> list[Tensor]:
    found = tensors(call(form, inputs))
    if not inputs.tensors:
        return found
    generator = torch.Generator(found[0].device).manual_seed(1)
    # Gradients that every dtype represents.
    grads = [torch.randn(x.shape, generator=generator, device=x.device).bfloat16().to(x.dtype) for x in found]
    return [x.detach() for x in found] + list(torch.autograd.grad(found, inputs.tensors, grads))


def _relative(found: Tensor, truth: Tensor) -> float:
    off = (found.to(truth.dtype) - truth).abs().max() / truth.abs().max()
    return float(off.nan_to_num(nan=float("inf")))


def strided(inputs: Inputs) -> Inputs:
    """The same values in wider rows, so that no row follows directly on the one before."""

    def widen(x):
        wide = x.new_full((*x.shape[:-1], x.shape[-1] + 8), float("nan"))
        wide[..., : x.shape[-1]] = x
        return wide[..., : x.shape[-1]]

    return Inputs(tuple(widen(x) if x.ndim == 3 else x for x in inputs.tensors), inputs.rest)


def check(names: list[str], end: float = float("inf")) -> int:
    """Check these ops, one line for each tensor layout, until `end`; how many were wrong or did not run."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    wrong = 0
    for op, dtype in itertools.product(names, TOLERANCE):
        shapes = SHAPES if op != "self_attention" else _heads(device)
        wrong += sum(_check(op, shape, dtype, device, end) for shape in shapes)
    print(f"{wrong} wrong")
    return wrong


def _heads(device: str) -> list[Shape]:
    return [Shape(f"head{head}", 3 * head, 0, 3, TOKENS[device]) for head in HEADS]


def _check(op: str, shape: Shape, dtype: torch.dtype, device: str, end: float) -> int:
    """How many forms of the op are wrong on such tensors, or do not run."""
    words = f"{op:<29} {shape.name:<7} {str(dtype)[6:]:<9}"
    if time.perf_counter() > end:
        print(words, "not checked: the time is up")
        return 0
    inputs, wrong = CHECKED[op].make(shape, dtype, device), 0
    for kind, variant in (("dense", inputs), ("strided", strided(inputs))):
        rows, refused = _forms(op, variant)
        if not rows:
            print(words, f"{kind:<8} torch     ", "; ".join(reason for _, reason in refused))
        for row in rows:
            found = f"{words} {kind:<8} {row.name:<17}"
            try:
                off = error(row.run, op, variant)
            except Exception as problem:  # other shapes and ops may still run, and tell why this one does not
                off, found = float("inf"), f"{found} {type(problem).__name__}: {str(problem)[:200]}"
            good = off <= tolerance(op, dtype)
            wrong += not good
            print(f"{found} {off:.1e} {'ok' if good else 'WRONG'}", flush=True)
    return wrong


def _forms(op: str, inputs: Inputs) -> tuple[list[ops.Implementation], list[tuple[str, str]]]:
    """What runs beside plain torch, the op's choice or every library for attention, and who was refused why."""
    given = *inputs.tensors, *inputs.rest
    row, refused = ops.choose(op, *given)
    rows = [row]
    if op == "self_attention":
        rows = [row for row in ops.IMPLEMENTATIONS[op] if row.refusal(*given) is None]
    return [row for row in rows if row.name not in ("torch", "reference")], refused


def check_together(names: list[str], jobs: int, limit: float) -> int:
    """The same with a process for each op, as many at once: compiling takes most of the time. How many failed."""

    def one(op: str) -> int:
        return subprocess.run([sys.executable, __file__, "--op", op, "--limit", str(limit)]).returncode

    with ThreadPoolExecutor(jobs) as pool:
        failed = [op for op, code in zip(names, pool.map(one, names), strict=True) if code]
    print(f"{len(names)} ops, {len(failed)} failed: {' '.join(failed)}")
    return len(failed)


def main() -> None:
    """Check the ops; exit 1 if a value is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--op", nargs="+", choices=CHECKED, default=list(CHECKED))
    parser.add_argument("--jobs", type=at_least(1), default=1, help="ops that are checked at once")
    parser.add_argument(
        "--limit", type=at_least(0, float), default=1e9, help="seconds after which nothing new is started"
    )
    options = parser.parse_args()
    if options.jobs > 1:
        failed = check_together(options.op, options.jobs, options.limit)
    else:
        failed = check(options.op, time.perf_counter() + options.limit)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
