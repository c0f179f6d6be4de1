"""One request, from its checks to its folder of results.

All that can be refused is refused before the weights are read: the request itself, the model's card, the film, the
place for the results.
"""

import platform
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from tqdm import tqdm

from unity.canvas import Canvas, exactly, whole_frame
from unity.command import check_bounds, say
from unity.data.film import Facts, Film, look, picture_name, read_film
from unity.data.video import write_video
from unity.files import plain
from unity.generate import Footage, Frames, Generator, check_request, generate, load_generator
from unity.modality.base import Modality
from unity.modality.table import MODALITIES
from unity.model.adapter import Lora
from unity.model.card import ModelCard
from unity.model.codec import stride
from unity.model.weights import read_card
from unity.report.strip import labelled_strip
from unity.request import SAMPLE, SHIPPED, Request
from unity.results import Results
from unity.sampler import SAMPLERS, Guidance, Sampling, time_grid
from unity.tasks import TASKS

# frame rate where no video gives one
FPS = 16.0
PACKAGES = ("torch", "numpy", "av")

Video = UInt8[np.ndarray, "t h w 3"]
# called after each step with its number, from 1, and what draws the videos, by stream, that it would end in there
Watch = Callable[[int, Callable[[], dict[str, Video]]], object]

# what is given → task; the first that is given decides
_TASK_OF = {"video": "estimate", "condition": "control", "prompt": "joint"}


