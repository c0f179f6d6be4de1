"""What a batch job can be told beside the training in it, and where the two command lines part."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Literal

from unity.command import check_bounds, whole

# lines of #SBATCH that the script writes itself, or that would take its log or its ranks away
_OURS = {
    "nodes", "ntasks", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "time", "partition", "account",
    "signal", "requeue", "no-requeue", "open-mode", "output", "error", "job-name", "array", "chdir",
}  # fmt: skip
# minutes, minutes:seconds, hours:minutes:seconds, and days before hours
_TIME = r"\d{1,6}(:\d{1,2}){0,2}|\d{1,4}-\d{1,2}(:\d{1,2}){0,2}"


@dataclass(frozen=True, kw_only=True)
class Submission:
    """Hand a training to SLURM: these flags are the job's; all others are those of launchers/train.py, see below.

    The job saves and leaves before its time is over, or when it is told to, and hands itself in again until its
    last step is done.
    """

    # machines
    nodes: Annotated[int, whole(1, 4096)] = 1
    # GPUs of a node, with a rank each; 0: a rank a node, on its processors
    gpus_per_node: Annotated[int, whole(0, 64)] = 8
    # processor cores of a rank
    cpus_per_gpu: Annotated[int, whole(1, 512)] = 8
    # the longest that the job runs before it hands itself in again: minutes, hours:minutes:seconds, days-hours
    time: str = "24:00:00"
    # where and on whose account the job runs; by default the cluster's choice
    partition: str | None = None
    account: str | None = None
    # who starts the ranks: srun each of them, or srun a deepspeed launcher on each node
    form: Literal["srun", "deepspeed"] = "srun"
    # seconds before the end of its time at which the job saves and leaves: more than a checkpoint takes
    leave_before: Annotated[int, whole(10, 65_535)] = 300
    # times that a job which got no step further, or died of anything but its user's mistake, is tried again
    retries: Annotated[int, whole(0, 100)] = 3
    # more lines for SLURM, without #SBATCH and dashes, as: qos=high mem=0
    sbatch: tuple[str, ...] = ()
    # lines of shell before the ranks start, as: "module load cuda"
    setup: tuple[str, ...] = ()
    # show the script, and write and submit nothing
    dry_run: bool = False

    def __post_init__(self):
        if not re.fullmatch(_TIME, self.time, re.ASCII):
            raise ValueError(f"time is {self.time!r}; give --time as 24:00:00, as minutes or as days-hours")
        for name in ("partition", "account"):
            value = getattr(self, name)
            if value is not None and not re.fullmatch(r"[\w.,@+-]+", value):
                raise ValueError(f"{name} is {value!r}; give --{name} a name of the cluster's")
        for line in self.sbatch:
            found = re.fullmatch(r"([a-z][a-z-]*)(=[^\s#'\"]+)?", line)
            if found is None:
                raise ValueError(f"sbatch is {line!r}; give --sbatch lines as qos=high, without dashes and blanks")
            if found[1] in _OURS:
                raise ValueError(f"--sbatch {line} is decided by the flags of this program; leave it out")

    @property
    def ranks_per_node(self) -> int:
        return max(1, self.gpus_per_node)

    @property
    def ranks(self) -> int:
        return self.nodes * self.ranks_per_node


FLAGS = {f"--{field.name.replace('_', '-')}" for field in fields(Submission)} | {"--no-dry-run"}


def parted(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """A command line's words for the job, and those for the training in it."""
    ours, theirs = [], []
    into = theirs
    for word in args:
        if word.startswith("--"):
            into = ours if word.partition("=")[0].replace("_", "-") in FLAGS else theirs
        into.append(word)
    return ours, theirs


def parse(args: Sequence[str]) -> Submission:
    """Raises ValueError for what cannot be; unknown flags end the program with code 2."""
    # imported late: after it, an interruption ends in a traceback
    import tyro

    submission = tyro.cli(Submission, args=args, prog="launchers/submit.py")
    check_bounds(submission)
    return submission
