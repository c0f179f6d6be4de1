"""Cameras: rays undo projection, people stay in view in every clip, nothing films from under the ground."""

import numpy as np
import pytest

from unity.data.clips import SOURCES
from unity.data.simulate.camera import film, look
from unity.data.simulate.physics import run
from unity.data.simulate.scene import draw_scene
from unity.data.simulate.tables import MOVES, SUBJECT_MOVE


def test_rays_and_projection_undo_each_other():
    camera = look(np.array((1.0, -3.0, 1.5)), np.array((0.2, 0.1, 0.9)), 50.0, (48, 64))
    rows, columns = np.divmod(np.arange(48 * 64), 64)
    image = camera.project(camera.position + 2.5 * camera.rays())
    np.testing.assert_allclose(image, np.stack([columns + 0.5, rows + 0.5, 0 * rows + 2.5], axis=1), atol=1e-9)
    np.testing.assert_allclose(camera.turn @ camera.turn.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(camera.turn) == pytest.approx(1)
    # What lies higher is seen higher, what lies to the right is seen further right.
    up, right = camera.project(np.array((0.2, 0.1, 1.0))), camera.project(np.array((0.4, 0.1, 0.9)))
    assert up[1] < 24 and right[0] > 32


def test_the_field_of_view_is_vertical():
    camera = look(np.array((0.0, -1.0, 0.0)), np.zeros(3), 60.0, (100, 40))
    top = camera.project(np.array((0.0, 0.0, np.tan(np.radians(30)))))
    np.testing.assert_allclose(top, (20, 0, 1), atol=1e-9)


@pytest.mark.parametrize("source", ["single_person", "two_persons"])
@pytest.mark.parametrize(
    ("size", "seeds"),
    [
        ((128, 128), range(15)),
        ((64, 112), range(60, 65)),
        pytest.param((128, 128), range(15, 60), marks=pytest.mark.slow),
        pytest.param((64, 112), range(65, 80), marks=pytest.mark.slow),
    ],
)
def test_people_stay_in_view_for_the_whole_clip(source, size, seeds):
    for seed in seeds:
        world = run(draw_scene(seed, source), 33, 16.0)
        for frame, camera in enumerate(film(world, size, 16.0)):
            x, y, z = np.moveaxis(camera.project(world.keypoints[frame]), -1, 0)
            inside = (x > 0) & (x < size[1]) & (y > 0) & (y < size[0]) & (z > 0.5)
            assert inside.all(), (source, seed, frame)
            tallest = y.max(1) - y.min(1)
            assert tallest.max() > 0.15 * size[0], (source, seed, frame)


@pytest.mark.parametrize("seeds", [range(8), pytest.param(range(8, 20), marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize("source", SOURCES)
def test_cameras_stay_above_ground_and_move_as_the_caption_says(source, seeds):
    for seed in seeds:
        scene = draw_scene(seed, source)
        world = run(scene, 9, 16.0)
        cameras = film(world, (64, 64), 16.0)
        positions = np.array([camera.position for camera in cameras])
        assert positions[:, 2].min() > 0.2, seed
        if scene.shot.move.phrase == MOVES["static"].phrase:
            assert np.ptp(positions, axis=0).max() == 0
        if scene.shot.move.phrase == MOVES["crane"].phrase:
            assert (np.diff(positions[:, 2]) >= 0).all() and positions[-1, 2] > positions[0, 2] + 0.1
    moves = {draw_scene(seed, source).shot.move.phrase for seed in range(80)}
    assert moves == ({SUBJECT_MOVE.phrase} if source == "subject" else {move.phrase for move in MOVES.values()})


def test_the_subject_stays_in_the_middle():
    for seed in range(30):
        world = run(draw_scene(seed, "subject"), 33, 16.0)
        for frame, camera in enumerate(film(world, (96, 96), 16.0)):
            x, y, _ = camera.project(world.thing_position[frame, 0])
            assert abs(x / 96 - 0.5) < 0.2 and abs(y / 96 - 0.5) < 0.2, (seed, frame)
