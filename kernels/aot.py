"""Kernels compiled ahead of time, without a GPU, and what their machine code says.

The launches are recorded from the ops' own host code, on meta tensors, so that what is compiled is what would
run: dtypes, specialised arguments, warps, stages and register limits. `python -m unity.kernels.aot` prints the
table of kernels/README.md.
"""

import contextlib
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from unity.kernels import (
    dual_cross_attention,
    flow_noise,
    gated_residual,
    gelu,
    modulated_layernorm,
    passes,
    qk_norm_rope,
    quantize,
)
from unity.kernels.rotary import Rotary

_TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
_POINTERS = {
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float32: "*fp32",
    torch.float8_e4m3fn: "*fp8e4nv",
    torch.float8_e5m2: "*fp8e5",
    torch.int32: "*i32",
    torch.int64: "*i64",
}
_INSTRUCTION = r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)"
# d, ffn and heads of 1.3b, 5b, 10b and 14b.
SHAPES = {
    "1.3b": (1536, 8960, 12),
    "5b": (3072, 14336, 24),
    "10b": (4096, 14336, 32),
    "14b": (5120, 13824, 40),
}
# A caption of 64 tokens, and one key for all of its padding.
KEYS = 65
_OPTIONS = ("num_warps", "num_stages", "maxnreg", "enable_fp_fusion")


class Launch(NamedTuple):
    """One recorded launch: the kernel, its arguments by name and its options."""

    kernel: Any
    arguments: dict[str, Any]
    options: dict[str, Any]