@dataclass(frozen=True, kw_only=True)
class Result:
    """`video` holds rgb and the modality, `values` the modality's values where the model produced them."""

    folder: Path
    files: list[Path]
    video: dict[str, Video]
    values: np.ndarray | None
    record: dict


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A request with nothing left open."""

    request: Request
    task: str
    prompt: str
    frames: int
    canvas: Canvas
    facts: Facts | None
    results: Results
    guidance: Guidance

    @property
    def path(self) -> Path | None:
        """The film that is given."""
        return self.request.video or self.request.condition

    @property
    def streams(self) -> dict[str, str]:
        """rgb and the modality → whether it is sampled or given."""
        names = ("rgb", self.request.modality)
        pairs = zip(names, TASKS[self.task].noisy, strict=True)
        return {name: "sampled" if noisy else "given" for name, noisy in pairs}


def answer(
    request: Request,
    generator: Generator | None = None,
    tell: Callable[[str], None] = print,
    watch: Watch | None = None,
) -> Result:
    """Run one request and write its folder, whole or not at all; see `unity.infer.infer`.

    What `watch` raises ends the run, and nothing is written.
    """
    checkpoint = request.checkpoint or SHIPPED
    plan = _plan(request, generator.card if generator else _card(request))
    film = _film(plan)
    generator = generator or load_generator(
        checkpoint, request.device, request.codec_weights, request.text_weights, _lora(request)
    )
    tell(_about(generator))
    tell(f"{plan.task}, {request.modality}: {_effort(plan)}")
    video = _sample(plan, film, generator, watch)
    row = generator.card.modality(request.modality)
    return _write(plan, row, video, _record(plan, film, generator))


def _plan(request: Request, card: ModelCard) -> Plan:
    request, task, out = _complete(request)
    facts = look(path) if (path := request.video or request.condition) else None
    frames = request.frames or _most_frames(facts, card)
    canvas = exactly(request.size) if request.size else _whole(facts, card)
    check_request(card, request.modality, frames, canvas.model)
    if facts is not None and facts.frames < frames:
        raise ValueError(
            f"{picture_name(facts.path)} has {facts.frames} frames, {frames} are wanted; ask for 1 to "
            f"{facts.frames} (4k+1 of them)"
        )
    prompt = request.prompt or ""
    plan = Plan(
        request=request,
        task=task,
        prompt=prompt,
        frames=frames,
        canvas=canvas,
        facts=facts,
        results=Results(out, "unity.infer", "run.json"),
        # without words there is nothing to guide by
        guidance=Guidance(scale=request.guidance, caption=bool(prompt), prompt=request.prompt_guidance),
    )
    _check_results(plan)
    return plan


def _complete(request: Request) -> tuple[Request, str, Path]:
    """The request with the defaults that need no checkpoint, its task, and the folder of its results."""
    check_bounds(request)
    for name, choices in (("modality", MODALITIES), ("sampler", SAMPLERS)):
        if getattr(request, name) not in choices:
            raise ValueError(f"unknown {name} {getattr(request, name)!r}; choose one of {', '.join(choices)}")
    # refuses what cannot be
    time_grid(request.steps, request.shift)
    _check_device(request.device)
    if request.video and request.condition:
        raise ValueError("--video asks for estimation and --condition for a new video; give one of the two")
    request = _with_words(request)
    if not any(getattr(request, name) for name in _TASK_OF):
        request = replace(request, video=SAMPLE)
    task = next(task for name, task in _TASK_OF.items() if getattr(request, name))
    if request.prompt and not TASKS[task].captioned:
        say("infer: estimation reads no words about the scene; --prompt changes nothing here")
        request = replace(request, prompt=None)
    out = request.out or Path("runs/infer") / f"{request.modality}-{task}"
    return replace(request, out=out), task, out


def _with_words(request: Request) -> Request:
    """With a prompt that holds words, or without one."""
    if request.prompt is None:
        return request
    if request.prompt != plain(request.prompt):
        raise ValueError(
            f"the prompt {plain(request.prompt)!r} is not text in the encoding of this terminal "
            f"({sys.getfilesystemencoding()}); give it in that encoding, or set LANG to the one it is in"
        )
    if not request.prompt.strip() and not (request.video or request.condition):
        raise ValueError(
            "the prompt is empty; give words for a new video, or a film as --video or --condition, or leave "
            "--prompt out to estimate the video that the package carries"
        )
    return replace(request, prompt=request.prompt if request.prompt.strip() else None)


def _check_device(device: str | None) -> None:
    if device is None:
        return
    found = re.fullmatch(r"cpu|cuda(?::(\d{1,4}))?", device)
    if not found:
        raise ValueError(f"unknown device {plain(device)!r}; choose cpu, cuda, or a GPU as in cuda:1")
    if device != "cpu" and int(found[1] or 0) >= (count := torch.cuda.device_count()):
        many = f"there are {count} GPUs, counted from 0" if count else "no CUDA GPU can be used here"
        raise ValueError(f"device {device!r}: {many}; leave --device out, or give cpu")


def _card(request: Request) -> ModelCard:
    if request.checkpoint is None and not SHIPPED.is_dir():
        raise ValueError(
            "no model comes with this installation; train one with `deepspeed launchers/train.py --stage 1` "
            "and give its run folder as --checkpoint"
        )
    return read_card(request.checkpoint or SHIPPED, lora=_lora(request))


def _lora(request: Request) -> Lora | None:
    return request.lora and Lora(request.lora, request.lora_strength)


def _most_frames(facts: Facts | None, card: ModelCard) -> int:
    """As many as the checkpoint was trained on, or as a short film has."""
    step = stride(card.model.codec)[0]
    return card.frames if facts is None else min(card.frames, 1 + (facts.frames - 1) // step * step)


def _whole(facts: Facts | None, card: ModelCard) -> Canvas:
    if facts is None:
        return exactly(card.size)
    rows, columns = (s * p for s, p in zip(stride(card.model.codec)[1:], card.model.patch[1:], strict=True))
    return whole_frame(facts.size, card.size, (rows, columns))


def _check_results(plan: Plan) -> None:
    name, (height, width) = plan.request.modality, plan.canvas.picture
    planned = ("rgb.mp4", f"{name}.mp4", "picture.png", "run.json", name, f"{name}.npz", f"{name}.json")
    # two videos and, of the values, two files of eight bytes a pixel
    need = plan.frames * height * width * (2 * 3 + 2 * 8) + (1 << 20)
    plan.results.check(
        planned, [path for path in (plan.path, plan.request.checkpoint, plan.request.lora) if path], need
    )


def _film(plan: Plan) -> Film | None:
    if plan.facts is None:
        return None
    kind = "rgb" if plan.task == "estimate" else plan.request.modality
    film = read_film(plan.facts, plan.frames, plan.canvas.picture, kind, whole=not plan.request.size)
    for note in film.notes:
        say(f"infer: {picture_name(plan.facts.path)}: {note}")
    return film


def _sample(plan: Plan, film: Film | None, generator: Generator, watch: Watch | None) -> dict[str, Video]:
    request, given = plan.request, {}
    if film is not None:
        padded = plan.canvas.pad(film.frames)
        row, ratio = generator.card.modality(request.modality), 1 / plan.canvas.widening
        given = {"rgb": padded[None]} if plan.task == "estimate" else {"aux": row.redrawn(padded, ratio)[None]}
    footage = Footage(**given, frames=plan.frames, size=plan.canvas.model)
    sampling = Sampling(
        steps=request.steps,
        sampler=request.sampler,
        shift=request.shift,
        guidance=plan.guidance,
        seed=request.seed,
    )

    def named(videos: tuple[Frames, Frames]) -> dict[str, Video]:
        video = {name: plan.canvas.crop(one[0]) for name, one in zip(plan.streams, videos, strict=True)}
        if film is not None:
            # as it came, not padded, redrawn and back
            video |= {name: film.frames for name, how in plan.streams.items() if how == "given"}
        return video

    # closed before anything is said about what went wrong
    with tqdm(total=request.steps, desc="sampling", unit="step") as bar:

        def step(number: int, draw: Callable[[], tuple[Frames, Frames]]) -> None:
            bar.update()
            if watch is not None:
                watch(number, lambda: named(draw()))

        sampled = generate(generator, plan.task, request.modality, [plan.prompt], footage, sampling, step)
    return named(sampled)


def _about(generator: Generator) -> str:
    """What answers: nobody should take a small model's output for more than it is."""
    card, size = generator.card, sum(p.numel() for p in generator.model.parameters())
    learnt = f"stage {card.stage}, step {card.step}, {card.frames} frames of {card.size[0]}x{card.size[1]}"
    return f"{generator.path}: {size / 1e6:.1f}M parameters, {learnt}, data: {card.data or 'unknown'}"


