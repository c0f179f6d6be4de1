from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from unity.config import MODELS
from unity.data.clips import Clip
from unity.encoders import Encoders
from unity.evaluate.held_out import TIMES, as_known, estimate_scores, examine, latent_errors, stacked
from unity.generate import Generator, encode
from unity.modality.encodings import ENCODINGS
from unity.modality.table import MODALITIES
from unity.model.codec import load_codec
from unity.model.weights import ModelCard

FRAMES, SIZE = 5, (32, 32)


class Oracle(nn.Module):
    """Velocity towards the known latents of both streams, found by the clip's place in the batch."""

    def __init__(self, latents):
        super().__init__()
        self.latents = latents

    def forward(self, rgb, aux, time, modality, *text, wanted):
        pairs = zip((rgb, aux), self.latents, time.unbind(1), strict=True)
        return tuple((x - z[: len(x)]) / t.clamp_min(1e-6).view(-1, 1, 1, 1, 1) for x, z, t in pairs)


class Silent(nn.Module):
    """Says nothing, whatever it sees."""

    def forward(self, rgb, aux, *rest, wanted):
        return 0 * rgb, 0 * aux


def no_words(texts):
    return torch.zeros(len(texts), 1, 384), torch.ones(len(texts), dtype=torch.long)


def clips(count=3):
    random = np.random.default_rng(0)
    made = []
    for i in range(count):
        ramp = np.linspace(1.5 + i, 6, SIZE[1], dtype=np.float32)
        values = {"depth": np.broadcast_to(ramp, (FRAMES, *SIZE)).copy()}
        constants = {"depth": MODALITIES["depth"].constants(values["depth"], SIZE)}
        shade = random.integers(0, 255, (1, 1, 1, 3)).astype(np.uint8)
        video = {"rgb": np.broadcast_to(shade, (FRAMES, *SIZE, 3)).copy()}
        video["depth"] = MODALITIES["depth"].encode(values["depth"], constants["depth"])
        made.append(
            Clip(
                name=str(i), source="general", caption="x", fps=8, video=video, constants=constants, values=values
            )
        )
    return made


def oracle(depth="ours"):
    """A model that knows the clips, their depth drawn in that encoding."""
    card = ModelCard(
        model=MODELS["debug"], modalities=tuple(MODALITIES), stage=2, step=0, frames=FRAMES, size=SIZE,
        encodings={"depth": depth},
    )  # fmt: skip
    made = Generator(
        path=Path("oracle"), model=nn.Identity(), card=card, dtype=torch.float32,
        encoders=Encoders(codec=load_codec("cells"), text=no_words, device=torch.device("cpu")),
    )  # fmt: skip
    latents = [encode(made, as_known(card, clips(), stream), stream) for stream in ("rgb", "depth")]
    return replace(made, model=Oracle(latents))


@pytest.fixture
def generator():
    return oracle()


@pytest.mark.parametrize("encoding", ENCODINGS["depth"])
def test_a_model_that_knows_scores_what_the_codec_does(encoding):
    generator = oracle(encoding)
    shown = {name: as_known(generator.card, clips(), name)[0] for name in ("rgb", "depth")}
    exam = examine(generator, "depth", clips(), steps=2, guidance=1.0)
    assert exam.clips == 3
    assert exam.scores["model"] == pytest.approx(exam.scores["codec"], abs=1e-3)
    assert exam.scores["model"]["abs_rel"] < 0.03 < exam.scores["trivial"]["abs_rel"]
    for task in ("estimate", "control", "joint"):
        assert exam.errors[task]["model"] == pytest.approx(0, abs=1e-6)
        assert exam.errors[task]["trivial"] > 0.05
    # depth has id 0, so clip 0 is shown, and every task's streams are in their places
    np.testing.assert_array_equal(exam.samples["estimate"][0], shown["rgb"])
    np.testing.assert_array_equal(exam.samples["control"][1], shown["depth"])
    for task, stream in (("estimate", 1), ("control", 0), ("joint", 0), ("joint", 1)):
        truth = shown[("rgb", "depth")[stream]]
        assert np.abs(exam.samples[task][stream].astype(float) - truth).mean() < 4, (task, stream)


def test_scores_follow_the_video_that_is_given(generator):
    grey = np.full_like(stacked(clips(), "depth"), 128)
    scores = estimate_scores(generator, "depth", grey, clips())
    assert scores["model"] == pytest.approx(scores["trivial"], rel=1e-4)


class Noise:
    """A codec whose latents are white noise of unit variance, the same for the same call."""

    channels, stride = 48, (4, 8, 8)

    def encode(self, video, streams):
        return torch.randn(len(video), 48, 2, 16, 16, generator=torch.Generator().manual_seed(5))

    def decode(self, latent, streams):
        raise NotImplementedError("white noise is no picture")


@pytest.mark.parametrize("task", ["estimate", "control", "joint"])
def test_knowing_nothing_of_white_noise(task, generator):
    """The best multiple of t·noise + (1-t)·data misses the data by t² / (t² + (1-t)²)."""
    blind = replace(generator, encoders=replace(generator.encoders, codec=Noise()), model=Silent())
    errors = latent_errors(blind, task, "depth", clips())
    expected = np.mean([t**2 / (t**2 + (1 - t) ** 2) for t in TIMES])
    assert errors["trivial"] == pytest.approx(expected, rel=0.02)
    # a model that says nothing takes the noisy latent for the clean one
    assert errors["model"] == pytest.approx(np.mean([2 * t**2 for t in TIMES]), rel=0.02)
