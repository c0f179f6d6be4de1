"""Train a model: `deepspeed launchers/train.py --stage 1`, or `python` in place of `deepspeed` for one process."""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from unity.command import end
from unity.extras import require


def main() -> None:
    require("train")
    from unity.modality.plug_in import use_arguments

    # before anything knows the table of modalities
    use_arguments(sys.argv[1:])
    # imported late: where the extra is missing, that is the answer and not a traceback
    from unity.train.config import parse
    from unity.train.loop import train
    from unity.train.remote import visiting
    from unity.train.world import start_world, told_once

    # the deepspeed launcher puts this before our own flags
    args = [argument for argument in sys.argv[1:] if not argument.startswith("--local_rank")]
    world = start_world()
    with told_once(world), visiting() as visit:
        options = world.from_lead(partial(parse, args, ranks=world.size, visit=visit))
        default = Path(__file__).with_name("zero3.json")
        train(replace(options, deepspeed=options.deepspeed or default), world)


if __name__ == "__main__":
    # seconds of imports, and only here: nothing before this line needs them
    from unity.train.signals import leave_after

    leave_after(partial(end, "train", main))
