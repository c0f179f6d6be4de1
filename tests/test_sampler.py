from functools import partial

import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from unity.flow_matching import generator
from unity.randomness import Purpose
from unity.sampler import SAMPLERS, Guidance, Known, Sampling, Solver, Texts, guide, sample, time_grid


def texts(batch: int) -> Texts:
    text = torch.zeros(batch, 1, 4), torch.ones(batch, dtype=torch.long)
    return Texts(caption=text, prompt=text, empty=text)


IDS = torch.zeros(2, dtype=torch.long)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_straight_path_is_exact(name, steps):
    data, noise = torch.randn(2, 3, 4, 5, dtype=torch.float64).unbind(0)
    reached = Solver(time_grid(steps, shift=3.0), SAMPLERS[name]())(lambda x, t: (x - data) / t, noise)
    torch.testing.assert_close(reached, data, atol=1e-12, rtol=0)


def gaussian_velocity(mean, std):
    """Exact velocity of a Gaussian data distribution, whose path from noise is mean·(1-t) + x·s(t)."""

    def velocity(x, t):
        variance = (1 - t) ** 2 * std**2 + t**2
        centred = x - (1 - t) * mean
        return -mean + centred * (t - (1 - t) * std**2) / variance

    return velocity


@pytest.mark.parametrize("name, order", [("euler", 1), ("unipc", 2), ("dpm++", 1.5)])
def test_order_of_convergence_on_a_gaussian(name, order):
    """Of dpm++, the first step is of first order, and no corrector mends it."""
    noise = torch.linspace(-2, 2, 9, dtype=torch.float64)
    truth = 0.7 + 0.3 * noise
    errors = [
        (Solver(time_grid(n), SAMPLERS[name]())(gaussian_velocity(0.7, 0.3), noise) - truth).abs().max()
        for n in (40, 80)
    ]
    assert errors[0] / errors[1] > 1.8**order, errors
    assert errors[1] < 0.02


DIFFUSERS = {
    "euler": FlowMatchEulerDiscreteScheduler,
    "unipc": partial(UniPCMultistepScheduler, prediction_type="flow_prediction", use_flow_sigmas=True),
    "dpm++": partial(DPMSolverMultistepScheduler, prediction_type="flow_prediction", use_flow_sigmas=True),
}


@pytest.mark.parametrize("name", DIFFUSERS)
@pytest.mark.parametrize("steps", [10, 20])
def test_samplers_equal_diffusers(name, steps):
    """Also where diffusers takes a last step of second order by itself, from 15 steps on."""
    velocity = gaussian_velocity(0.7, 0.3)
    times = torch.linspace(0.98, 0, steps + 1, dtype=torch.float64)
    scheduler = DIFFUSERS[name]()
    scheduler.set_timesteps(steps)
    scheduler.sigmas = times.clone()
    noise = torch.linspace(-2, 2, 9, dtype=torch.float64).view(1, 1, 3, 3)
    theirs = noise
    for i, step in enumerate(scheduler.timesteps):
        theirs = scheduler.step(velocity(theirs, times[i].item()), step, theirs).prev_sample
    ours = Solver(times.tolist(), SAMPLERS[name]())(velocity, noise)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


def test_stochastic_equals_diffusers():
    velocity, times = gaussian_velocity(0.7, 0.3), torch.linspace(0.98, 0, 9).tolist()
    scheduler = FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)
    scheduler.set_timesteps(8)
    scheduler.sigmas = torch.tensor(times)
    state = start = torch.linspace(-2, 2, 9).view(1, 1, 3, 3)
    new = generator(Purpose.STEP, 5, 0)
    for now, step in zip(times, scheduler.timesteps, strict=False):
        state = scheduler.step(velocity(state, now), step, state, generator=new).prev_sample
    found = Solver(times, SAMPLERS["stochastic"](5))(velocity, start)
    torch.testing.assert_close(found, state, atol=1e-6, rtol=1e-6)


