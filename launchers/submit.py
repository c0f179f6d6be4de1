"""Hand a training to SLURM: `python launchers/submit.py --nodes 8 --stage 1 --model 10b --data data/mine`."""

import sys
from pathlib import Path

from unity.command import end
from unity.extras import require


def main() -> None:
    require("train")
    from unity.modality.plug_in import use_arguments
    from unity.train.submit.options import parse, parted

    ours, theirs = parted(sys.argv[1:])
    use_arguments(theirs)
    if {"--help", "-h"} & {*ours, *theirs}:
        _explain()
        return
    submission = parse(ours)
    # imported late: seconds, and what is wrong with the job's own flags is said before
    from unity.train.submit.hand_in import hand_in, prepare

    job = prepare(submission, theirs, Path(__file__).resolve().with_name("train.py"))
    if submission.dry_run:
        print(job.script, end="")
    else:
        hand_in(job)


def _explain() -> None:
    """The job's own flags, then those of launchers/train.py."""
    from contextlib import suppress

    from unity.train.config import parse as parse_training
    from unity.train.submit.options import parse

    for shown in (parse, parse_training):
        with suppress(SystemExit):
            shown(["--help"])


if __name__ == "__main__":
    end("submit", main)
