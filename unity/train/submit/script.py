"""The batch script of a training, as text."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unity.train.revision import ROOT, is_checkout
from unity.train.submit.options import Submission

# beside a run's checkpoints: what was submitted, and what became of it
FOLDER = "slurm"
# the code with which `unity.train.submit.after` asks for another go
AGAIN = 85


@dataclass(frozen=True, kw_only=True)
class Commands:
    """The words after launchers/train.py: of a job's first start, and of all that follow."""

    first: tuple[str, ...]
    again: tuple[str, ...]


def commands(args: Sequence[str], stage: int, run: Path) -> Commands:
    """What is given stays given; a later start resumes the run itself, and needs no weights to start from."""
    named = any(word.partition("=")[0] == "--out" for word in args)
    later = without(args, "--out", "--resume", "--init", "--stage")
    return Commands(
        first=tuple(args) if named else (*args, "--out", str(run)),
        again=(*later, "--stage", str(stage), "--resume", str(run)),
    )


def without(args: Sequence[str], *flags: str) -> tuple[str, ...]:
    """A command line without some flags and their values."""
    kept, leaves = [], False
    for word in args:
        if word.startswith("--"):
            leaves = word.partition("=")[0] in flags
        kept += [] if leaves else [word]
    return tuple(kept)


def script(submission: Submission, words: Commands, run: Path, train: Path, place: Path) -> str:
    """Text for sbatch: `run` and `train` are absolute, `place` is where relative paths begin."""
    return "\n".join(
        [
            "#!/bin/bash",
            *(f"#SBATCH --{line}" for line in _directives(submission, run)),
            "set -uo pipefail",
            "# SIGTERM: SLURM ends this job, or requeues it by itself; the run saves, and nothing else is to do",
            "ended=0",
            "trap 'ended=1' TERM",
            f"cd {shlex.quote(str(place))}",
            *submission.setup,
            *_variables(submission, run),
            *_ranks(submission, words, train),
            "code=$?",
            '"$python" -m unity.train.submit.after "$run" "$code" "$ended"',
            "next=$?",
            f'[ "$next" = {AGAIN} ] && exec scontrol requeue "$SLURM_JOB_ID"',
            'exit "$next"',
            "",
        ]
    )


def _directives(submission: Submission, run: Path) -> list[str]:
    cores, tasks = submission.cpus_per_gpu, submission.ranks_per_node
    if submission.form == "deepspeed":
        cores, tasks = cores * tasks, 1
    lines = [f"job-name=unity-{run.name.replace(' ', '-')}", f"nodes={submission.nodes}"]
    lines += [f"ntasks-per-node={tasks}", f"cpus-per-task={cores}", f"time={submission.time}"]
    if submission.gpus_per_node:
        lines.append(f"gpus-per-node={submission.gpus_per_node}")
    lines += [f"{name}={v}" for name in ("partition", "account") if (v := getattr(submission, name)) is not None]
    lines += [f"signal=USR1@{submission.leave_before}", "requeue", "open-mode=append"]
    # SLURM's own signs in names of files
    log = str(run / FOLDER / "job.log").replace("%", "%%")
    return [*lines, f'output="{log}"', *submission.sbatch]


def _variables(submission: Submission, run: Path) -> list[str]:
    lines = [f"run={shlex.quote(str(run))}", f"python={shlex.quote(sys.executable)}"]
    if is_checkout():
        lines.append(f"export PYTHONPATH={shlex.quote(str(ROOT))}${{PYTHONPATH:+:$PYTHONPATH}}")
    return [
        *lines,
        'first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        'MASTER_ADDR=$(scontrol show node --oneliner "$first" | grep -o "NodeAddr=[^ ]*" | cut -d = -f 2)',
        "# each go has its own, below the system's: ranks of the one before may still be leaving",
        "MASTER_PORT=$((20000 + (SLURM_JOB_ID + 7919 * ${SLURM_RESTART_COUNT:-0}) % 12000))",
        "export MASTER_ADDR MASTER_PORT PYTHONUNBUFFERED=1",
        "# since SLURM 22.05, srun does not take this over from sbatch",
        "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK",
        f"export UNITY_RANKS_PER_NODE={submission.ranks_per_node} UNITY_GPUS_PER_NODE={submission.gpus_per_node}",
    ]


def _ranks(submission: Submission, words: Commands, train: Path) -> list[str]:
    lines = [
        f"train={shlex.quote(str(train))}",
        "# a run that has begun since it was submitted goes on; any other starts as it was asked to",
        f'if [ "$run/config.json" -nt "$run/{FOLDER}/submission.json" ]; then',
        f"    options=({shlex.join(words.again)})",
        "else",
        f"    options=({shlex.join(words.first)})",
        "fi",
    ]
    if submission.form == "srun":
        return [
            *lines,
            "srun --kill-on-bad-exit=1 bash -c '",
            "    export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID",
            "    export LOCAL_WORLD_SIZE=$UNITY_RANKS_PER_NODE",
            '    exec "$@"\' rank "$python" "$train" "${options[@]}"',
        ]
    return [
        *lines,
        f"hosts=$run/{FOLDER}/hosts-$SLURM_JOB_ID",
        'scontrol show hostnames "$SLURM_JOB_NODELIST" | sed "s/$/ slots=$UNITY_RANKS_PER_NODE/" >"$hosts"',
        "# the launchers are deaf to the signal that their ranks listen to",
        "srun --kill-on-bad-exit=1 bash -c '",
        '    trap "" USR1',
        '    exec "$1" -m deepspeed.launcher.runner --hostfile "$2" --no_ssh --node_rank "$SLURM_NODEID" \\',
        '        --master_addr "$MASTER_ADDR" --master_port "$MASTER_PORT" "${@:3}"\' \\',
        '    node "$python" "$hosts" "$train" "${options[@]}"',
    ]
