import matplotlib
import numpy as np
import pytest

from unity.modality import encodings
from unity.modality.encodings import ENCODINGS, OURS
from unity.modality.table import MODALITIES


def test_every_modality_has_ours_first():
    assert ENCODINGS.keys() == MODALITIES.keys()
    assert all(next(iter(rows)) == OURS and rows[OURS] is MODALITIES[name] for name, rows in ENCODINGS.items())


def test_the_colours_are_matplotlibs():
    share = np.linspace(0, 1, 256, dtype=np.float32)
    # inverse depth = share, a range from 0 to 1
    with np.errstate(divide="ignore"):
        drawn = encodings.spectral_encode((1 / share)[None, None], {"near": 1.0, "far": 0.0})[0, 0]
    theirs = matplotlib.colormaps["Spectral_r"](np.arange(256))[:, :3] * 255
    assert np.abs(drawn - theirs).max() <= 1
    near, far = drawn[-1].astype(int), drawn[0].astype(int)
    assert near[0] > near[2] + 50 and far[2] > far[0] + 50


@pytest.mark.parametrize("noise, bound", [(0, 0.004), (4, 0.02)])
def test_depth_in_colours_comes_back(noise, bound):
    rng = np.random.default_rng(0)
    constants = {"near": 0.5, "far": 0.05}
    depth = (1 / rng.uniform(0.05, 0.5, (3, 24, 32))).astype(np.float32)
    row = ENCODINGS["depth"]["spectral"]
    video = row.encode(depth, constants).astype(int) + rng.normal(0, noise, (3, 24, 32, 3)).round().astype(int)
    back = row.decode(video.clip(0, 255).astype(np.uint8), constants)
    # share of the clip's range of inverse depth
    error = np.abs(1 / back - 1 / depth) / 0.45
    assert error.mean() < bound and error.max() < 40 * bound


def test_the_sky_is_far_and_relative_depth_keeps_its_order():
    depth = np.array([[[1.0, 2.0, 10.0, np.inf]]], np.float32)
    row = ENCODINGS["depth"]["spectral"]
    back = row.decode(row.encode(depth, {"near": 1.0, "far": 0.0}), row.unknown_constants(1, 4))
    assert np.isinf(back[0, 0, 3]) and (np.diff(back[0, 0, :3]) > 0).all()
    np.testing.assert_allclose(back[0, 0, :2], [1, 2], rtol=0.02)


def test_grey_is_not_read_as_colours_nor_colours_as_grey():
    depth = (1 / np.linspace(0.1, 1, 64, dtype=np.float32)).reshape(1, 8, 8)
    constants = {"near": 1.0, "far": 0.1}
    ours, theirs = ENCODINGS["depth"][OURS], ENCODINGS["depth"]["spectral"]
    wrong = np.abs(1 / ours.decode(theirs.encode(depth, constants), constants) - 1 / depth).mean()
    right = np.abs(1 / theirs.decode(theirs.encode(depth, constants), constants) - 1 / depth).mean()
    assert right < 0.01 < 0.1 < wrong


def test_linear_flow_comes_back_and_is_not_ours():
    rng = np.random.default_rng(0)
    flow = rng.uniform(-6, 6, (2, 16, 16, 2)).astype(np.float32)
    row, constants = ENCODINGS["flow"]["linear"], {"scale": 10.0}
    back = row.decode(row.encode(flow, constants), constants)
    assert np.abs(back - flow).max() < 0.15
    # twice the speed is twice the saturation
    one, two = (row.encode(np.full((1, 1, 1, 2), v, np.float32), constants).astype(int) for v in (1.5, 3.0))
    np.testing.assert_allclose(255 - two, 2 * (255 - one), atol=2)
    assert np.abs(ENCODINGS["flow"][OURS].decode(row.encode(flow, constants), constants) - flow).mean() > 1


@pytest.mark.parametrize(
    "name, values",
    [
        ("depth", 1 / np.linspace(0.05, 1, 192, dtype=np.float32).reshape(3, 8, 8)),
        ("depth", np.array([[[1.0, 2.0, 10.0, np.inf]]], np.float32)),
        ("flow", np.random.default_rng(0).uniform(-0.5, 0.5, (3, 8, 8, 2)).astype(np.float32)),
    ],
)
def test_a_video_of_ours_is_redrawn_as_its_values_would_be(name, values):
    for encoding, row in ENCODINGS[name].items():
        constants = MODALITIES[name].constants(values, values.shape[1:3])
        ours, theirs = (one.encode(values, constants).astype(int) for one in (MODALITIES[name], row))
        again = encodings.redraw(ours.astype(np.uint8), name, encoding)
        # a grey level of ours is up to five of theirs, where their colours turn fast
        assert np.abs(again - theirs).max() <= (0 if encoding == OURS else 6), encoding
