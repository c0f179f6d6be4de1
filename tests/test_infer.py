import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import tyro
from PIL import Image
from torch import nn

from unity import answer
from unity import infer as program
from unity.command import end
from unity.config import MODELS
from unity.data.video import read_video, write_video
from unity.generate import Footage, generate, load_generator, tokens
from unity.infer import infer
from unity.modality import encodings
from unity.modality.table import MODALITIES
from unity.model.dit import UnityDiT
from unity.model.weights import ModelCard, save_model
from unity.plan import plan_request
from unity.request import Request, command_line
from unity.sampler import Guidance, Sampling

FRAMES, SIZE = 9, (32, 48)
LEARNT = ("depth", "flow", "densepose", "skeleton", "segmentation")
ROOT = Path(program.__file__).parents[1]


def save_random_model(folder: Path, modalities=LEARNT) -> Path:
    torch.manual_seed(0)
    model = UnityDiT(MODELS["debug"])
    # a fresh model predicts zero
    state = {name: value + 0.05 * torch.randn_like(value) for name, value in model.state_dict().items()}
    card = ModelCard(
        model=model.config,
        modalities=modalities,
        stage=2,
        step=7,
        frames=FRAMES,
        size=SIZE,
        data="nothing: random",
    )
    return save_model(state, card, folder)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_random_model(tmp_path_factory.mktemp("run") / "model")


