"""From two command lines to a batch job: check as training would, freeze, write, submit."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from unity.data.buckets import describe
from unity.files import remove, write_json, write_text
from unity.train import loop
from unity.train.config import TrainConfig, parse, resolve
from unity.train.config_file import to_plain
from unity.train.folder import held
from unity.train.options import SIMULATED, Options
from unity.train.remote import visiting
from unity.train.revision import difference, revision
from unity.train.run import engine_settings
from unity.train.submit import slurm
from unity.train.submit.options import Submission
from unity.train.submit.script import FOLDER, commands, script
from unity.train.world import expecting


@dataclass(frozen=True, kw_only=True)
class Job:
    """What would be handed in."""

    submission: Submission
    # as the nodes will fill it in, but for --plan auto
    config: TrainConfig
    arguments: tuple[str, ...]
    # absolute
    run: Path
    script: str


def prepare(submission: Submission, args: Sequence[str], train: Path) -> Job:
    """Refuses, with a ValueError and before anything is written, all that training would refuse on the nodes."""
    with expecting("cuda" if submission.gpus_per_node else "cpu"):
        config = checked(args, submission.ranks, train)
    run = config.out.absolute()
    text = script(submission, commands(args, config.stage, run), run, train, Path.cwd())
    slurm.check_shell(text)
    return Job(submission=submission, config=config, arguments=tuple(args), run=run, script=text)


def checked(args: Sequence[str], ranks: int, train: Path) -> TrainConfig:
    """The configuration of a command line of launchers/train.py, as of that many ranks."""
    with visiting() as visit:
        options = parse(args, ranks=ranks, visit=visit)
        return _complete(replace(options, deepspeed=options.deepspeed or train.with_name("zero3.json")), ranks)


def _complete(options: Options, ranks: int) -> TrainConfig:
    loop.refuse(options, ranks)
    data = options.data or SIMULATED
    if not data.exists() and options.data is None:
        raise ValueError(
            f"{data} is not there yet, and GPUs would wait for it; python -m unity.data.simulate --out {data} "
            f"makes it, --data names another dataset"
        )
    if options.plan == "auto" and not torch.cuda.is_available():
        # it asks the GPUs, so it is for the nodes to say
        options = replace(options, plan="given")
    config = resolve(options, describe(data), ranks)
    engine_settings(config, ranks)
    return config


def hand_in(job: Job, say: Callable[[str], None] = print) -> int:
    """Freeze the job in its run folder and submit it; returns its id.

    Raises ValueError where there is no SLURM, where the run is queued or running already, and where sbatch
    refuses; a new run leaves nothing behind then.
    """
    slurm.require()
    with held(job.run):
        place = job.run / FOLDER
        _refuse_twice(place / "job.json", job.run)
        new = not place.exists()
        try:
            _freeze(job, place)
            number = slurm.submit(place / "job.sh")
        except BaseException:
            if new:
                remove(place)
            raise
        write_json(place / "job.json", {"job": number, "submitted": time.time()})
    for line in _ways(number, job):
        say(line)
    return number


def _refuse_twice(record: Path, run: Path) -> None:
    if not record.exists():
        return
    try:
        number = int(json.loads(record.read_bytes())["job"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{record} is damaged, so who trains {run} is not known; remove it if nobody") from error
    state = slurm.state(number)
    if state is not None:
        raise ValueError(
            f"{run} is that of job {number}, which is {state}; wait for it, end it with scancel {number}, or give "
            f"another --out"
        )


def _freeze(job: Job, place: Path) -> None:
    """Configuration, revision and script; the first is written last, as the script compares its time."""
    code = revision()
    write_text(place / "job.sh", job.script)
    remove(place / "goes.json")
    remove(place / "code.diff")
    if patch := difference():
        write_text(place / "code.diff", patch)
    write_json(
        place / "submission.json",
        {
            "job": asdict(job.submission), "arguments": job.arguments, "config": to_plain(job.config),
            "code": asdict(code),
        },
    )  # fmt: skip


def _ways(number: int, job: Job) -> list[str]:
    run = job.run
    return [
        f"job {number}: {job.submission.ranks} ranks on {job.submission.nodes} nodes, {revision()}, frozen in "
        f"{run / FOLDER}",
        f"watch: tail -F {run / FOLDER / 'job.log'}, squeue --jobs={number}",
        f"stop: scancel --full --signal=TERM {number} (saves and leaves; scancel {number} does not wait long)",
        f"continue: submit with --stage {job.config.stage} --resume {run}",
    ]
