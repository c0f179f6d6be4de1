"""launchers/submit.py on a real SLURM of two nodes, both on this machine, from Debian's slurm-wlm and munge."""

import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from unity.train.folder import checkpoints
from unity.train.kept import step_of

ROOT = Path(__file__).parents[2]
NEEDED = ("munged", "slurmctld", "slurmd", "sbatch")
MISSING = [name for name in NEEDED if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"no {', '.join(MISSING)} (Debian: slurm-wlm, munge)"),
    pytest.mark.skipif(os.getuid() != 0, reason="only root may start the daemons of a cluster"),
]

SETTINGS = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
CommunicationParameters=NoInAddrAny
AuthType=auth/munge
AuthInfo=socket={home}/munge.socket
CredType=cred/munge
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool-%n
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd-%n.pid
SlurmctldLogFile={home}/slurmctld.log
SlurmdLogFile={home}/slurmd-%n.log
SlurmdTimeout=300
MessageTimeout=10
KillWait=60
MinJobAge=300
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_min_interval=0,bf_interval=1,batch_sched_delay=0
JobRequeue=1
ReturnToService=2
MpiDefault=none
SwitchType=switch/none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=16 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=16 State=UNKNOWN
PartitionName=test Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def until(true: Callable[[], object], seconds: float = 900, told: Callable[[], object] = str) -> None:
    """Wait; the limit is for a machine with much else to do, on which the dearest wait took five minutes."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, told()
        time.sleep(0.2)


def pid(home: Path, name: str) -> int:
    return int((home / f"{name}.pid").read_text())


@pytest.fixture(scope="module")
def cluster():
    """The folder of a running SLURM; SLURM_CONF names its settings."""
    # a socket's path must be short
    home = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    (home / "state").mkdir()
    (home / "key").write_bytes(os.urandom(1024))
    (home / "key").chmod(0o600)
    settings = home / "slurm.conf"
    settings.write_text(SETTINGS.format(home=home, host=socket.gethostname(), ports=free_ports(3)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(settings))
        patch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin")
        try:
            start(
                "munged", "--force", f"--socket={home}/munge.socket", f"--key-file={home}/key",
                f"--log-file={home}/munged.log", f"--pid-file={home}/munged.pid", f"--seed-file={home}/seed",
            )  # fmt: skip
            start("slurmctld", "-f", settings, "-c")
            for node in ("n1", "n2"):
                start("slurmd", "-f", settings, "-N", node)
            until(lambda: said("sinfo", "-h", "-N", "-o", "%t").split() == ["idle", "idle"], 60)
            yield home
        finally:
            for name in ("slurmd-n1", "slurmd-n2", "slurmctld", "munged"):
                if (home / f"{name}.pid").exists() and psutil.pid_exists(pid(home, name)):
                    psutil.Process(pid(home, name)).kill()
            shutil.rmtree(home, ignore_errors=True)


def start(*command) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, (command, done.stderr)


def said(*command) -> str:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True).stdout


def submit(run: Path, dataset: Path, *more, save_every: int = 999) -> int:
    """A debug run of 40 steps with a rank on each of the two nodes."""
    words = ["--nodes", 2, "--gpus-per-node", 0, "--cpus-per-gpu", 1, "--time", 30, *more]
    words += ["--stage", 1, "--model", "debug", "--data", dataset, "--steps", 40, "--batch-size", 4]
    words += ["--micro-batch", 1, "--precision", "fp32", "--picture-every", 0, "--save-every", save_every]
    words += ["--workers", 0, "--out", run]
    environment = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    environment |= {"DS_ACCELERATOR": "cpu"}
    done = subprocess.run(
        [sys.executable, ROOT / "launchers/submit.py", *map(str, words)], cwd=ROOT,
        env=os.environ | environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = re.search(r"job (\d+): 2 ranks on 2 nodes", done.stdout)
    assert found, done.stdout
    return int(found[1])


def log(run: Path) -> str:
    path = run / "slurm/job.log"
    return path.read_text() if path.exists() else ""


def losses(run: Path) -> list:
    path = run / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [(row["step"], row["loss"], row["grad_norm"]) for row in rows]


def over(job: int) -> bool:
    return said("squeue", "-h", "-o", "%T", f"--jobs={job}").strip() == ""


def reaches(run: Path, step: int) -> None:
    until(lambda: len(losses(run)) > step, told=lambda: log(run))


def starts_again(job: int, number: int) -> None:
    """SLURM keeps what is handed in again waiting for two minutes, tests for three seconds.

    In the second in which a job has ended, a node takes the credential of its next go for that of the last.
    """
    hurried = -math.inf

    def runs() -> bool:
        nonlocal hurried
        # both from one answer: the job may be handed in between two
        now = said("scontrol", "show", "job", job)
        # one that comes while the nodes still tidy up is forgotten
        if "JobState=PENDING" in now and time.monotonic() > hurried + 20:
            said("scontrol", "update", f"jobid={job}", "starttime=now+3")
            hurried = time.monotonic()
        return "JobState=RUNNING" in now and f"Restarts={number} " in now

    until(runs, 300, lambda: said("scontrol", "show", "job", job) + said("sinfo", "-N"))


@pytest.fixture(scope="module")
def unbroken(cluster, dataset, tmp_path_factory) -> Path:
    """A run that nothing interrupted."""
    run = tmp_path_factory.mktemp("unbroken") / "run"
    job = submit(run, dataset)
    until(lambda: over(job), told=lambda: log(run))
    assert "the run is finished" in log(run), log(run)
    assert len(losses(run)) == 40
    return run


@pytest.mark.parametrize("form", ["srun", "deepspeed"])
def test_a_job_that_is_preempted_twice_equals_one_that_is_not(cluster, dataset, unbroken, tmp_path, form):
    """By the signal that its time is nearly over, and (where ranks hear it) by SLURM's own requeue."""
    run = tmp_path / "run"
    job = submit(run, dataset, "--form", form)
    reaches(run, 3)
    start("scancel", "--signal=USR1", job)
    starts_again(job, 1)
    before = len(losses(run))
    reaches(run, before + 3)
    start(*(["scontrol", "requeue", job] if form == "srun" else ["scancel", "--signal=USR1", job]))
    starts_again(job, 2)
    until(lambda: over(job), told=lambda: log(run))
    text = log(run)
    assert text.count("going on from step") == 2, text
    again, told = text.count("the job is handed in again"), text.count("the job was told to end")
    # each end is told once; at SLURM's requeue the ranks may have left before the script hears of it
    assert again + told == 2 and again >= (1 if form == "srun" else 2), text
    assert "the run is finished" in text
    assert losses(run) == losses(unbroken)


