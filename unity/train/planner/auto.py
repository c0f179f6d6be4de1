"""`--plan auto` of launchers/train.py: what the planner recommends for a run on this machine."""

import os
from dataclasses import replace

import torch

from unity import ops
from unity.train.latents import reads_latents
from unity.train.options import Options
from unity.train.planner.count import Trained, sample
from unity.train.planner.gpus import GIB, GPUS, USABLE, Attention, Gpu, card
from unity.train.planner.options import Options as Asked
from unity.train.planner.plan import SIZES, Choice, Job, Limits, Plan, best, leanest, undivided
from unity.train.planner.show import describe, memory_line
from unity.train.world import device_kind

# of a processor: its memory is asked for, the rest only makes more arithmetic take longer
_PROCESSOR = Gpu(memory=0, bandwidth=2e10, bf16=1e11, fp8=None, link=1e10, network=1e9, bus=1e10)


def recommended(options: Options, ranks: int) -> Choice:
    """What to leave to the planner of options that name model, clips, batch and precision.

    What is given of a choice stays. Raises ValueError where nothing fits.
    """
    job, limits = _job(options, ranks), _limits(options)
    plan = best(job, limits)
    if plan is None:
        least = leanest(job, limits)
        if least is None:
            raise ValueError(f"--plan auto finds no plan: {undivided(job, limits)}")
        why = f"at least {least.peak / GIB:.1f} GiB a rank, of {USABLE * job.gpu.memory / GIB:.1f} usable"
        raise ValueError(
            f"--plan auto finds nothing that fits: {why}; give smaller --size or fewer --frames, more ranks, or "
            f"--lora.rank 32"
        )
    return plan.choice


def line(config: Options, ranks: int) -> str:
    """What a configuration, recommended or not, is expected to take on this machine."""
    assert config.sequence_parallel and config.micro_batch and config.recompute
    choice = Choice(
        sequence_parallel=config.sequence_parallel, micro_batch=config.micro_batch, recompute=config.recompute
    )
    plan = Plan(job=_job(config, ranks), choice=choice)
    time = f", {plan.step:.3g} s a step" if device_kind() == "cuda" else ""
    return f"plan: {describe(plan)}; GiB a rank: {memory_line(plan)}{time}"


def ideal_seconds(config: Options, ranks: int) -> float | None:
    """What a step would take at the dense bf16 peak, by the published FLOPs; None without GPUs of a known kind."""
    gpu = here()
    if gpu is None:
        return None
    choice = Choice(sequence_parallel=1, micro_batch=1, recompute="none")
    return sum(Plan(job=_job(config, ranks), choice=choice).flops.values()) / (ranks * gpu.bf16)


def trained(options: Options) -> Trained:
    """What of the model a run trains."""
    adapters = options.lora
    kind = options.optim.kind or "adamw"
    return Trained(
        lora_rank=adapters.rank, lora_targets=adapters.targets, optimizer=kind, storage=options.base_storage
    )


def here() -> Gpu | None:
    """The row of this machine's GPUs; None where there are none, or of a kind that has no row."""
    if device_kind() != "cuda":
        return None
    return card(torch.cuda.get_device_name(0), torch.cuda.get_device_properties(0).total_memory)


def _job(options: Options, ranks: int) -> Job:
    assert options.frames and options.size and options.batch_size and options.precision
    config = options.architecture
    return Job(
        config=config, trained=trained(options), sample=sample(config, options.frames, options.size, Asked.words),
        pixels=options.size[0] * options.size[1], precision=options.precision, batch_size=options.batch_size,
        gpu=_here(), gpus=ranks, encoders=not reads_latents(options),
        offload=options.offload, attention=_attention(),
    )  # fmt: skip


def _attention() -> Attention:
    """What computes a long clip's here."""
    if device_kind() != "cuda":
        return "flash"
    name = ops.attends(8192, 1, 128, torch.bfloat16, torch.device("cuda"))
    return "cudnn" if name == "cudnn" else "flash"


def _limits(options: Options) -> Limits:
    cuts = (options.sequence_parallel,) if options.sequence_parallel else SIZES
    limits = Limits(sequence_parallel=cuts, micro_batch=options.micro_batch)
    return limits if options.recompute is None else replace(limits, recompute=(options.recompute,))


def _here() -> Gpu:
    together = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device_kind() == "cuda":
        memory = torch.cuda.get_device_properties(0).total_memory
        found = here() or replace(GPUS["RTX4090"], memory=memory)
    else:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / together
        found = replace(_PROCESSOR, memory=memory)
    return replace(found, together=together)
