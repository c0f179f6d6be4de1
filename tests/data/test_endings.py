"""Loading that goes wrong, as real processes: one sentence, and within seconds none of them or of their things."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from unittest import mock

import numpy as np
import pytest
import torch

from unity.data import endings
from unity.data.clips import MODALITY_NAMES, SOURCES, Clip
from unity.data.shards import write_shards

# as training does: its workers are deaf to SIGTERM
PROGRAM = """
    import sys, time
    from unity.command import end
    from unity.config import STAGES
    from unity.data.loader import Reading, training_batches
    from unity.train.signals import deaf_children

    def main():
        reading = Reading(workers={workers}, decode={decode!r})
        with deaf_children():
            batches = training_batches("data", STAGES[2], 4, reading=reading)
        for batch in batches:
            print("step", batch["step"], flush=True)
            time.sleep(0.01)

    if __name__ == "__main__":
        end("load", main)
"""


def _clip(number):
    random = np.random.default_rng(number)
    video = {s: random.integers(0, 256, (5, 16, 16, 3)).astype(np.uint8) for s in ("rgb", *MODALITY_NAMES)}
    return Clip(name=f"clip-{number}", source=SOURCES[number % 4], caption="noise", fps=16.0, video=video)


@pytest.fixture
def load(tmp_path, session):
    """Start a process that loads tmp_path/data with some workers; its session is ended at the end."""
    write_shards(map(_clip, range(16)), tmp_path / "data")

    def start(workers, decode="pyav"):
        program = textwrap.dedent(PROGRAM).format(workers=workers, decode=decode)
        process = subprocess.Popen(
            [sys.executable, "-c", program], cwd=tmp_path, start_new_session=True, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        session(process.pid)
        return process

    return start


@pytest.fixture
def ends(session):
    """The lines on stderr of a process that, with all its children, ends in time."""

    def wait(process, seconds=15):
        begin = time.monotonic()
        _, err = process.communicate(timeout=seconds)
        while session(process.pid):
            assert time.monotonic() - begin < seconds, session(process.pid)
            time.sleep(0.05)
        return err.splitlines()

    return wait


def _flip(tmp_path):
    file = tmp_path / "data" / "general" / "shard.00000.mds"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("workers", "decode"),
    [(1, "pyav"), pytest.param(0, "pyav", marks=SLOW), pytest.param(2, "pyav", marks=SLOW), (2, "dali")],
)
def test_a_damaged_sample_ends_the_run_in_a_sentence(load, tmp_path, workers, decode, ends):
    if decode == "dali":
        pytest.importorskip("nvidia.dali")
    _flip(tmp_path)
    process = load(workers, decode)
    said = ends(process, 60)
    assert process.returncode == 2 and len(said) == 1, said
    assert re.match(r"load: cannot read clip \d of general: .*shard.00000.mds is damaged \(.* checksum", said[0])


@pytest.mark.parametrize("workers", [pytest.param(0, marks=SLOW), pytest.param(1, marks=SLOW), 2])
def test_a_shard_that_goes_missing_ends_the_run_in_a_sentence(load, tmp_path, workers, ends):
    process = load(workers)
    assert process.stdout.readline().startswith("step 0")
    (tmp_path / "data" / "subject" / "shard.00000.mds").unlink()
    said = ends(process)
    assert process.returncode == 2 and len(said) == 1, said
    assert "subject/shard.00000.mds is damaged" in said[0]


@pytest.mark.parametrize("workers", [pytest.param(1, marks=SLOW), 2])
def test_a_killed_worker_ends_the_run_in_a_sentence(load, workers, ends, session):
    process = load(workers)
    assert process.stdout.readline().startswith("step 0")
    children = [pid for pid in session(process.pid) if pid != process.pid]
    assert len(children) == workers
    os.kill(children[0], signal.SIGKILL)
    said = ends(process, 25)
    assert process.returncode == 2 and said == [
        "load: a data worker was ended from outside, perhaps for want of memory; use fewer --workers, or 0"
    ]


@pytest.mark.parametrize(
    ("how", "code"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=SLOW),
        pytest.param(signal.SIGKILL, -9, marks=SLOW),
    ],
)
def test_an_end_from_outside_ends_the_workers(load, how, code, ends):
    process = load(2)
    assert process.stdout.readline().startswith("step 0")
    # a terminal sends its signal to the whole group, a scheduler to the process
    (os.killpg if how == signal.SIGINT else os.kill)(process.pid, how)
    said = ends(process, 25)
    assert process.returncode == code and "Traceback" not in str(said)
    assert not said or said == ["load: interrupted; what was not whole yet is removed"]


def test_no_room_in_shared_memory_is_told():
    full = RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")
    video = torch.zeros(1, 1, 2, 2, 3, dtype=torch.uint8)
    assert endings.shared(video) is video
    with (
        mock.patch.object(endings, "get_worker_info", return_value=object()),
        mock.patch.object(torch.Tensor, "share_memory_", side_effect=full),
        mock.patch.object(torch.UntypedStorage, "_new_shared", side_effect=full),
    ):
        for ask in (lambda: endings.shared(video), lambda: endings.empty((2, 3))):
            with pytest.raises(ValueError, match="give /dev/shm more room"):
                ask()
