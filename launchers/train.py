"""Train a model: `deepspeed launchers/train.py --stage 1`, or `python` in place of `deepspeed` for one process."""

import sys
from dataclasses import replace
from pathlib import Path

from unity.train.config import TrainConfig, parse
from unity.train.engine import start_world, stop_world
from unity.train.loop import train


def main() -> None:
    # the deepspeed launcher puts this before our own flags
    args = [argument for argument in sys.argv[1:] if not argument.startswith("--local_rank")]
    world = start_world()
    try:
        train(with_deepspeed(parse(args, talkative=world.leads)), world)
    except (ValueError, FloatingPointError) as error:
        # what all ranks know is said once, what only one of them knows by that one
        shared = isinstance(error, FloatingPointError) or hasattr(error, "__notes__")
        sys.exit(f"train: {error}" if world.leads or not shared else 1)
    stop_world()


def with_deepspeed(config: TrainConfig) -> TrainConfig:
    return replace(config, deepspeed=config.deepspeed or Path(__file__).with_name("zero3.json"))


if __name__ == "__main__":
    main()
