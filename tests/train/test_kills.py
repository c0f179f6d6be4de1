"""Runs whose processes are killed with SIGKILL: every moment leaves a run that goes on exactly, and no process."""

import json
import os
import random
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
STEPS, KILLS = 48, 20
# of a record: what differs from run to run
CLOCK = ("seconds", "tokens_per_second", "wait_seconds", "memory_gib")


@pytest.fixture(scope="module")
def launch(dataset):
    """launch(out, port): two ranks of a small run through the launcher; the same command starts it and goes on."""
    running = []

    def start(out: Path, port: int, steps: int = STEPS) -> psutil.Popen:
        command = [Path(sys.executable).with_name("deepspeed"), "--num_gpus", 2, "--master_port", port]
        command += [ROOT / "launchers/train.py", "--stage", 2, "--model", "debug", "--data", dataset]
        command += ["--steps", steps, "--batch-size", 4, "--picture-every", 0, "--save-every", 1, "--log-every", 1]
        command += ["--save-beside"]
        command += ["--out", out, "--resume", out]
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        running.append(
            psutil.Popen(
                [str(part) for part in command], env=environment, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True,
            )
        )  # fmt: skip
        return running[-1]

    yield start
    for process in running:
        kill_all(process)


def kill_all(launcher: psutil.Popen) -> None:
    """SIGKILL to a launcher and all that it started, as a machine that goes down does."""
    try:
        family = [launcher, *launcher.children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    launcher.wait()
    psutil.wait_procs(family, timeout=30)


def metrics(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in CLOCK} for line in lines]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until_a_step(launcher: psutil.Popen, run: Path, step: int) -> None:
    """Wait for the journal to hold a step; fails where the run ends before."""
    journal = run / "metrics.jsonl"
    while not journal.exists() or len(journal.read_text().splitlines()) <= step:
        assert launcher.poll() is None, launcher.communicate()[0]
        time.sleep(0.02)


@pytest.mark.slow
def test_a_run_on_two_ranks_killed_at_many_moments_ends_as_one_that_was_not(launch, tmp_path):
    """Killed before, in and after steps and saves, and started again by the same command each time."""
    started = time.monotonic()
    whole = launch(tmp_path / "whole", free_port())
    until_a_step(whole, tmp_path / "whole", 0)
    first_step = time.monotonic() - started
    said, _ = whole.communicate(timeout=600)
    assert whole.returncode == 0, said
    stepping = time.monotonic() - started - first_step
    draw, kills, run = random.Random(1), 0, tmp_path / "killed"
    launcher = launch(run, free_port())
    while kills < KILLS:
        # from before anything is there to a few steps on
        time.sleep(draw.uniform(0.5 * first_step, first_step + 1.5 * stepping / KILLS))
        if launcher.poll() is not None:
            break
        kill_all(launcher)
        kills += 1
        launcher = launch(run, free_port())
    said, _ = launcher.communicate(timeout=600)
    assert launcher.returncode == 0, said
    print(f"killed at {kills} moments")
    assert kills >= KILLS / 2 and metrics(run) == metrics(tmp_path / "whole")
    last = f"checkpoints/step-{STEPS:08}"
    names = [path.relative_to(run) for path in (run / last).rglob("*.safetensors")]
    assert len(names) == 9
    for name in names:
        assert (run / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert load_file(run / "model/model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_the_run_within_seconds(launch, tmp_path, rank):
    launcher = launch(tmp_path / "run", free_port(), steps=10**6)
    until_a_step(launcher, tmp_path / "run", 2)
    family = launcher.children(recursive=True)
    victim = next(p for p in family if f"--local_rank={rank}" in p.cmdline())
    victim.kill()
    started = time.monotonic()
    said, _ = launcher.communicate(timeout=120)
    assert launcher.returncode != 0 and time.monotonic() - started < 30, said
    assert "Traceback" not in said, said
    gone, alive = psutil.wait_procs(family, timeout=10)
    assert not alive


@pytest.mark.slow
def test_a_second_launcher_at_the_same_port_is_refused_in_a_sentence(launch, tmp_path):
    port = free_port()
    first = launch(tmp_path / "first", port, steps=10**6)
    until_a_step(first, tmp_path / "first", 0)
    second = launch(tmp_path / "second", port)
    said, _ = second.communicate(timeout=120)
    assert second.returncode != 0 and f"port {port}" in said and "is in use" in said, said
    assert "Traceback" not in said and not (tmp_path / "second").exists()
    assert first.poll() is None
    kill_all(first)
