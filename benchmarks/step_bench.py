"""How fast a whole training step is: routed loss on two streams, backward and AdamW, every block recomputed.

    python benchmarks/step_bench.py [--shape 10b --tokens 65520 --layers 4 --contestant unity --json FILE]

One sample of two streams on one device, with as many of the model's blocks as fit (`fitting_layers`): `layers`
says how many ran, and nothing is scaled up to the whole model. Loss and the norm of every parameter's gradient are
compared first: a wrong contestant gets no speed. FLOPs are those of the blocks, by the formula of `block_bench`.
Beside the measured figures stand those that the planner (`python -m unity.train.planner`) has for this card.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from block_bench import (
    DTYPES,
    FP8_TOLERANCE,
    TOLERANCE,
    command_line,
    flops,
    measure_cases,
    or_blank,
    peak_flops,
)
from block_cases import GRIDS, WORDS, only_torch
from harness import Timing, admitted, at_least, deviation, measure_all
from step_plan import planned
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unity.config import MODELS, ModelConfig
from unity.model.dit import UnityDiT
from unity.model.fp8 import Fp8Config, convert
from unity.objective import routed_loss
from unity.routing import fixed_route
from unity.train.optim import SetOptim, optimizer
from unity.train.recompute import recompute

SHAPES = {"cpu": ["tiny", "1.3b"], "cuda": ["10b", "5b", "1.3b"]}
TOKENS = {"cpu": [1152], "cuda": [65520, 37440, 1152]}
SECONDS = {"cpu": 1.0, "cuda": 1.0}
# bfloat16 weight and gradient, float32 master and two moments; gradients of one block are float32 for a moment.
STATE_BYTES = 16
# Of the card; the rest is the CUDA context, the text and what lies unused between allocations.
USABLE = 0.92
COLUMNS = "shape  tokens  layers  contestant              ms      ±  ms/layer   tokens/s  TFLOP/s    MFU  peak GB"
COLUMNS += "  plan ms  plan GB"

# `routed_loss` of one model
Loss = Callable[..., tuple[Tensor, Tensor]]


class Update:
    """Clipped AdamW on float32 masters of the weights, block by block: few gradients are float32 at a time."""

    def __init__(self, model: UnityDiT):
        named = dict(model.named_parameters())
        blocks = [
            {n: p for n, p in named.items() if n.startswith(f"blocks.{i}.")} for i in range(len(model.blocks))
        ]
        rest = {n: p for n, p in named.items() if not n.startswith("blocks.")}
        self.weights = list(named.values())
        self.parts = [self._part(part) for part in (*blocks, rest)]

    @staticmethod
    def _part(named: dict[str, nn.Parameter]) -> tuple:
        masters = {
            n: p if p.dtype == torch.float32 else nn.Parameter(p.detach().float()) for n, p in named.items()
        }
        return (
            list(named.values()),
            list(masters.values()),
            optimizer(SetOptim(kind="adamw", lr=5e-5, warmup=0), masters.items()),
        )

    @torch.no_grad()
    def __call__(self) -> None:
        nn.utils.clip_grad_norm_(self.weights, SetOptim.clip)
        for weights, masters, update in self.parts:
            for weight, master in zip(weights, masters, strict=True):
                master.grad = weight.grad.float()
            update.step()
            for weight, master in zip(weights, masters, strict=True):
                if master is not weight:
                    weight.copy_(master)
                weight.grad = master.grad = None


@dataclass(frozen=True)
class Case:
    """A model of some layers at a number of tokens, its optimizer and the tensors of one step."""

    name: str
    model: UnityDiT
    tokens: int
    update: Update
    # latents, noise, route, modality and text, as `routed_loss` takes them
    batch: tuple

    @property
    def layers(self) -> int:
        return len(self.model.blocks)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype


def make_case(name: str, tokens: int, layers: int, device: str, dtype: torch.dtype) -> Case:
    """Random weights, also those that start at zero, and one sample whose streams are both noisy."""
    torch.manual_seed(0)
    config = replace(MODELS[name], num_layers=layers)
    with torch.device(device):
        model = UnityDiT(config).to(dtype)
        for parameter in model.parameters():
            if parameter.ndim > 1 and not parameter.any():
                nn.init.normal_(parameter, std=0.02)
        t, h, w = (size * p for size, p in zip(GRIDS[tokens], config.patch, strict=True))
        latents, noise = (torch.randn(1, 2, config.latent_channels, t, h, w) for _ in range(2))
        route = fixed_route("joint", torch.tensor([0.5]), config.clean_time)
        text = [torch.randn(1, WORDS, config.text_dim).to(dtype) for _ in range(2)]
        length = torch.tensor([WORDS])
        words = (text[0], length, text[1], length)
        batch = (latents, noise, route, torch.tensor([1]), words)
    return Case(name, model, tokens, Update(model), batch)


def fitting_layers(config: ModelConfig, tokens: int, memory: float) -> int:
    """Layers of the model for which a step of any contestant fits into so many bytes, in bfloat16.

    With u = tokens · d · 2 bytes, p a block's parameters and q all others: 16·(q + p·layers) of state, 4·max(p, q)
    for gradients on their way into the optimizer, 3.1u a layer kept at most, and (50 + 3·ffn/d)·u inside the one
    block that is recomputed (plain torch keeps 45 + 2·ffn/d there, our ops 24 + 2·ffn/d).
    """
    with torch.device("meta"):
        model = UnityDiT(replace(config, num_layers=1))
    block = sum(p.numel() for p in model.blocks.parameters())
    rest = sum(p.numel() for p in model.parameters()) - block
    u = tokens * config.dim * 2
    once = STATE_BYTES * rest + 4 * max(block, rest) + (50 + 3 * config.ffn_dim / config.dim) * u
    fit = int((USABLE * memory - once) // (STATE_BYTES * block + 3.1 * u))
    return min(config.num_layers, max(1, fit))


def default_layers(config: ModelConfig, tokens: int, device: str) -> int:
    """What fits on the card; on a CPU, where time is short, all of a small model and one block of a large one."""
    if device == "cuda":
        return fitting_layers(config, tokens, torch.cuda.get_device_properties(0).total_memory)
    return config.num_layers if config.dim < 1024 else 1


def twin(model: UnityDiT) -> UnityDiT:
    """A second model on the same parameters, to be changed without changing the first."""
    with torch.device("meta"):
        copy = UnityDiT(model.config)
    copy.load_state_dict(dict(model.named_parameters()), assign=True)
    return copy


def ours(model: UnityDiT, kind: str = "full") -> Loss:
    """The loss of the model, its blocks recomputed as a row of unity.config.RECOMPUTE says."""
    recompute(model, kind)
    return partial(routed_loss, model)


def wrapped(model: UnityDiT, wrap: Callable[[Callable], Callable]) -> Loss:
    """The loss of the model with every block wrapped and checkpointed."""
    for block in model.blocks:
        block.forward = partial(checkpoint, wrap(block.forward), use_reentrant=False)
    return partial(routed_loss, model)


def plain(model: UnityDiT, wrap: Callable[[Callable], Callable] = lambda forward: forward) -> Loss:
    """The same in plain torch, also where a block is recomputed."""
    return only_torch()(wrapped(model, lambda forward: only_torch()(wrap(forward))))


def eight_bits(model: UnityDiT) -> Loss:
    convert(model, Fp8Config())
    return ours(model)


compiled = partial(torch.compile, dynamic=False)

CONTESTANTS: dict[str, Callable[[UnityDiT], Loss]] = {
    "unity": ours,
    "unity selective": partial(ours, kind="selective"),
    "unity fp8": eight_bits,
    "torch eager": plain,
    "unity compiled": lambda model: wrapped(model, compiled),
    "torch compiled": lambda model: plain(model, compiled),
}


def gradients(loss: Loss, case: Case) -> tuple[Tensor, Tensor]:
    """The loss, and the norm of every parameter's gradient."""
    try:
        value, _ = loss(*case.batch)
        value.backward()
        return value.detach(), torch.stack([p.grad.float().norm() for p in case.model.parameters()])
    finally:
        case.model.zero_grad()


