"""The exams tell a model that follows from one that does not, and the command refuses before it loads."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from unity.config import MODELS
from unity.data.clips import Clip
from unity.data.shards import write_shards
from unity.encoders import Encoders
from unity.evaluate.exam import Effort, sit
from unity.evaluate.held_out import reread, stacked
from unity.evaluate.options import Options, run
from unity.generate import Generator, encode
from unity.modality.table import MODALITIES
from unity.model.card import ModelCard, Schedule
from unity.model.codec import load_codec
from unity.model.dit import UnityDiT
from unity.model.weights import save_model

FRAMES, SIZE, COUNT = 5, (32, 32), 6
GENERATED = ("control", "joint")
EFFORT = Effort(steps=2, guidance=1.0, batch=4)


def clips():
    """Planes that lean towards different sides; the RGB video is the depth video."""
    made = []
    for i in range(COUNT):
        y, x = np.mgrid[: SIZE[0], : SIZE[1]] / SIZE[0]
        turn = 2 * np.pi * i / COUNT
        plane = 4 + 3 * (np.cos(turn) * (x - 0.5) + np.sin(turn) * (y - 0.5))
        values = np.broadcast_to(plane, (FRAMES, *SIZE)).astype(np.float32)
        constants = MODALITIES["depth"].constants(values, SIZE)
        video = MODALITIES["depth"].encode(values, constants)
        made.append(
            Clip(
                name=str(i), source="general", caption=str(i), fps=8.0, video={"rgb": video, "depth": video},
                constants={"depth": constants}, values={"depth": values},
            )
        )  # fmt: skip
    return made


def number(texts):
    """A text encoder whose states are the number that the text is."""
    return torch.tensor([float(text or -1) for text in texts]).view(-1, 1, 1), torch.ones(len(texts)).long()


class Student(nn.Module):
    """Knows that both streams are one picture; without one it draws the clip after the one that the words name."""

    def __init__(self, latents, follows=True, agrees=True):
        super().__init__()
        self.latents, self.follows, self.agrees = latents, follows, agrees

    def forward(self, rgb, aux, time, modality, caption, *rest, wanted):
        words = self.latents[(caption.flatten().long() + 1) % COUNT]
        clean = [time[0, stream] == 0 for stream in range(2)]
        seen = aux if clean[1] and self.follows else words
        targets = seen, rgb if clean[0] else words if self.agrees else words.flip(-1)
        pairs = zip((rgb, aux), targets, time.unbind(1), strict=True)
        return tuple((x - z) / t.clamp_min(1e-6).view(-1, 1, 1, 1, 1) for x, z, t in pairs)


@pytest.fixture(scope="module")
def generator():
    prompt = replace(MODALITIES["depth"], type_prompt="7")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODALITIES, "depth", prompt)
        # a codec for which RGB and depth are alike
        shape = replace(MODELS["debug"], stem=0, patch=(1, 2, 2), codec="dct", latent_channels=48)
        card = ModelCard(
            model=shape, modalities=("depth",), stage=2, step=0, frames=FRAMES, size=SIZE,
            schedules={"estimate": Schedule(steps=2)},
        )  # fmt: skip
        made = Generator(
            path=Path("student"), model=nn.Identity(), card=card, dtype=torch.float32,
            encoders=Encoders(codec=load_codec("dct"), text=number, device=torch.device("cpu")),
        )  # fmt: skip
        yield made, encode(made, stacked(clips(), "depth"), "depth")


def test_one_who_knows_passes_every_exam(generator):
    made, latents = generator
    result = sit(replace(made, model=Student(latents)), "depth", clips(), EFFORT)
    assert result.clips == COUNT and set(result.scores) == {"model", "trivial", "classical", "codec"}
    model, trivial = (result.scores[who]["abs_rel"] for who in ("model", "trivial"))
    assert model.mean == pytest.approx(result.scores["codec"]["abs_rel"].mean, abs=1e-3)
    assert model.low <= model.mean <= model.high < trivial.low
    assert result.share_of_trivial["abs_rel"].high < 0.2
    assert result.control["abs_rel"].high < 0.2 and result.joint["abs_rel"].high < 0.2
    assert result.control["abs_rel"].clips == COUNT


def test_one_who_does_not_follow_fails_control_alone(generator):
    made, latents = generator
    result = sit(
        replace(made, model=Student(latents, follows=False)), "depth", clips(), EFFORT, ("control", "joint")
    )
    assert result.control["abs_rel"].mean == 1 and result.joint["abs_rel"].high < 0.2
    # the clips' own videos do follow
    assert all(result.least[exam]["abs_rel"].high < 0.2 for exam in ("control", "joint"))
    assert result.scores == result.errors == {}


@pytest.mark.slow
def test_the_clips_own_videos_are_estimated_once(generator, monkeypatch):
    made, latents = generator
    asked = []
    monkeypatch.setattr("unity.evaluate.exam.reread", lambda *given: asked.append(len(given[3])) or reread(*given))
    knows = replace(made, model=Student(latents))
    exams = ("estimate", "control")
    once = sit(knows, "depth", clips(), EFFORT, exams)
    # of the videos from words, and of those that follow
    assert sum(asked) == 2 * COUNT
    asked.clear()
    assert sit(knows, "depth", clips(), EFFORT, ("control",)).least == once.least and sum(asked) == 3 * COUNT
    asked.clear()
    # the judge takes two steps
    sit(knows, "depth", clips(), replace(EFFORT, steps=1), exams)
    assert sum(asked) == 3 * COUNT


def test_one_whose_streams_disagree_fails_joint_alone(generator):
    made, latents = generator
    result = sit(
        replace(made, model=Student(latents, agrees=False)), "depth", clips(), EFFORT, ("control", "joint")
    )
    assert result.control["abs_rel"].high < 0.2 and result.joint["abs_rel"].mean > 0.5


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A checkpoint that knows nothing, and a dataset with and without exact values."""
    folder = tmp_path_factory.mktemp("exam")
    torch.manual_seed(0)
    card = ModelCard(
        model=MODELS["debug"], modalities=("depth", "flow"), stage=2, step=3, frames=FRAMES, size=SIZE
    )
    save_model(UnityDiT(card.model).state_dict(), card, folder / "model")
    write_shards(clips(), folder / "held", values=True)
    write_shards(clips(), folder / "bare")
    return folder


