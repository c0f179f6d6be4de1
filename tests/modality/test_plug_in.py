"""A user's own modality: its rows are read, or refused in a sentence; a model grows by it and learns it alone."""

import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from unity.config import MODELS, ModelConfig
from unity.modality import plug_in
from unity.modality.base import Modality
from unity.modality.table import BUILT_IN, MODALITIES
from unity.model.card import ModelCard
from unity.model.dit import UnityDiT
from unity.model.rows import train_alone
from unity.model.weights import load_model, save_model

FILE = Path(__file__).parents[2] / "docs" / "my_normals.py"
FIVE = {name: MODALITIES[name] for name in BUILT_IN}


@pytest.fixture
def normals(monkeypatch) -> Modality:
    """The row of the guide's file, in the table."""
    row = runpy.run_path(str(FILE))["NORMALS"]
    monkeypatch.setitem(MODALITIES, "normals", row)
    return row


def test_a_file_gives_its_rows(monkeypatch):
    monkeypatch.setenv(plug_in.VARIABLE, str(FILE))
    assert list(plug_in.plugged(FIVE)) == ["normals"]
    monkeypatch.setenv(plug_in.VARIABLE, "")
    assert plug_in.plugged(FIVE) == {}


# what a file holds → the sentence
ROW = f"import runpy, dataclasses\nrow = runpy.run_path({str(FILE)!r})['NORMALS']\n"
REFUSED = {
    "1 / 0": r"cannot be loaded for its modalities \(ZeroDivisionError",
    "def": r"cannot be loaded for its modalities \(SyntaxError",
    "x = 3": "makes no unity.modality.base.Modality",
    ROW + "row = dataclasses.replace(row, name='depth')": "has a modality 'depth': give a name of its own",
    ROW + "row = dataclasses.replace(row, name='rgb')": "has a modality 'rgb': give a name of its own",
    ROW + "row = dataclasses.replace(row, name='../a')": "give a name of its own, in small letters",
    ROW + "row = dataclasses.replace(row, like=None)": "is like None; say with `like` which of depth, flow",
    ROW + "row = dataclasses.replace(row, baselines={})": "needs a measure, and a baseline 'trivial'",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_modality_is_a_sentence(text, monkeypatch, tmp_path):
    (tmp_path / "mine.py").write_text(text)
    monkeypatch.setenv(plug_in.VARIABLE, str(tmp_path / "mine.py"))
    with pytest.raises(ValueError, match=REFUSED[text]) as refused:
        plug_in.plugged(FIVE)
    assert "\n" not in str(refused.value)


def test_files_are_named_by_flag_or_by_the_run_that_goes_on(monkeypatch, tmp_path):
    monkeypatch.setenv(plug_in.VARIABLE, "")
    monkeypatch.delitem(sys.modules, "unity.modality.table")
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text("")
    files = [str(tmp_path / name) for name in ("a.py", "b.py")]
    plug_in.use_arguments(["--stage", "1", "--modalities", *files, "--steps", "2"])
    assert plug_in.os.environ[plug_in.VARIABLE].split(plug_in.os.pathsep) == files
    (tmp_path / "config.json").write_text(f'{{"modalities": ["{files[1]}"]}}')
    plug_in.use_arguments(["--resume", str(tmp_path / "checkpoints" / "step-00000002")])
    assert plug_in.os.environ[plug_in.VARIABLE] == files[1]
    with pytest.raises(ValueError, match="nowhere.py is not there; --modalities names Python files"):
        plug_in.use([tmp_path / "nowhere.py"])


def test_normals_of_a_plane_are_the_planes(normals):
    """z = 4 / (1 - 0.3·x + 0.5·y) over the image's x and y is the plane z - 0.3·X + 0.5·Y = 4."""
    height, width, focal = 12, 16, 20.0
    x, y = (np.arange(width) + 0.5 - width / 2) / focal, (np.arange(height) + 0.5 - height / 2) / focal
    depth = (4 / (1 - 0.3 * x + 0.5 * y[:, None]))[None].astype(np.float32)
    expected = np.array((0.3, -0.5, -1)) / np.sqrt(0.3**2 + 0.5**2 + 1)
    values = normals.derive({"depth": depth}, focal)
    np.testing.assert_allclose(values, np.broadcast_to(expected, values.shape), atol=1e-4)
    depth[0, :2] = np.inf
    values = normals.derive({"depth": depth}, focal)
    assert not values[0, :2].any()
    np.testing.assert_allclose(values[0, 3:], np.broadcast_to(expected, values[0, 3:].shape), atol=1e-4)
    again = normals.decode(normals.encode(values, {}), {})
    assert normals.score(again, values)["angle"] < 0.5 and not again[0, :2].any()


SMALL = ModelConfig(dim=48, ffn_dim=80, num_heads=2, num_layers=2, latent_channels=4, text_dim=16, text_len=12)
KINDS = {
    "wan": replace(SMALL, num_modalities=5, input="expert"),
    "stem": replace(MODELS["debug"], num_modalities=5),
}


def randomised(config):
    torch.manual_seed(0)
    model = UnityDiT(config)
    for value in model.parameters():
        value.data.normal_(std=0.1)
    return model


def velocities(model, modality, seed=1):
    c, g = model.config, torch.Generator().manual_seed(seed)
    rgb, aux = torch.randn(2, 1, c.latent_channels, 2, 4, 4, generator=g)
    text, length, time = torch.randn(1, 3, c.text_dim, generator=g), torch.tensor([3]), torch.tensor([[0.3, 0.6]])
    return model(rgb, aux, time, torch.tensor([modality]), text, length, text, length)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_grows_by_a_modality_and_stays_what_it_was(kind, normals, tmp_path):
    config = KINDS[kind]
    old = randomised(config)
    card = ModelCard(model=config, modalities=BUILT_IN, stage=2, step=1, frames=5, size=(32, 32))
    folder = save_model(old.state_dict(), card, tmp_path / "five")
    new, card = load_model(folder, config=replace(config, num_modalities=6))
    assert card.model.num_modalities == 6
    for modality in range(6):
        # the sixth is as depth, the first, until it learns
        for got, expected in zip(velocities(new, modality), velocities(old, modality % 5), strict=True):
            torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_modality_learns_alone(kind, normals):
    model = randomised(replace(KINDS[kind], num_modalities=6))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    others = [velocities(model, modality) for modality in range(5)]
    assert "those of normals alone" in train_alone(model, 5)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.0)
    for seed in range(2):
        sum(v.square().mean() for v in velocities(model, 5, seed)).backward()
        optimizer.step()
        optimizer.zero_grad()
    changed = {name: value for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert "modality_embedding" in changed
    for name, value in changed.items():
        rows = [not torch.equal(one, other) for one, other in zip(value, before[name], strict=True)]
        assert rows == [row == 5 for row in range(len(rows))], name
    for modality, kept in enumerate(others):
        for got, expected in zip(velocities(model, modality), kept, strict=True):
            assert torch.equal(got, expected)
