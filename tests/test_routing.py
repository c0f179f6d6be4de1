import functools

import pytest
import torch

from unity.flow_matching import TimeConfig, draw_noise, draw_time, generator, masked_mean
from unity.objective import routed_loss
from unity.randomness import Purpose, _mix, draw, fold, uniform
from unity.routing import Route, RoutingConfig, draw_route, fixed_route
from unity.tasks import TASKS

SLOTS = list(range(2000))


@functools.cache
def route(**config):
    return draw_route(RoutingConfig(**config), TimeConfig(), "zero", 1, 2, SLOTS)


def test_tasks_follow_their_probabilities_within_a_batch():
    share = torch.bincount(route().task, minlength=3) / len(SLOTS)
    torch.testing.assert_close(share, torch.tensor([0.5, 0.2, 0.3]), atol=0.03, rtol=0)


def test_masks_and_times_follow_the_task():
    r = route()
    for task, row in enumerate(TASKS.values()):
        rows = r.task == task
        assert (r.noisy[rows] == torch.tensor(row.noisy)).all(), row.name
    assert (r.time[~r.noisy] == 0).all() and (r.time[r.noisy] > 0).all()
    torch.testing.assert_close(r.model_time, r.time)
    joint = r.time[r.task == 0]
    assert abs(torch.corrcoef(joint.T)[0, 1]) < 0.05, "the two streams' times must be independent"


def test_estimate_never_sees_the_caption():
    r = route(caption_dropout=0.0)
    assert (r.caption == (r.task != 2)).all()
    dropped = route(caption_dropout=0.1, prompt_dropout=0.2)
    assert abs((~dropped.caption[r.task != 2]).float().mean() - 0.1) < 0.02
    assert abs((~dropped.prompt).float().mean() - 0.2) < 0.02


def test_shared_clean_time_is_the_noisy_streams_time():
    r = draw_route(RoutingConfig(), TimeConfig(), "shared", 1, 2, SLOTS)
    torch.testing.assert_close(r.model_time[:, 0], r.model_time[:, 1])
    assert (r.time[~r.noisy] == 0).all()
    torch.testing.assert_close(r.model_time[r.noisy], r.time[r.noisy])


def test_any2any_never_leaves_both_clean_and_draws_all_patterns_alike():
    r = route(any2any=True)
    assert r.noisy.any(1).all()
    share = torch.bincount(r.task, minlength=3) / len(SLOTS)
    torch.testing.assert_close(share, torch.full((3,), 1 / 3), atol=0.03, rtol=0)


def test_text_to_video_hides_the_aux_stream_of_joint_samples_alone():
    before, some = (
        draw_route(RoutingConfig(video_only=v), TimeConfig(), "zero", 1, 2, SLOTS[:800]) for v in (0, 0.5)
    )
    hidden = some.time[:, 1] == 1
    assert abs(hidden[some.task == 0].float().mean() - 0.5) < 0.06 and not hidden[some.task != 0].any()
    assert (some.noisy[hidden] == torch.tensor([True, False])).all() and (some.model_time[hidden, 1] == 1).all()
    for name in ("time", "model_time", "noisy", "caption", "prompt"):
        assert torch.equal(getattr(some, name)[~hidden], getattr(before, name)[~hidden])
    assert torch.equal(some.time[:, 0], before.time[:, 0])
    # nothing of the aux latent is seen, or learnt
    only = draw_route(
        RoutingConfig(joint=1, control=0, estimate=0, video_only=1), TimeConfig(), "zero", 1, 2, range(4)
    )
    latents, noise = torch.randn(2, 4, 2, 3, 1, 2, 2).unbind(0)

    def model(rgb, aux, time, modality, wanted):
        return rgb * aux, aux * 0

    other = latents.clone()
    other[:, 1] += 1
    losses = [
        routed_loss(model, z, noise, only, torch.zeros(4, dtype=torch.long), ())[0] for z in (latents, other)
    ]
    assert torch.equal(*losses)


def test_a_draw_depends_on_position_only():
    whole = route()
    parts = [draw_route(RoutingConfig(), TimeConfig(), "zero", 1, 2, SLOTS[i::2]) for i in range(2)]
    torch.testing.assert_close(torch.stack([p.time for p in parts], 1).flatten(0, 1), whole.time, rtol=0, atol=0)
    noise = draw_noise(1, 2, [3, 4], (2, 5))
    torch.testing.assert_close(draw_noise(1, 2, [4], (2, 5))[0], noise[1], rtol=0, atol=0)
    assert not torch.equal(noise[0], noise[1])


