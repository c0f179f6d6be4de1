"""Train a model: `deepspeed launchers/train.py --stage 1`, or `python` in place of `deepspeed` for one process."""

import sys
from dataclasses import replace
from pathlib import Path

from unity.extras import MissingExtra, require


def main() -> None:
    try:
        require("train")
    except MissingExtra as error:
        sys.exit(f"train: {error}")
    # imported late: where the extra is missing, that is the answer and not a traceback
    from unity.train.loop import train
    from unity.train.options import parse
    from unity.train.zero import start_world, stop_world

    # the deepspeed launcher puts this before our own flags
    args = [argument for argument in sys.argv[1:] if not argument.startswith("--local_rank")]
    world = start_world()
    try:
        config = parse(args, talkative=world.leads)
        train(replace(config, deepspeed=config.deepspeed or Path(__file__).with_name("zero3.json")), world)
    except (ValueError, FloatingPointError) as error:
        # what all ranks know is said once, what only one of them knows by that one
        shared = isinstance(error, FloatingPointError) or hasattr(error, "__notes__")
        sys.exit(f"train: {error}" if world.leads or not shared else 1)
    stop_world()


if __name__ == "__main__":
    main()
