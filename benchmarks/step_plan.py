"""What the planner has for a step of `step_bench`, to stand beside what was measured."""

import math

import torch
from block_cases import WORDS
from step_cases import Contestant

from unity.config import ModelConfig
from unity.train.planner.count import Sample, Trained
from unity.train.planner.gpus import Attention, Gpu, card
from unity.train.planner.plan import Choice, Job, Plan

# of the benchmark's own update, a parameter: bfloat16 weight and gradient, float32 master and two moments
_STATE = 16


def planned(
    contestant: Contestant, config: ModelConfig, tokens: int, dtype: torch.dtype, attention: str
) -> dict[str, float | None]:
    """Milliseconds and bytes of a contestant's step on this machine's card, where it is a row of a table.

    Of our own code as it runs: the planner knows nothing of plain torch, nor of torch.compile.
    """
    gpu = _here()
    if gpu is None or contestant.plain or contestant.compiled or dtype != torch.bfloat16:
        return {"planned_ms": None, "planned_bytes": None}
    return figures(contestant, config, tokens, gpu, "cudnn" if attention == "cudnn" else "flash")


def figures(
    contestant: Contestant, config: ModelConfig, tokens: int, gpu: Gpu, attention: Attention = "flash"
) -> dict[str, float | None]:
    """The same on any card."""
    size = Sample(tokens=tokens // 2, cells=tokens // 2 * math.prod(config.patch), words=WORDS)
    precision, samples = "fp8" if contestant.fp8 else "bf16", contestant.samples
    job = Job(
        config=config, trained=Trained(), sample=size, pixels=0, precision=precision, batch_size=samples, gpu=gpu,
        gpus=contestant.cut, encoders=False, attention=attention,
    )  # fmt: skip
    choice = Choice(sequence_parallel=contestant.cut, micro_batch=samples, recompute=contestant.recompute)
    plan = Plan(job=job, choice=choice)
    held = _STATE * job.parameters.total + plan.bytes["activations"] + plan.bytes["latents"]
    return {"planned_ms": 1e3 * plan.step, "planned_bytes": held}


def _here() -> Gpu | None:
    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    return card(properties.name, properties.total_memory)
