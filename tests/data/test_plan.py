"""The plan: balanced in every batch, uniform over modalities, every clip once per epoch, from (seed, step)."""

import logging
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from unity.config import STAGES
from unity.data.balance import balance
from unity.data.clips import MODALITY_NAMES, SOURCES
from unity.data.plan import SHUFFLED_SHARDS, Held, Plan, window_start

PEOPLE = [True] * 5
OBJECTS = [True, True, False, False, True]
COUNTS = {"single_person": 23, "two_persons": 16, "general": 40, "subject": 7}


def _available(counts=COUNTS):
    rows = {"general": OBJECTS, "subject": OBJECTS}
    return {source: np.array([rows.get(source, PEOPLE)] * n) for source, n in counts.items()}


def _sizes(counts=COUNTS, shard=5):
    return {source: [shard] * (n // shard) + [n % shard] * (n % shard > 0) for source, n in counts.items()}


def _plan(stage=2, batch=8, seed=0, counts=COUNTS, available=None):
    return _of(STAGES[stage], batch, seed, _sizes(counts), available or _available(counts))


def _of(stage, batch, seed, sizes, available):
    return Plan(stage, batch, seed, [Held(sizes=sizes, available=available)])


@pytest.mark.parametrize("batch", [4, 8, 32])
def test_every_global_batch_holds_the_sources_equally(batch):
    plan = _plan(batch=batch)
    for step in range(50):
        rows = plan.batch(step)
        assert [row.slot for row in rows] == list(range(batch))
        assert {row.step for row in rows} == {step}
        assert Counter(row.source for row in rows) == dict.fromkeys(range(4), batch // 4)


def test_the_order_within_a_batch_differs_so_that_ranks_see_all_sources():
    plan, seen = _plan(batch=4), Counter()
    for step in range(400):
        seen.update((row.slot, row.source) for row in plan.batch(step))
    assert len(seen) == 16
    # 400 draws at 1/4: five standard deviations are 43
    assert all(abs(n - 100) < 43 for n in seen.values())


def test_every_clip_is_seen_once_per_epoch():
    plan = _plan(batch=8)
    for source, name in enumerate(SOURCES):
        # two clips a step: as many steps as clips are two epochs
        rows = [row for step in range(COUNTS[name]) for row in plan.batch(step) if row.source == source]
        assert Counter(row.clip for row in rows) == dict.fromkeys(range(COUNTS[name]), 2)
    # one source, one clip a step: the order itself
    single = _plan(stage=1, batch=1)
    epochs = [[single.batch(e * 23 + i)[0].clip for i in range(23)] for e in range(3)]
    assert all(sorted(epoch) == list(range(23)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_few_shards_are_in_use_at_a_time():
    plan = _of(STAGES[1], 1, 0, {"single_person": [10] * 40}, {"single_person": np.array([PEOPLE] * 400)})
    shards = [plan.batch(step)[0].clip // 10 for step in range(400)]
    for start in range(0, 400, SHUFFLED_SHARDS * 10):
        assert len(set(shards[start : start + SHUFFLED_SHARDS * 10])) <= SHUFFLED_SHARDS
    assert shards[:40] != sorted(shards[:40])


def test_modalities_are_exactly_uniform_in_expectation():
    weights = np.full(4, 0.25)
    table = balance(weights, np.array([PEOPLE, PEOPLE, OBJECTS, OBJECTS]))
    np.testing.assert_allclose(table.sum(1), 1, atol=1e-12)
    np.testing.assert_allclose(weights @ table, 0.2, atol=1e-12)
    # by hand: people-only modalities come from half of the samples, so 0.4 each there; objects share the rest
    people = [0.2 / 3, 0.2 / 3, 0.4, 0.4, 0.2 / 3]
    objects = [1 / 3, 1 / 3, 0, 0, 1 / 3]
    np.testing.assert_allclose(table, [people, people, objects, objects], atol=1e-12)


def test_modalities_are_uniform_over_many_steps():
    plan, seen = _plan(), Counter()
    for step in range(750):
        seen.update((SOURCES[row.source], MODALITY_NAMES[row.modality]) for row in plan.batch(step))
    for name in MODALITY_NAMES:
        share = sum(n for (_, modality), n in seen.items() if modality == name) / 6000
        # five standard deviations of 6,000 draws at 1/5
        assert abs(share - 0.2) < 5 * np.sqrt(0.16 / 6000)
    assert not {("general", "densepose"), ("subject", "skeleton")} & set(seen)


def test_clips_of_one_source_may_differ_in_what_they_have():
    random = np.random.default_rng(0)
    flags = random.random((40, 5)) < 0.6
    flags[~flags.any(1)] = True
    available = _available() | {"general": flags}
    plan, seen = _plan(available=available), Counter()
    for step in range(750):
        for row in plan.batch(step):
            assert available[SOURCES[row.source]][row.clip, row.modality]
            seen[row.modality] += 1
    assert all(abs(n / 6000 - 0.2) < 5 * np.sqrt(0.16 / 6000) for n in seen.values())


def test_a_modality_too_rare_for_uniformity_comes_as_near_as_it_can(caplog):
    possible = np.array([[True, True], [True, False]])
    table = balance(np.array([0.1, 0.9]), possible)
    np.testing.assert_allclose(table, [[0, 1], [1, 0]], atol=1e-9)
    rare = {source: np.array([[True, False, False, False, False]] * n) for source, n in COUNTS.items()}
    rare["general"] = np.array([PEOPLE] * 40)
    with caplog.at_level(logging.WARNING):
        _plan(available=rare)
    assert "too few clips" in caplog.text


def test_stage_one_sees_only_its_modalities_and_source():
    plan, seen = _plan(stage=1, batch=6), Counter()
    for step in range(600):
        rows = plan.batch(step)
        assert {SOURCES[row.source] for row in rows} == {"single_person"}
        seen.update(MODALITY_NAMES[row.modality] for row in rows)
    assert set(seen) == {"depth", "flow", "densepose"}
    assert all(abs(n / 3600 - 1 / 3) < 5 * np.sqrt(2 / 9 / 3600) for n in seen.values())


def test_a_step_depends_on_nothing_but_seed_and_step():
    plan, again = _plan(seed=3), _plan(seed=3)
    unbroken = [plan.batch(step) for step in range(20)]
    assert [again.batch(step) for step in (19, 4, 0)] == [unbroken[step] for step in (19, 4, 0)]
    assert _plan(seed=4).batch(0) != unbroken[0]


def test_plans_do_not_change_between_releases():
    # a run started yesterday resumes today: these rows are part of the checkpoint's meaning
    rows = [tuple(row[1:5]) for row in _plan(seed=1, batch=4).batch(1000)]
    assert rows == [(0, 1, 13, 3), (1, 2, 21, 1), (2, 0, 5, 2), (3, 3, 4, 4)]


def test_windows_use_every_start():
    starts = Counter(window_start(0, step, slot, 5) for step in range(200) for slot in range(4))
    assert set(starts) == set(range(5)) and all(abs(n - 160) < 57 for n in starts.values())


@pytest.mark.parametrize("batch", [6, 1, 0, -4])
def test_a_batch_that_cannot_be_balanced_says_what_can(batch):
    with pytest.raises(ValueError, match="use a multiple of 4, such as (8|4)"):
        _plan(batch=batch)


def test_missing_sources_and_modalities_say_what_to_do():
    three = {"single_person": 4, "two_persons": 4, "subject": 4}
    with pytest.raises(ValueError, match="no clips of source 'general'.*simulate"):
        _plan(counts=three, available=_available(three))
    none = {source: np.array([OBJECTS] * n) for source, n in COUNTS.items()}
    with pytest.raises(ValueError, match="has modality 'densepose'"):
        _plan(stage=1, available=none)
    bare = _available()
    bare["subject"][:] = False
    with pytest.raises(ValueError, match="no clip of 'subject' has any of depth, flow"):
        _plan(available=bare)


def test_clips_without_any_of_the_stages_modalities_are_left_out_and_counted(caplog):
    bare = _available()
    bare["subject"][[0, 5]] = bare["general"][:5] = False
    with caplog.at_level(logging.WARNING):
        plan = _plan(available=bare)
    assert "2 of 7 clips of subject have none of depth," in caplog.text
    assert "5 of 40 clips of general" in caplog.text
    # two clips a step of five and of 35: whole epochs, so each as often as the others
    rows = [row for step in range(35) for row in plan.batch(step)]
    for source, kept in (("subject", [1, 2, 3, 4, 6]), ("general", range(5, 40))):
        seen = Counter(row.clip for row in rows if SOURCES[row.source] == source)
        assert seen == dict.fromkeys(kept, 70 // len(kept))
    assert all(bare[SOURCES[row.source]][row.clip, row.modality] for row in rows)


def test_a_stage_may_name_its_modalities_in_any_order():
    stage = replace(STAGES[1], modalities=("segmentation", "depth"), sources=("subject",))
    plan = _of(stage, 2, 0, {"subject": [7]}, _available())
    drawn = {MODALITY_NAMES[row.modality] for step in range(50) for row in plan.batch(step)}
    assert drawn == {"segmentation", "depth"}
