import struct

import cv2
import numpy as np
import pytest
import torch

from unity.data.video import resize
from unity.modality import flow

SIGMAS = [0.0, 2.0, 5.0]


def scene(size=256, frames=4) -> np.ndarray:
    """A slow drift of the camera over everything, and two bodies that move by up to 20 px a frame."""
    y, x = np.mgrid[:size, :size].astype(np.float32)
    field = np.zeros((frames, size, size, 2), np.float32)
    for frame in range(frames):
        field[frame, ..., 0] = 0.8 + 0.003 * (x - size / 2)
        field[frame, ..., 1] = -0.4 + 0.003 * (y - size / 2)
        turn = 2 * np.pi * frame / frames + (x + y) / 60
        field[frame, 60:120, 60:120] = 6 * np.stack([np.cos(turn), np.sin(turn)], -1)[60:120, 60:120]
        field[frame, 150:190, 130:160] = (20 * np.cos(frame), 20 * np.sin(frame))
    return field


def noisy(video, sigma, seed=0):
    noise = np.random.default_rng(seed).normal(0, sigma, video.shape)
    return (video + noise).round().clip(0, 255).astype(np.uint8)


def endpoint_error(a, b):
    return np.linalg.norm(a - b, axis=-1)


@pytest.mark.parametrize("sigma, pixels", zip(SIGMAS, [0.03, 0.12, 0.3], strict=True))
def test_endpoint_error_after_noise(sigma, pixels):
    """The bounds are the figures of the study behind the encoding, rounded up for another scene."""
    truth = scene()
    constants = flow.constants(truth, (256, 256))
    decoded = flow.decode(noisy(flow.encode(truth, constants), sigma), constants)
    assert endpoint_error(decoded, truth).mean() < pixels


def test_every_direction_and_speed_comes_back():
    angle, speed = np.meshgrid(np.linspace(-np.pi, np.pi, 721), np.linspace(0, 38, 77), indexing="ij")
    truth = np.stack([speed * np.cos(angle), speed * np.sin(angle)], -1).astype(np.float32)[None]
    decoded = flow.decode(flow.encode(truth, {"scale": 38.4}), {"scale": 38.4})
    error = endpoint_error(decoded, truth)
    assert error.max() < 0.7
    assert error[speed[None] < 1].max() < 0.06


def test_scale_is_fixed_by_the_width():
    assert flow.constants(scene(64), (48, 64)) == flow.unknown_constants(48, 64) == {"scale": 0.15 * 64}


def test_pure_colours_lie_at_the_knots_of_the_wheel():
    pure = [(255, 0, 0), (255, 255, 0), (0, 255, 0), (0, 255, 255), (0, 0, 255), (255, 0, 255)]
    for knot, colour in zip((0, 15, 21, 25, 36, 49), pure, strict=True):
        # position 0 is motion to the right, and 54 steps are one turn clockwise in the picture
        angle = 2 * np.pi * knot / 54
        field = np.array([np.cos(angle), np.sin(angle)], np.float32).reshape(1, 1, 1, 2)
        np.testing.assert_array_equal(flow.encode(field, {"scale": 1.0})[0, 0, 0], colour)


def test_saturation_is_the_root_of_the_speed():
    field = np.array([(0, 0), (1, 0), (4, 0), (16, 0), (160, 0)], np.float32).reshape(1, 1, 5, 2)
    green = flow.encode(field, {"scale": 16.0})[0, 0, :, 1]
    np.testing.assert_array_equal(green, [255, 191, 128, 0, 0])


def test_wheel_equals_torchvisions():
    flow_to_image = pytest.importorskip("torchvision.utils").flow_to_image
    rng = np.random.default_rng(1)
    field = rng.normal(size=(1, 64, 64, 2)).astype(np.float32)
    field /= np.linalg.norm(field, axis=-1).max()
    # theirs has a linear radius: ours of a field whose speeds are squared
    squared = field * np.linalg.norm(field, axis=-1, keepdims=True)
    theirs = flow_to_image(torch.from_numpy(field[0]).permute(2, 0, 1)).permute(1, 2, 0).numpy()
    ours = flow.encode(squared, {"scale": 1.0})[0]
    # they truncate where we round, also in the ramps of the wheel
    assert np.abs(ours.astype(int) - theirs).max() <= 2


def test_undefined_motion_is_refused():
    with pytest.raises(ValueError, match="set unknown motion to 0"):
        flow.encode(np.full((1, 2, 2, 2), np.nan, np.float32), {"scale": 1.0})


def test_flo_layout():
    field = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    data = flow.flo(field)
    assert data[:4] == b"PIEH"
    assert struct.unpack("<f2i", data[:12]) == (202021.25, 3, 2)
    assert struct.unpack("<12f", data[12:]) == tuple(range(12))


def test_saved_values_are_exact_and_opencv_reads_them(tmp_path):
    truth = scene(size=192, frames=3)
    npz, folder = flow.save(truth, tmp_path / "flow", 16.0)
    with np.load(npz) as saved:
        np.testing.assert_array_equal(saved["flow"], truth)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["000000.flo", "000001.flo", "000002.flo"]
    for name, field in zip(names, truth, strict=True):
        np.testing.assert_array_equal(cv2.readOpticalFlow(str(folder / name)), field)


@pytest.mark.parametrize("size", [(64, 64), (32, 32), (64, 96), (96, 64), (128, 64)])
def test_speeds_survive_a_cut_of_the_width(size):
    """Fitted to another aspect, a video decodes by the fitted picture's own scale."""
    rng = np.random.default_rng(4)
    turn, speed = rng.uniform(0, 2 * np.pi, 12), rng.uniform(0.1, 4, 12)
    patches = np.stack([speed * np.cos(turn), speed * np.sin(turn)], -1).reshape(3, 4, 2)
    values = np.kron(patches, np.ones((24, 32, 1)))[None].repeat(2, 0).astype(np.float32)
    video = flow.encode(values, flow.unknown_constants(72, 128))
    fitted = resize(video, size, "flow")
    found = flow.decode(fitted, flow.unknown_constants(*size))
    scale = max(size[0] / 72, size[1] / 128)
    height, width = (max(wanted, round(n * scale)) for wanted, n in zip(size, (72, 128), strict=True))
    field = cv2.resize(values[0], (width, height), interpolation=cv2.INTER_NEAREST_EXACT) * scale
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    truth = field[top : top + size[0], left : left + size[1]]
    # where patches meet, the colours of two mix
    inside = cv2.dilate(cv2.Laplacian(truth, cv2.CV_32F).__abs__().sum(-1), np.ones((7, 7))) < 1e-6
    assert inside.mean() > 0.2
    error = np.linalg.norm(found[0] - truth, axis=-1)[inside]
    assert (error <= 0.03 * np.linalg.norm(truth, axis=-1)[inside] + 0.03).all()


def test_two_pixels_stay_two():
    values = np.full((2, 64, 128, 2), (2, 0), np.float32)
    cut = resize(flow.encode(values, flow.unknown_constants(64, 128)), (64, 64), "flow")
    found = flow.decode(cut, flow.unknown_constants(64, 64))
    assert np.abs(found - (2, 0)).max() < 0.05


def test_a_cut_beyond_the_scale_is_drawn_at_it():
    values = np.full((1, 64, 128, 2), (15, 0), np.float32)
    cut = resize(flow.encode(values, flow.unknown_constants(64, 128)), (64, 64), "flow")
    found = flow.decode(cut, flow.unknown_constants(64, 64))
    assert np.abs(found - (0.15 * 64, 0)).max() < 0.1
