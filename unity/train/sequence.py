"""Sequence parallelism: the ranks that share samples, each with a slice of their tokens (unity.model.sequence).

Ranks i·size … i·size + size - 1 are a *group*: they see the same clips, times, tasks, noise and texts, and compute
the same loss, that of whole samples. DeepSpeed knows nothing of groups. ZeRO-3's gradients are a mean over all
ranks, which is exact then: of a group's ranks each has the gradients of all their losses through its own slice.
Told of groups, DeepSpeed would multiply that mean by their size on one of its paths and not on the other.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from unity.config import ModelConfig
from unity.model.sequence import Peers
from unity.model.strides import STRIDES, extent
from unity.train.world import PATIENCE


@dataclass(frozen=True, kw_only=True)
class SequenceGroup:
    """This rank's group and its place in it; by default alone."""

    rank: int = 0
    size: int = 1
    processes: dist.ProcessGroup | None = None

    def peers(self) -> Peers | None:
        """What the model cuts its tokens by: DeepSpeed's exchange, as an operator that torch.compile leaves whole.

        An autograd.Function around a collective it might inline, whose gradients then are zero.
        """
        if self.processes is None:
            return None
        from deepspeed.sequence.layer import register_all_to_all_group

        # DeepSpeed declares a group of its own, and means torch's
        name = register_all_to_all_group(self.processes)  # pyright: ignore[reportArgumentType]

        # a plain function: DeepSpeed warns of other objects among a module's inputs
        def exchange(parts: Tensor) -> Tensor:
            return torch.ops.deepspeed.dim_zero_all_to_all(parts.contiguous(), name)

        return Peers(self.rank, self.size, exchange)

    def share_out(self, jobs: Sequence[Callable[[], Tensor]]) -> list[Tensor]:
        """What each of the jobs gives, on all ranks: tensors of one shape.

        Of at most as many jobs as ranks, each rank does one, and spare ranks the same ones again.
        """
        if self.processes is None:
            return [job() for job in jobs]
        assert len(jobs) <= self.size
        mine = jobs[self.rank % len(jobs)]().contiguous()
        made = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(made, mine, group=self.processes)
        return made[: len(jobs)]


def join(size: int) -> SequenceGroup:
    """The group of `size` ranks that this rank is in; all ranks must call it."""
    if size == 1:
        return SequenceGroup()
    processes, _ = dist.new_subgroups(size, timeout=PATIENCE)
    return SequenceGroup(rank=dist.get_rank(processes), size=size, processes=processes)


def check(size: int, ranks: int, heads: int, tokens: int | None = None) -> None:
    """ValueError, with the sizes that do, for groups that cannot share `heads` and a stream's `tokens`."""
    counts = {"ranks": ranks, "heads": heads}
    if tokens is not None:
        counts["tokens of a stream"] = tokens
    for name, count in counts.items():
        if count % size:
            common = math.gcd(*counts.values())
            fits = ", ".join(str(n) for n in range(1, common + 1) if common % n == 0)
            having = ", ".join(f"{count} {name}" for name, count in counts.items())
            raise ValueError(
                f"--sequence-parallel {size} does not divide {count} {name}; of {having} it can be {fits}"
            )


def tokens(model: ModelConfig, frames: int, size: tuple[int, int]) -> int:
    """Of one stream of a clip with `frames` frames of `size` (h, w)."""
    latent = extent(STRIDES[model.codec], frames, size)
    return math.prod(edge // patch for edge, patch in zip(latent, model.patch, strict=True))
