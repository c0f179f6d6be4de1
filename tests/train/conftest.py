"""A world of one in this process, a small dataset, and a way to run a script on several ranks."""

import gc
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from unity.data.clips import MODALITY_NAMES, SOURCES, Clip
from unity.data.shards import write_shards
from unity.train.world import World

HERE = Path(__file__).parent
FRAMES, SIZE = 5, 32


def waves(index: int, stream: int) -> np.ndarray:
    """A moving pattern of its own for every clip and stream."""
    t, y, x = np.mgrid[:FRAMES, :SIZE, :SIZE]
    phase = (x * (1 + stream) + y * (1 + index) + 2 * t) / 9
    return np.stack([127 + 100 * np.sin(phase + c) for c in range(3)], axis=-1).astype(np.uint8)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Path:
    """Four clips of 5 frames at 32x32 from every source; only people have densepose and skeleton."""
    clips = (
        Clip(
            name=f"{source}-{i}",
            source=source,
            caption=f"{source} number {i}",
            fps=8.0,
            video={"rgb": waves(i, 0)}
            | {
                name: waves(i, 1 + m)
                for m, name in enumerate(MODALITY_NAMES)
                if "person" in source or name not in ("densepose", "skeleton")
            },
        )
        for source in SOURCES
        for i in range(4)
    )
    return write_shards(clips, tmp_path_factory.mktemp("data") / "waves", seed=0)


@pytest.fixture
def plain_linear(monkeypatch):
    """torch's own, where an engine was built before: DeepSpeed leaves one in its place that counts differently."""
    monkeypatch.setattr(torch.nn.functional, "linear", torch._C._nn.linear)


class Alone(World):
    """A world of one that needs no process group, so that a forked process can work in it, too."""

    def gather(self, value) -> list:
        return [value]

    def from_lead(self, make):
        return make()


@pytest.fixture(scope="session")
def alone() -> World:
    """What needs no DeepSpeed."""
    return Alone(rank=0, size=1, local_rank=0, device=torch.device("cpu"))


@pytest.fixture
def four_steps(tmp_path):
    """four_steps(data, batch_size=2): options of the debug model in fp32, a checkpoint after two of four steps."""
    from unity.config import MODELS
    from unity.train.options import Options

    usual = Options(
        stage=2, model="debug", architecture=MODELS["debug"], steps=4, batch_size=8, save_every=2, picture_every=4,
        precision="fp32", workers=0, keep=9, out=tmp_path / "unbroken",
        deepspeed=HERE.parents[1] / "launchers/zero3.json",
    )  # fmt: skip
    return lambda data, **changes: replace(usual, data=data, **changes)


@pytest.fixture(scope="session")
def world():
    """A world of one rank on the CPU, alive for the whole session."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        from unity.train import loop  # noqa: F401 (its modules are to be frozen, too)
        from unity.train.world import start_world, stop_world

        before = dict(os.environ)
        world = start_world()
        torch.set_num_threads(threads)
        # DeepSpeed collects garbage at every start of an engine: not in all modules, for a second each time
        gc.collect()
        gc.freeze()
        yield world
        gc.unfreeze()
        stop_world()
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="session")
def two_ranks(dataset, run_on_ranks, tmp_path_factory) -> tuple[list[str], Path]:
    """What on_ranks.py says on two ranks, and the folder where it left its runs."""
    folder = tmp_path_factory.mktemp("ranks")
    return run_on_ranks(2, "on_ranks.py", "quick", dataset, folder), folder


@pytest.fixture(scope="session")
def two_ranks_more(dataset, run_on_ranks, tmp_path_factory) -> list[str]:
    """What on_ranks.py says of its slow checks."""
    return run_on_ranks(2, "on_ranks.py", "slow", dataset, tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="session")
def run_on_ranks():
    """run_on_ranks(2, "on_ranks.py", *args): the lines that a script beside this file says on so many ranks."""
    return _run_on_ranks


def _run_on_ranks(size: int, script: str, *args: str | Path) -> list[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": size, "LOCAL_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {"OMP_NUM_THREADS": 1, "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    ranks = []
    for rank in range(size):
        places = shared | {"RANK": rank, "LOCAL_RANK": rank}
        ranks.append(
            subprocess.Popen(
                [sys.executable, HERE / script, *args],
                env=os.environ | {name: str(value) for name, value in places.items()},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    try:
        said = [rank.communicate(timeout=1200)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    print(*said, sep="\n")
    return [line for lines in said for line in lines.splitlines()]