@pytest.fixture(scope="module")
def generator(checkpoint):
    return load_generator(checkpoint, "cpu")


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A video of 11 frames at 10 a second."""
    y, x = np.mgrid[:64, :96]
    frames = np.stack([np.stack([2 * x, 3 * y, 0 * x + 20 * t], -1) for t in range(11)]).astype(np.uint8)
    return write_video(frames, tmp_path_factory.mktemp("film") / "film.mp4", fps=10)


def inputs(task, film):
    return {"estimate": {"video": film}, "control": {"condition": film}, "joint": {"prompt": "a ball"}}[task]


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("task", ["estimate", "control", "joint"])
def test_every_task_of_every_modality(task, modality, generator, film, tmp_path):
    out = tmp_path / "out"
    result = infer(Request(modality=modality, steps=2, out=out, **inputs(task, film)), generator)
    names = {path.name for path in result.files}
    assert {"rgb.mp4", f"{modality}.mp4", "picture.png", "run.json"} <= names
    for name in ("rgb", modality):
        shown = read_video(out / f"{name}.mp4")
        assert shown.shape == result.video[name].shape == (FRAMES, *SIZE, 3)
    assert (result.values is None) == (task == "control")
    if task != "control":
        truth = MODALITIES[modality].decode(result.video[modality], MODALITIES[modality].unknown_constants(*SIZE))
        np.testing.assert_array_equal(result.values, truth)
        assert any(name.startswith(modality) and not name.endswith("mp4") for name in names)
    record = json.loads((out / "run.json").read_text())
    assert (record["task"], record["modality"], record["model"]["step"]) == (task, modality, 7)
    if task == "estimate":
        np.testing.assert_array_equal(result.video["rgb"], read_video(film, FRAMES, SIZE))


class Oracle(nn.Module):
    """A model whose velocity leads every noisy stream straight to known latents; counts its evaluations."""

    def __init__(self, *targets):
        super().__init__()
        self.targets, self.calls = targets, 0

    def forward(self, rgb, aux, time, modality, *text, wanted):
        self.calls += 1
        pairs = zip((rgb, aux), self.targets, time.unbind(1), strict=True)
        return tuple((x - target) / t.clamp_min(1e-6).view(-1, 1, 1, 1, 1) for x, target, t in pairs)


def latent(generator, video, stream):
    frames = torch.from_numpy(video).permute(3, 0, 1, 2)[None].float()
    return generator.encoders.codec.encode(frames / 127.5 - 1, [stream])


def test_a_run_can_be_watched_and_ended(generator, film, tmp_path):
    """Each step draws what it would end in, cut as the answer is; what the watcher raises leaves nothing."""
    rgb, seen = read_video(film, FRAMES, SIZE), []
    aux = MODALITIES["depth"].encode(np.full((FRAMES, *SIZE), 2, np.float32), {"near": 1.0, "far": 0.0})
    knowing = replace(generator, model=Oracle(latent(generator, rgb, "rgb"), latent(generator, aux, "depth")))
    request = Request(modality="depth", video=film, steps=3, out=tmp_path / "out")
    answer.answer(request, knowing, watch=lambda step, draw: seen.append((step, draw())))
    assert [step for step, _ in seen] == [1, 2, 3]
    for _, videos in seen:
        np.testing.assert_array_equal(videos["rgb"], rgb)
        np.testing.assert_allclose(videos["depth"].astype(int), aux.astype(int), atol=1)

    def leave(step, draw):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answer.answer(replace(request, out=tmp_path / "left"), knowing, watch=leave)
    assert not (tmp_path / "left").exists()


@pytest.mark.parametrize("sampler", ["euler", "unipc"])
def test_what_the_model_means_is_what_the_files_say(sampler, generator, film, tmp_path):
    """A model that knows the depth gets it into depth.npz, through sampler, codec and decoder."""
    inverse = np.broadcast_to(np.linspace(0.2, 0.9, SIZE[1], dtype=np.float32), (FRAMES, *SIZE))
    rgb = read_video(film, FRAMES, SIZE)
    aux = MODALITIES["depth"].encode(1 / inverse, {"near": 1.0, "far": 0.0})
    oracle = Oracle(latent(generator, rgb, "rgb"), latent(generator, aux, "depth"))
    knowing = replace(generator, model=oracle)
    request = Request(modality="depth", video=film, steps=3, sampler=sampler, out=tmp_path / "out")
    infer(request, knowing)
    with np.load(tmp_path / "out" / "depth.npz") as saved:
        np.testing.assert_allclose(1 / saved["depth"], inverse, atol=0.03)
        # 9 of 11 frames, so a frame lasts 10/8 as long
        assert saved["fps"] == pytest.approx(10 * 8 / 10)
    sampling = Sampling(steps=3, sampler=sampler)
    drawn, follows = generate(knowing, "joint", "depth", ["x"], Footage(frames=FRAMES, size=SIZE), sampling)
    assert np.abs(drawn[0].astype(float) - rgb).mean() < 6
    assert np.abs(follows[0].astype(float) - aux).mean() < 6


# a film of this size is seen as 22 columns of 32, so that a share of the width is another number of pixels
NARROW, SEEN, WHOLE = (144, 40), (80, 22), (80, 32)


def even_motion(size, speed):
    """A video in which everything moves by `speed` pixels (right, down) a frame, in the colours of its size."""
    row = MODALITIES["flow"]
    return row.encode(np.full((FRAMES, *size, 2), speed, np.float32), row.unknown_constants(*size))


@pytest.mark.parametrize("encoding", ["ours", "linear"])
def test_speeds_of_a_condition_are_shares_of_what_the_model_sees(generator, tmp_path, monkeypatch, encoding):
    """4 pixels of a film 40 wide are 2.2 of a picture 22 wide, also where 10 columns stand beside it."""
    card = replace(generator.card, encodings={"flow": encoding})
    row, given = card.modality("flow"), []
    frames = encodings.redraw(even_motion(NARROW, (-4, 3)), "flow", encoding)
    path = write_video(frames, tmp_path / "flow.mp4", fps=10)

    def sampled(generator, task, modality, captions, footage, *rest):
        given.append(footage.aux[0])
        return np.zeros_like(footage.aux), footage.aux

    monkeypatch.setattr(answer, "generate", sampled)
    result = infer(Request(modality="flow", condition=path, out=tmp_path / "out"), replace(generator, card=card))
    assert given[0].shape[1:3] == WHOLE and result.video["flow"].shape[1:3] == SEEN
    speed = np.array([-4, 3]) * SEEN[1] / NARROW[1]
    for video, size in ((given[0], WHOLE), (result.video["flow"], SEEN)):
        found = row.decode(video, row.unknown_constants(*size))
        # of what H.264 makes of the colours
        np.testing.assert_allclose(found, np.broadcast_to(speed, found.shape), atol=0.06)


def test_control_from_a_film_is_control_by_what_its_annotator_draws(generator, tmp_path, monkeypatch):
    """A texture that moves 3 pixels to the left in a film of twice the size, seen through DIS."""
    whole = np.random.default_rng(0).uniform(0, 255, (32, 64, 3)).astype(np.float32)
    whole = cv2.resize(whole, (256, 128), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)
    moving = np.stack([whole[:, 6 * t :][:, :192] for t in range(FRAMES)])
    path, given = write_video(moving, tmp_path / "film.mp4", fps=10), []

    def sampled(generator, task, modality, captions, footage, *rest):
        given.append((task, footage.aux[0]))
        return np.zeros_like(footage.aux), footage.aux

    monkeypatch.setattr(answer, "generate", sampled)
    asked = {"modality": "flow", "control_from": path, "size": (64, 96)}
    result = infer(Request(out=tmp_path / "out", **asked), generator)
    task, aux = given[0]
    row = MODALITIES["flow"]
    found = row.decode(aux, row.unknown_constants(64, 96))
    assert task == "control" and np.abs(np.median(found, axis=(0, 1, 2)) - (-3, 0)).max() < 0.1
    assert result.record["annotator"]["name"] == "dis" and result.record["inputs"] == {"control_from": str(path)}
    for wrong, words in (
        ({"modality": "depth"}, "depth needs weights; depth comes from depth-anything"),
        ({"annotator": "salient", "annotator_weights": (f"salient={path}",)}, "salient makes segmentation; flow"),
        ({"video": path}, "give one of them"),
        ({"control_from": None, "prompt": "a", "annotator": "dis"}, "go with --control-from"),
    ):
        with pytest.raises(ValueError, match=words):
            infer(Request(out=tmp_path / "none", **asked | wrong), generator)
    assert not (tmp_path / "none").exists()


def test_estimated_speeds_are_the_same_in_values_and_in_colours(generator, tmp_path):
    film = write_video(np.zeros((FRAMES, *NARROW, 3), np.uint8), tmp_path / "film.mp4", fps=10)
    seen = even_motion(WHOLE, (1.5, -0.5))
    oracle = Oracle(torch.zeros(1, 192, 3, 20, 8), latent(generator, seen, "flow"))
    result = infer(Request(modality="flow", video=film, out=tmp_path / "out"), replace(generator, model=oracle))
    row = MODALITIES["flow"]
    drawn = row.decode(result.video["flow"], row.unknown_constants(*SEEN))
    for found in (result.values, drawn):
        assert found.shape == (FRAMES, *SEEN, 2)
        np.testing.assert_allclose(found, np.broadcast_to((1.5, -0.5), found.shape), atol=0.03)


def test_no_words_cost_no_second_evaluation(generator, film, tmp_path, capsys):
    zero = torch.zeros(1, 192, 3, 8, 12)
    for prompt, guidance, evaluations in [("", 7.5, 3), ("a ball", 7.5, 6), ("a ball", 1.0, 3)]:
        oracle = Oracle(zero, zero)
        request = Request(
            modality="flow", condition=film, prompt=prompt, guidance=guidance, steps=3, batched_guidance=False,
            out=tmp_path / "out",
        )  # fmt: skip
        result = infer(request, replace(generator, model=oracle))
        assert oracle.calls == evaluations
        assert (result.record["guidance"] is None) == (evaluations == 3)
    assert "no guidance" in capsys.readouterr().out


def test_the_model_is_asked_at_shifted_times(generator, film, tmp_path):
    times = []

    class Listener(Oracle):
        def forward(self, rgb, aux, time, *rest, **options):
            times.append(time[0, 1].item())
            return super().forward(rgb, aux, time, *rest, **options)

    zero = torch.zeros(1, 192, 3, 8, 12)
    request = Request(modality="flow", video=film, steps=4, shift=5.0, out=tmp_path / "out")
    result = infer(request, replace(generator, model=Listener(zero, zero)))
    # t → 5t / (1 + 4t) of 1, 3/4, 1/2, 1/4
    assert times == pytest.approx([1, 15 / 16, 5 / 6, 5 / 8]) and result.record["shift"] == 5.0


def test_guidance_reaches_the_model(generator):
    def run(scale):
        sampling = Sampling(steps=1, sampler="euler", guidance=Guidance(scale=scale))
        return generate(generator, "joint", "flow", ["a red ball"], sampling=sampling)[0]

    plain, strong = run(1.0), run(30.0)
    assert not np.array_equal(plain, strong)


def test_two_samples_differ_and_each_is_its_own(generator):
    pair, _ = generate(generator, "joint", "flow", ["x", "x"], sampling=Sampling(steps=1, seed=3))
    alone, _ = generate(generator, "joint", "flow", ["x"], sampling=Sampling(steps=1, seed=3))
    assert not np.array_equal(pair[0], pair[1])
    assert np.abs(pair[0].astype(int) - alone[0]).max() <= 1


def run_program(*flags, cwd):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "unity.infer", *map(str, flags)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.slow
def test_same_seed_same_bytes_in_two_processes_from_anywhere(checkpoint, tmp_path):
    """Nothing given but the model: the package's own video, from two working directories."""
    found = []
    for name in ("a", "b"):
        here = tmp_path / name
        here.mkdir()
        done = run_program("--modality", "flow", "--checkpoint", checkpoint, "--steps", 2, cwd=here)
        assert done.returncode == 0, done.stderr
        assert "sampling" in done.stderr and str(Path("runs/infer/flow-estimate/flow.npz")) in done.stdout
        found.append(digests(here / "runs/infer/flow-estimate"))
    assert found[0] == found[1]
    assert sum(name.endswith(".flo") for name in found[0]) == FRAMES