def test_new_noise_is_by_position():
    velocity, noise = gaussian_velocity(0.7, 0.3), torch.ones(2, 5)
    both = Solver(time_grid(4), SAMPLERS["stochastic"](3))(velocity, noise)
    alone = Solver(time_grid(4), SAMPLERS["stochastic"](3))(velocity, noise[:1])
    other = Solver(time_grid(4), SAMPLERS["stochastic"](4))(velocity, noise[:1])
    assert torch.equal(both[:1], alone) and not torch.equal(both[0], both[1]) and not torch.equal(alone, other)


def test_guidance_one_equals_none_and_switches_are_separate():
    def velocity(caption, prompt):
        return caption[0] + 10 * prompt[0]

    caption, prompt, empty = [(torch.tensor(v), torch.tensor(1)) for v in (1.0, 2.0, 0.0)]
    texts = Texts(caption=caption, prompt=prompt, empty=empty)
    plain = velocity(caption, prompt)
    assert guide(texts, Guidance(scale=1.0, prompt=True))(velocity) == plain
    assert guide(texts, Guidance(scale=3.0))(velocity) == plain + 2 * 1
    assert guide(texts, Guidance(scale=3.0, caption=False, prompt=True))(velocity) == plain + 2 * 20
    assert guide(texts, Guidance(scale=3.0, prompt=True))(velocity) == plain + 2 * 21
    assert guide(texts, Guidance(scale=3.0, caption=False))(velocity) == plain


def toward_ones(rgb, aux, time, modality, *text, wanted):
    """Points every noisy stream at data of ones; a clean stream's answer must not matter."""
    return tuple(
        (x - 1) / t.clamp_min(1e-3).view(-1, 1, 1, 1, 1) for x, t in zip((rgb, aux), time.unbind(1), strict=True)
    )


@pytest.mark.parametrize("task, given", [("joint", ()), ("control", ("aux",)), ("estimate", ("rgb",))])
def test_sample_moves_only_the_noisy_streams(task, given):
    latent = torch.randn(2, 3, 2, 4, 4)
    known = Known(**(dict.fromkeys(given, latent) or dict(shape=latent.shape)))
    out = sample(toward_ones, task, IDS, texts(2), known, Sampling(steps=4))
    for name, result in zip(("rgb", "aux"), out, strict=True):
        torch.testing.assert_close(result, latent if name in given else torch.ones_like(latent))


@pytest.mark.parametrize("name", SAMPLERS)
def test_whoever_watches_sees_once_a_step_where_sampling_would_end(name):
    latent, seen = torch.randn(2, 3, 2, 4, 4), []
    sampling = Sampling(steps=4, sampler=name)
    watched = sample(toward_ones, "estimate", IDS, texts(2), Known(rgb=latent), sampling, seen.append)
    alone = sample(toward_ones, "estimate", IDS, texts(2), Known(rgb=latent), sampling)
    assert len(seen) == 4
    for data in seen:
        torch.testing.assert_close(data[:, 0], latent)
        torch.testing.assert_close(data[:, 1], torch.ones_like(latent))
    for stream in range(2):
        assert torch.equal(watched[stream], alone[stream])


def test_sample_noise_is_by_position():
    noise = []

    def spy(rgb, aux, *rest, wanted):
        noise.append(rgb)
        return rgb, aux

    for b in (1, 2):
        sample(spy, "joint", IDS[:b], texts(b), Known(shape=(b, 1, 1, 2, 2)), Sampling(steps=1, seed=5))
    torch.testing.assert_close(noise[0][0], noise[-1][0], rtol=0, atol=0)
    assert not torch.equal(noise[-1][0], noise[-1][1])


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="unknown task 'paint'"):
        sample(toward_ones, "paint", IDS, texts(2), Known())
    with pytest.raises(ValueError, match="'estimate' needs the rgb latent"):
        sample(toward_ones, "estimate", IDS, texts(2), Known())
    with pytest.raises(ValueError, match="steps is 0"):
        time_grid(0)


NAN, INF = float("nan"), float("inf")
WRONG = [{"steps": 0}, {"steps": -3}, {"shift": 0.0}, {"shift": NAN}, {"shift": INF}, {"sampler": "heun"}]
WRONG += [{"guidance": Guidance(scale=scale)} for scale in (NAN, INF, -INF)]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_what_no_sampler_can_do_is_refused_before_anything_is_drawn(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} (is|'heun')"):
        Sampling(**wrong)
