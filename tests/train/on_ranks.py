"""All that has to be checked on several ranks, run once by the fixture `two_ranks`; one line for each check."""

import sys
from pathlib import Path

import engine_on_ranks
import sequence_on_ranks
import train_on_ranks

from unity.train.world import start_world, stop_world


def main(data: Path, folder: Path) -> None:
    world = start_world()
    for check in engine_on_ranks.CHECKS:
        check(world)
        print(check.__name__, flush=True)
    for check in (*train_on_ranks.CHECKS, *sequence_on_ranks.QUICK):
        check(world, data, folder)
        print(check.__name__, flush=True)
    stop_world()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
