"""One request, from what is planned to its folder of results."""

import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from unity.command import say
from unity.data.film import Film, picture_name, read_film
from unity.data.video import write_video
from unity.generate import Footage, Frames, Generator, encode, generate, load_generator
from unity.modality.exports import exports
from unity.plan import Plan, card_of, lora_of, plan_request
from unity.report.strip import labelled_strip
from unity.request import SHIPPED, Request
from unity.sampler import Sampling

# frame rate where no video gives one
FPS = 16.0
PACKAGES = ("torch", "numpy", "av")

Video = UInt8[np.ndarray, "t h w 3"]
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
    plan = plan_request(request, generator.card if generator else card_of(request))
    film = _film(plan)
    generator = generator or load_generator(
        checkpoint, request.device, request.codec_weights, request.text_weights, lora_of(request)
    )
    tell(_about(generator))
    tell(f"{plan.task}, {', '.join(plan.modalities)}: {_effort(plan)}")
    video = _sample(plan, film, generator, watch)
    return _write(plan, generator, video, _record(plan, film, generator))


def _film(plan: Plan) -> Film | None:
    if plan.facts is None:
        return None
    kind = "rgb" if plan.task == "estimate" else plan.request.modality
    film = read_film(plan.facts, plan.frames, plan.canvas.picture, kind, whole=not plan.request.size)
    for note in film.notes:
        say(f"infer: {picture_name(plan.facts.path)}: {note}")
    return film


def _sample(plan: Plan, film: Film | None, generator: Generator, watch: Watch | None) -> dict[str, Video]:
    """RGB and the modalities, one after the other; RGB that is given is encoded once for all of them."""
    request = plan.request
    given: dict[str, Any] = {}
    if film is not None:
        padded = plan.canvas.pad(film.frames)
        row, ratio = generator.card.modality(plan.modalities[0]), 1 / plan.canvas.widening
        given = {"rgb": padded[None]} if plan.task == "estimate" else {"aux": row.redrawn(padded, ratio)[None]}
    if "rgb" in given:
        given["rgb_latent"] = encode(generator, given["rgb"], "rgb")
    footage = Footage(**given, frames=plan.frames, size=plan.canvas.model)
    sampling = Sampling(
        steps=request.steps,
        sampler=request.sampler,
        shift=request.shift,
        guidance=plan.guidance,
        seed=request.seed,
    )

    def named(videos: tuple[np.ndarray, ...], modality: str) -> dict[str, Video]:
        video = {name: plan.canvas.crop(one[0]) for name, one in zip(("rgb", modality), videos, strict=True)}
        if film is not None:
            # as it came, not padded, redrawn and back
            video |= {name: film.frames for name in video if plan.streams[name] == "given"}
        return video

    sampled: dict[str, Video] = {}
    steps, done = len(sampling.times()) - 1, 0
    # closed before anything is said about what went wrong
    with tqdm(total=steps * len(plan.modalities), desc="sampling", unit="step") as bar:

        def step(name: str, number: int, draw: Callable[[], tuple[Frames, Frames]]) -> None:
            bar.update()
            if watch is not None:
                watch(done + number, lambda: named(draw(), name))

        for name in plan.modalities:
            drawn = generate(generator, plan.task, name, [plan.prompt], footage, sampling, partial(step, name))
            sampled |= named(drawn, name)
            done += steps
    return sampled


def _about(generator: Generator) -> str:
    """What answers: nobody should take a small model's output for more than it is."""
    card, size = generator.card, sum(p.numel() for p in generator.model.parameters())
    learnt = f"stage {card.stage}, step {card.step}, {card.frames} frames of {card.size[0]}x{card.size[1]}"
    return f"{generator.path}: {size / 1e6:.1f}M parameters, {learnt}, data: {card.data or 'unknown'}"


def _effort(plan: Plan) -> str:
    height, width = plan.canvas.picture
    passes = "one pass over both" if plan.guidance.batched else "two evaluations a step"
    guided = f"guidance {plan.guidance.scale:g}, {passes}" if plan.guidance.active else "no guidance"
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


def _write(plan: Plan, generator: Generator, video: dict[str, Video], record: dict) -> Result:
    """Videos, values, one picture and the record, in a folder that changes when all of it is whole."""
    fps, values, canvas = record["fps"], {}, plan.canvas
    sampled = [generator.card.modality(name) for name in plan.modalities if plan.streams[name] == "sampled"]
    for row in sampled:
        # by the width that the model sees; files are drawn by their own
        values[row.name] = row.decode(video[row.name], row.unknown_constants(*canvas.model))
        video = video | {row.name: row.redrawn(video[row.name], canvas.widening)}
    rows = {f"{name}, {plan.streams[name]}": frames for name, frames in video.items()}
    with plan.results.writing(record) as folder:
        for name, frames in video.items():
            write_video(frames, folder / f"{name}.mp4", fps)
        for row in sampled:
            row.save(values[row.name], folder / row.name, fps)
            for kind in exports(plan.request.also, row.name):
                kind.write(values[row.name], folder / row.name)
            drawn = row.picture(values[row.name], row.unknown_constants(*canvas.picture))
            rows[f"{row.name}, the values read from it"] = drawn
        labelled_strip(rows).save(folder / "picture.png")
    first = values.get(plan.modalities[0])
    results = plan.results
    return Result(
        folder=results.path, files=results.files(), video=video, values=first, values_of=values, record=record
    )
