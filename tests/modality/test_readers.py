import numpy as np
import pytest

from unity.modality.readers import read_values
from unity.modality.table import MODALITIES

RANDOM = np.random.default_rng(0)
PARTS = RANDOM.integers(0, 25, (3, 6, 8))
VALUES = {
    "depth": RANDOM.uniform(1, 9, (3, 6, 8)).astype(np.float32),
    "flow": RANDOM.normal(0, 3, (3, 6, 8, 2)).astype(np.float32),
    "densepose": np.stack([PARTS, PARTS % 2, PARTS % 3 / 2], -1).astype(np.float32),
    "skeleton": np.concatenate([RANDOM.uniform(0, 9, (3, 2, 18, 2)), np.ones((3, 2, 18, 1))], -1).astype("f4"),
    "segmentation": RANDOM.integers(0, 5, (3, 6, 8)).astype(np.uint8),
}


@pytest.mark.parametrize("modality", MODALITIES)
def test_what_is_saved_is_read(modality, tmp_path):
    MODALITIES[modality].save(VALUES[modality], tmp_path / modality, 8.0)
    np.testing.assert_allclose(read_values(tmp_path, modality), VALUES[modality], atol=0.003)
    assert read_values(tmp_path / "nowhere", modality) is None


def test_flow_comes_from_flo_alone(tmp_path):
    MODALITIES["flow"].save(VALUES["flow"], tmp_path / "flow", 8.0)
    (tmp_path / "flow.npz").unlink()
    np.testing.assert_array_equal(read_values(tmp_path, "flow"), VALUES["flow"])
    (tmp_path / "flow" / "000001.flo").write_bytes(b"PIEH")
    with pytest.raises(ValueError, match="000001.flo is no .flo"):
        read_values(tmp_path, "flow")


@pytest.mark.parametrize("array", [np.zeros((3, 4)), np.zeros((0, 4, 4)), np.array("words"), np.array([None])])
def test_what_is_none_is_one_sentence(array, tmp_path):
    np.save(tmp_path / "depth.npy", array, allow_pickle=True)
    with pytest.raises(ValueError, match="holds no depth that can be read"):
        read_values(tmp_path, "depth")
