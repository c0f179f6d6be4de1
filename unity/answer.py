"""One request, from what is planned to its folder of results."""

import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from tqdm import tqdm

from unity.command import say
from unity.data.film import Facts, Film, picture_name, read_film
from unity.data.video import write_video
from unity.generate import Footage, Frames, Generator, encode, generate, load_generator
from unity.modality.base import Constants, Modality
from unity.modality.exports import exports
from unity.model.card import ModelCard
from unity.plan import Plan, annotator_of, card_of, lora_of, plan_request
from unity.report.strip import labelled_strip
from unity.request import SHIPPED, Request
from unity.sampler import Sampling
from unity.windows import join, places

# frame rate where no video gives one
FPS = 16.0
PACKAGES = ("torch", "numpy", "av")

Video = UInt8[np.ndarray, "t h w 3"]
# as the model draws it, border and all
Drawn = UInt8[np.ndarray, "b t rows columns 3"]
# called after each step with its number, from 1, and what draws the videos, by stream, that it would end in there
Watch = Callable[[int, Callable[[], dict[str, Video]]], object]


@dataclass(frozen=True, kw_only=True)
class Result:
    """`video` holds rgb and the modalities; `values` the first one's values where the model produced them, and
    `values_of` those of each by name."""

    folder: Path
    files: list[Path]
    video: dict[str, Video]
    values: np.ndarray | None
    values_of: dict[str, np.ndarray]
    record: dict


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A stream as it is written; a sampled modality with its row, its values, and what its video decodes by."""

    name: str
    video: Video
    row: Modality | None = None
    values: np.ndarray | None = None
    constants: Constants = field(default_factory=dict)


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
    card = generator.card if generator else card_of(request)
    plan = plan_request(request, card)
    film, annotated = _film(plan, card)
    generator = generator or load_generator(
        checkpoint, request.device, request.codec_weights, request.text_weights, lora_of(request)
    )
    tell(_about(generator))
    if request.compile:
        compiled = torch.compile(generator.model, dynamic=False)
        generator = replace(generator, model=compiled)  # pyright: ignore[reportArgumentType]
    tell(f"{plan.task}, {', '.join(plan.modalities)}: {_effort(plan)}")
    starts = places(plan.frames if film is None else len(film.frames), plan.window)
    clips = _sample(plan, film, starts, generator, watch)
    record = _record(plan, film, starts, generator) | ({"annotator": annotated} if annotated else {})
    return _write(plan, record, _seen(plan, film, clips, starts, generator))


def _film(plan: Plan, card: ModelCard) -> tuple[Film | None, dict | None]:
    """What is given, as the model is to see it; who made it, where an annotator did."""
    if plan.facts is None:
        return None, None
    film, told = _annotated(plan, card) if plan.request.control_from else (_as_it_is(plan, plan.facts), None)
    for note in film.notes:
        say(f"infer: {picture_name(plan.facts.path)}: {note}")
    return film, told


def _as_it_is(plan: Plan, facts: Facts) -> Film:
    kind = "rgb" if plan.task == "estimate" else plan.request.modality
    frames = None if plan.request.every_frame else plan.frames
    whole, fps = not plan.request.size, plan.request.fps
    return read_film(facts, frames, plan.canvas.picture, kind, whole=whole, fps=fps)


def _annotated(plan: Plan, card: ModelCard) -> tuple[Film, dict]:
    """A film's view by an annotator, drawn as the model draws it."""
    from unity.data.annotate.view import view

    assert plan.facts
    device = plan.request.device or ("cuda" if torch.cuda.is_available() else "cpu")
    size = plan.canvas.picture
    found = view(annotator_of(plan.request), plan.facts, plan.frames, size, not plan.request.size, device)
    if found.doubt:
        say(f"infer: {plan.request.modality} by {found.told['name']} may be wrong: {found.doubt}")
    row = card.modality(plan.modalities[0])
    return replace(found.film, frames=row.encode(found.values, row.constants(found.values, size))), found.told


def _sample(
    plan: Plan, film: Film | None, starts: list[int], generator: Generator, watch: Watch | None
) -> list[dict[str, Video]]:
    """RGB and the modalities of each window."""
    request, clips = plan.request, []
    sampling = Sampling(
        steps=request.steps,
        sampler=request.sampler,
        shift=request.shift,
        guidance=plan.guidance,
        seed=request.seed,
    )
    steps, done = len(sampling.times()) - 1, 0
    # closed before anything is said about what went wrong
    with tqdm(total=steps * len(plan.modalities) * len(starts), desc="sampling", unit="step") as bar:

        def step(named: Callable, number: int, draw: Callable[[], tuple[Frames, Frames]]) -> None:
            bar.update()
            if watch is not None:
                watch(done + number, lambda: named(draw()))

        for start in starts:
            frames, clip = None if film is None else film.frames[start : start + plan.window], {}
            footage = _footage(plan, frames, generator)
            for name in plan.modalities:
                named = partial(_named, plan, frames, name)
                given = (plan.task, name, [plan.prompt], footage, sampling, partial(step, named))
                clip |= named(generate(generator, *given))
                done += steps
            clips.append(clip)
    return clips


def _footage(plan: Plan, frames: Video | None, generator: Generator) -> Footage:
    """What a clip starts from; RGB that is given is encoded once for all modalities."""
    given: dict[str, Any] = {}
    if frames is not None:
        padded = plan.canvas.pad(frames)
        row, ratio = generator.card.modality(plan.modalities[0]), 1 / plan.canvas.widening
        given = {"rgb": padded[None]} if plan.task == "estimate" else {"aux": row.redrawn(padded, ratio)[None]}
    if "rgb" in given:
        given["rgb_latent"] = encode(generator, given["rgb"], "rgb")
    return Footage(**given, frames=plan.window, size=plan.canvas.model)