def test_what_saves_nothing_is_said_once(checkpoint, film, tmp_path, capsys):
    asked = Request(
        checkpoint=checkpoint, modality="depth", video=film, steps=1, device="cpu", out=tmp_path / "out"
    )
    infer(replace(asked, tiled_vae=True, offload="parts"))
    said = capsys.readouterr().err
    assert said.count("is no VAE; --tiled-vae changes nothing here") == 1
    assert said.count("without a GPU; --offload changes nothing") == 1


def test_a_photograph_is_a_film_of_one_frame(generator, tmp_path):
    """With all frames of it, or as many as there are."""
    shown = np.random.default_rng(0).integers(0, 256, (32, 48, 3)).astype(np.uint8)
    Image.fromarray(shown).save(tmp_path / "photo.png")
    for name, every in (("a", False), ("b", True)):
        asked = Request(modality="depth,flow", video=tmp_path / "photo.png", steps=1, every_frame=every)
        result = infer(replace(asked, out=tmp_path / name), generator)
        assert result.record["frames"] == 1 and result.record["windows"] is None
        np.testing.assert_array_equal(result.video["rgb"], shown[None])
        assert [len(values) for values in result.values_of.values()] == [1, 1]
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_another_seed_is_another_sample(generator, film, tmp_path):
    for seed in (0, 1):
        infer(Request(modality="flow", video=film, steps=1, seed=seed, out=tmp_path / str(seed)), generator)
    first, second = (digests(tmp_path / str(seed)) for seed in (0, 1))
    assert first["flow.npz"] != second["flow.npz"] and first["rgb.mp4"] == second["rgb.mp4"]


