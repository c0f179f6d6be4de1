"""Which models may be chosen: safetensors of ours below the given folders, told from their cards."""

import json
import shutil

import pytest

from unity.apps.web.ask import Ask, scheduled
from unity.apps.web.models import SHIPPED_NAME, find_models
from unity.request import SHIPPED


@pytest.fixture
def runs(tmp_path):
    """A folder of runs; each a name and what is there instead of a whole model."""
    folder = tmp_path / "runs"
    for name in ("stage1/model", "old/best", "deep/a/b/c/d/e", ".hidden", "pickled", "damaged", "cardless"):
        (folder / name).mkdir(parents=True)
        for file in ("config.json", "model.safetensors"):
            shutil.copy(SHIPPED / file, folder / name)
    (folder / "pickled/model.safetensors").rename(folder / "pickled/model.pt")
    (folder / "damaged/config.json").write_text('{"model": {}}')
    (folder / "cardless/config.json").unlink()
    (folder / "linked").symlink_to(folder / "old")
    return folder


def test_whole_models_below_the_folders_are_found(runs):
    found = find_models([runs, runs / "nowhere"])
    assert set(found) == {SHIPPED_NAME, str(runs / "stage1"), str(runs / "old/best")}
    assert all(model.path.suffix == ".safetensors" for model in found.values())


def test_a_model_bounds_its_numbers_by_its_card(runs):
    card = json.loads((SHIPPED / "config.json").read_text())
    model = find_models([])[SHIPPED_NAME]
    told = model.describe()
    assert told["modalities"] == tuple(card["modalities"])
    assert told["frames"]["default"] == card["frames"] and told["size"]["default"] == tuple(card["size"])
    for task, own in card.get("schedules", {}).items():
        asked = scheduled(Ask(task=task, modalities=["depth"], shift=2.0), model)
        assert (asked.steps, asked.shift, asked.guidance) == (own["steps"], 2.0, own["guidance"])
        assert told["schedules"][task] == own
    most = told["frames"]["most"]
    assert most % told["frames"]["step"] == 1 and all(side % 4 == 0 for side in told["size"]["unit"])
    model.check(most, told["size"]["most"])
    for frames, size in ((most + 1, None), (None, tuple(side + 1 for side in told["size"]["most"]))):
        with pytest.raises(ValueError, match="takes up to"):
            model.check(frames, size)
