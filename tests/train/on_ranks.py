"""What has to be checked on two ranks, run once by the fixtures `two_ranks` and `two_ranks_more`; a line each."""

import sys
from pathlib import Path

import engine_on_ranks
import sequence_on_ranks
import train_on_ranks

from unity.train.world import start_world, stop_world

CHECKS = {
    "quick": (*engine_on_ranks.QUICK, *train_on_ranks.CHECKS, *sequence_on_ranks.QUICK),
    "slow": (*engine_on_ranks.SLOW, *sequence_on_ranks.SLOW),
}


def main(which: str, data: Path, folder: Path) -> None:
    world = start_world()
    for check in CHECKS[which]:
        check(world, data, folder)
        print(check.__name__, flush=True)
    stop_world()


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:]))
