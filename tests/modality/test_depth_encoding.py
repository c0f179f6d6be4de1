import numpy as np
import pytest

from unity.modality import depth

SIGMAS = [0.0, 2.0, 5.0]


def room(height=256, width=256, frames=4) -> np.ndarray:
    """A floor seen from 1.6 m above it, two upright boxes that come nearer, and sky above the horizon."""
    y = (np.arange(height) + 0.5 - height / 3) / width
    floor = np.where(y > 0.02, 1.6 / np.maximum(y, 1e-9), np.inf)
    scene = np.tile(floor[None, :, None], (frames, 1, width)).astype(np.float32)
    for frame in range(frames):
        scene[frame, 60:220, 40:90] = 3.0 - 0.2 * frame
        scene[frame, 90:200, 150:180] = 6.5
    return scene


def noisy(video, sigma, seed=0):
    noise = np.random.default_rng(seed).normal(0, sigma, video.shape)
    return (video + noise).round().clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("sigma, percent", zip(SIGMAS, [0.3, 1.2, 3.0], strict=True))
def test_relative_error_after_noise(sigma, percent):
    """The bounds are the figures of the study behind the encoding, rounded up for another scene."""
    truth = room()
    constants = depth.constants(truth, (256, 256))
    decoded = depth.decode(noisy(depth.encode(truth, constants), sigma), constants)
    near = truth < 20
    assert 100 * np.mean(np.abs(decoded[near] - truth[near]) / truth[near]) < percent


def test_error_is_the_one_rounding_causes():
    truth = np.linspace(1, 40, 20_000, dtype=np.float32).reshape(1, 100, 200)
    constants = depth.constants(truth, (100, 200))
    decoded = depth.decode(depth.encode(truth, constants), constants)
    step = (1 - 1 / 40) / 255
    assert np.abs(1 / decoded - 1 / truth).max() <= 0.5 * step * 1.001
    assert np.abs(1 / decoded - 1 / truth).mean() == pytest.approx(step / 4, rel=0.05)


def test_sky_is_black_and_comes_back_infinite():
    truth = room()
    truth[:, 100, 100] = 5000
    constants = depth.constants(truth, (256, 256))
    video = depth.encode(truth, constants)
    assert constants["far"] == 0
    np.testing.assert_array_equal(video[..., 0] == 0, np.isinf(truth))
    np.testing.assert_array_equal(np.isinf(depth.decode(video, constants)), np.isinf(truth))


def test_without_sky_black_is_the_farthest_surface():
    truth = np.array([2, 4, 8], np.float32).reshape(1, 1, 3)
    constants = depth.constants(truth, (1, 3))
    assert constants == {"near": 0.5, "far": 0.125}
    video = depth.encode(truth, constants)
    # (1/4 - 1/8) / (1/2 - 1/8) = 1/3
    np.testing.assert_array_equal(video[0, 0, :, 0], [255, 85, 0])
    np.testing.assert_allclose(depth.decode(video, constants), truth, rtol=1e-6)


def test_a_flat_clip_and_an_empty_sky():
    for value in (3.0, np.inf):
        truth = np.full((2, 4, 4), value, np.float32)
        constants = depth.constants(truth, (4, 4))
        np.testing.assert_allclose(depth.decode(depth.encode(truth, constants), constants), truth, rtol=1e-6)


def test_a_prediction_of_unknown_range_decodes_to_relative_depth():
    truth = np.array([1, 2, 4, np.inf], np.float32).reshape(1, 1, 4)
    video = depth.encode(truth, {"near": 1.0, "far": 0.0})
    relative = depth.decode(video, depth.unknown_constants(1, 4))
    np.testing.assert_allclose(relative, truth, rtol=0.01)


@pytest.mark.parametrize("hole", [0.0, -1.0, np.nan])
def test_holes_are_refused(hole):
    with pytest.raises(ValueError, match="replace holes by inf"):
        depth.constants(np.array([[[1.0, hole]]], np.float32), (1, 2))


def test_picture_is_warm_near_and_cold_far():
    truth = np.array([1, 8, np.inf], np.float32).reshape(1, 1, 3)
    near, far, sky = depth.picture(truth, depth.constants(truth, (1, 3)))[0, 0].astype(int)
    assert near[0] > near[2] and far[2] > far[0] and not sky.any()


def test_saved_values_are_exact(tmp_path):
    truth = room(frames=2)
    (path,) = depth.save(truth, tmp_path / "depth", 16.0)
    with np.load(path) as saved:
        np.testing.assert_array_equal(saved["depth"], truth)
        assert saved["fps"] == 16
    assert path.name == "depth.npz" and list(tmp_path.iterdir()) == [path]
