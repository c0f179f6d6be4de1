"""UnityVideoPipeline against `unity.infer`: the same request, the same pixels; and what diffusers adds to it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FirstBlockCacheConfig,
    FlowMatchEulerDiscreteScheduler,
    MagCacheConfig,
    TaylorSeerCacheConfig,
    UniPCMultistepScheduler,
)

from unity import thrift
from unity.config import MODELS
from unity.data.video import read_video
from unity.infer import Request, infer
from unity.model.card import ModelCard, Schedule
from unity.model.dit import UnityDiT
from unity.model.weights import load_model, save_model
from unity.pipeline import UnityScheduler, UnityTransformer3DModel, UnityVideoPipeline
from unity.request import SAMPLE

SIZE, FRAMES = (32, 48), 5
ASKED = {"num_inference_steps": 3, "guidance_scale": 3.0, "height": SIZE[0], "width": SIZE[1]}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    model = UnityDiT(MODELS["debug"])
    state = {name: value + 0.05 * torch.randn_like(value) for name, value in model.state_dict().items()}
    card = ModelCard(
        model=model.config, modalities=("depth", "flow"), stage=1, step=1, frames=FRAMES, size=SIZE,
        data="noise", schedules={"estimate": Schedule(steps=2, shift=4.0)},
    )  # fmt: skip
    return save_model(state, card, tmp_path_factory.mktemp("pipeline") / "model")


@pytest.fixture(scope="module")
def pipeline(checkpoint):
    made = UnityVideoPipeline.from_checkpoint(checkpoint)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def film():
    return read_video(SAMPLE, FRAMES, SIZE)


def seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def bytes_of(numbers: np.ndarray) -> np.ndarray:
    return (numbers * 255).round().astype(np.uint8)


def given_to(task: str) -> dict:
    """The film as the pipeline takes it: frames as `unity.infer` reads them for the task."""
    if task == "joint":
        return {}
    name, stream = {"estimate": ("video", "rgb"), "control": ("condition", "flow")}[task]
    return {name: read_video(SAMPLE, FRAMES, SIZE, stream)}


@pytest.mark.parametrize(
    "task", ["estimate", *(pytest.param(t, marks=pytest.mark.slow) for t in ("control", "joint"))]
)
def test_samples_are_those_of_infer(pipeline, checkpoint, tmp_path, task):
    path = {"estimate": {"video": SAMPLE}, "control": {"condition": SAMPLE}, "joint": {}}[task]
    words = None if task == "estimate" else "a dog runs"
    asked = Request(
        modality="flow", prompt=words, checkpoint=checkpoint, out=tmp_path, steps=3, guidance=3.0, seed=7,
        size=SIZE, frames=FRAMES, device="cpu", **path,
    )  # fmt: skip
    truth = infer(asked, say=lambda line: None)
    # which estimation does not read
    found = pipeline(words or "a cat", modality="flow", generator=seed(7), **ASKED, **given_to(task))
    np.testing.assert_array_equal(bytes_of(found.frames[0]), truth.video["rgb"])
    if task == "control":
        assert found.view_values is None
    else:
        np.testing.assert_array_equal(bytes_of(found.views[0]), truth.video["flow"])
        np.testing.assert_array_equal(found.view_values[0], truth.values)


@pytest.mark.slow
def test_saved_and_loaded_it_samples_the_same_and_so_does_infer(pipeline, film, tmp_path):
    pipeline.save_pretrained(tmp_path / "saved")
    again = UnityVideoPipeline.from_pretrained(tmp_path / "saved")
    asked = {"modality": "depth", "video": film, "generator": seed(1), **ASKED}
    np.testing.assert_array_equal(again(**asked).frames, pipeline(**asked).frames)
    np.testing.assert_array_equal(again(**asked).views, pipeline(**asked).views)
    assert again.card == pipeline.card
    about = (tmp_path / "saved" / "README.md").read_text()
    assert "noise" in about and "depth" in about and about.startswith("---\nlibrary_name: unity-video")
    # the folder is a checkpoint of ours, too
    model, card = load_model(tmp_path / "saved")
    assert card == pipeline.card
    for name, value in model.state_dict().items():
        assert torch.equal(value, pipeline.transformer.state_dict()[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("task", ["estimate", "joint"])
def test_with_wans_vae_and_text_encoder_too(wan, tmp_path, task):
    checkpoint, parts = wan
    words = "a dog runs" if task == "joint" else None
    asked = Request(
        modality="depth", prompt=words, checkpoint=checkpoint, out=tmp_path / "out", steps=3, guidance=3.0,
        seed=7, size=SIZE, frames=FRAMES, device="cpu", codec_weights=parts, text_weights=parts,
        video=SAMPLE if task == "estimate" else None,
    )  # fmt: skip
    truth = infer(asked, say=lambda line: None)
    made = UnityVideoPipeline.from_checkpoint(checkpoint, codec_weights=parts, text_weights=parts)
    made.save_pretrained(tmp_path / "saved")
    for pipe in (made, UnityVideoPipeline.from_pretrained(tmp_path / "saved")):
        pipe.set_progress_bar_config(disable=True)
        found = pipe(words, modality="depth", generator=seed(7), **ASKED, **given_to(task))
        np.testing.assert_array_equal(bytes_of(found.frames[0]), truth.video["rgb"])
        np.testing.assert_array_equal(bytes_of(found.views[0]), truth.video["depth"])
        pipe.enable_model_cpu_offload(device="cpu")
        again = pipe(words, modality="depth", generator=seed(7), **ASKED, **given_to(task))
        # parts that were moved may add in another order
        np.testing.assert_allclose(again.views, found.views, atol=1.01 / 255)
    # all three parts lie in the one folder, from which this project's own program takes them
    alone = infer(
        replace(asked, checkpoint=tmp_path / "saved", codec_weights=None, text_weights=None, out=tmp_path / "b"),
        say=lambda line: None,
    )
    np.testing.assert_array_equal(alone.video["depth"], truth.video["depth"])


@pytest.mark.slow
def test_the_cards_schedule_and_whole_frames_where_nothing_else_is_asked_for(pipeline, checkpoint, tmp_path):
    asked = Request(modality="depth", video=SAMPLE, checkpoint=checkpoint, out=tmp_path, device="cpu")
    truth = infer(asked, say=lambda line: None)
    film = truth.video["rgb"]
    found = pipeline(modality="depth", video=film, generator=seed(0))
    assert truth.record["steps"] == 2 and truth.record["shift"] == 4.0
    np.testing.assert_array_equal(bytes_of(found.views[0]), truth.video["depth"])
    np.testing.assert_array_equal(found.view_values[0], truth.values)


@pytest.mark.slow
def test_callbacks_see_each_step_may_change_it_and_may_end_it(pipeline):
    seen = []

    def watch(pipe, step, time, given):
        seen.append((step, float(time), given["latents"].shape))

    asked = {"prompt": "a cat", "modality": "depth", "generator": seed(2), **ASKED}
    plain = pipeline(**asked, callback_on_step_end=watch).frames
    times = [1000 * t for t in torch.linspace(1, 0, 4)[:3].tolist()]
    assert [step for step, *_ in seen] == [0, 1, 2] and [t for _, t, _ in seen] == pytest.approx(times)
    assert seen[0][2][:2] == (1, 2)
    np.testing.assert_array_equal(pipeline(**asked).frames, plain)
    zeros = pipeline(**asked, callback_on_step_end=lambda p, i, t, given: {"latents": 0 * given["latents"]})
    grey = zeros.frames[0].std()
    assert grey < 0.01 < plain.std()

    def stop(pipe, step, time, given):
        seen.append(step)
        pipe._interrupt = step == 1

    seen.clear()
    cut = pipeline(**asked, callback_on_step_end=stop).frames
    assert seen == [0, 1] and cut.shape == plain.shape and not np.array_equal(cut, plain)
    # and the next call is not cut
    np.testing.assert_array_equal(pipeline(**asked).frames, plain)


FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
PEERS = {
    "euler": FlowMatchEulerDiscreteScheduler(shift=3.0),
    "unipc": UniPCMultistepScheduler(**FLOW),
    "dpm++": DPMSolverMultistepScheduler(**FLOW),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PEERS)
def test_schedulers_of_diffusers_end_where_ours_do(checkpoint, name):
    """Their times differ a little from ours; with theirs put in place of ours, the latents agree."""
    ours = UnityVideoPipeline.from_checkpoint(checkpoint)
    ours.set_progress_bar_config(disable=True)
    theirs = UnityVideoPipeline(ours.transformer, PEERS[name])
    theirs.set_progress_bar_config(disable=True)
    ends = {}

    def keep(key):
        return lambda pipe, step, time, given: ends.update({key: given["latents"]})

    asked = {"prompt": "a cat", "modality": "depth", **ASKED, "num_inference_steps": 8}
    theirs(**asked, generator=seed(3), callback_on_step_end=keep("theirs"))

    class Same(UnityScheduler):
        def set_timesteps(self, *args, **kwargs):
            super().set_timesteps(*args, **kwargs)
            self.sigmas = PEERS[name].sigmas.double()

    ours.scheduler = Same(sampler=name)
    ours(**asked, generator=seed(3), callback_on_step_end=keep("ours"))
    torch.testing.assert_close(ends["ours"], ends["theirs"].to(ends["ours"]), atol=2e-3, rtol=2e-3)
    ours.scheduler = UnityScheduler(sampler=name, shift=30.0)
    ours(**asked, generator=seed(3), callback_on_step_end=keep("other"))
    assert (ends["other"] - ends["ours"]).abs().mean() > 0.05


@pytest.mark.slow
def test_hooks_of_diffusers_leave_the_velocities(checkpoint):
    """Group offload and an offloaded model compute the same bits, storage in 8 bits nearly the same."""
    torch.manual_seed(1)
    model, card = load_model(checkpoint)
    latent = torch.randn(1, 2, 192, 2, 8, 12)
    text = torch.randn(1, 3, 384), torch.tensor([3])
    given = *latent.unbind(1), torch.tensor([[0.0, 0.5]]), torch.tensor([0]), *text, *text

    def velocity(model):
        with torch.no_grad():
            return torch.stack(model(*given))

    truth = velocity(model)
    for kind in ({"offload_type": "block_level", "num_blocks_per_group": 1}, {"offload_type": "leaf_level"}):
        hooked = UnityTransformer3DModel.of(load_model(checkpoint)[0], card)
        hooked.enable_group_offload(onload_device=torch.device("cpu"), **kind)
        assert torch.equal(velocity(hooked), truth)
    cast = UnityTransformer3DModel.of(load_model(checkpoint)[0], card)
    cast.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    stored = {str(p.dtype) for name, p in cast.named_parameters() if name.endswith("ffn.0.weight")}
    assert stored == {"torch.float8_e4m3fn"}
    error = (velocity(cast) - truth).norm() / truth.norm()
    assert 1e-4 < error < 0.1
    pipe = UnityVideoPipeline(UnityTransformer3DModel.of(model, card), UnityScheduler())
    pipe.set_progress_bar_config(disable=True)
    asked = {"prompt": "a cat", "modality": "depth", **ASKED}
    plain = pipe(**asked, generator=seed(4)).frames
    pipe.enable_model_cpu_offload(device="cpu")
    np.testing.assert_array_equal(pipe(**asked, generator=seed(4)).frames, plain)


@pytest.mark.slow
@pytest.mark.parametrize("passes", [1, 2])
def test_a_cache_leaves_most_of_the_blocks_out_and_changes_little(checkpoint, passes, monkeypatch):
    """TaylorSeer's, kept apart for the two texts of guidance and begun anew with each sample."""
    if passes == 2:
        # as long clips have it
        monkeypatch.setattr(thrift, "ONE_PASS_TOKENS", 0)
    pipe = UnityVideoPipeline.from_checkpoint(checkpoint)
    pipe.set_progress_bar_config(disable=True)
    asked = {"prompt": "a cat", "modality": "depth", **ASKED, "num_inference_steps": 24}
    plain, calls = pipe(**asked, generator=seed(5)).frames, []
    inside = pipe.transformer.blocks[0].self_attn.q.register_forward_hook(lambda *given: calls.append(1))
    pipe.transformer.enable_cache(TaylorSeerCacheConfig(cache_interval=3, taylor_factors_dtype=torch.float32))
    cached = pipe(**asked, generator=seed(5)).frames
    # of 24 steps the first three, and one in three of the others
    assert len(calls) == passes * (3 + 7)
    error = np.abs(cached - plain).mean() / plain.std()
    assert 0 < error < 0.05
    np.testing.assert_array_equal(pipe(**asked, generator=seed(5)).frames, cached)
    with pytest.raises(ValueError, match="3 are too few for that"):
        pipe(**asked | {"num_inference_steps": 3})
    inside.remove()
    pipe.transformer.disable_cache()
    np.testing.assert_array_equal(pipe(**asked, generator=seed(5)).frames, plain)
    for other in (FirstBlockCacheConfig(), MagCacheConfig(calibrate=True)):
        with pytest.raises(ValueError, match="TaylorSeerCacheConfig fits"):
            pipe.transformer.enable_cache(other)


REFUSED = [
    ({"modality": "skeleton", "prompt": "x"}, "has not learnt 'skeleton'"),
    ({"modality": "depth"}, "nothing to start from"),
    ({"modality": "depth", "prompt": "x", "height": 32}, "height and width go together"),
    ({"modality": "depth", "prompt": "x", "height": 33, "width": 32}, "does not divide"),
    ({"modality": "depth", "prompt": "x", "num_frames": 6}, "4k\\+1"),
    ({"modality": "depth", "prompt": "x", "output_type": "gif"}, "choose np, pil or pt"),
    ({"modality": "depth", "video": np.zeros((5, 32, 48), np.uint8)}, "a clip is pictures"),
    ({"modality": "depth", "video": np.zeros((3, 32, 48, 3), np.uint8), "num_frames": 5}, "there are 3 frames"),
]


@pytest.mark.parametrize("asked, said", REFUSED, ids=[said for _, said in REFUSED])
def test_what_cannot_be_done_is_a_sentence(pipeline, asked, said):
    with pytest.raises(ValueError, match=said):
        pipeline(**asked)