def test_the_command_writes_and_prints_the_same_numbers(files, tmp_path, capsys):
    out = tmp_path / "new" / "exam.json"
    options = Options(
        data=files / "held", checkpoint=files / "model", out=out, clips=3, steps=1, exams=("estimate", "errors"),
        device="cpu",
    )  # fmt: skip
    results = run(options)
    written = json.loads(out.read_text())["results"]
    # flow is learnt, but the dataset has none
    assert list(results) == list(written) == ["depth"] and written["depth"]["clips"] == 3
    for who, found in results["depth"].scores.items():
        assert written["depth"]["scores"][who]["abs_rel"]["mean"] == found["abs_rel"].mean
    said = capsys.readouterr().out
    assert f"model {results['depth'].scores['model']['abs_rel'].mean:.3f} [" in said and str(out) in said


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"data": "nowhere"}, "is no dataset"),
        ({"data": "bare"}, "no exact depth to score against"),
        ({"out": "held"}, "is a folder"),
        ({"modality": ("skeleton",)}, "has no clip with skeleton"),
        ({"exams": ()}, "--exams names none"),
        ({"steps": 0}, "--steps"),
        ({"guidance": float("nan")}, "--guidance"),
    ],
)
def test_what_cannot_be_done_is_refused_before_loading(files, changes, words, monkeypatch):
    monkeypatch.setattr("unity.evaluate.options.load_generator", lambda *_: pytest.fail("loaded"))
    given = {"data": "held", "out": "exam.json"} | changes
    given |= {name: files / given[name] for name in ("data", "out")}
    with pytest.raises(ValueError, match=words):
        run(Options(checkpoint=files / "model", **given))
    assert not (files / "exam.json").exists()
