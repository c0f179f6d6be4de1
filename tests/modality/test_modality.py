import json

import numpy as np
import pytest

from unity.modality.table import MODALITIES

VALUES = {
    "depth": np.full((2, 8, 16), 3.0, np.float32),
    "flow": np.ones((2, 8, 16, 2), np.float32),
    "densepose": np.ones((2, 8, 16, 3), np.float32),
    "skeleton": np.zeros((2, 1, 18, 3), np.float32),
    "segmentation": np.ones((2, 8, 16), np.uint8),
}


def test_order_is_the_modality_id():
    assert list(MODALITIES) == ["depth", "flow", "densepose", "skeleton", "segmentation"]
    assert [row.name for row in MODALITIES.values()] == list(MODALITIES)
    assert [row.pixel_aligned for row in MODALITIES.values()] == [True, True, True, False, False]
    assert len({row.type_prompt for row in MODALITIES.values()}) == 5


@pytest.mark.parametrize("name", MODALITIES)
def test_a_row_takes_its_values_through_every_function(name, tmp_path):
    row, values = MODALITIES[name], VALUES[name]
    constants = row.constants(values, (8, 16))
    assert json.loads(json.dumps(constants)) == constants
    assert constants.keys() == row.unknown_constants(8, 16).keys()
    video = row.encode(values, constants)
    assert video.dtype == np.uint8 and video.shape == (2, 8, 16, 3)
    assert row.decode(video, constants).dtype == values.dtype
    assert row.picture(values, constants).shape == (2, 8, 16, 3)
    paths = row.save(values, tmp_path / "deep" / name, 16.0)
    assert sorted(paths) == sorted((tmp_path / "deep").iterdir())


@pytest.mark.parametrize("name", MODALITIES)
def test_float_videos_are_refused(unchecked, name):
    row = MODALITIES[name]
    with pytest.raises(ValueError, match="uint8"):
        row.decode(np.zeros((2, 8, 16, 3), np.float32), row.unknown_constants(8, 16))