def _named(plan: Plan, frames: Video | None, modality: str, videos: tuple[Drawn, Drawn]) -> dict[str, Video]:
    """One clip by its streams, in the size of the picture."""
    video = {name: plan.canvas.crop(one[0]) for name, one in zip(("rgb", modality), videos, strict=True)}
    if frames is not None:
        # as it came, not padded, redrawn and back
        video |= {name: frames for name in video if plan.streams[name] == "given"}
    return video


def _seen(
    plan: Plan, film: Film | None, clips: list[dict[str, Video]], starts: list[int], generator: Generator
) -> list[Seen]:
    """RGB, then the modalities, with the values of those that were sampled, by the width that the model sees."""
    canvas, seen = plan.canvas, []
    for name in clips[0]:
        videos = [clip[name] for clip in clips]
        if plan.streams[name] == "given" and film is not None:
            seen.append(Seen(name=name, video=film.frames))
            continue
        if name == "rgb":
            # of one window: films are what comes in several
            seen.append(Seen(name=name, video=videos[0]))
            continue
        row = generator.card.modality(name)
        values = [row.decode(video, row.unknown_constants(*canvas.model)) for video in videos]
        if len(clips) == 1:
            whole, constants = values[0], row.unknown_constants(*canvas.picture)
            video = row.redrawn(videos[0], canvas.widening)
        else:
            whole = join(row, values, starts)
            constants = row.constants(whole, canvas.picture)
            video = row.encode(whole, constants)
        seen.append(Seen(name=name, video=video, row=row, values=whole, constants=constants))
    return seen


def _sized(plan: Plan, row: Modality, values: np.ndarray) -> np.ndarray:
    """Values as they are written."""
    old, new = plan.canvas.picture, plan.values_size
    return values if old == new else row.resize(values, old, new)


def _about(generator: Generator) -> str:
    """What answers: nobody should take a small model's output for more than it is."""
    card, size = generator.card, sum(p.numel() for p in generator.model.parameters())
    learnt = f"stage {card.stage}, step {card.step}, {card.frames} frames of {card.size[0]}x{card.size[1]}"
    return f"{generator.path}: {size / 1e6:.1f}M parameters, {learnt}, data: {card.data or 'unknown'}"


def _effort(plan: Plan) -> str:
    height, width = plan.canvas.picture
    passes = "one pass over both" if plan.guidance.batched else "two evaluations a step"
    guided = f"guidance {plan.guidance.scale:g}, {passes}" if plan.guidance.active else "no guidance"
    frames = f"{plan.frames} frames" + f" in windows of {plan.window}" * (plan.frames > plan.window)
    return (
        f"{frames} of {height}x{width}, {plan.request.steps} steps of {plan.request.sampler}, "
        f"{guided}, seed {plan.request.seed}"
    )


def _record(plan: Plan, film: Film | None, starts: list[int], generator: Generator) -> dict:
    """What was run, as run.json keeps it: nothing in it differs between two equal runs."""
    request, card = plan.request, generator.card
    kinds = ("video", "condition", "control_from")
    inputs = {name: str(getattr(request, name)) for name in kinds if getattr(request, name)}
    source = film and {"size": film.size, "crop": film.crop, "times": film.times, "notes": film.notes}
    return {
        "task": plan.task,
        "modality": request.modality,
        "prompt": plan.prompt,
        "inputs": inputs,
        "source": source,
        "frames": plan.frames if film is None else len(film.frames),
        "windows": {"frames": plan.window, "begin": starts} if len(starts) > 1 else None,
        "size": plan.canvas.picture,
        "model_size": plan.canvas.model,
        "values_size": plan.values_size,
        "fps": film.fps if film else FPS,
        "steps": request.steps,
        "sampler": request.sampler,
        "shift": request.shift,
        "guidance": asdict(plan.guidance) if plan.guidance.active else None,
        "compiled": request.compile,
        "seed": request.seed,
        "checkpoint": str(generator.path),
        "lora": request.lora and {"path": str(request.lora), "strength": request.lora_strength},
        "model": {"stage": card.stage, "step": card.step, "modalities": card.modalities, "data": card.data},
        "precision": str(generator.dtype).removeprefix("torch."),
        "device": generator.device.type,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
    }


def _write(plan: Plan, record: dict, seen: list[Seen]) -> Result:
    """Videos, values, one picture and the record, in a folder that changes when all of it is whole."""
    fps, strips, values = record["fps"], {}, {}
    with plan.results.writing(record) as folder:
        for one in seen:
            write_video(one.video, folder / f"{one.name}.mp4", fps)
            strips[f"{one.name}, {plan.streams[one.name]}"] = one.video
        for one in seen:
            if one.row is None or one.values is None:
                continue
            values[one.name] = found = _sized(plan, one.row, one.values)
            one.row.save(found, folder / one.name, fps)
            for kind in exports(plan.request.also, one.name):
                kind.write(found, folder / one.name)
            strips[f"{one.name}, the values read from it"] = one.row.picture(one.values, one.constants)
        labelled_strip(strips).save(folder / "picture.png")
    results = plan.results
    return Result(
        folder=results.path,
        files=results.files(),
        video={one.name: one.video for one in seen},
        values=values.get(plan.modalities[0]),
        values_of=values,
        record=record,
    )
