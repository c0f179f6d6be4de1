"""Checks for several ranks: samples cut over them give what one process in plain torch gives for the whole.

QUICK ones on two ranks, beside the other checks of `on_ranks.py`; alone on four ranks, all of them.
"""

import json
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from engine_on_ranks import (
    ACCUMULATION,
    OPTIM,
    SHAPE,
    SMALL,
    STEPS,
    against_torch,
    both,
    build,
    inputs,
    loss_of,
    plain_torch,
    random_weights,
    some,
)
from safetensors.torch import load_file
from train_on_ranks import short_run

from unity.config import MODELS, RECOMPUTE, ModelConfig
from unity.data.shards import read_about
from unity.model.dit import UnityDiT
from unity.model.fp8 import Fp8Config, convert
from unity.model.sequence import Peers
from unity.train import loop, step
from unity.train.config import resolve
from unity.train.recompute import recompute
from unity.train.run import build as build_run
from unity.train.sequence import SequenceGroup, join
from unity.train.signals import StopRequest
from unity.train.world import World, start_world, stop_world

# experts, cross-attentions of their own; a convolutional stem and head; 8 tokens a stream
WAN, STEM = replace(SHAPE, num_heads=4), replace(SMALL, patch=(1, 2, 2), num_heads=4)
SHARED = replace(WAN, cross_attention="shared")
# by default AdamW makes a step of the rounding alone of a gradient that is zero
STEADY = replace(OPTIM, eps=1e-6)
# of norms, relative: 8 bits of mantissa; and 4 bits, whose rounding a last bit may turn
BF16, FP8 = 5e-3, 1e-3


def cuts(world: World) -> tuple[int, ...]:
    """Sizes of groups; two ranks that share nothing are in engine_on_ranks.py."""
    return (2,) if world.size == 2 else (1, 2, 4)


def check_sequence_gradients(world: World, *_):
    """Losses and every parameter's gradient, which would show a factor that AdamW hides."""
    for cut in cuts(world):
        for shape in (WAN, STEM):
            gradients_against_torch(world, shape, cut)


def gradients_against_torch(world: World, shape: ModelConfig, cut: int) -> None:
    from deepspeed.utils import safe_get_full_grad

    engine, losses = build(world, "fp32", shape, cut=cut), []
    rank, size = world.rank // cut, world.size // cut
    for part in range(ACCUMULATION):
        loss = loss_of(engine, inputs(0, part, rank, size), (True, True))
        losses.append(loss.item())
        engine.backward(loss)
        if part < ACCUMULATION - 1:
            engine.step()
    found = {name: safe_get_full_grad(p) for name, p in engine.module.named_parameters()}
    model = UnityDiT(shape)
    model.load_state_dict(random_weights(shape))
    for part in range(ACCUMULATION):
        for other in range(size):
            loss = loss_of(model, inputs(0, part, other, size), (True, True))
            (loss / ACCUMULATION / size).backward()
            if other == rank:
                torch.testing.assert_close(losses[part], loss.item(), rtol=1e-5, atol=0)
    for name, parameter in model.named_parameters():
        expected = parameter.grad
        assert expected.norm() > 0, name
        apart = (found[name] - expected).norm() / expected.norm()
        assert apart < 1e-4, f"cut {cut}, {name}: {apart:.1e} apart, {found[name].norm() / expected.norm():.3f} x"


def check_sequence_adamw(world: World, *_):
    """Weights, average and norms of several steps; also where groups skip other streams."""
    for cut in cuts(world):
        against_torch(world, WAN, both, STEADY, cut=cut)
        against_torch(world, SHARED, some, STEADY, cut=cut)


def check_sequence_muon(world: World, *_):
    for cut in cuts(world):
        against_torch(world, STEM, some, replace(STEADY, kind="muon"), cut=cut)


def check_sequence_bf16(world: World, *_):
    for cut in cuts(world):
        precise(world, cut, "bf16", BF16)


def check_sequence_fp8(world: World, *_):
    """8-bit Linears of float32 parameters, cut up and computed again, against the same in one process."""
    for cut in cuts(world):
        precise(world, cut, "fp32", FP8, eight_bits_again)


