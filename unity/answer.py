"""One request, from what is planned to its folder of results."""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from unity.data.film import Facts, Film, Origin, Roll, picture_name, read_film
from unity.files import existing
from unity.generate import Footage, Generator, encode, generate, load_generator
from unity.modality.base import Constants, Modality
from unity.modality.exports import exports
from unity.model.card import ModelCard
from unity.model.packed import saved_numbers
from unity.plan import Plan, annotator_of, card_of, lora_of, plan_request
from unity.reel import Drawn, joined, resized, write_and_pick
from unity.report.strip import evenly, labelled_strip
from unity.request import SHIPPED, Request
from unity.sampler import Sampling
from unity.tasks import TASKS
from unity.thrift import thrift_of
from unity.windows import cut, places

# frame rate where no video gives one
FPS = 16.0
PACKAGES = ("torch", "numpy", "av")

Video = UInt8[np.ndarray, "t h w 3"]
# whole, or one by one
Frames = Video | Roll | Drawn
# as the model draws them, border and all
Drawings = UInt8[np.ndarray, "b t rows columns 3"]
# called after each step with its number, from 1, and what draws the videos, by stream, that it would end in there
Watch = Callable[[int, Callable[[], dict[str, Video]]], object]


@dataclass(frozen=True, kw_only=True)
class Result:
    """`video` holds rgb and the modalities; `values` the first one's values where the model produced them, and
    `values_of` those of each by name.

    Of a film in windows the values lie on the disk, and videos give their frames one by one, as often as asked.
    """

    folder: Path
    files: list[Path]
    video: Mapping[str, Frames]
    values: np.ndarray | None
    values_of: dict[str, np.ndarray]
    record: dict


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A stream as it is written; a sampled modality with its row, its values, and what its video decodes by."""

    name: str
    video: Frames
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
    if request.prompt and not TASKS[plan.task].captioned:
        say("infer: estimation reads no words about the scene; --prompt changes nothing here")
    film, annotated = _film(plan, card)
    generator = generator or load_generator(
        checkpoint,
        request.device,
        request.codec_weights,
        request.text_weights,
        lora_of(request),
        thrift_of(request),
    )
    tell(_about(generator))
    if request.compile:
        compiled = torch.compile(generator.model, dynamic=False)
        generator = replace(generator, model=compiled)  # pyright: ignore[reportArgumentType]
    tell(f"{plan.task}, {', '.join(plan.modalities)}: {_effort(plan)}")
    starts = places(plan.frames, plan.window)
    windows = [None] if film is None else cut(film if isinstance(film, Roll) else film.frames, starts, plan.window)
    clips = _sampled(plan, windows, len(starts), generator, watch)
    if isinstance(film, Roll):
        seen, origin = _seen_in_windows(plan, film, clips, starts, generator.card), film.origin
        _note(plan, origin.notes[len(film.facts.notes) :])
    else:
        (clip,) = clips
        seen, origin = _seen(plan, film, clip, generator.card), film
    record = _record(plan, origin, starts, generator) | ({"annotator": annotated} if annotated else {})
    return _write(plan, record, seen)


def _film(plan: Plan, card: ModelCard) -> tuple[Film | Roll | None, dict | None]:
    """What is given, as the model is to see it; who made it, where an annotator did."""
    if plan.facts is None:
        return None, None
    film, told = _annotated(plan, card) if plan.request.control_from else (_as_it_is(plan, plan.facts), None)
    _note(plan, film.facts.notes if isinstance(film, Roll) else film.notes)
    return film, told


def _note(plan: Plan, notes: Sequence[str]) -> None:
    for note in notes:
        say(f"infer: {picture_name(plan.path or '')}: {note}")


def _as_it_is(plan: Plan, facts: Facts) -> Film | Roll:
    whole, fps = not plan.request.size, plan.request.fps
    if plan.frames > plan.window:
        return Roll(facts, plan.canvas.picture, whole, fps)
    kind = "rgb" if plan.task == "estimate" else plan.request.modality
    frames = None if plan.request.every_frame else plan.frames
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


def _sampled(
    plan: Plan, windows: Iterable[Video | None], count: int, generator: Generator, watch: Watch | None
) -> Iterator[dict[str, Video]]:
    """RGB and the modalities of each of `count` windows, as they come."""
    request = plan.request
    sampling = Sampling(
        steps=request.steps,
        sampler=request.sampler,
        shift=request.shift,
        guidance=plan.guidance,
        seed=request.seed,
    )
    steps, done = len(sampling.times()) - 1, 0
    # closed before anything is said about what went wrong
    with tqdm(total=steps * len(plan.modalities) * count, desc="sampling", unit="step") as bar:

        def step(named: Callable, number: int, draw: Callable[[], tuple[Drawings, Drawings]]) -> None:
            bar.update()
            if watch is not None:
                watch(done + number, lambda: named(draw()))

        for frames in windows:
            footage, clip = _footage(plan, frames, generator), {}
            for name in plan.modalities:
                named = partial(_named, plan, frames, name)
                given = (plan.task, name, [plan.prompt], footage, sampling, partial(step, named))
                clip |= named(generate(generator, *given))
                done += steps
            yield clip


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


def _named(plan: Plan, frames: Video | None, modality: str, videos: tuple[Drawings, Drawings]) -> dict[str, Video]:
    """One clip by its streams, in the size of the picture."""
    video = {name: plan.canvas.crop(one[0]) for name, one in zip(("rgb", modality), videos, strict=True)}
    if frames is not None:
        # as it came, not padded, redrawn and back
        video |= {name: frames for name in video if plan.streams[name] == "given"}
    return video


def _seen(plan: Plan, film: Film | None, clip: dict[str, Video], card: ModelCard) -> list[Seen]:
    """RGB, then the modalities, with the values of those that were sampled, by the width that the model sees."""
    canvas, seen = plan.canvas, []
    for name, video in clip.items():
        if plan.streams[name] == "given" and film is not None:
            seen.append(Seen(name=name, video=film.frames))
        elif name == "rgb":
            seen.append(Seen(name=name, video=video))
        else:
            row = card.modality(name)
            values = row.decode(video, row.unknown_constants(*canvas.model))
            drawn, constants = row.redrawn(video, canvas.widening), row.unknown_constants(*canvas.picture)
            seen.append(Seen(name=name, video=drawn, row=row, values=values, constants=constants))
    return seen


def _seen_in_windows(
    plan: Plan, roll: Roll, clips: Iterable[dict[str, Video]], starts: list[int], card: ModelCard
) -> list[Seen]:
    """The same of a film, whose values are drawn once all of them are known."""
    rows = {name: card.modality(name) for name in plan.modalities}
    seen = [Seen(name="rgb", video=roll)]
    for name, values in joined(rows, clips, starts, plan.canvas.model, existing(plan.results.path)).items():
        constants = rows[name].constants(values, plan.canvas.picture)
        drawn = Drawn(rows[name], values, constants, plan.window)
        seen.append(Seen(name=name, video=drawn, row=rows[name], values=values, constants=constants))
    return seen


def _about(generator: Generator) -> str:
    """What answers: nobody should take a small model's output for more than it is."""
    card, size = generator.card, sum(p.numel() for p in generator.model.parameters())
    size += saved_numbers(generator.model)
    stored = "" if generator.thrift.storage == "wide" else f" in {generator.thrift.storage}"
    learnt = f"stage {card.stage}, step {card.step}, {card.frames} frames of {card.size[0]}x{card.size[1]}"
    return f"{generator.path}: {size / 1e6:.1f}M parameters{stored}, {learnt}, data: {card.data or 'unknown'}"


