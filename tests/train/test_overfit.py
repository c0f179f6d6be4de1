"""One simulated clip is learnt by heart: the loss of every task falls, and sampling gives its values back."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from unity.config import MODELS
from unity.data.shards import read_about
from unity.data.simulate.clip import simulate
from unity.flow_matching import TimeConfig
from unity.modality.table import MODALITIES
from unity.routing import RoutingConfig
from unity.sampler import Guidance, Known, Sampling, Texts, sample
from unity.tasks import TASKS
from unity.train import zero
from unity.train.config import resolve
from unity.train.optim import OptimConfig
from unity.train.options import Options
from unity.train.run import build
from unity.train.signals import StopRequest
from unity.train.step import train_step

NAMES = ("depth", "flow", "segmentation")
IDS = [list(MODALITIES).index(name) for name in NAMES]
STEPS, BATCH = 500, 12

pytestmark = pytest.mark.slow

# wide enough for the noise of all 48 channels to pass through, which v = (x - data) / t needs
SHAPE = replace(MODELS["debug"], dim=128, ffn_dim=256, num_heads=4, patch=(1, 1, 1))


@pytest.fixture(scope="module")
def clip():
    # few frames a second, so that things move far between them
    return simulate(5, "single_person", frames=5, size=(32, 32), fps=4.0)


@pytest.fixture(scope="module")
def learnt(clip, world, dataset, tmp_path_factory):
    """The run after its last step, and every step's metrics."""
    config = Options(
        stage=2, architecture=SHAPE, data=dataset, out=tmp_path_factory.mktemp("overfit") / "run", steps=STEPS,
        batch_size=BATCH, precision="fp32", time=TimeConfig(shift=3.0),
        optim=OptimConfig(lr=4e-3, warmup=20, weight_decay=0.0, final=0.01, ema=0.99),
        routing=RoutingConfig(joint=1 / 3, control=1 / 3, estimate=1 / 3, caption_dropout=0.0, prompt_dropout=0.0),
        deepspeed=Path(__file__).parents[2] / "launchers/zero3.json",
    )  # fmt: skip
    run = build(resolve(config, read_about(dataset)), world)
    modality = torch.tensor(IDS * (BATCH // len(IDS)))
    batch = {
        "slot": torch.arange(BATCH),
        "modality": modality,
        "caption": [clip.caption] * BATCH,
        "rgb": torch.from_numpy(clip.video["rgb"]).expand(BATCH, -1, -1, -1, -1),
        "aux": torch.stack([torch.from_numpy(clip.video[list(MODALITIES)[m]]) for m in modality]),
    }
    stop = StopRequest()
    return run, [train_step(run, {"step": step, **batch}, stop)[0] for step in range(STEPS)]


@pytest.mark.parametrize("task", TASKS)
def test_the_loss_of_every_task_falls_below_a_twentieth(learnt, task):
    losses = [record[f"loss/{task}"] for record in learnt[1] if f"loss/{task}" in record]
    start, end = np.mean(losses[:5]), np.mean(losses[-30:])
    assert end < 0.05 * start


@pytest.fixture(scope="module")
def sampled(clip, learnt):
    """Per task the RGB and modality videos, one row for each modality, with the averaged weights."""
    run, _ = learnt
    given = {"rgb": clip.video["rgb"][None].repeat(len(IDS), 0), "aux": np.stack([clip.video[n] for n in NAMES])}
    shown = {"rgb": ["rgb"] * len(IDS), "aux": list(NAMES)}
    encode, decode = run.encoders.encode, run.encoders.decode
    latents = {stream: encode(torch.from_numpy(video), shown[stream]) for stream, video in given.items()}
    prompts = [MODALITIES[name].type_prompt for name in NAMES]
    words = [run.encoders.words(text) for text in ([clip.caption] * len(IDS), prompts, [""] * len(IDS))]
    texts = Texts(**dict(zip(("caption", "prompt", "empty"), words, strict=True)))
    sampling = Sampling(steps=12, shift=3.0, guidance=Guidance(scale=1.0))
    model = run.engine.module.eval()
    found = {}
    with run.ema.in_place_of_weights(lambda: zero.refresh(run.engine)):
        for task, row in TASKS.items():
            clean = {s: latent for (s, latent), n in zip(latents.items(), row.noisy, strict=True) if not n}
            known = Known(**clean, shape=latents["rgb"].shape)
            pair = sample(model, task, torch.tensor(IDS), texts, known, sampling)
            found[task] = [decode(z, names).numpy() for z, names in zip(pair, shown.values(), strict=True)]
    return found


def errors(clip, videos: list[np.ndarray]) -> dict[str, float]:
    """Against the exact values: relative depth, flow in pixels, share of wrong mask pixels."""
    decoded = [MODALITIES[n].decode(v, clip.constants[n]) for n, v in zip(NAMES, videos, strict=True)]
    depth, flow, mask = (clip.values[name] for name in NAMES)
    seen = np.isfinite(depth)
    return {
        "depth": float(np.median(np.abs(decoded[0] - depth)[seen] / depth[seen])),
        "flow": float(np.linalg.norm(decoded[1] - flow, axis=-1).mean()),
        "segmentation": float(np.mean(decoded[2] != mask)),
    }


@pytest.fixture(scope="module")
def limit(clip, learnt) -> dict[str, float]:
    """What the codec alone does to the values: no model can be better."""
    run, _ = learnt
    videos = torch.from_numpy(np.stack([clip.video[name] for name in NAMES]))
    return errors(clip, list(run.encoders.decode(run.encoders.encode(videos, NAMES), NAMES).numpy()))


@pytest.fixture(scope="module")
def ignorant(clip) -> dict[str, float]:
    """The errors of one depth everywhere, no motion, and background only."""
    depth = clip.values["depth"][np.isfinite(clip.values["depth"])]
    return {
        "depth": float(np.median(np.abs(np.median(depth) - depth) / depth)),
        "flow": float(np.linalg.norm(clip.values["flow"], axis=-1).mean()),
        "segmentation": float(np.mean(clip.values["segmentation"] != 0)),
    }


@pytest.mark.parametrize("task", ["joint", "estimate"])
@pytest.mark.parametrize(("name", "margin"), [("depth", 0.1), ("flow", 0.15), ("segmentation", 0.01)])
def test_sampled_values_are_close_to_the_exact_ones(clip, sampled, limit, ignorant, task, name, margin):
    """Little worse than the codec allows, and much better than knowing nothing."""
    found = errors(clip, list(sampled[task][1]))[name]
    assert found < limit[name] + margin
    assert found < 0.6 * ignorant[name]


@pytest.mark.parametrize("task", ["joint", "control"])
def test_sampled_rgb_is_close_to_the_clip(clip, sampled, learnt, task):
    """At least 25 dB beside what the codec makes of the clip, whichever modality is the other stream."""
    run, _ = learnt
    clean = run.encoders.encode(torch.from_numpy(clip.video["rgb"])[None], ["rgb"])
    through = run.encoders.decode(clean, ["rgb"]).numpy().astype(float)
    for video in sampled[task][0]:
        assert 10 * np.log10(255**2 / np.mean((video - through) ** 2)) > 25
