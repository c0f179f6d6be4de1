"""Buckets: batches as balanced as without them, micro-batches of one shape, every clip as often as any other."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from unity.config import STAGES
from unity.data.buckets import describe, join, open_buckets
from unity.data.clips import MODALITY_NAMES, SOURCES, Clip
from unity.data.loader import Share, training_batches
from unity.data.plan import Held, Plan
from unity.data.shards import open_shards, read_about, write_shards
from unity.data.turns import CYCLE, Turns

PEOPLE, OBJECTS = [True] * 5, [True, True, False, False, True]


def held(shard=5, **counts):
    sizes = {source: [shard] * (n // shard) + [n % shard] * (n % shard > 0) for source, n in counts.items()}
    kinds = {source: PEOPLE if "person" in source else OBJECTS for source in counts}
    return Held(sizes=sizes, available={source: np.array([kinds[source]] * n) for source, n in counts.items()})


BUCKETS = (
    held(single_person=40, two_persons=40, general=40, subject=40),
    held(single_person=60, two_persons=60, general=59),
    # one clip alone
    held(general=1),
)


@pytest.mark.parametrize("cycles", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_a_thousand_and_ten_thousand_batches_are_balanced_on_one_to_sixty_four_ranks(cycles):
    plan, steps = Plan(STAGES[2], 64, 0, BUCKETS), cycles * CYCLE
    layouts = [plan.layout(step) for step in range(steps)]
    items = np.array([order for order, _ in layouts])
    # every item once, so 16 of each source
    assert plan.share == 16 and (np.sort(items) == np.arange(64)).all()
    turns = np.array([[drawn[source] for source in SOURCES] for _, drawn in layouts])
    buckets = turns[np.arange(steps)[:, None], items // 16, 0]
    for ranks in (1, 2, 4, 8, 16, 32, 64):
        # a rank's slots are a part of the batch, and its micro-batches of at most a source's share a part of those
        micro = buckets.reshape(steps, ranks, -1, min(16, 64 // ranks))
        assert (micro == micro[..., :1]).all()
    # sources with the same buckets have the same turns
    assert (turns[:, 0, 0] == turns[:, 1, 0]).all()
    for number, source in enumerate(SOURCES):
        counts = [sum(bucket.sizes.get(source, ())) for bucket in BUCKETS]
        for bucket, count in enumerate(counts):
            mine = turns[:, number, 0] == bucket
            # how many turns it had before is what is counted
            assert (turns[mine, number, 1] == np.arange(mine.sum())).all()
            # each cycle has the share to a turn, and the next ones make up for it
            assert abs(mine.sum() - steps * count / sum(counts)) < 3
            assert (mine.sum() == 0) == (count == 0)


def test_a_bucket_of_one_clip_in_a_million_has_its_share_in_the_long_run():
    bucket, before = Turns(3, [999_999, 1]).at(3_000_000)
    assert bucket == 0 and 3_000_000 - before in (2, 3, 4)


def test_modalities_are_uniform_and_clips_equally_often_seen():
    plan = Plan(STAGES[2], 8, 1, BUCKETS)
    rows = [row for step in range(CYCLE) for row in plan.batch(step)]
    # 8,192 draws at 1/5: five standard deviations are 181
    shown = Counter(row.modality for row in rows)
    assert shown.keys() == set(range(5)) and all(abs(n - 1638.4) < 181 for n in shown.values())
    general, people = SOURCES.index("general"), SOURCES.index("single_person")
    assert not any(row.modality in (2, 3) for row in rows if row.source == general)
    # 2,048 draws over 100 clips, the last epoch of each bucket unfinished, and a turn more or less of each
    times = Counter((row.bucket, row.clip) for row in rows if row.source == people)
    assert len(times) == 100 and all(abs(n - 20.48) < 1.6 for n in times.values())


def _clip(number, source, shape):
    random = np.random.default_rng(number)
    streams = ("rgb", *(MODALITY_NAMES if "person" in source else ("depth", "flow", "segmentation")))
    video = {s: random.integers(0, 256, (*shape, 3)).astype(np.uint8) for s in streams}
    return Clip(name=f"{number}", source=source, caption=f"the {number}th", fps=16.0, video=video)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Wide clips of all sources, short ones of two of them, and a single tall one."""
    here = tmp_path_factory.mktemp("buckets")
    kinds = {
        "wide": ((9, 16, 24), SOURCES * 3),
        "short": ((5, 16, 16), SOURCES[:2] * 4),
        "tall": ((5, 24, 16), SOURCES[2:3]),
    }
    for name, (shape, sources) in kinds.items():
        write_shards((_clip(i, source, shape) for i, source in enumerate(sources)), here / name)
    assert join([here / name for name in kinds], here / "all") == ["9x16x24", "5x16x16", "5x24x16"]
    return here / "all"


def _take(folder, count, start=0, rank=0, world=1):
    batches = training_batches(folder, STAGES[2], 8, 5, start, Share(rank=rank, world=world))
    return list(itertools.islice(batches, count))


def _samples(batch):
    return [
        (int(slot), name, caption, int(modality), rgb.tolist(), aux.tolist())
        for slot, name, caption, modality, rgb, aux in zip(
            *(batch[key] for key in ("slot", "name", "caption", "modality", "rgb", "aux")), strict=True
        )
    ]


@pytest.mark.slow
def test_batches_resume_and_change_ranks_with_buckets(folder):
    whole, shards = _take(folder, 10), open_buckets(folder)
    shapes = Counter(tuple(video.shape) for batch in whole for video in batch["rgb"])
    assert set(shapes) == {(9, 16, 24, 3), (5, 16, 16, 3), (5, 24, 16, 3)}
    assert any(torch.is_tensor(batch["rgb"]) for batch in whole) and any(isinstance(b["rgb"], list) for b in whole)
    for ours, theirs in zip(_take(folder, 3, start=7), whole[7:], strict=True):
        assert _samples(ours) == _samples(theirs)
    for world in (2, 4):
        parts = [_take(folder, 3, start=7, rank=rank, world=world) for rank in range(world)]
        for step, batch in enumerate(whole[7:]):
            assert sum((_samples(part[step]) for part in parts), []) == _samples(batch)
    # what a sample says it is
    for batch in whole[:4]:
        for name, source, rgb in zip(batch["name"], batch["source"].tolist(), batch["rgb"], strict=True):
            bucket = next(s for s in shards if (s.about["frames"], *s.about["size"]) == tuple(rgb.shape[:3]))
            clips = (bucket.clip(SOURCES[source], i, ()) for i in range(bucket.counts[SOURCES[source]]))
            assert any(clip.name == name and np.array_equal(clip.video["rgb"], rgb) for clip in clips)


def test_what_is_no_folder_of_buckets_is_said(folder, tmp_path):
    assert describe(folder)["buckets"] == [(9, 16, 24), (5, 24, 16), (5, 16, 16)]
    with pytest.raises(ValueError, match="holds buckets, of clips of several shapes; name one"):
        read_about(folder)
    assert describe(folder / "5x16x16")["buckets"] == [] and open_shards(folder / "5x16x16").counts
    with pytest.raises(ValueError, match="both hold clips of 5x16x16"):
        join([folder / "5x16x16", folder.parent / "short"], tmp_path / "twice")
    join([folder / "5x16x16", folder / "9x16x24"], tmp_path / "two")
    other = tmp_path / "two/5x16x16/dataset.json"
    other.unlink()
    other.write_text("{}")
    with pytest.raises(ValueError, match="5x16x16 is not the one that it names"):
        open_buckets(tmp_path / "two")
