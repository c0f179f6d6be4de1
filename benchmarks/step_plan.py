"""What the planner has for a step of `step_bench`, to stand beside what was measured."""

import math

import torch
from block_cases import WORDS

from unity.config import ModelConfig
from unity.train.planner.count import Sample, Trained
from unity.train.planner.gpus import Gpu, card
from unity.train.planner.plan import Choice, Job, Plan

# contestants that it knows: kind of recomputation, precision
PLANNED = {"unity": ("full", "bf16"), "unity selective": ("selective", "bf16"), "unity fp8": ("full", "fp8")}
# of the benchmark's own update, a parameter: bfloat16 weight and gradient, float32 master and two moments
_STATE = 16


def planned(name: str, config: ModelConfig, tokens: int, dtype: torch.dtype) -> dict[str, float | None]:
    """Milliseconds and bytes of a contestant's step on this machine's card, where both are rows of tables."""
    gpu = _here()
    if gpu is None or name not in PLANNED or dtype != torch.bfloat16:
        return {"planned_ms": None, "planned_bytes": None}
    return figures(name, config, tokens, gpu)


def figures(name: str, config: ModelConfig, tokens: int, gpu: Gpu) -> dict[str, float | None]:
    """The same on any card."""
    kind, precision = PLANNED[name]
    size = Sample(tokens=tokens // 2, cells=tokens // 2 * math.prod(config.patch), words=WORDS)
    job = Job(
        config=config, trained=Trained(), sample=size, pixels=0, precision=precision, batch_size=1, gpu=gpu,
        gpus=1, encoders=False,
    )  # fmt: skip
    plan = Plan(job=job, choice=Choice(sequence_parallel=1, micro_batch=1, recompute=kind))
    held = _STATE * job.parameters.total + plan.bytes["activations"] + plan.bytes["latents"]
    return {"planned_ms": 1e3 * plan.step, "planned_bytes": held}


def _here() -> Gpu | None:
    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    return card(properties.name, properties.total_memory)