def mistakes(film, checkpoint, folder):
    """Flags → what the one sentence must name."""
    text = folder / "words.mp4"
    text.write_text("no video")
    stage1 = save_random_model(folder / "stage1", modalities=("depth", "flow"))
    broken = folder / "broken.safetensors"
    broken.write_bytes(b"1234")
    half = save_random_model(folder / "half")
    (half / "config.json").write_text((half / "config.json").read_text()[:40])
    return {
        "modality": (["--modality", "smell"], "unknown modality 'smell'; choose one of depth"),
        "sampler": (["--sampler", "heun"], "unknown sampler 'heun'"),
        "both": (["--video", film, "--condition", film], "give one of them"),
        "missing": (["--video", folder / "none.mp4"], "no video file .*none.mp4"),
        "folder": (["--video", folder], "is a folder; give a film in it, or all of them to python -m unity.jobs"),
        "unreadable": (["--video", text], "cannot read .*words.mp4"),
        "4k+1": (["--video", film, "--frames", 8], "frames is 8; .* such as 5 or 9"),
        "none": (["--video", film, "--frames", 0], "frames is 0; give --frames a number from 1"),
        "too few": (["--video", film, "--frames", 13], "has 11 frames, 13 are wanted"),
        "size": (["--video", film, "--size", 32, 40], "size 32 40 .* 32 32 does"),
        "steps": (["--video", film, "--steps", 0], "steps is 0"),
        "shift": (["--video", film, "--shift", 0], "shift is 0"),
        "few steps": (["--steps", 8, "--step-cache", 3], "8 are too few for that: take at least 16"),
        "hooks in a graph": (["--compile", "--offload", "parts"], "leave it out, or --offload, --storage and"),
        "unlearnt": (
            ["--modality", "skeleton", "--checkpoint", stage1],
            "has not learnt 'skeleton', only depth, flow",
        ),
        "no weights": (["--checkpoint", folder / "nowhere"], "no weights at .*nowhere"),
        "broken weights": (["--checkpoint", broken], "broken.safetensors cannot be read"),
        "broken card": (["--checkpoint", half], "half/config.json is damaged"),
        "device": (["--device", "cuda"], "no CUDA GPU") if not torch.cuda.is_available() else None,
        "occupied": (["--out", folder], "holds no earlier results"),
    }


