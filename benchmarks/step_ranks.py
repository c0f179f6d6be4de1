"""Ranks that share the samples of `step_bench`, each with a slice of their tokens, as a launcher starts them."""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout

import torch.distributed as dist
from torch import nn

SIZE, RANK = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))


@contextmanager
def together() -> Iterator[None]:
    """Inside, the ranks know each other, and rank 0 alone prints."""
    if SIZE == 1:
        yield
        return
    # DeepSpeed is not needed for one
    from unity.train.world import start_world, stop_world

    start_world()
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere if RANK else sys.stdout):
        yield
    stop_world()


def share(model: nn.Module) -> None:
    """Let a model work on a slice of the tokens, as training does with --sequence-parallel of all ranks."""
    from unity.train.sequence import join

    model.peers = join(SIZE).peers()


def average(parameters: Iterable[nn.Parameter]) -> None:
    """Gradients to their mean over the ranks, each of which computes the loss of whole samples."""
    if SIZE > 1:
        for parameter in parameters:
            dist.all_reduce(parameter.grad)
            parameter.grad /= SIZE
