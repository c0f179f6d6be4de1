"""Datasets: the number of workers changes nothing, and what cannot be made is refused before any work."""

import subprocess
import sys

import numpy as np
import pytest

from unity.data.shards import open_shards
from unity.data.simulate.clip import simulate
from unity.data.simulate.dataset import Options, make_dataset
from unity.randomness import fold

SMALL = {"clips": 2, "frames": 5, "size": 32, "sources": ("single_person", "subject"), "seed": 3}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("simulated")
    for workers in (1, 2):
        make_dataset(Options(out=root / str(workers), workers=workers, **SMALL))
    return root / "1", root / "2"


def test_workers_change_nothing(folders):
    one, two = map(open_shards, folders)
    assert one.counts == two.counts == {"single_person": 2, "subject": 2}
    for source in one.counts:
        for index in range(2):
            a, b = one.clip(source, index), two.clip(source, index)
            assert a.name == b.name and a.caption == b.caption and a.meta == b.meta
            assert all((a.video[name] == b.video[name]).all() for name in a.video)


def test_clips_can_be_made_again_from_their_seed(folders):
    stored = open_shards(folders[0]).clip("subject", 1)
    assert stored.meta["seed"] == fold(3, 3, 1)
    again = simulate(stored.meta["seed"], "subject", 5, (32, 32))
    assert stored.caption == again.caption
    for name in stored.available:
        np.testing.assert_array_equal(stored.video[name], again.video[name])


def test_nothing_is_left_behind_or_overwritten(folders):
    assert sorted(path.name for path in folders[0].parent.iterdir()) == ["1", "2"]
    with pytest.raises(ValueError, match="exists"):
        make_dataset(Options(out=folders[0], workers=1, **SMALL))
    with pytest.raises(ValueError, match="0 clips"):
        make_dataset(Options(out=folders[0].parent / "new", workers=1, **(SMALL | {"clips": 0})))


def test_the_command_line_says_what_is_wrong(tmp_path):
    command = [sys.executable, "-m", "unity.data.simulate", "--out", str(tmp_path / "x"), "--clips", "1"]
    done = subprocess.run([*command, "--sources", "nowhere"], capture_output=True, text=True)
    assert done.returncode == 2 and "nowhere" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "x").exists()