NAMES = (
    "modality", "sampler", "both", "missing", "folder", "unreadable", "4k+1", "none", "too few", "size", "steps",
    "shift", "few steps", "hooks in a graph",
    "unlearnt", "no weights", "broken weights", "broken card", "device", "occupied",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_mistake_is_one_sentence_and_exit_2(name, checkpoint, film, tmp_path, monkeypatch, capsys):
    (tmp_path / "given").mkdir()
    if (case := mistakes(film, checkpoint, tmp_path / "given")[name]) is None:
        pytest.skip("there is a GPU here")
    flags, sentence = case
    base = {"--modality": "flow", "--checkpoint": checkpoint, "--out": tmp_path / "results" / "x"}
    defaults = [part for flag, value in base.items() if flag not in flags for part in (flag, value)]
    monkeypatch.setattr(sys, "argv", ["infer", *map(str, [*defaults, *flags])])
    before = digests(tmp_path)
    with pytest.raises(SystemExit) as stop:
        end("infer", program.main)
    assert stop.value.code == 2
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("sampling")]
    assert len(said) == 1 and said[0].startswith("infer: ")
    assert re.search(sentence, said[0]), said
    assert digests(tmp_path) == before and not (tmp_path / "results").exists()


def test_failing_late_keeps_earlier_results(generator, film, tmp_path, monkeypatch):
    request = Request(modality="flow", video=film, steps=1, out=tmp_path / "out")
    infer(request, generator)
    before = digests(tmp_path)

    def fail(rows):
        raise OSError("disk full")

    monkeypatch.setattr(answer, "labelled_strip", fail)
    with pytest.raises(OSError, match="disk full"):
        infer(replace(request, seed=1), generator)
    assert digests(tmp_path) == before


def test_a_run_folder_serves_its_newest_model(checkpoint, tmp_path):
    newest = tmp_path / "run" / "checkpoints" / "step-00000007"
    newest.mkdir(parents=True)
    (newest / "model").symlink_to(checkpoint)
    (tmp_path / "run" / "model").symlink_to(Path("checkpoints") / newest.name / "model")
    for path in (tmp_path / "run", newest, checkpoint):
        assert load_generator(path, "cpu").card.step == 7


def test_words_change_nothing_in_estimation_and_it_says_so(generator, film, tmp_path, capsys):
    for name, prompt in (("a", ""), ("b", "a ball")):
        infer(Request(modality="depth", video=film, prompt=prompt, steps=1, out=tmp_path / name), generator)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert "--prompt changes nothing" in capsys.readouterr().err