def _effort(plan: Plan) -> str:
    height, width = plan.canvas.picture
    passes = "one pass over both" if plan.guidance.batched else "two evaluations a step"
    guided = f"guidance {plan.guidance.scale:g}, {passes}" if plan.guidance.active else "no guidance"
    frames = f"{plan.frames} frames" + f" in windows of {plan.window}" * (plan.frames > plan.window)
    return (
        f"{frames} of {height}x{width}, {plan.request.steps} steps of {plan.request.sampler}, "
        f"{guided}, seed {plan.request.seed}"
    )


def _record(plan: Plan, film: Origin | None, starts: list[int], generator: Generator) -> dict:
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
        "frames": plan.frames,
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
        "thrift": asdict(generator.thrift),
        "seed": request.seed,
        "checkpoint": str(generator.path),
        "lora": request.lora and {"path": str(request.lora), "strength": request.lora_strength},
        "model": {"stage": card.stage, "step": card.step, "modalities": card.modalities, "data": card.data},
        "precision": str(generator.dtype).removeprefix("torch."),
        "device": generator.device.type,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
    }


def _times(plan: Plan, record: dict) -> tuple[float, ...] | None:
    """When frames are shown, where all of a film's are taken and its rate is not even."""
    if not plan.request.every_frame:
        return None
    times, fps = record["source"]["times"], record["fps"]
    # by half a frame or more
    uneven = any(abs(fps * (time - times[0]) - place) >= 0.5 for place, time in enumerate(times))
    return times if uneven else None


def _write(plan: Plan, record: dict, seen: list[Seen]) -> Result:
    """Videos, values, one picture and the record, in a folder that changes when all of it is whole."""
    fps, times, strips, values = record["fps"], _times(plan, record), {}, {}
    with plan.results.writing(record) as folder:
        for one in seen:
            label = f"{one.name}, {plan.streams[one.name]}"
            strips[label] = write_and_pick(one.video, folder / f"{one.name}.mp4", fps, times)
        for one in seen:
            if one.row is None or one.values is None:
                continue
            sizes = plan.canvas.picture, plan.values_size
            found = resized(one.row, one.values, *sizes, plan.window, existing(plan.results.path))
            values[one.name] = found
            one.row.save(found, folder / one.name, fps)
            for kind in exports(plan.request.also, one.name):
                kind.write(found, folder / one.name)
            picked = np.asarray(one.values[evenly(len(one.values))])
            strips[f"{one.name}, the values read from it"] = one.row.picture(picked, one.constants)
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
