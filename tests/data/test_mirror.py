"""A mirror reads as the dataset it mirrors, however few shards may stay, and tells what it cannot have."""

import itertools
import json
import multiprocessing
import shutil

import numpy as np
import pytest
import torch

from unity.config import STAGES
from unity.data import buckets
from unity.data.clips import MODALITY_NAMES, SOURCES, Clip
from unity.data.loader import Reading, training_batches
from unity.data.mirror import main, mirror
from unity.data.shards import open_shards, write_shards
from unity.data.shards.index import seal_names

pytest.importorskip("streaming")


def _clip(number: int, frames: int = 5) -> Clip:
    random, source = np.random.default_rng(number), SOURCES[number % 4]
    streams = ("rgb", *(MODALITY_NAMES if "person" in source else ("depth", "flow", "segmentation")))
    video = {s: random.integers(0, 256, (frames, 16, 24, 3)).astype(np.uint8) for s in streams}
    return Clip(name=f"clip-{number}", source=source, caption=f"the {number}th", fps=16.0, video=video)


@pytest.fixture(scope="module")
def far(tmp_path_factory):
    """Clips of each source, in a few shards of each source."""
    return write_shards(map(_clip, range(24)), tmp_path_factory.mktemp("far") / "data", size_limit=120_000)


def sizes(folder) -> list[int]:
    return [path.stat().st_size for path in folder.rglob("*.mds")]


def same(one: dict, other: dict) -> bool:
    return all(torch.equal(v, other[k]) if torch.is_tensor(v) else v == other[k] for k, v in one.items())


def all_samples(folder) -> list[dict]:
    shards = open_shards(folder)
    return [shards.sample(source, n) for source, count in shards.counts.items() for n in range(count)]


def test_it_is_the_same_dataset_and_fetches_what_is_wanted(far, tmp_path):
    near = tmp_path / "near"
    assert mirror(str(far), near) == sum(sizes(far)) and not sizes(near)
    open_shards(near).sample("two_persons", 1)
    assert len(sizes(near)) == 1
    assert all_samples(near) == all_samples(far) and sorted(sizes(near)) == sorted(sizes(far))


@pytest.mark.parametrize("workers", [0, 2])
def test_few_shards_stay_and_batches_are_the_same(far, tmp_path, workers):
    near, most = tmp_path / "near", sum(sizes(far)) // 3
    mirror(str(far), near, most)

    def batches(folder):
        reading = Reading(workers=workers, decode="pyav")
        return itertools.islice(training_batches(folder, STAGES[2], 8, seed=5, reading=reading), 6)

    assert all(map(same, batches(near), batches(far)))
    # each worker may just have fetched one more
    assert max(sizes(far)) < sum(sizes(near)) <= most + workers * max(sizes(far))


def test_those_that_are_wanted_stay(far, tmp_path):
    near = tmp_path / "near"
    mirror(str(far), near, 3 * max(sizes(far)))
    shards = open_shards(near)
    first = near / "general/shard.00000.mds"
    for source, count in shards.counts.items():
        for n in range(count):
            # of the oldest shard, and of another
            shards.sample("general", 0)
            was = first.stat().st_ino
            shards.sample(source, n)
            assert first.stat().st_ino == was
    assert sum(sizes(near)) <= 3 * max(sizes(far))


def read_at_random(folder, seed, said):
    shards, random = open_shards(folder), np.random.default_rng(seed)
    for _ in range(20):
        source = str(random.choice(SOURCES))
        n = int(random.integers(shards.counts[source]))
        said.put((source, n, shards.sample(source, n)["name"]))


def test_processes_that_take_each_others_place_all_read_on(far, tmp_path):
    near, context = tmp_path / "near", multiprocessing.get_context("fork")
    mirror(str(far), near, max(sizes(far)))
    said = context.Queue()
    readers = [context.Process(target=read_at_random, args=(near, seed, said)) for seed in range(3)]
    for reader in readers:
        reader.start()
    heard = [said.get(timeout=60) for _ in range(3 * 20)]
    for reader in readers:
        reader.join(60)
    assert [reader.exitcode for reader in readers] == [0, 0, 0]
    shards = open_shards(far)
    assert all(shards.sample(source, n)["name"] == name for source, n, name in heard)


def test_buckets_are_mirrored_each_with_its_share(far, tmp_path):
    short = write_shards((_clip(n, frames=9) for n in range(8)), tmp_path / "short", size_limit=120_000)
    both, near = tmp_path / "both", tmp_path / "near"
    buckets.join([far, short], both)
    mirror(str(both), near, sum(sizes(both)) // 2)
    assert buckets.describe(near) == buckets.describe(both)
    for name in ("5x16x24", "9x16x24"):
        assert all_samples(near / name) == all_samples(both / name)
        assert sum(sizes(near / name)) <= sum(sizes(both / name)) // 2


def test_what_cannot_be_had_is_a_sentence_and_leaves_nothing(far, tmp_path):
    near, gone = tmp_path / "near", tmp_path / "gone"
    with pytest.raises(ValueError, match=f"cannot fetch {gone}/dataset.json"):
        mirror(str(gone), near)
    with pytest.raises(ValueError, match="its largest shard has"):
        mirror(str(far), near, 1000)
    assert not near.exists()
    shutil.copytree(far, gone)
    mirror(str(gone), near)
    shutil.rmtree(gone / "general")
    with pytest.raises(ValueError, match="cannot fetch .*general/shard.00000.mds"):
        open_shards(near).sample("general", 0)
    (near / "mirror.json").write_text(json.dumps({"address": 1}))
    with pytest.raises(ValueError, match="mirror.json is damaged"):
        open_shards(near)
    (gone / "dataset.json").write_text('{"buckets": {"5x16x24": "x"}}')
    with pytest.raises(ValueError, match="its own checksum differs.; join the buckets again"):
        mirror(str(gone), tmp_path / "other")
    seal_names(gone, {"../../etc": "x"})
    with pytest.raises(ValueError, match="names a bucket '../../etc'"):
        mirror(str(gone), tmp_path / "other")


@pytest.mark.slow
def test_it_reads_a_bucket_of_s3(far, tmp_path, monkeypatch, capsys, s3):
    for path in far.rglob("*"):
        if path.is_file():
            s3.upload_file(str(path), "store", f"films/{path.relative_to(far)}")
    near = tmp_path / "near"
    monkeypatch.setattr("sys.argv", ["mirror", "s3://store/films", "--out", str(near), "--keep-gb", "0.0005"])
    main()
    assert "mirrors s3://store/films" in capsys.readouterr().err
    assert all_samples(near) == all_samples(far) and sum(sizes(near)) <= 500_000
    with pytest.raises(ValueError, match="cannot fetch s3://store/nothing/dataset.json"):
        mirror("s3://store/nothing", tmp_path / "other")