def test_the_command_line_of_a_request_asks_for_it():
    asked = Request(
        modality="depth", condition=Path("a film.mp4"), prompt="--not a flag", guidance=1.0, size=(32, 48),
        prompt_guidance=True, seed=7, frames=9,
    )  # fmt: skip
    words = command_line(asked)
    assert words[:3] == ["python", "-m", "unity.infer"] and "--steps" not in words
    assert tyro.cli(Request, args=words[3:]) == asked


def test_several_modalities_are_what_each_alone_is_and_share_the_encoding(generator, film, tmp_path, monkeypatch):
    names, encoded = ("depth", "skeleton", "flow"), []
    alone = {
        name: infer(Request(modality=name, video=film, steps=2, out=tmp_path / name), generator) for name in names
    }
    encode = type(generator.encoders).encode
    monkeypatch.setattr(
        type(generator.encoders), "encode", lambda self, *args: encoded.append(args) or encode(self, *args)
    )
    out = tmp_path / "all"
    result = infer(Request(modality="depth, skeleton,flow", video=film, steps=2, out=out), generator)
    assert len(encoded) == 1 and list(result.video) == ["rgb", *names] and list(result.values_of) == list(names)
    for name in names:
        assert (result.video[name] == alone[name].video[name]).all()
        assert np.array_equal(result.values_of[name], alone[name].values, equal_nan=True)
        assert (out / f"{name}.mp4").read_bytes() == (tmp_path / name / f"{name}.mp4").read_bytes()
    assert {path.name for path in out.iterdir()} == {
        "rgb.mp4", "picture.png", "run.json", "depth.mp4", "depth.npz", "skeleton.mp4", "skeleton.json",
        "flow.mp4", "flow.npz", "flow",
    }  # fmt: skip
    # and a second run may replace it
    infer(Request(modality="depth", video=film, steps=1, out=out), generator)
    assert not (out / "flow.mp4").exists()


@pytest.mark.parametrize("given", [{"prompt": "a ball"}, {"condition": "film"}])
def test_several_modalities_are_for_estimates(given, generator, film, tmp_path):
    given = {name: film if value == "film" else value for name, value in given.items()}
    with pytest.raises(ValueError, match="several modalities at once are for estimates; give one --modality"):
        infer(Request(modality="depth,flow", out=tmp_path / "out", **given), generator)
    with pytest.raises(ValueError, match="unknown modality 'flaw'"):
        infer(Request(modality="depth,flaw", video=film, out=tmp_path / "out"), generator)


@pytest.mark.parametrize(("size", "asked", "batched"), [(64, None, True), (512, None, False), (64, False, False)])
def test_short_clips_are_guided_in_one_pass(generator, size, asked, batched, tmp_path):
    request = Request(
        modality="depth", prompt="a ball", size=(size, size), frames=17, batched_guidance=asked,
        out=tmp_path / "out",
    )  # fmt: skip
    assert plan_request(request, generator.card).guidance.batched == batched


def test_a_clip_has_the_tokens_that_the_model_reads(generator, tmp_path):
    seen = []
    hook = generator.model.blocks[0].register_forward_pre_hook(lambda block, given: seen.append(given[0][0].shape))
    request = Request(modality="depth", prompt="a ball", size=(64, 96), frames=9, steps=1, out=tmp_path / "out")
    infer(request, generator)
    hook.remove()
    # both streams of both evaluations
    ((groups, length, _),) = seen
    assert groups == 4 and tokens(generator.card, 9, (64, 96)) == 2 * length


def test_guidance_in_one_pass_is_guidance(generator, film, tmp_path):
    both = {
        batched: infer(
            Request(
                modality="depth", condition=film, prompt="a red ball rolls", steps=2, prompt_guidance=True,
                batched_guidance=batched, out=tmp_path / str(batched),
            ),
            generator,
        ).video["rgb"].astype(int)
        for batched in (False, True)
    }  # fmt: skip
    assert np.abs(both[True] - both[False]).max() <= 1