def wrong(loss: Loss, truth: tuple[Tensor, Tensor], case: Case, tolerance: float) -> str | None:
    """How far the loss or the gradients' norms are off, if they are."""
    return deviation(("loss", "gradient norm"), gradients(loss, case), truth, tolerance)


def step(loss: Loss, case: Case) -> None:
    """What is timed: loss, backward, and the update of the weights."""
    value, _ = loss(*case.batch)
    value.backward()
    case.update()


def bench(case: Case, contestants: list[str], seconds: float, device: str, end: float) -> list[dict]:
    """Rows of one case; a contestant that is absent, wrong or late is named in the printout instead."""
    truth = gradients(plain(twin(case.model)), case)

    def check(name, loss):
        tolerance = FP8_TOLERANCE if name.endswith("fp8") else TOLERANCE[case.dtype]
        return wrong(loss, truth, case, tolerance)

    found, missing = admitted(contestants, lambda name: CONTESTANTS[name](twin(case.model)), check, end)
    for name, reason in missing.items():
        print(f"{case.name:6} {case.tokens:6} {case.layers:7}  {name:16} not measured: {reason}", flush=True)
    steps = {name: partial(step, loss, case) for name, loss in found.items()}
    timings = measure_all(steps, seconds, warmup=1, runs=20, device=device)
    rows = [_row(name, call, timings[name], case, device) for name, call in steps.items()]
    for row in rows:
        _print(row)
    return rows


