"""A whole training step in several ways, of the same model and on the same samples, for `step_bench`."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from block_cases import GRIDS, WORDS, only_attention, only_torch
from step_ranks import average, share
from torch import Tensor, nn

from unity import ops
from unity.config import MODELS, RECOMPUTE, ModelConfig
from unity.model.dit import UnityDiT
from unity.model.fp8 import Fp8Config, convert
from unity.objective import routed_loss
from unity.routing import fixed_route
from unity.train.optim import SetOptim, optimizer
from unity.train.recompute import recompute

# bfloat16 weight and gradient, float32 master and two moments; gradients of one block are float32 for a moment.
STATE_BYTES = 16
# Of the card; the rest is the CUDA context, the text and what lies unused between allocations.
USABLE = 0.92

# `routed_loss` of one model
Loss = Callable[..., tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A way to take the step."""

    # a row of unity.config.RECOMPUTE
    recompute: str = "full"
    # the large Linears in 8 bits, where they are
    fp8: Fp8Config | None = None
    # the ops as a user would write them: plain torch, one after the other
    plain: bool = False
    # self-attention by this back end of unity.attention, or by the best there is
    attention: str | None = None
    compiled: bool = False
    samples: int = 1
    # texts reach the model with their zeros, as the authors' release has them
    padded: bool = False
    # ranks that share the samples, each with a slice of their tokens
    cut: int = 1

    def loss(self, model: UnityDiT) -> Loss:
        """The loss of the model, which is changed for it."""
        if self.fp8:
            convert(model, self.fp8)
        if self.cut > 1:
            share(model)
        for block in model.blocks:
            block.forward = self._wrapped(block.forward)
        recompute(model, self.recompute)
        return self._by_its_ops(partial(routed_loss, model))

    def attends(self, case: "Case") -> str:
        """By which back end."""
        if self.plain or self.attention:
            return self.attention or "torch"
        config = case.model.config
        return ops.attends(case.tokens, config.num_heads, config.head_dim, case.dtype, case.latents.device)

    def _wrapped(self, forward: Callable) -> Callable:
        forward = torch.compile(forward, dynamic=False) if self.compiled else forward
        # a block is entered again where it is recomputed
        return self._by_its_ops(forward)

    def _by_its_ops(self, call: Callable) -> Callable:
        if self.plain:
            return only_torch()(call)
        return only_attention(self.attention)(call) if self.attention else call


# by the end of a name: no 8 bits, ours, and NVIDIA's package
EIGHT = {
    "": None,
    " fp8": Fp8Config(),
    " te": Fp8Config(backend="transformer-engine"),
}
_OURS = ("", " fp8")
ATTENTION = {"cudnn": "cudnn", "fa3": "flash-attention 3", "fa4": "flash-attention 4"}
# what decides whether a contestant is right
TRUTH = Contestant(plain=True)
CONTESTANTS = {
    **{f"unity {kind}{end}": Contestant(recompute=kind, fp8=EIGHT[end]) for end in EIGHT for kind in RECOMPUTE},
    **{
        f"unity none {key}{end}": Contestant(recompute="none", attention=name, fp8=EIGHT[end])
        for key, name in ATTENTION.items()
        for end in _OURS
    },
    "torch eager": TRUTH,
    "unity compiled": Contestant(compiled=True),
    "torch compiled": Contestant(plain=True, compiled=True),
    # the recipe of the authors' release, and ours: it has room for more samples at once
    "release recipe": Contestant(recompute="none", plain=True, padded=True),
    **{
        f"unity {kind} x{samples}{end}": Contestant(recompute=kind, samples=samples, fp8=EIGHT[end])
        for end in _OURS
        for kind in ("selective", "full")
        for samples in (4, 8)
    },
    # one sample over the ranks of a launcher
    **{
        f"unity {kind} sp{cut}{end}": Contestant(recompute=kind, cut=cut, fp8=EIGHT[end])
        for end in _OURS
        for kind in RECOMPUTE
        for cut in (2, 4, 8)
    },
}
DEFAULTS = {
    "cpu": ["unity none", "unity selective", "unity full", "torch eager", "unity compiled", "torch compiled"],
    "cuda": [name for name, row in CONTESTANTS.items() if row.samples == row.cut == 1 and not row.padded],
}