def _effort(plan: Plan) -> str:
    height, width = plan.canvas.picture
    guided = f"guidance {plan.guidance.scale:g}, two evaluations a step" if plan.guidance.active else "no guidance"
    return (
        f"{plan.frames} frames of {height}x{width}, {plan.request.steps} steps of {plan.request.sampler}, "
        f"{guided}, seed {plan.request.seed}"
    )


def _record(plan: Plan, film: Film | None, generator: Generator) -> dict:
    """What was run, as run.json keeps it: nothing in it differs between two equal runs."""
    request, card = plan.request, generator.card
    inputs = {name: str(getattr(request, name)) for name in ("video", "condition") if getattr(request, name)}
    source = film and {"size": film.size, "crop": film.crop, "times": film.times, "notes": film.notes}
    return {
        "task": plan.task,
        "modality": request.modality,
        "prompt": plan.prompt,
        "inputs": inputs,
        "source": source,
        "frames": plan.frames,
        "size": plan.canvas.picture,
        "model_size": plan.canvas.model,
        "fps": film.fps if film else FPS,
        "steps": request.steps,
        "sampler": request.sampler,
        "shift": request.shift,
        "guidance": asdict(plan.guidance) if plan.guidance.active else None,
        "seed": request.seed,
        "checkpoint": str(generator.path),
        "lora": request.lora and {"path": str(request.lora), "strength": request.lora_strength},
        "model": {"stage": card.stage, "step": card.step, "modalities": card.modalities, "data": card.data},
        "precision": str(generator.dtype).removeprefix("torch."),
        "device": generator.device.type,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
    }


def _write(plan: Plan, row: Modality, video: dict[str, Video], record: dict) -> Result:
    """Videos, values, one picture and the record, in a folder that changes when all of it is whole."""
    fps, values, canvas = record["fps"], None, plan.canvas
    if plan.streams[row.name] == "sampled":
        # by the width that the model sees; files are drawn by their own
        values = row.decode(video[row.name], row.unknown_constants(*canvas.model))
        video = video | {row.name: row.redrawn(video[row.name], canvas.widening)}
    rows = {f"{name}, {plan.streams[name]}": frames for name, frames in video.items()}
    with plan.results.writing(record) as folder:
        for name, frames in video.items():
            write_video(frames, folder / f"{name}.mp4", fps)
        if values is not None:
            row.save(values, folder / row.name, fps)
            drawn = row.picture(values, row.unknown_constants(*canvas.picture))
            rows[f"{row.name}, the values read from it"] = drawn
        labelled_strip(rows).save(folder / "picture.png")
    return Result(folder=plan.results.path, files=plan.results.files(), video=video, values=values, record=record)