def _row(name: str, call: Callable, timing: Timing, case: Case, device: str) -> dict:
    rate = 3 * case.layers * flops(case.model.config, case.tokens) / timing.median
    peak = peak_flops(device)
    return {
        "shape": case.name,
        "tokens": case.tokens,
        "layers": case.layers,
        "contestant": name,
        "ms": 1e3 * timing.median,
        "spread_ms": 1e3 * timing.spread,
        "ms_per_layer": 1e3 * timing.median / case.layers,
        "tokens_per_s": case.tokens / timing.median,
        "tflops": rate / 1e12,
        "mfu": peak and rate / peak,
        "peak_bytes": _most_bytes(call, device),
        **planned(name, case.model.config, case.tokens, case.dtype),
    }


def _most_bytes(call: Callable, device: str) -> int | None:
    """All memory in use at the worst moment of a step, weights and optimizer included."""
    if device != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats()
    call()
    return torch.cuda.max_memory_allocated()


def _print(row: dict) -> None:
    print(
        f"{row['shape']:6} {row['tokens']:6} {row['layers']:7}  {row['contestant']:16} {row['ms']:9.1f} "
        f"{row['spread_ms']:6.1f} {row['ms_per_layer']:9.2f} {row['tokens_per_s']:10.0f} {row['tflops']:8.3f} "
        f"{or_blank(row['mfu'], '6.1%')} {or_blank(row['peak_bytes'] and row['peak_bytes'] / 1e9, '8.2f')} "
        f"{or_blank(row['planned_ms'], '8.1f')} "
        f"{or_blank(row['planned_bytes'] and row['planned_bytes'] / 1e9, '8.2f')}",
        flush=True,
    )


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = command_line("step_bench", __doc__, device, SHAPES, TOKENS, SECONDS, CONTESTANTS)
    parser.add_argument(
        "--layers", type=at_least(1), help="default: as many as fit on the card, by the formula in the code"
    )
    args = parser.parse_args()

    def measure(name: str, tokens: int, end: float) -> list[dict]:
        layers = args.layers or default_layers(MODELS[name], tokens, device)
        case = make_case(name, tokens, layers, device, DTYPES[args.dtype])
        return bench(case, args.contestant, args.seconds, device, end)

    print(COLUMNS)
    measure_cases(args, device, measure, layers=" ".join(fitting_layers.__doc__.split()))


if __name__ == "__main__":
    main()