class Update:
    """Clipped AdamW on float32 masters of the weights, block by block: few gradients are float32 at a time.

    At a rate of 0, the default, it does all its work and leaves the weights to the next contestant as they are.
    """

    def __init__(self, model: UnityDiT, lr: float = 0.0):
        named, self.lr = dict(model.named_parameters()), lr
        blocks = [
            {n: p for n, p in named.items() if n.startswith(f"blocks.{i}.")} for i in range(len(model.blocks))
        ]
        rest = {n: p for n, p in named.items() if not n.startswith("blocks.")}
        self.weights = list(named.values())
        self.parts = [self._part(part) for part in (*blocks, rest)]

    def _part(self, named: dict[str, nn.Parameter]) -> tuple:
        masters = {
            n: p if p.dtype == torch.float32 else nn.Parameter(p.detach().float()) for n, p in named.items()
        }
        return (
            list(named.values()),
            list(masters.values()),
            optimizer(SetOptim(kind="adamw", lr=self.lr, warmup=0), masters.items()),
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
    # latents and noise [n, 2, c, t, h, w], and both texts [n, m, e]
    latents: Tensor
    noise: Tensor
    texts: tuple[Tensor, Tensor]

    @property
    def layers(self) -> int:
        return len(self.model.blocks)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    def batch(self, samples: int = 1, padded: bool = False) -> tuple:
        """The first samples, both streams noisy, as `routed_loss` takes them."""
        config, device = self.model.config, self.latents.device
        words = config.text_len if padded else WORDS
        length = torch.full((samples,), words, device=device)
        texts = [F.pad(text[:samples], (0, 0, 0, words - WORDS)) for text in self.texts]
        route = fixed_route("joint", torch.full((samples,), 0.5, device=device), config.clean_time)
        modality = torch.ones(samples, dtype=torch.long, device=device)
        given = (texts[0], length, texts[1], length)
        return self.latents[:samples], self.noise[:samples], route, modality, given


def make_case(
    name: str, tokens: int, layers: int, device: str, dtype: torch.dtype, samples: int = 1, lr: float = 0.0
) -> Case:
    """Random weights, also those that start at zero, and as many samples."""
    torch.manual_seed(0)
    config = replace(MODELS[name], num_layers=layers)
    with torch.device(device):
        model = UnityDiT(config).to(dtype)
        for parameter in model.parameters():
            if parameter.ndim > 1 and not parameter.any():
                nn.init.normal_(parameter, std=0.02)
        t, h, w = (size * p for size, p in zip(GRIDS[tokens], config.patch, strict=True))
        latents, noise = (torch.randn(samples, 2, config.latent_channels, t, h, w) for _ in range(2))
        texts = [torch.randn(samples, WORDS, config.text_dim).to(dtype) for _ in range(2)]
    return Case(name, model, tokens, Update(model, lr), latents, noise, tuple(texts))


def fitting_layers(config: ModelConfig, tokens: int, memory: float) -> int:
    """Layers of the model for which a step fits into so many bytes, in bfloat16, where every block is recomputed.

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


def gradients(loss: Loss, case: Case, batch: tuple) -> tuple[Tensor, Tensor]:
    """The loss, and the norm of every parameter's gradient."""
    try:
        value, _ = loss(*batch)
        value.backward()
        average(case.model.parameters())
        return value.detach(), torch.stack([p.grad.float().norm() for p in case.model.parameters()])
    finally:
        case.model.zero_grad()


def step(loss: Loss, case: Case, batch: tuple) -> None:
    """What is timed: loss, backward, and the update of the weights."""
    value, _ = loss(*batch)
    value.backward()
    average(case.model.parameters())
    case.update()
