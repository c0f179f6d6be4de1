"""Checks for several ranks: ZeRO-3 beside plain torch, on the same numbers."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from unity.config import MODELS, STORAGE, ModelConfig, StorageConfig
from unity.model.convert import convert
from unity.model.dit import UnityDiT
from unity.model.fp8 import Fp8Config
from unity.model.lora import LoraConfig, inject, plain_name
from unity.model.names import is_factor, is_hidden
from unity.model.packed import pack, packed_rows, packing, widen
from unity.train import sequence, zero
from unity.train.ema import Ema
from unity.train.muon import orthogonal
from unity.train.optim import SetOptim, optimizer
from unity.train.recompute import recompute
from unity.train.world import World

OPTIM = SetOptim(kind="adamw", lr=1e-3, warmup=0, clip=0.5, weight_decay=0.1)
SMALL = replace(MODELS["debug"], latent_channels=48)
SHAPE = replace(SMALL, stem=0, patch=(1, 2, 2), input="expert", cross_attention="separate", cross_modulation=True)
STEPS, ACCUMULATION, MICRO = 4, 2, 2
SETTINGS = json.loads((Path(__file__).parents[2] / "launchers/zero3.json").read_text())
# so few parameters at once that the blocks of a small model come one by one
FEW_LIVE = SETTINGS | {
    "zero_optimization": SETTINGS["zero_optimization"]
    | {f"stage3_{name}": 1 for name in ("prefetch_bucket_size", "max_live_parameters", "max_reuse_distance")}
    | {"stage3_param_persistence_threshold": 0}
}


def inputs(step: int, part: int, rank: int, size: int) -> tuple:
    """A micro-batch of two samples; modalities change with step, part, rank and sample, and some never occur."""
    g = torch.Generator().manual_seed(100 * step + 10 * part + rank)
    rgb, aux = torch.randn(2, MICRO, SHAPE.latent_channels, 2, 4, 4, generator=g)
    caption, prompt = torch.randn(2, MICRO, 5, SHAPE.text_dim, generator=g)
    modality = torch.tensor([(step + part + rank + i) % 4 for i in range(MICRO)])
    lengths = torch.tensor([5, 3]), torch.tensor([1, 4])
    time = torch.rand(MICRO, 2, generator=g)
    return rgb, aux, time, modality, caption, lengths[0], prompt, lengths[1]


def both(step: int, part: int, rank: int) -> tuple[bool, bool]:
    return True, True


def some(step: int, part: int, rank: int) -> tuple[bool, bool]:
    """Other streams on other ranks."""
    return ((True, True), (False, True), (True, False))[(step + part + rank) % 3]


def loss_of(model, arguments: tuple, wanted: tuple[bool, bool], told: bool = False) -> torch.Tensor:
    """The error of the wanted streams; `told`: the model may skip the others."""
    velocities = model(*arguments, **({"wanted": wanted} if told else {}))
    pairs = zip(velocities, (arguments[1], arguments[0]), wanted, strict=True)
    return sum(counts * (velocity - target).square().mean() for velocity, target, counts in pairs)


def random_weights(shape: ModelConfig = SHAPE) -> dict:
    """Weights of which none is zero, so that every parameter has a gradient from the first step."""
    torch.manual_seed(7)
    return {n: p.detach() + 0.05 * torch.randn(p.shape) for n, p in UnityDiT(shape).named_parameters()}


def build(
    world: World,
    precision: str,
    shape: ModelConfig = SHAPE,
    optim: SetOptim = OPTIM,
    cut: int = 1,
    adapt: Callable = lambda model: None,
    offload: str = "none",
    base: dict = SETTINGS,
):
    """An engine with random weights, whose samples are shared by `cut` ranks each."""
    settings = zero.settings(
        base, precision=precision, batch_size=MICRO * ACCUMULATION * world.size // cut, micro_batch=MICRO,
        world_size=world.size, clip=OPTIM.clip, sequence_parallel=cut, offload=offload,
    )  # fmt: skip
    peers = sequence.join(cut).peers()

    def change(model: UnityDiT) -> None:
        model.peers = peers
        adapt(model)

    parts = lambda: UnityDiT(shape), lambda named: optimizer(optim, named)
    engine = zero.build_engine(*parts, settings, seed=0, adapt=change)
    zero.set_learning_rate(engine, optim.lr)
    zero.fill(world, engine, random_weights(shape).__getitem__)
    return engine


class PlainMuon:
    """The update as its papers write it, matrix by matrix."""

    def __init__(self, matrices: list, optim: SetOptim):
        self.momenta, self.optim = {matrix: torch.zeros_like(matrix) for matrix in matrices}, optim

    @torch.no_grad()
    def step(self) -> None:
        beta, rate = self.optim.momentum, self.optim.lr * self.optim.muon_scale
        for matrix, momentum in self.momenta.items():
            momentum.copy_(beta * momentum + (1 - beta) * matrix.grad)
            ahead = (1 - beta) * matrix.grad + beta * momentum
            rows, columns = matrix.flatten(1).shape
            step = orthogonal(ahead.flatten(1).unsqueeze(0))[0].view_as(matrix)
            matrix.mul_(1 - rate * self.optim.weight_decay)
            matrix.sub_(rate * 0.2 * max(rows, columns) ** 0.5 * step)


def plain_torch(
    size: int, shape: ModelConfig, wanted: Callable, optim: SetOptim, adapt: Callable = lambda model: None
) -> tuple[list[float], dict, dict]:
    """Gradient norms, final weights and their average, in one process and without DeepSpeed."""
    model = UnityDiT(shape)
    model.load_state_dict(random_weights(shape))
    adapt(model)
    named = dict(model.named_parameters())
    hidden = {n: p for n, p in named.items() if optim.kind == "muon" and is_hidden(n, p.shape)}
    muon, rest = PlainMuon(list(hidden.values()), optim), {n: p for n, p in named.items() if n not in hidden}
    decaying = {name: name.endswith("weight") and p.dim() > 1 for name, p in rest.items()}
    groups = [
        {"params": [p for n, p in rest.items() if decaying[n] == flag], "weight_decay": decay}
        for flag, decay in ((True, OPTIM.weight_decay), (False, 0.0))
    ]
    adamw = torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, foreach=False)
    average, norms = {n: p.detach().clone() for n, p in named.items()}, []
    for step in range(STEPS):
        # zeros, not None: an expert without a sample still has its moments decayed
        for p in named.values():
            p.grad = torch.zeros_like(p)
        for part in range(ACCUMULATION):
            for rank in range(size):
                loss = loss_of(model, inputs(step, part, rank, size), wanted(step, part, rank))
                (loss / ACCUMULATION / size).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(named.values(), OPTIM.clip)))
        adamw.step()
        muon.step()
        decay = min(OPTIM.ema, (1 + step) / (10 + step))
        for name, p in named.items():
            average[name] = decay * average[name] + (1 - decay) * p.detach()
    return norms, {n: p.detach() for n, p in named.items()}, average


def check_against_torch(world: World, *_):
    engine, ema, average = against_torch(world, SHAPE, both, OPTIM)
    check_exchange(world, engine, ema, average)


def check_streams_that_not_every_rank_wants(world: World, *_):
    """A rank that skips a stream still gives all of its parameters a gradient, as ZeRO-3 needs."""
    against_torch(world, replace(SHAPE, cross_attention="shared"), some, OPTIM)


def check_muon(world: World, *_):
    """Matrices cut up over the ranks are orthogonalised as if they were whole."""
    against_torch(world, SMALL, some, replace(OPTIM, kind="muon"))


def check_offload(world: World, *_):
    """Masters, moments and the update on the host; and the weights, of which a block or two are here at a time."""
    engine, *_ = against_torch(world, SHAPE, both, OPTIM, offload="optimizer")
    assert engine.zero_use_cpu_optimizer() and engine.zero_offload_param() is None
    deep = replace(SHAPE, num_layers=6)
    engine, *_ = against_torch(world, deep, both, OPTIM, offload="weights", base=FEW_LIVE)
    assert all(p.ds_tensor.device.type == "cpu" for p in engine.module.parameters())
    seen = whole_blocks(engine, inputs(0, 0, world.rank, world.size))
    assert len(seen) == 2 * len(engine.module.blocks) and all(0 < count <= 2 for count in seen), seen


def whole_blocks(engine, arguments: tuple) -> list[int]:
    """How many blocks have a whole matrix whenever one computes, forward and backward."""
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

    linears, seen = [block.ffn[0] for block in engine.module.blocks], []
    # DeepSpeed would fetch what is asked for by its name
    matrices = [linear.weight for linear in linears]

    def look(*_) -> None:
        seen.append(sum(matrix.ds_status == ZeroParamStatus.AVAILABLE for matrix in matrices))

    hooks = [hook(look) for m in linears for hook in (m.register_forward_pre_hook, m.register_full_backward_hook)]
    engine.backward(loss_of(engine, arguments, (True, True)))
    for hook in hooks:
        hook.remove()
    return seen


def check_adam8(world: World, *_):
    """Moments in 8 bits leave the weights within 7% of the way that 32 bits take them."""
    optim, start = replace(OPTIM, kind="adamw8"), random_weights()
    for offload in ("none", "optimizer"):
        engine = build(world, "fp32", SHAPE, optim, offload=offload)
        take_steps(world, engine, both)
        assert all(flat.dtype == torch.uint8 for flat in zero.moments(engine)["exp_avg"])
        found = dict(zero.gather(world, zero.layout(engine), zero.masters(engine)))
        if world.leads:
            _, expected, _ = plain_torch(world.size, SHAPE, both, OPTIM)
            off, way = (
                torch.cat([(a[name] - b[name]).flatten() for name in start]).norm()
                for a, b in ((found, expected), (expected, start))
            )
            assert off < 0.07 * way, float(off / way)


def against_torch(
    world: World,
    shape: ModelConfig,
    wanted: Callable,
    optim: SetOptim,
    atol: float = 2e-6,
    cut: int = 1,
    offload: str = "none",
    base: dict = SETTINGS,
) -> tuple:
    engine = build(world, "fp32", shape, optim, cut, offload=offload, base=base)
    ema, norms = take_steps(world, engine, wanted, cut)
    size, fragments = world.size // cut, zero.layout(engine)
    weights = dict(zero.gather(world, fragments, zero.masters(engine)))
    average = dict(zero.gather(world, fragments, ema.flats))
    if world.leads:
        expected_norms, expected_weights, expected_average = plain_torch(size, shape, wanted, optim)
        torch.testing.assert_close(norms, expected_norms, rtol=5 * atol, atol=0)
        for found, expected in ((weights, expected_weights), (average, expected_average)):
            assert found.keys() == expected.keys()
            for name in expected:
                torch.testing.assert_close(
                    found[name], expected[name], rtol=0, atol=atol, msg=lambda m, name=name: f"{name}: {m}"
                )
    return engine, ema, average


def take_steps(world: World, engine, wanted: Callable, cut: int = 1) -> tuple[Ema, list[float]]:
    """The average of the weights, and the norms of the gradients."""
    ema, norms = Ema(zero.masters(engine), OPTIM.ema), []
    rank, size = world.rank // cut, world.size // cut
    for step in range(STEPS):
        for part in range(ACCUMULATION):
            streams = wanted(step, part, rank)
            arguments = inputs(step, part, rank, size)
            engine.backward(loss_of(engine, arguments, streams, told=True))
            engine.step()
        ema.update()
        norms.append(float(engine.get_global_grad_norm()))
    return ema, norms


def check_exchange(world: World, engine, ema: Ema, average: dict | None):
    """With the average in place of the weights the engine computes what a plain model with it computes."""
    before = [flat.clone() for flat in (*zero.masters(engine), *ema.flats)]
    arguments = inputs(9, 0, world.rank, world.size)
    with torch.no_grad():
        with ema.in_place_of_weights(lambda: zero.refresh(engine)):
            inside = engine.module(*arguments)
        outside = engine.module(*arguments)
    assert all(torch.equal(a, b) for a, b in zip(before, (*zero.masters(engine), *ema.flats), strict=True))
    assert not torch.allclose(inside[0], outside[0], atol=1e-4)
    if world.leads:
        model = UnityDiT(SHAPE)
        model.load_state_dict(average)
        with torch.no_grad():
            torch.testing.assert_close(inside, model(*arguments), rtol=1e-5, atol=1e-5)


def check_bf16(world: World, *_):
    """Built inside zero.Init, where every new tensor becomes bf16, the model equals a plain one cast to bf16."""
    engine = build(world, "bf16")
    arguments = inputs(0, 0, world.rank, world.size)
    with torch.no_grad():
        found = engine.module(*arguments)
        plain = UnityDiT(SHAPE)
        plain.load_state_dict(random_weights())
        expected = plain.bfloat16()(*arguments)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def check_initial_weights(world: World, *_):
    """What starts at zero still does when parameters are cut up as soon as they are made."""
    settings = zero.settings(
        SETTINGS, precision="fp32", batch_size=world.size, micro_batch=1, world_size=world.size, clip=1.0
    )
    engine = zero.build_engine(lambda: UnityDiT(SHAPE), lambda named: optimizer(OPTIM, named), settings, seed=3)
    found = dict(zero.gather(world, zero.layout(engine), zero.masters(engine)))
    if world.leads:
        torch.manual_seed(3)
        expected = dict(UnityDiT(SHAPE).named_parameters())
        for name, parameter in expected.items():
            torch.testing.assert_close(found[name], parameter.detach(), rtol=0, atol=0, msg=name)


def check_adapters(world: World, *_):
    """Adapters and parts beside a frozen base, cut up over the ranks, against peft in plain torch."""
    lora = LoraConfig(rank=3, targets="all", parts=5.0)
    shape = replace(SHAPE, cross_attention="shared")
    settings = zero.settings(
        SETTINGS, precision="fp32", batch_size=MICRO * ACCUMULATION * world.size, micro_batch=MICRO,
        world_size=world.size, clip=OPTIM.clip,
    )  # fmt: skip
    update, adapt = partial(optimizer, OPTIM, rate=lora.rate), partial(inject, config=lora)
    engine = zero.build_engine(lambda: UnityDiT(shape), update, settings, 0, adapt)
    base = random_weights(shape)
    zero.fill(world, engine, lambda name: None if is_factor(name) else base[plain_name(name)])
    start = dict(zero.gather(world, zero.layout(engine), zero.masters(engine)))
    zero.set_learning_rate(engine, OPTIM.lr)
    for step in range(STEPS):
        for part in range(ACCUMULATION):
            engine.backward(loss_of(engine, inputs(step, part, world.rank, world.size), both(step, part, 0)))
            engine.step()
    found = dict(zero.gather(world, zero.layout(engine), zero.masters(engine)))
    with torch.no_grad():
        velocity = engine.module(*inputs(9, 0, world.rank, world.size))[0]
    if world.leads:
        expected = plain_adapters(world.size, shape, lora, base, start)
        trained = {name: value for name, value in expected.named_parameters() if value.requires_grad}
        assert found.keys() == trained.keys() and any(is_factor(name) for name in found)
        for name, value in trained.items():
            torch.testing.assert_close(found[name], value.detach(), rtol=0, atol=2e-6, msg=name)
        with torch.no_grad():
            torch.testing.assert_close(velocity, expected(*inputs(9, 0, 0, world.size))[0], rtol=1e-5, atol=1e-5)


def plain_adapters(size: int, shape: ModelConfig, lora: LoraConfig, base: dict, start: dict) -> UnityDiT:
    """The same steps in one process and without DeepSpeed."""
    model = UnityDiT(shape)
    model.load_state_dict(base)
    inject(model, lora)
    model.load_state_dict(start, strict=False)
    groups = [
        {
            "params": [value],
            "lr": OPTIM.lr * (1.0 if is_factor(name) else lora.parts),
            "weight_decay": OPTIM.weight_decay if name.endswith("weight") and value.dim() > 1 else 0.0,
        }
        for name, value in model.named_parameters()
        if value.requires_grad
    ]
    adamw = torch.optim.AdamW(groups, betas=OPTIM.betas, eps=OPTIM.eps, foreach=False)
    for step in range(STEPS):
        for part in range(ACCUMULATION):
            for rank in range(size):
                loss = loss_of(model, inputs(step, part, rank, size), (True, True))
                (loss / ACCUMULATION / size).backward()
        torch.nn.utils.clip_grad_norm_([group["params"][0] for group in groups], OPTIM.clip)
        adamw.step()
        adamw.zero_grad(set_to_none=False)
    return model


def check_recompute(world: World, *_):
    """Weights come and go once more where blocks are computed again; the masters end in the same bits."""
    at_once = {name: 0 for name in SETTINGS["zero_optimization"] if name.startswith("stage3_")}
    base = SETTINGS | {"zero_optimization": SETTINGS["zero_optimization"] | at_once}
    settings = zero.settings(
        base, precision="fp32", batch_size=MICRO * world.size, micro_batch=MICRO, world_size=world.size,
        clip=OPTIM.clip,
    )  # fmt: skip
    shape = replace(SHAPE, cross_attention="shared")
    all_kinds, two_kinds = ("none", "every-2", "selective", "full"), ("none", "selective")
    variants = (LoraConfig(), None, all_kinds), (LoraConfig(rank=3), Fp8Config(), two_kinds)
    for lora, eight_bits, names in variants:
        ends = [_recomputed(world, settings, shape, lora, eight_bits, name) for name in names]
        for name, found in zip(names, ends, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(found, ends[0], strict=True)), name


def _recomputed(
    world: World, settings: dict, shape: ModelConfig, lora: LoraConfig, eight_bits: Fp8Config | None, name: str
) -> list[torch.Tensor]:
    """The masters after two steps."""

    def adapt(model: UnityDiT) -> None:
        convert(model, lora, eight_bits)
        recompute(model, name)

    update = partial(optimizer, OPTIM, rate=lora.rate)
    engine = zero.build_engine(lambda: UnityDiT(shape), update, settings, 0, adapt)
    weights = random_weights(shape)
    zero.fill(world, engine, lambda name: None if is_factor(name) else weights[plain_name(name)])
    zero.set_learning_rate(engine, OPTIM.lr)
    for step in range(2):
        engine.backward(loss_of(engine, inputs(step, 0, world.rank, world.size), (True, True)))
        engine.step()
    return zero.masters(engine)


def check_packed(world: World, *_):
    """Packed weights, cut up and gathered, train adapters as the wide ones that they stand for, recomputed too."""
    settings = zero.settings(
        SETTINGS, precision="fp32", batch_size=MICRO * world.size, micro_batch=MICRO, world_size=world.size,
        clip=OPTIM.clip,
    )  # fmt: skip
    for storage in ("fp8", "nf4"):
        row = STORAGE[storage]
        ends = [_packed(world, settings, row, *pair) for pair in ((storage, "none"), (storage, "selective"))]
        wide = _packed(world, settings, row, "wide", "none")
        for one, other, expected in zip(*ends, wide, strict=True):
            assert torch.equal(one, other)
            torch.testing.assert_close(one, expected, rtol=0, atol=2e-6)


def _packed(world: World, settings: dict, row: StorageConfig, storage: str, kind: str) -> list[torch.Tensor]:
    """The masters after two steps, from weights that are rounded as the row has it."""
    shape, lora = replace(SHAPE, cross_attention="shared"), LoraConfig(rank=3)

    def adapt(model: UnityDiT) -> None:
        convert(model, lora, None)
        recompute(model, kind)

    update = partial(optimizer, OPTIM, rate=lora.rate)
    engine = zero.build_engine(partial(UnityDiT, shape, packing(storage)), update, settings, 0, adapt)
    found, base = packed_rows(engine.module), random_weights(shape)
    assert len(found) == (0 if storage == "wide" else 10 * shape.num_layers)
    rounded = {plain_name(name) for name in packed_rows(UnityDiT(shape, packing("fp8")))}

    def read(name: str) -> torch.Tensor | None:
        if is_factor(name):
            return None
        tensor = base[plain_name(name)]
        stored = pack(tensor, row, torch.float32) if plain_name(name) in rounded else tensor
        return widen(stored, row) if plain_name(name) in rounded and name not in found else stored

    zero.fill(world, engine, read)
    zero.set_learning_rate(engine, OPTIM.lr)
    for step in range(2):
        engine.backward(loss_of(engine, inputs(step, 0, world.rank, world.size), (True, True)))
        engine.step()
    return zero.masters(engine)


QUICK = (check_initial_weights, check_against_torch, check_streams_that_not_every_rank_wants, check_bf16)
SLOW = (check_muon, check_adapters, check_recompute, check_offload, check_adam8, check_packed)