def test_files_for_other_programs_come_beside_the_usual_ones(generator, film, tmp_path):
    also = ("kitti", "png16", "coco")
    request = Request(modality="depth,flow", also=also, video=film, steps=1, out=tmp_path / "out")
    for _ in range(2):
        infer(request, generator)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"depth_16", "depth_16.json", "flow_kitti", "depth.npz", "flow"} <= names
    assert not any("coco" in name for name in names)
    assert len(list((tmp_path / "out" / "flow_kitti").iterdir())) == FRAMES


@pytest.mark.slow
def test_frames_come_at_the_rate_that_is_asked_for(generator, film, tmp_path):
    """Of a film of 11 frames at 10 a second: the first ones, one in two of all, and every one at most."""
    by = {}
    for name, asked in {
        "spread": {}, "own": {"fps": 10.0}, "half": {"fps": 5.0, "frames": 5}, "more": {"fps": 99.0},
        "all at half": {"fps": 4.0, "every_frame": True},
    }.items():  # fmt: skip
        out = tmp_path / name
        infer(Request(modality="depth", video=film, steps=1, size=SIZE, out=out, **asked), generator)
        record = json.loads((out / "run.json").read_text())
        by[name] = record["source"]["times"], record["fps"], record["frames"]
    every = [t / 10 for t in range(11)]
    spread = [every[t] for t in np.linspace(0, 10, FRAMES).round().astype(int)]
    assert by["spread"][0] == pytest.approx(spread) and by["spread"][1] == pytest.approx(8.0)
    assert by["own"][0] == by["more"][0] == pytest.approx(every[:FRAMES]) and by["own"][1] == pytest.approx(10)
    assert by["half"][0] == pytest.approx(every[::2][:5]) and by["half"][1] == pytest.approx(5)
    # 0.25 s are as near to 0.2 as to 0.3
    assert by["all at half"][0] == pytest.approx([0, 0.2, 0.5, 0.7, 1.0]) and by["all at half"][2] == 5


@pytest.mark.slow
def test_values_come_back_at_the_films_own_size(generator, film, tmp_path):
    """What is written is what the model sees, brought to the film's pixels; with --size, to those of the cut."""
    for size, whole in ((None, (64, 96)), ((64, 64), (64, 64))):
        small, large = (
            infer(
                Request(modality="flow", video=film, steps=1, size=size, out=tmp_path / str(at), at_film_size=at),
                generator,
            )
            for at in (False, True)
        )
        seen = small.values.shape[1:3]
        assert large.values.shape == (FRAMES, *whole, 2)
        np.testing.assert_array_equal(large.values, MODALITIES["flow"].resize(small.values, seen, whole))
        np.testing.assert_array_equal(large.video["flow"], small.video["flow"])
        assert json.loads((tmp_path / "True/run.json").read_text())["values_size"] == list(whole)


@pytest.mark.parametrize(
    "given, words",
    [
        ({"prompt": "a ball", "fps": 8.0}, "belong to a film"),
        ({"prompt": "a ball", "at_film_size": True}, "belong to a film"),
        ({"condition": "film", "at_film_size": True}, "is for estimates"),
        ({"video": "film", "fps": 1.0, "frames": 9}, "has 2 frames at 1 a second, 9 are wanted"),
    ],
)
def test_rates_and_sizes_are_refused_where_they_mean_nothing(given, words, generator, film, tmp_path):
    given = {key: film if value == "film" else value for key, value in given.items()}
    with pytest.raises(ValueError, match=words):
        infer(Request(modality="depth", out=tmp_path / "out", **given), generator)


@pytest.mark.slow
def test_compiled_it_answers_the_same(generator, film, tmp_path, monkeypatch):
    """To rounding, which decodes to a level of 255 at most; without a compiler, in a sentence."""
    asked = {"modality": "depth", "video": film, "steps": 2, "size": SIZE}
    plain, compiled = (
        infer(Request(out=tmp_path / str(on), compile=on, **asked), generator).video["depth"].astype(int)
        for on in (False, True)
    )
    assert np.abs(plain - compiled).max() <= 1
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ValueError, match="needs a C.. compiler"):
        infer(Request(out=tmp_path / "none", compile=True, **asked), generator)