class Report(NamedTuple):
    """What the cubin of one kernel holds: shared memory in bytes, instructions in the body of its longest loop
    (what a warp issues for one row), and how often each memory instruction appears."""

    name: str
    registers: int
    spills: int
    shared: int
    warps: int
    loop: int
    accesses: Counter

    @property
    def programs(self) -> int:
        """Programs that fit on one multiprocessor of sm_90 by registers, shared memory and warps."""
        registers = 65536 // (self.warps * 32 * max(8, -(-self.registers // 8) * 8))
        return min(registers, 227 * 1024 // (self.shared + 1024), 64 // self.warps)

    @property
    def widths(self) -> Counter:
        """How many global loads and stores move 128, 64, 32 or fewer bits a thread."""
        names = [(name, n) for name, n in self.accesses.items() if re.match("LDG(?!DEPBAR)|STG", name)]
        widths = Counter()
        for name, n in names:
            width = re.search(r"\.(128|64|U16|U8)$", name)
            widths[width.group(1) if width else "32"] += n
        return widths

    @property
    def moved(self) -> str:
        """The same as `128/64/32/16`, as many of them as there are."""
        counts = [self.widths[width] for width in ("128", "64", "32", "U16", "U8")]
        while len(counts) > 3 and not counts[-1]:
            counts.pop()
        return "/".join(map(str, counts))


@contextlib.contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Record the kernels launched inside instead of running them."""
    launches = []

    def record(kernel, *args, grid, warmup, **kwargs):
        options = {key: kwargs.pop(key) for key in _OPTIONS if key in kwargs}
        arguments = dict(zip(kernel.arg_names, args, strict=False)) | kwargs
        launches.append(Launch(kernel, arguments, options))

    run, refusal = triton.JITFunction.run, passes.device_refusal
    triton.JITFunction.run = record
    # meta tensors stand for those of a GPU
    passes.device_refusal = lambda *_: None
    try:
        yield launches
    finally:
        triton.JITFunction.run, passes.device_refusal = run, refusal


def launches_of(call: Callable, *args: Any) -> list[Launch]:
    """The launches one call of an op's host function makes."""
    with recorded() as launches:
        call(*args)
    return launches


def production(d: int, ffn: int, heads: int, tokens: int = 32760) -> dict[str, Launch]:
    """Every kernel of this folder as launched for one sample of two streams of `tokens` tokens in bf16."""
    rows = _meta(2, tokens, d)
    table = _meta(2, 6, d, dtype=torch.float32)[:, 0]
    stats = _meta(2, tokens, dtype=torch.float32)
    flat, hidden, weight = _meta(1, 2 * tokens, d), _meta(1, 2 * tokens, ffn), _meta(d)
    split = _meta(1, 2 * tokens, heads, d // heads)
    rope = (Rotary((21, tokens // 21, 1), 2, heads).sizes, 1e4, 1e-6)
    latent, times = _meta(1, 2, 16, 21, 60, 104), _meta(1, 2, dtype=torch.float32)
    norm, residual = modulated_layernorm, gated_residual
    calls = {
        "modulated_layernorm": (norm._forward, rows, table, table, 1e-6),
        "modulated_layernorm backward": (norm._backward, rows, rows, table, stats, stats),
        "modulated_layernorm_fp8": (norm._forward_fp8, rows, table, table, 1e-6),
        "gated_residual_layernorm": (residual._forward, rows, rows, table, table, table, 1e-6),
        "gated_residual_layernorm backward": (residual._backward, *(rows,) * 4, table, table, stats, stats),
        "gated_residual_layernorm_fp8": (residual._forward_fp8, rows, rows, table, table, table, 1e-6),
        "gated_residual": (residual._plain_forward, rows, rows, table),
        "gated_residual backward": (residual._plain_backward, rows, rows, table),
        "qk_norm_rope": (qk_norm_rope._forward, flat, flat, weight, weight, *rope),
        "qk_norm_rope backward": (qk_norm_rope._backward, split, split, flat, flat, weight, weight, *rope),
        "gelu_fp8": (gelu._forward, hidden),
        "gelu_fp8 backward": (gelu._backward, hidden, hidden),
        "quantize": (quantize.launch, _meta(ffn, d), True),
        "quantize, transposed": (quantize.launch, _meta(d, ffn).t(), True),
        "flow_noise": (flow_noise._forward, latent, latent, times),
        "flow_noise backward": (flow_noise._backward, *(latent,) * 4, times),
    }  # fmt: skip
    found = {name: launches_of(*call)[0] for name, call in calls.items()}
    queries = _meta(2, tokens, heads, d // heads)
    statistics, *_ = launches_of(dual_cross_attention._statistics, queries, 1e-6)
    attend, *_ = cross_attention("forward", heads, d // heads, KEYS, True, tokens)
    keys, values, norm = cross_attention("backward", heads, d // heads, KEYS, True, tokens)
    return found | {
        "dual_cross_attention, statistics": statistics,
        "dual_cross_attention": attend,
        "dual_cross_attention backward, dq and dk": keys,
        "dual_cross_attention backward, dv": values,
        "dual_cross_attention backward, norm": norm,
    }


def cross_attention(
    direction: str, heads: int, head_dim: int, keys: int, norm: bool, tokens: int = 32760
) -> list[Launch]:
    """The launches of one direction of dual_cross_attention, queries normalised on the way in or not."""
    q, key = _meta(2, tokens, heads, head_dim), _meta(2, keys, heads, head_dim)
    bias, rstd = _meta(2, keys, dtype=torch.float32), _meta(2, tokens, dtype=torch.float32)
    inputs = (q, key, key, bias, rstd if norm else None, _meta(heads * head_dim) if norm else None)
    if direction == "forward":
        return launches_of(dual_cross_attention._forward, *inputs)
    return launches_of(dual_cross_attention._backward, q, *inputs)


def _meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def compile_launch(launch: Launch, capability: int = 90) -> Report:
    """Compile for a compute capability (80, 90, 100) and read the cubin with the tools inside triton."""
    kernel, names = launch.kernel, launch.kernel.arg_names
    signature, constants, attributes = {}, {}, {}
    for position, name in enumerate(names):
        kind, constant, aligned = _specialise(launch.arguments[name], kernel.params[position].is_constexpr)
        signature[name] = kind
        if kind == "constexpr":
            constants[(position,)] = constant
        if aligned:
            attributes[(position,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=launch.options)
    return _read(kernel.__name__, compiled)


def _specialise(value: Any, constexpr: bool) -> tuple[str, Any, bool]:
    """Type, constant and alignment of one argument, as the launcher would choose them."""
    if constexpr or value is None:
        return "constexpr", value, False
    if isinstance(value, torch.Tensor):
        return _POINTERS[value.dtype], None, True
    if isinstance(value, float):
        return "fp32", None, False
    if value == 1:
        return "constexpr", 1, False
    return ("i32" if abs(value) < 2**31 else "i64"), None, value % 16 == 0


def _read(name: str, compiled: Any) -> Report:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _tool("cuobjdump", "-res-usage", file.name)
        code = _tool("nvdisasm", "-c", file.name)
    operations = re.findall(_INSTRUCTION, code)
    accesses = Counter(op for op in operations if re.match(r"(LD|ST)(G|L|S)|ATOM|RED", op))
    return Report(
        name=name,
        registers=int(re.search(r"REG:(\d+)", usage).group(1)),
        spills=sum(n for op, n in accesses.items() if op.startswith(("LDL", "STL"))),
        shared=compiled.metadata.shared,
        warps=compiled.metadata.num_warps,
        loop=_longest_loop(code),
        accesses=accesses,
    )


def _longest_loop(code: str) -> int:
    """Instructions between the target of the farthest backward branch and the branch."""
    seen, count, longest = {}, 0, 0
    for line in code.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line):
            seen[label.group(1)] = count
        if re.search(_INSTRUCTION, line):
            count += 1
            branch = re.search(r"BRA.*`\((\.L_x_\d+)\)", line)
            if branch and branch.group(1) in seen:
                longest = max(longest, count - seen[branch.group(1)])
    return longest


def _tool(name: str, *args: str) -> str:
    return subprocess.run([_TOOLS / name, *args], capture_output=True, text=True, check=True).stdout


def main() -> None:
    """Print what every kernel needs at the production widths on sm_90."""
    print("| kernel | " + " | ".join(f"{size}, d = {shape[0]}" for size, shape in SHAPES.items()) + " |")
    print("|---" * (1 + len(SHAPES)) + "|")
    launches = [production(*shape) for shape in SHAPES.values()]
    for name in launches[0]:
        reports = [compile_launch(launch[name]) for launch in launches]
        print(f"| {name} | " + " | ".join(map(_cell, reports)) + " |")


def _cell(r: Report) -> str:
    loop = f"{r.loop} i" if r.loop > 1 else "no loop"
    return f"{r.registers} r, {r.spills} s, {r.shared // 1024} K, {r.warps}×{r.programs} w, {loop}, {r.moved}"


if __name__ == "__main__":
    main()
