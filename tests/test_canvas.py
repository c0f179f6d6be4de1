"""The whole frame at its own aspect, in a size that a model can see."""

import itertools
import math

import numpy as np
import pytest

from unity.canvas import Canvas, exactly, whole_frame

FILMS = (
    (256, 256),
    (1080, 1920),
    (1920, 1080),
    (480, 640),
    (816, 1920),
    (100, 3000),
    (3, 2),
    (7000, 4000),
    (65, 67),
)
MODELS = (((64, 64), (16, 16)), ((480, 832), (16, 16)), ((704, 1280), (32, 32)), ((128, 128), (8, 8)))


@pytest.mark.parametrize(("film", "model"), itertools.product(FILMS, MODELS))
def test_the_whole_frame_keeps_its_aspect_and_the_models_pixels(film, model):
    trained, patch = model
    canvas = whole_frame(film, trained, patch)
    for picture, whole, unit in zip(canvas.picture, canvas.model, patch, strict=True):
        assert picture % 2 == 0 and whole % unit == 0 and picture <= whole < picture + unit
    # a side is even, and so up to a pixel off
    height, width = canvas.picture
    lowest, highest = (height - 1) / (width + 1), (height + 1) / (width - 1)
    assert lowest <= film[0] / film[1] <= highest
    if min(film) / max(film) > 0.2:
        assert 0.7 < math.prod(canvas.picture) / math.prod(trained) < 1.4


def test_a_film_of_the_trained_aspect_is_seen_as_in_training():
    assert whole_frame((256, 256), (64, 64), (16, 16)) == exactly((64, 64))
    assert whole_frame((960, 1664), (480, 832), (16, 16)) == exactly((480, 832))


def test_what_is_added_is_taken_away():
    video = np.random.default_rng(0).integers(0, 256, (3, 44, 80, 3)).astype(np.uint8)
    canvas = Canvas((44, 80), (48, 80))
    assert canvas.pad(video).shape == (3, *canvas.model, 3)
    np.testing.assert_array_equal(canvas.crop(canvas.pad(video)), video)
    assert (canvas.pad(video)[:, 44:] == video[:, 43:]).all()