def rank_of(run: Path, rank: int) -> psutil.Process:
    """The process of a rank of the run, on either node."""

    def is_it(process: psutil.Process) -> bool:
        with suppress(psutil.Error):
            words = process.cmdline()
            mine = str(run) in words and any(word.endswith("launchers/train.py") for word in words)
            return mine and words[0] != "srun" and process.environ().get("RANK") == str(rank)
        return False

    return next(process for process in psutil.process_iter() if is_it(process))


def held_in_a_save(run: Path) -> psutil.Process:
    """Rank 1, stopped where rank 0 has begun a checkpoint and waits for the other's part of it."""
    one, end = rank_of(run, 1), time.monotonic() + 900
    while time.monotonic() < end:
        if not list((run / "checkpoints").glob("*.partial")):
            time.sleep(0.001)
            continue
        one.suspend()
        # long enough for a checkpoint that wants nothing of it any more
        time.sleep(2)
        if list((run / "checkpoints").glob("*.partial")):
            return one
        one.resume()
    raise AssertionError(log(run))


@pytest.mark.parametrize(("victim", "manner"), [(0, "--save-beside"), (1, "--no-save-beside")])
def test_a_rank_killed_in_the_middle_of_a_save_costs_nothing(cluster, dataset, unbroken, tmp_path, victim, manner):
    """By SIGKILL: what was cut off is passed over, and the job goes on from the checkpoint before it."""
    run = tmp_path / "run"
    job = submit(run, dataset, manner, save_every=2)
    reaches(run, 4)
    held, killed = held_in_a_save(run), rank_of(run, victim)
    whole = max(step_of(path.name) for path in checkpoints(run))
    killed.kill()
    if held != killed:
        held.resume()
    starts_again(job, 1)
    until(lambda: over(job), told=lambda: log(run))
    text = log(run)
    assert f"going on from step {whole} of" in text and text.count("going on from") == 1, text
    assert "the run is finished" in text
    assert losses(run) == losses(unbroken)
    assert [path.name for path in checkpoints(run)] == ["step-00000040", "step-00000038"]


def test_a_second_submission_of_a_running_job_is_refused(cluster, dataset, tmp_path):
    run = tmp_path / "run"
    job = submit(run, dataset, "--sbatch", "hold")
    try:
        with pytest.raises(AssertionError, match=f"that of job {job}, which is PENDING"):
            submit(run, dataset)
    finally:
        start("scancel", job)
    until(lambda: over(job))


def test_a_node_that_never_comes_up_ends_with_a_sentence(cluster, dataset, tmp_path):
    """The daemon of the second node dies when the job has it already."""
    run = tmp_path / "run"
    psutil.Process(pid(cluster, "slurmd-n2")).kill()
    submit(run, dataset, "--retries", 0)
    # SLURM itself waits for the node for minutes more
    until(lambda: "not handed in again" in log(run), told=lambda: log(run))
    assert "on node n2" in log(run) and "has ended before its first step" in log(run), log(run)
