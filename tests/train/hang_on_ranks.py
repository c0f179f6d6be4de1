"""A rank under a watchdog of three seconds' patience, which says where it is and then hangs, or does not."""

import os
import sys
import time
from pathlib import Path

import torch

from unity.train.meeting import meet
from unity.train.watchdog import watched
from unity.train.world import World


def go(kind: str, run: Path) -> None:
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = meet(rank, size)
    world = World(rank=rank, size=size, local_rank=rank, device=torch.device("cpu"), store=store)
    with watched(world, run, minutes=3 / 60) as dog:
        # a first step may take longer than the patience
        time.sleep(4)
        for step in range(5):
            dog.at(step, "read")
            time.sleep(0.1)
            dog.at(step, "compute")
            time.sleep(0.1)
        if kind == "goes":
            # rank 0 holds the store
            time.sleep(0.5 * (rank == 0))
            return
        dog.at(5, "read")
        if rank == 0 or kind == "stops":
            dog.at(5, "compute")
        (run / f"ready-{rank}").touch()
        time.sleep(600)


go(sys.argv[1], Path(sys.argv[2]))