def eight_bits_again(model: UnityDiT) -> None:
    convert(model, Fp8Config())
    recompute(model, "selective")


def precise(world: World, cut: int, precision: str, rtol: float, adapt=lambda model: None) -> None:
    """The norms of the gradients of several steps, each of which follows from the updates before it."""
    engine, norms = build(world, precision, WAN, cut=cut, adapt=adapt), []
    rank, size = world.rank // cut, world.size // cut
    for at in range(STEPS):
        for part in range(ACCUMULATION):
            engine.backward(loss_of(engine, inputs(at, part, rank, size), (True, True)))
            engine.step()
        norms.append(float(engine.get_global_grad_norm()))
    if world.leads:
        expected = plain_torch(size, WAN, both, OPTIM, adapt)[0]
        torch.testing.assert_close(norms, expected, rtol=rtol, atol=0)


def check_sequence_compiled(world: World, *_):
    """One graph around the exchange, forward and backward, and the same gradients as in eager mode."""
    most = cuts(world)[-1]
    for cut in sorted({2, most}):
        # compiling takes long: the stem once
        for shape in (replace(s, num_layers=1) for s in ((WAN, STEM) if cut == most else (WAN,))):
            model = UnityDiT(shape)
            model.load_state_dict(random_weights(shape))
            arguments = inputs(0, 0, world.rank // cut, world.size // cut)
            whole = gradients(model, model, arguments)
            model.peers = join(cut).peers()
            compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
            for call in (model, compiled):
                for name, value in gradients(call, model, arguments, cut).items():
                    torch.testing.assert_close(value, whole[name], rtol=1e-4, atol=1e-5, msg=name)
            torch._dynamo.reset()


def check_sequence_inductor(world: World, *_):
    """Blocks compiled to code by torch's own back end: weights after three steps, in float32 and in bfloat16.

    As one process has them in eager mode; in bfloat16 as near to those of float32 as one process comes.
    """
    shape, cut = replace(WAN, num_layers=1), world.size
    peers, exact = join(cut).peers(), stepped(shape, torch.float32)
    way = (exact - flat(random_weights(shape))).norm()
    for dtype in (torch.float32, torch.bfloat16):
        found, alone = stepped(shape, dtype, peers, cut, compiled=True), stepped(shape, dtype)
        off, rounding = ((weights.float() - exact).norm() / way for weights in (found, alone))
        assert off < max(1e-4, 1.2 * rounding) < 0.2, (dtype, off, rounding)


def stepped(
    shape: ModelConfig, dtype: torch.dtype, peers: Peers | None = None, cut: int = 1, compiled: bool = False
) -> torch.Tensor:
    """All weights after three steps."""
    model = UnityDiT(shape)
    model.load_state_dict(random_weights(shape))
    model.to(dtype).peers = peers
    for block in model.blocks if compiled else ():
        block.compile(fullgraph=True, dynamic=False)
    update = torch.optim.AdamW(model.parameters(), lr=1e-2, eps=STEADY.eps)
    for at in range(3):
        found = gradients(model, model, inputs(at, 0, 0, 1), cut)
        for name, parameter in model.named_parameters():
            parameter.grad = found[name]
        update.step()
    return flat(dict(model.named_parameters()))


def flat(tensors: dict) -> torch.Tensor:
    return torch.cat([value.detach().flatten() for value in tensors.values()])


def check_sequence_recomputed(world: World, *_):
    """By every kind of recomputation, wide and in 8 bits, the same bits: all processes exchange in one order."""
    for cut in cuts(world):
        peers, arguments = join(cut).peers(), inputs(0, 0, world.rank // cut, world.size // cut)
        for adapt in (lambda model: None, partial(convert, config=Fp8Config())):
            expected = None
            for kind in RECOMPUTE:
                model = UnityDiT(WAN)
                model.load_state_dict(random_weights(WAN))
                adapt(model)
                recompute(model, kind)
                model.peers = peers
                found = gradients(model, model, arguments, cut)
                expected = expected or found
                assert all(torch.equal(found[name], expected[name]) for name in expected), (cut, kind)


def gradients(call, model: UnityDiT, arguments: tuple, cut: int = 1) -> dict[str, torch.Tensor]:
    """The mean over a group's processes."""
    model.zero_grad()
    loss_of(call, arguments, (True, True)).backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    if cut > 1:
        group = dist.new_subgroups(cut)[0]
        for value in found.values():
            dist.all_reduce(value, group=group)
            value /= cut
    return found


def check_sequence_group(world: World, data: Path, folder: Path):
    """Ranks of a group learn from the same numbers, other groups from others; encoding together is exact."""
    cut = 2
    options = run_options(data, folder / "group", cut)
    run = build_run(resolve(options, read_about(data), world.size), world)
    routed_loss, seen = step.routed_loss, []

    def watched(model, *arguments):
        seen.append(flattened(arguments))
        return routed_loss(model, *arguments)

    step.routed_loss = watched
    try:
        batch = next(loop.batches(run))
        step.train_step(run, batch, StopRequest())
    finally:
        step.routed_loss = routed_loss
    everyone = world.gather(seen)
    for rank, other in enumerate(everyone):
        pairs = (pair for call in zip(seen, other, strict=True) for pair in zip(*call, strict=True))
        equal = all(torch.equal(mine, its) for mine, its in pairs)
        assert equal == (rank // cut == world.rank // cut), (world.rank, rank)
    parts = [(part, step.drawn(run, part)) for part in step.micro_batches(batch, 2)]
    alone = replace(run, sequence=SequenceGroup())
    for together, own in zip(step.encoded(run, parts), step.encoded(alone, parts), strict=True):
        assert torch.equal(together, own)


def flattened(arguments: tuple) -> list[torch.Tensor]:
    """Latents, noise, all of the route, modality, and the words' states."""
    latents, noise, route, modality, text = arguments
    return [latents, noise, *(v for v in vars(route).values() if isinstance(v, torch.Tensor)), modality, *text]


def run_options(data: Path, out: Path, cut: int):
    shape = replace(MODELS["debug"], num_heads=4)
    return replace(short_run(data, out, sequence_parallel=cut), architecture=shape, precision="fp32")


def check_sequence_resume(world: World, data: Path, folder: Path):
    """Runs with all cuts, and one that changes it half-way, end alike; pictures are drawn on the way."""
    sizes = sorted({1, *cuts(world)})
    for cut in sizes:
        loop.train(replace(run_options(data, folder / f"cut-{cut}", cut), picture_every=6), world)
    most = sizes[-1]
    for cut, resumed in ((most, 1), (1, most)):
        out = folder / f"from-{cut}"
        if world.leads:
            shutil.copytree(folder / f"cut-{cut}", out, symlinks=True)
            shutil.rmtree(out / "checkpoints/step-00000006")
        world.barrier()
        loop.train(replace(run_options(data, out, resumed), resume=out), world)
    if world.leads:
        whole = folder / "cut-1"
        for other in [*(f"cut-{cut}" for cut in sizes[1:]), f"from-{most}", "from-1"]:
            same_run(whole, folder / other)


def same_run(one: Path, other: Path) -> None:
    """The journals' figures and the averaged weights, to rounding."""
    journals = ([json.loads(line) for line in (run / "metrics.jsonl").open()] for run in (one, other))
    for a, b in zip(*journals, strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - {"seconds", "tokens_per_second", "wait_seconds", "memory_gib"}:
            torch.testing.assert_close(b[name], a[name], rtol=1e-3, atol=0, msg=lambda m, n=name: f"{n}: {m}")
    ours, theirs = (load_file(run / "model/model.safetensors") for run in (one, other))
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=0, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


CHECKS = (
    check_sequence_gradients,
    check_sequence_adamw,
    check_sequence_muon,
    check_sequence_bf16,
    check_sequence_fp8,
    check_sequence_compiled,
    check_sequence_recomputed,
    check_sequence_group,
    check_sequence_resume,
)

QUICK = (check_sequence_gradients,)
SLOW = (check_sequence_inductor,)


def main(data: Path, folder: Path) -> None:
    world = start_world()
    for check in CHECKS:
        check(world, data, folder)
        print(check.__name__, flush=True)
    stop_world()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
