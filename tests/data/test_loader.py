"""Batches: what the plan says, decoded alike by both doors, the same after any resume and on any ranks."""

import itertools
from dataclasses import fields

import numpy as np
import pytest
import torch

from unity.config import STAGES
from unity.data.clips import MODALITY_NAMES, SOURCES, Clip
from unity.data.loader import Reading, Share, training_batches
from unity.data.shards import open_shards, write_shards
from unity.data.video import resize

OBJECTS = ("depth", "flow", "segmentation")
FRAMES, SIZE = 9, (16, 24)


def _clip(number):
    random, source = np.random.default_rng(number), SOURCES[number % 4]
    streams = ("rgb", *(MODALITY_NAMES if "person" in source else OBJECTS))
    video = {s: random.integers(0, 256, (FRAMES, *SIZE, 3)).astype(np.uint8) for s in streams}
    return Clip(name=f"clip-{number}", source=source, caption=f"the {number}th", fps=16.0, video=video)


@pytest.fixture(scope="module")
def clips():
    return {clip.name: clip for clip in map(_clip, range(40))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, clips):
    return write_shards(clips.values(), tmp_path_factory.mktemp("loader") / "data", size_limit=200_000)


def _batches(folder, **options):
    """`training_batches` of stage 2 in eights, with the options of `Share` and `Reading` in a row."""
    values = {"share": Share, "reading": Reading}
    taken = {name: {f.name for f in fields(kind)} & options.keys() for name, kind in values.items()}
    whole = {name: kind(**{key: options.pop(key) for key in taken[name]}) for name, kind in values.items()}
    return training_batches(folder, **{"stage": STAGES[2], "batch_size": 8} | options | whole)


def _take(folder, count, **options):
    return list(itertools.islice(_batches(folder, **{"seed": 5} | options), count))


def _assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        same = torch.equal(value, theirs[key]) if torch.is_tensor(value) else value == theirs[key]
        assert same, key


def test_a_batch_holds_the_clips_it_names(folder, clips):
    shards = open_shards(folder)
    for step, batch in enumerate(_take(folder, 5)):
        assert batch["step"] == step and batch["slot"].tolist() == list(range(8))
        assert batch["rgb"].shape == batch["aux"].shape == (8, FRAMES, *SIZE, 3)
        assert batch["rgb"].dtype == torch.uint8 and batch["modality"].dtype == torch.int64
        for i, name in enumerate(batch["name"]):
            clip, modality = clips[name], MODALITY_NAMES[batch["modality"][i]]
            assert SOURCES[batch["source"][i]] == clip.source and batch["caption"][i] == clip.caption
            np.testing.assert_array_equal(batch["aux"][i], clip.video[modality])
            stored = shards.clip(clip.source, int(name.partition("-")[2]) // 4, ())
            np.testing.assert_array_equal(batch["rgb"][i], stored.video["rgb"])


@pytest.mark.parametrize("decode", ["auto", pytest.param("pyav", marks=pytest.mark.slow)])
@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow), 2])
def test_resume_equals_the_unbroken_run(folder, workers, decode):
    options = {"frames": 5, "size": (16, 16), "decode": decode}
    unbroken = _take(folder, 12, **options)
    # 20 draws per source and epoch of 10: step 7 is in the middle of the second epoch
    for ours, theirs in zip(_take(folder, 5, start_step=7, workers=workers, **options), unbroken[7:], strict=True):
        _assert_same(ours, theirs)


@pytest.mark.parametrize("world", [2, 4])
def test_the_ranks_join_to_the_batch_of_a_single_rank(folder, world):
    whole = _take(folder, 4, frames=5)
    parts = [_take(folder, 4, frames=5, rank=rank, world=world, workers=rank % 2) for rank in range(world)]
    for step in range(4):
        joined = {}
        for key, value in whole[step].items():
            pieces = [part[step][key] for part in parts]
            if torch.is_tensor(value):
                joined[key] = torch.cat(pieces)
            else:
                joined[key] = sum(pieces, []) if isinstance(value, list) else pieces[0]
        _assert_same(joined, whole[step])


@pytest.mark.parametrize("workers", [0, 2])
def test_dali_gives_the_same_batches(folder, workers):
    pytest.importorskip("nvidia.dali")
    options = {"frames": 5, "size": (12, 16)}
    pyav, dali = (_take(folder, 4, decode=decode, workers=workers, **options) for decode in ("pyav", "dali"))
    for ours, theirs in zip(dali, pyav, strict=True):
        _assert_same(ours, theirs)


def test_windows_and_sizes_come_from_the_stored_clip(folder, clips):
    starts = set()
    for batch in _take(folder, 6, frames=5, size=(8, 8)):
        for i, name in enumerate(batch["name"]):
            modality = MODALITY_NAMES[batch["modality"][i]]
            stored = resize(clips[name].video[modality], (8, 8), modality)
            windows = [stored[s : s + 5].copy() for s in range(5)]
            if modality == "flow":
                # map 0 is of a step within the window
                windows = [np.concatenate([w[1:2], w[1:]]) if s else w for s, w in enumerate(windows)]
            fits = [s for s in range(5) if np.array_equal(batch["aux"][i], windows[s])]
            assert len(fits) == 1
            starts.update(fits)
    assert starts == set(range(5))


def test_stage_one(folder):
    for batch in _take(folder, 4, stage=STAGES[1], batch_size=3):
        assert batch["source"].tolist() == [0, 0, 0]
        assert set(batch["modality"].tolist()) <= {0, 1, 2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 6}, "use a multiple of 4, such as 8"),
        ({"world": 3}, "by 3 ranks; use a multiple of 12, such as 12"),
        ({"rank": 2, "world": 2}, "rank 2 is not one of 2"),
        ({"frames": 8}, r"must be 4k\+1, at most 9"),
        ({"frames": 13}, r"must be 4k\+1, at most 9"),
        ({"decode": "fast"}, "'fast'"),
    ],
)
def test_bad_requests_are_refused_at_once(folder, options, message):
    with pytest.raises(ValueError, match=message):
        _batches(folder, **options)


def test_missing_data_is_told_at_once(tmp_path, clips):
    with pytest.raises(ValueError, match="no dataset"):
        training_batches(tmp_path / "nowhere", STAGES[1], 2)
    objects = [clip for clip in clips.values() if clip.source == "general"]
    write_shards(objects, tmp_path / "data")
    with pytest.raises(ValueError, match="no clips of source 'single_person'"):
        training_batches(tmp_path / "data", STAGES[1], 2)


def test_without_dali_pyav_does_it(folder, monkeypatch):
    whole = _take(folder, 2)
    monkeypatch.setattr("unity.data.loader.find_spec", lambda name: None)
    for ours, theirs in zip(_take(folder, 2), whole, strict=True):
        _assert_same(ours, theirs)
    with pytest.raises(ValueError, match="not installed; pip install"):
        _batches(folder, decode="dali")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_shard_stops_the_run(tmp_path, clips, workers):
    write_shards(list(clips.values())[:8], tmp_path / "data")
    file = tmp_path / "data" / "general" / "shard.00000.mds"
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(ValueError, match="general/shard.00000.mds is damaged"):
        _take(tmp_path / "data", 4, workers=workers)
