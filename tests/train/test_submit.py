"""A training that is handed to SLURM: what is refused, what is frozen, and when it is handed in again."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from unity.train import revision as code
from unity.train.submit.after import decide
from unity.train.submit.hand_in import hand_in, prepare
from unity.train.submit.options import Submission, parse, parted
from unity.train.submit.script import AGAIN, commands

ROOT = Path(__file__).parents[2]
TRAIN = ROOT / "launchers" / "train.py"


def flags(dataset: Path, out: Path, *more) -> list[str]:
    small = ["--stage", 1, "--model", "debug", "--steps", 4, "--batch-size", 4, "--picture-every", 0]
    return [str(flag) for flag in [*small, "--data", dataset, "--out", out, *more]]


def names(path: Path) -> set[str]:
    return {str(found.relative_to(path)) for found in path.rglob("*")}


def program(folder: Path, name: str, text: str) -> None:
    """A stand-in on the PATH."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def cluster(tmp_path, monkeypatch) -> Path:
    """sbatch that gives the id 71, and squeue that knows of it what the file `state` says."""
    programs = tmp_path / "programs"
    program(programs, "sbatch", 'echo "71;cluster"')
    said = '[ -s "$(dirname "$0")/state" ] && cat "$(dirname "$0")/state" && exit'
    program(programs, "squeue", f'{said}\necho "slurm_load_jobs error: Invalid job id specified" >&2; exit 1')
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return programs


