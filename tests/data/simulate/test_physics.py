"""Physics: free fall, bounces, people that push, and casts that do not start inside each other."""

from dataclasses import replace

import numpy as np
import pytest

from unity.data.clips import SOURCES
from unity.data.simulate.body import BONE
from unity.data.simulate.physics import GRAVITY, run
from unity.data.simulate.scene import draw_scene
from unity.data.simulate.tables import EVENTS, Part


@pytest.fixture
def drop():
    """(height, damping, velocity, radius) -> a scene of one ball and nothing else."""

    def scene(height, damping=20.0, velocity=(0.0, 0.0, 0.0), radius=0.2, source="general", position=(0.0, 0.0)):
        base = draw_scene(0, source)
        ball = replace(
            draw_scene(0, "general").things[0],
            parts=(Part("sphere", (radius,)),),
            event=EVENTS["fall"],
            position=(*position, height),
            velocity=velocity,
            spin=(0.0, 0.0, 0.0),
            damping=damping,
            radius=radius,
        )
        return replace(base, fixtures=(), things=(ball,))

    return scene


def test_free_fall_is_a_parabola(drop):
    world = run(drop(3.0, velocity=(1.0, -0.5, 2.0)), 9, 16.0)
    t = np.arange(9) / 16
    truth = np.stack([t, -0.5 * t, 3.0 + 2 * t - GRAVITY * t**2 / 2], axis=1)
    # Semi-implicit steps of at most 1/480 s are off by g t dt / 2.
    np.testing.assert_allclose(world.thing_position[:, 0], truth, atol=GRAVITY * 0.5 / 960 + 1e-4)
    np.testing.assert_allclose(world.thing_velocity[:, 0, 2], 2 - GRAVITY * t, atol=1e-9)


@pytest.mark.parametrize(
    ("damping", "least", "most"), [(10.0, 0.85, 1.0), (60.0, 0.55, 0.75), (120.0, 0.35, 0.55), (300.0, 0.05, 0.25)]
)
def test_balls_bounce_as_their_damping_says(drop, damping, least, most):
    z = run(drop(1.5, damping), 97, 64.0).thing_position[:, 0, 2]
    landing = int(z[:48].argmin())
    assert least < np.sqrt((z[landing:].max() - 0.2) / 1.3) < most
    assert z.min() > 0.2 - 0.06


def test_a_ball_bounces_off_a_person_and_stays_out(drop):
    scene = drop(1.0, velocity=(0.0, 4.0, 1.0), radius=0.12, source="single_person", position=(0.0, -1.5))
    person = replace(scene.people[0], style=replace(scene.people[0].style, act="look", yaw=0.0), spot=(0.0, 0.0))
    world = run(replace(scene, people=(person,)), 17, 16.0)
    assert world.thing_position[:, 0, 1].max() < 0.1
    assert world.thing_velocity[-1, 0, 1] < 0


@pytest.mark.parametrize("source", SOURCES)
def test_nothing_starts_inside_anything_or_explodes(source):
    for seed in range(40):
        world = run(draw_scene(seed, source), 17, 16.0)
        speed = np.linalg.norm(world.thing_velocity, axis=-1)
        assert speed.max(initial=0) < 12, (source, seed)
        assert world.thing_position[..., 2].min(initial=1) > 0, (source, seed)
        for k, a in enumerate(world.scene.things):
            for m, b in enumerate(world.scene.things[:k]):
                gap = np.linalg.norm(world.thing_position[0, k, :2] - world.thing_position[0, m, :2])
                assert gap >= a.radius + b.radius - 1e-9, (source, seed)


def test_subjects_stay_in_the_middle():
    for seed in range(40):
        world = run(draw_scene(seed, "subject"), 33, 16.0)
        assert np.abs(world.thing_position[:, 0, :2]).max() < 0.03, seed


def test_two_people_keep_clear_of_each_other():
    for seed in range(40):
        world = run(draw_scene(seed, "two_persons"), 17, 16.0)
        hips = world.keypoints[:, :, [8, 11], :2].mean(2)
        assert np.linalg.norm(hips[:, 0] - hips[:, 1], axis=-1).min() > 0.6, seed


@pytest.mark.parametrize("fps", [8.0, 12.5, 30.0])
def test_time_does_not_depend_on_the_frame_rate(fps, drop):
    world = run(drop(3.0), 5, fps)
    t = np.arange(5) / fps
    np.testing.assert_allclose(world.thing_position[:, 0, 2], 3 - GRAVITY * t**2 / 2, atol=6e-3)


def test_capsules_follow_the_bones(filmed):
    world, _ = filmed(3, "single_person", 5)
    capsules = world.geom_position[:, world.model.geom_group == 3]
    thigh = world.keypoints[:, 0, [8, 9]].mean(1)
    assert BONE["thigh.R"] > 0
    np.testing.assert_allclose(capsules[:, 2], thigh, atol=1e-9)
