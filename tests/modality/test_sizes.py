"""Values at another size against the same scene computed there."""

import numpy as np
import pytest

from unity.modality.table import MODALITIES

SMALL, LARGE = (12, 20), (36, 80)


def middles(size):
    """x and y of the pixels' middles, in shares of the picture."""
    rows, columns = ((np.arange(n) + 0.5) / n for n in size)
    return np.meshgrid(columns, rows)


def depth(size):
    """A plane, whose inverse depth is linear in the picture; sky above it."""
    x, y = middles(size)
    return np.where(y < 0.25, np.inf, 1 / (0.1 + 0.3 * y + 0.1 * x))[None].astype(np.float32)


def flow(size):
    """A zoom: each pixel moves by a share of its way from the middle."""
    x, y = middles(size)
    return np.stack((0.1 * size[1] * (x - 0.5), 0.1 * size[0] * (y - 0.5)), -1)[None].astype(np.float32)


def labels(size):
    x, y = middles(size)
    return (1 + (x > 0.5) + 2 * (y > 0.5))[None].astype(np.uint8)


def inside(values, by=2):
    """Without the border, where there is nothing to be between."""
    return values[:, by:-by, by:-by]


@pytest.mark.parametrize("old, new", [(SMALL, LARGE), (LARGE, SMALL), (SMALL, (24, 10))])
def test_values_of_another_size_are_those_of_the_scene_there(old, new):
    def resized(name, values):
        return MODALITIES[name].resize(values, old, new)

    border = -(-3 * new[0] // old[0]) // 2 if new[0] > old[0] else 1
    found, truth = inside(resized("depth", depth(old)), border), inside(depth(new), border)
    away = np.abs(middles(new)[1] - 0.25)[border:-border, border:-border] > 0.1
    np.testing.assert_allclose(found[0][away], truth[0][away], rtol=1e-3)
    # the corners of bilinear pixels do not move a linear field
    np.testing.assert_allclose(inside(resized("flow", flow(old)), border), inside(flow(new), border), atol=1e-3)
    np.testing.assert_array_equal(resized("segmentation", labels(old)), labels(new))
    assert resized("depth", depth(old)).dtype == resized("flow", flow(old)).dtype == np.float32


def test_joints_stay_where_they_are_in_the_picture():
    people = np.zeros((1, 1, 18, 3), np.float32)
    people[..., 0], people[..., 1], people[..., 2] = 19, 0, 1
    found = MODALITIES["skeleton"].resize(people, SMALL, LARGE)
    # the middle of the last column is half a pixel of the small picture from the edge, two of the large one
    np.testing.assert_allclose(found[0, 0, 0], (80 - 2 - 0.5, 1.5 - 0.5, 1), atol=1e-5)
    assert people[0, 0, 0, 0] == 19