# flags of the job or of the training → a word of the sentence
REFUSED = {
    "--nodes 0": "nodes is 0",
    "--time soon": "--time as 24:00:00",
    "--partition a;b": "name of the cluster's",
    "--sbatch --qos=high": "nrecognized",
    "--sbatch signal=USR2@1": "decided by the flags",
    "--sbatch qos=$(id)#": "as qos=high",
    "--setup if": "bash can read",
    "--steps 0": "steps is 0",
    "--nodes 3": "not a multiple of 3 ranks",
    "--sequence-parallel 3": "sequence-parallel|ranks",
    "--data nowhere": "no dataset",
    "--deepspeed nowhere.json": "nowhere.json",
    "--no-such-flag 1": "no-such-flag",
    "--resume nowhere": "no run folder",
    "--lora.rank 4": "name them with --init",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_is_refused_is_refused_before_anything_is_written(dataset, cluster, tmp_path, words, world, capsys):
    before = names(tmp_path)
    ours, theirs = parted([*flags(dataset, tmp_path / "run"), "--gpus-per-node", "0", *words.split()])
    with pytest.raises((ValueError, SystemExit)) as refused:
        prepare(parse(ours), theirs, TRAIN)
    # what the command line itself refuses stands in a box on stderr
    said = str(refused.value) + " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert re.search(REFUSED[words], said), said
    assert names(tmp_path) == before


def test_a_dry_run_shows_a_script_and_writes_nothing(dataset, tmp_path):
    before = names(tmp_path)
    more = ["--nodes", "2", "--gpus-per-node", "0", "--account", "video", "--sbatch", "qos=high", "mem=0"]
    done = subprocess.run(
        [sys.executable, ROOT / "launchers/submit.py", *more, "--setup", "module load cuda", "--dry-run"]
        + flags(dataset, tmp_path / "a run"),
        env=os.environ | {"PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert names(tmp_path) == before
    subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=True)
    lines = done.stdout.splitlines()
    wanted = {"nodes=2", "ntasks-per-node=1", "account=video", "qos=high", "mem=0", "signal=USR1@300", "requeue"}
    assert {f"#SBATCH --{word}" for word in wanted} <= set(lines)
    assert "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK" in lines
    assert f'#SBATCH --output="{tmp_path}/a run/slurm/job.log"' in lines and "module load cuda" in lines
    assert not any("gpus-per-node" in line for line in lines if line.startswith("#SBATCH"))
    # jobs side by side have ports of their own, and so has each go of one: ranks of the last may still be leaving
    (line,) = [line for line in lines if line.startswith("MASTER_PORT=")]
    goes = [f"SLURM_JOB_ID={job} SLURM_RESTART_COUNT={go}" for job in range(100, 110) for go in ("", 1, 2, 3)]
    every = "".join(f"{given}; {line}; echo $MASTER_PORT\n" for given in goes)
    ports = subprocess.run(["bash", "-c", every], capture_output=True, text=True, check=True).stdout.split()
    assert len(set(ports)) == len(goes) and all(20_000 <= int(port) < 32_000 for port in ports)


def test_without_slurm_it_says_so_and_writes_nothing(dataset, tmp_path, monkeypatch, world):
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    monkeypatch.setattr("unity.train.submit.slurm.check_shell", lambda script: None)
    job = prepare(Submission(gpus_per_node=0), flags(dataset, tmp_path / "run"), TRAIN)
    with pytest.raises(ValueError, match="no sbatch on this machine.*--dry-run"):
        hand_in(job)
    assert not (tmp_path / "run").exists()


def test_it_freezes_configuration_and_code_and_says_how_to_go_on(dataset, cluster, tmp_path, world):
    said, run = [], tmp_path / "run"
    job = prepare(Submission(nodes=2, gpus_per_node=2), flags(dataset, run), TRAIN)
    assert hand_in(job, said.append) == 71
    place = run / "slurm"
    frozen = json.loads((place / "submission.json").read_text())
    assert frozen["config"]["steps"] == 4 and frozen["config"]["out"] == str(run)
    # as GPUs will have it, though none is here
    assert frozen["config"]["precision"] == "bf16" and frozen["config"]["micro_batch"] == 1
    assert frozen["code"]["commit"] == code.revision().commit and len(frozen["code"]["digest"]) == 64
    assert (place / "code.diff").exists() == bool(code.difference())
    assert (place / "job.sh").read_text() == job.script
    assert json.loads((place / "job.json").read_text())["job"] == 71
    assert not (run / ".lock").exists()
    assert "job 71: 4 ranks on 2 nodes" in said[0]
    assert [line.partition(":")[0] for line in said[1:]] == ["watch", "stop", "continue"]


def test_a_run_is_not_handed_in_twice_while_it_is_queued(dataset, cluster, tmp_path, world):
    job = prepare(Submission(gpus_per_node=0), flags(dataset, tmp_path / "run"), TRAIN)
    hand_in(job, lambda line: None)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    (cluster / "state").write_text("PENDING\n")
    with pytest.raises(ValueError, match="that of job 71, which is PENDING.*scancel 71"):
        hand_in(job, lambda line: None)
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    program(cluster, "squeue", "echo slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1")
    with pytest.raises(ValueError, match="cannot say what became of job 71"):
        hand_in(job, lambda line: None)
    program(cluster, "squeue", "exit 0")
    assert hand_in(job, lambda line: None) == 71


def test_what_sbatch_refuses_leaves_nothing(dataset, cluster, tmp_path, world):
    program(cluster, "sbatch", "echo 'sbatch: error: invalid partition specified: none' >&2; exit 1")
    job = prepare(Submission(gpus_per_node=0), flags(dataset, tmp_path / "run"), TRAIN)
    with pytest.raises(ValueError, match="sbatch refuses the job: .*invalid partition"):
        hand_in(job)
    assert not (tmp_path / "run").exists()


def test_the_two_command_lines_are_told_apart_wherever_they_stand():
    line = "--stage 2 --nodes 4 --size 64 64 --sbatch a=1 b --time.shift 3 --time 1-0 --dry-run --steps 3"
    ours, theirs = parted(line.split())
    assert " ".join(ours) == "--nodes 4 --sbatch a=1 b --time 1-0 --dry-run"
    assert " ".join(theirs) == "--stage 2 --size 64 64 --time.shift 3 --steps 3"


def test_a_later_start_resumes_its_own_run_and_needs_no_weights():
    words = commands(["--init", "wan2.1-1.3b", "--steps", "9", "--out", "x", "--size", "64", "64"], 1, Path("/r"))
    assert words.first == ("--init", "wan2.1-1.3b", "--steps", "9", "--out", "x", "--size", "64", "64")
    assert words.again == ("--steps", "9", "--size", "64", "64", "--stage", "1", "--resume", "/r")
    words = commands(["--resume", "/other", "--stage", "2"], 2, Path("/r"))
    assert words.first == ("--resume", "/other", "--stage", "2", "--out", "/r")
    assert words.again == ("--stage", "2", "--resume", "/r")


def run_folder(path: Path, done: int, steps: int = 9, retries: int = 2) -> Path:
    (path / "slurm").mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps({"steps": steps}))
    (path / "slurm/submission.json").write_text(json.dumps({"job": {"retries": retries}}))
    if done:
        (path / f"checkpoints/step-{done:08}").mkdir(parents=True)
    return path


def test_a_job_is_handed_in_again_while_it_comes_further_and_no_longer(tmp_path):
    run = run_folder(tmp_path, 3)
    assert decide(run, 0, False)[0] == AGAIN
    # no step further: twice, and no more
    assert [decide(run, 137, False)[0] for _ in range(3)] == [AGAIN, AGAIN, 137]
    run_folder(tmp_path, 6)
    assert [decide(run, 137, False)[0] for _ in range(3)] == [AGAIN, AGAIN, 137]
    run_folder(tmp_path, 9)
    code, why = decide(run, 0, False)
    assert code == 0 and "finished" in why


@pytest.mark.parametrize("code, ended, answer, word", [(2, False, 2, "refused"), (0, True, 0, "told to end")])
def test_mistakes_and_jobs_that_slurm_ends_are_not_handed_in_again(tmp_path, code, ended, answer, word):
    found, why = decide(run_folder(tmp_path, 3), code, ended)
    assert found == answer and word in why
    # and neither are those that leave again and again before their first step
    run = run_folder(tmp_path / "new", 0)
    assert [decide(run, 0, False)[0] for _ in range(3)] == [AGAIN, AGAIN, 1]


@pytest.mark.parametrize("form", ["srun", "deepspeed"])
def test_the_script_starts_goes_on_and_stops_by_itself(dataset, cluster, tmp_path, form, world):
    """As SLURM runs it, with stand-ins for SLURM's programs: ranks that save and leave, then finish."""
    run = tmp_path / "run"
    job = prepare(Submission(gpus_per_node=0, form=form), flags(dataset, run), TRAIN)
    hand_in(job, lambda line: None)
    program(
        cluster, "srun",
        f'echo "$*" >>{tmp_path}/calls\nsteps=$(ls {run}/checkpoints 2>/dev/null | wc -l)\n'
        f'sleep 0.05; echo \'{{"steps": 2}}\' >{run}/config.json\n'
        f"mkdir -p {run}/checkpoints/step-0000000$((steps + 1))",
    )  # fmt: skip
    program(cluster, "scontrol", f'echo "$*" >>{tmp_path}/asked; echo NodeAddr=127.0.0.1')
    environment = os.environ | {"SLURM_JOB_ID": "71", "SLURM_JOB_NODELIST": "n1", "SLURM_CPUS_PER_TASK": "8"}
    script = ["bash", run / "slurm/job.sh"]
    first = subprocess.run(script, env=environment, capture_output=True, text=True)
    assert "has saved and left after 1 of 2 steps" in first.stdout, first
    second = subprocess.run(script, env=environment, capture_output=True, text=True)
    assert second.returncode == 0 and "the run is finished" in second.stdout, second
    calls = (tmp_path / "calls").read_text()
    assert calls.count(f"--out {run}") == 1 and calls.count(f"--stage 1 --resume {run}") == 1
    assert (tmp_path / "asked").read_text().count("requeue 71") == 1


def test_a_revision_tells_a_changed_checkout_from_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(code, "ROOT", tmp_path)
    assert code.revision().commit is None and code.difference() == ""
    (tmp_path / "unity").mkdir()
    file = tmp_path / "unity/a.py"
    file.write_text("one = 1\n")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)
    clean = code.revision()
    assert clean.commit and clean.changed == () and str(clean) == f"commit {clean.commit[:12]}"
    file.write_text("one = 2\n")
    (tmp_path / "unity/b.py").write_text("")
    changed = code.revision()
    assert changed.changed == ("unity/a.py", "unity/b.py") and changed.digest != clean.digest
    assert "+one = 2" in code.difference()