def test_fold_is_pinned_and_uniform():
    assert fold(0) != fold(1) and fold(0, 1, 2) != fold(0, 2, 1) and fold(7, 3) == fold(7, 3)
    # first output of SplitMix64 from state 0, as published with the generator
    assert _mix(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF
    assert fold(1, 2, 3) == 2861436890424292635
    draws = torch.tensor([uniform(Purpose.TASK, 3, i) for i in range(20000)], dtype=torch.float64)
    assert abs(draws.mean() - 0.5) < 0.01 and abs(draws.var() - 1 / 12) < 0.002


def test_no_two_purposes_share_a_draw():
    """At the same seed and position, and where one position follows from another by a shift."""
    numbers = [
        draw(purpose, seed, *position) for purpose in Purpose for seed in (0, 1) for position in positions()
    ]
    assert len(set(numbers)) == len(numbers)
    assert draw(Purpose.NOISE, 3, 4, 5) == fold(3, Purpose.NOISE, 4, 5)
    assert generator(Purpose.NOISE, 3, 4).initial_seed() == draw(Purpose.NOISE, 3, 4)


def positions():
    yield from ((i,) for i in range(12))
    yield from ((i, j) for i in range(12) for j in range(12))


@pytest.mark.parametrize("shift", [1.0, 5.0])
def test_time_quantiles_against_closed_forms(shift):
    u = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    z = torch.distributions.Normal(0.0, 1.0).icdf(u)
    odds = shift * torch.exp(0.3 + 0.5 * z)
    logit_normal = draw_time(TimeConfig(mean=0.3, std=0.5, shift=shift), u)
    torch.testing.assert_close(logit_normal, odds / (1 + odds), atol=1e-6, rtol=0)
    odds = shift * u / (1 - u)
    torch.testing.assert_close(draw_time(TimeConfig(kind="uniform", shift=shift), u), odds / (1 + odds))


@pytest.mark.parametrize(
    "task, wanted", [("joint", (True, True)), ("control", (True, False)), ("estimate", (False, True))]
)
def test_a_stream_is_wanted_where_any_sample_is_scored_on_it(task, wanted):
    alone = RoutingConfig(**{**dict.fromkeys(TASKS, 0.0), task: 1.0})
    assert draw_route(alone, TimeConfig(), "zero", 0, 0, range(4)).wanted == wanted
    assert fixed_route(task, torch.tensor([0.4]), "zero").wanted == wanted
    for step in range(20):
        r = draw_route(RoutingConfig(), TimeConfig(), "shared", 0, step, range(2))
        assert r.wanted == tuple(r.noisy.any(0).tolist()) == r.to("cpu").wanted


def test_loss_reads_noisy_streams_only_and_splits_over_ranks():
    r = draw_route(RoutingConfig(), TimeConfig(), "zero", 0, 0, range(8))
    latents = torch.randn(8, 2, 3, 1, 2, 2)
    noise = draw_noise(0, 0, range(8), latents.shape[1:])
    truth = noise - latents

    def wrong_on_clean(rgb, aux, time, *rest, wanted):
        error = torch.where(r.noisy, 2.0, 1e3).view(8, 2, 1, 1, 1, 1)
        return tuple((truth + error).unbind(1))

    loss, losses = routed_loss(wrong_on_clean, latents, noise, r, torch.zeros(8), [])
    torch.testing.assert_close(loss, torch.tensor(4.0))
    halves = [masked_mean(losses[i : i + 4], r.noisy[i : i + 4]) for i in (0, 4)]
    torch.testing.assert_close(sum(halves) / 2, loss)


def test_a_sampling_route_shows_the_clean_stream_clean():
    r = fixed_route("control", torch.tensor([0.4]), "zero")
    assert (
        isinstance(r, Route)
        and r.time.tolist() == [[pytest.approx(0.4), 0.0]]
        and r.noisy.tolist() == [[True, False]]
    )
    shared = fixed_route("control", torch.tensor([0.4]), "shared")
    assert shared.model_time.tolist() == [[pytest.approx(0.4), pytest.approx(0.4)]]


def test_probabilities_must_add_up():
    with pytest.raises(ValueError, match="must add up to 1"):
        RoutingConfig(joint=0.9)
