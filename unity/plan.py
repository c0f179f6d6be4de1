"""A request with nothing left open: all that can be refused is refused here, before the weights are read."""

import os
import re
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from unity.canvas import Canvas, Size, exactly, whole_frame
from unity.command import check_bounds
from unity.data.film import Facts, look, picture_name
from unity.data.picture import cut
from unity.data.stamps import paced
from unity.extras import require
from unity.files import plain
from unity.generate import check_request, most_frames, patch_size, tokens
from unity.modality.exports import exports
from unity.modality.table import MODALITIES
from unity.model.adapter import Lora
from unity.model.card import ModelCard
from unity.model.weights import read_card
from unity.request import SAMPLE, SHIPPED, Request
from unity.results import Results
from unity.sampler import SAMPLERS, Guidance
from unity.tasks import TASKS
from unity.thrift import check_steps

if TYPE_CHECKING:
    from unity.data.annotate.base import Annotator

# what is given → task; the first that is given decides
_TASK_OF = {"video": "estimate", "condition": "control", "control_from": "control", "prompt": "joint"}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A request with nothing left open."""

    request: Request
    # one, or several of an estimate
    modalities: tuple[str, ...]
    task: str
    prompt: str
    frames: int
    # how many the model takes at once; fewer than all where they come in windows
    window: int
    canvas: Canvas
    facts: Facts | None
    results: Results
    guidance: Guidance

    @property
    def path(self) -> Path | None:
        """The film that is given."""
        return self.request.film

    @property
    def values_size(self) -> Size:
        """Height and width that values are written at: the picture's, or those that it has in the film."""
        if self.facts is None or not self.request.at_film_size:
            return self.canvas.picture
        *_, height, width = cut(self.facts.size, self.request.size)
        return round(height), round(width)

    @property
    def streams(self) -> dict[str, str]:
        """rgb and the modalities → whether it is sampled or given."""
        rgb, aux = ("sampled" if noisy else "given" for noisy in TASKS[self.task].noisy)
        return {"rgb": rgb} | dict.fromkeys(self.modalities, aux)


def plan_request(request: Request, card: ModelCard) -> Plan:
    """Checked against the model's card, the film and the place of its results; ValueError for what cannot be."""
    request, task, out = _complete(request)
    wanted = {name: getattr(request, name) for name in ("steps", "shift", "guidance", "sampler")}
    schedule = card.schedule(task).asked(**wanted)
    request = replace(request, **vars(schedule))
    if request.step_cache > 1:
        check_steps(schedule.steps)
    facts = look(path) if (path := request.film) else None
    there = _there(facts, request.fps)
    window = request.frames or (card.frames if there is None else most_frames(card, there))
    frames = window if there is None or not request.every_frame else there
    canvas = exactly(request.size) if request.size else _whole(facts, card)
    modalities = _modalities(request)
    for modality in modalities:
        check_request(card, modality, window, canvas.model)
    if facts is not None and there is not None and there < frames:
        pace = "" if request.fps is None else f" at {request.fps:g} a second"
        raise ValueError(
            f"{picture_name(facts.path)} has {there} frames{pace}, {frames} are wanted; ask for 1 to {there} "
            f"(4k+1 of them)"
        )
    prompt = request.prompt or ""
    plan = Plan(
        request=request,
        modalities=modalities,
        task=task,
        prompt=prompt,
        frames=frames,
        window=window,
        canvas=canvas,
        facts=facts,
        results=Results(out, "unity.infer", "run.json"),
        # without words there is nothing to guide by
        guidance=Guidance(
            scale=schedule.guidance,
            caption=bool(prompt),
            prompt=request.prompt_guidance,
            batched=request.batched_guidance,
        ).settled(tokens(card, window, canvas.model)),
    )
    _check_results(plan)
    return plan


def _complete(request: Request) -> tuple[Request, str, Path]:
    """The request with the defaults that need no checkpoint, its task, and the folder of its results."""
    check_bounds(request)
    asked = [("modality", name, MODALITIES) for name in _modalities(request)]
    asked += [("sampler", request.sampler, SAMPLERS)] if request.sampler is not None else []
    for kind, name, choices in asked:
        if name not in choices:
            raise ValueError(f"unknown {kind} {name!r}; choose one of {', '.join(choices)}")
    _check_device(request.device)
    if request.storage == "nf4":
        require("lowbit")
    if request.compile:
        _check_compiler()
        if request.hooked or request.storage != "wide":
            raise ValueError(
                "--compile is for a model that lies on its device as it is; leave it out, or --offload, "
                "--storage and --step-cache"
            )
    for name in _modalities(request):
        require(*(extra for row in exports(request.also, name) for extra in row.needs))
    if sum(bool(given) for given in (request.video, request.condition, request.control_from)) > 1:
        raise ValueError(
            "--video asks for estimation, --condition and --control-from for a new video; give one of them"
        )
    if request.control_from is None and (request.annotator or request.annotator_weights):
        raise ValueError("--annotator and --annotator-weights go with --control-from; give a film there")
    request = _with_words(request)
    if not any(getattr(request, name) for name in _TASK_OF):
        request = replace(request, video=SAMPLE)
    task = next(task for name, task in _TASK_OF.items() if getattr(request, name))
    if not TASKS[task].captioned:
        request = replace(request, prompt=None)
    if request.control_from:
        # told before anything is loaded
        annotator_of(request)
    if task != "estimate" and len(_modalities(request)) > 1:
        raise ValueError(f"several modalities at once are for estimates; give one --modality for {task}")
    if request.every_frame and task != "estimate":
        raise ValueError("--every-frame is for estimates; a new video has as many frames as --frames says")
    if request.film is None and (request.fps or request.at_film_size):
        raise ValueError("--fps and --at-film-size belong to a film; give one as --video or --condition")
    if request.control_from and request.fps:
        raise ValueError("--fps is for --video and --condition; an annotator sees all of --control-from")
    if request.at_film_size and task != "estimate":
        raise ValueError("--at-film-size is for estimates; a new video has the size that --size gives")
    if request.every_frame and request.frames:
        raise ValueError("--every-frame takes all frames, --frames so many; leave one of them out")
    out = request.out or Path("runs/infer") / "-".join((*_modalities(request), task))
    return replace(request, out=out), task, out


def annotator_of(request: Request) -> "tuple[Annotator, dict]":
    """Who makes the condition; ValueError, with the way out, where nobody can."""
    # OpenCV, which only this needs here
    from unity.data.annotate.view import chosen

    return chosen(_modalities(request)[0], request.annotator, request.annotator_weights)


def _modalities(request: Request) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in request.modality.split(",")))


def _with_words(request: Request) -> Request:
    """With a prompt that holds words, or without one."""
    if request.prompt is None:
        return request
    if request.prompt != plain(request.prompt):
        raise ValueError(
            f"the prompt {plain(request.prompt)!r} is not text in the encoding of this terminal "
            f"({sys.getfilesystemencoding()}); give it in that encoding, or set LANG to the one it is in"
        )
    if not request.prompt.strip() and not request.film:
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


def _check_compiler() -> None:
    """What torch.compile makes for a CPU is C++."""
    found = os.environ.get("CXX") or next(filter(None, map(shutil.which, ("g++", "clang++", "cl"))), None)
    if not torch.cuda.is_available() and found is None:
        raise ValueError("--compile needs a C++ compiler, and none is found; install one (g++), or leave it out")


def card_of(request: Request) -> ModelCard:
    """The card of the checkpoint that is asked for, with its adapter."""
    if request.checkpoint is None and not SHIPPED.is_dir():
        raise ValueError(
            "no model comes with this installation; train one with `deepspeed launchers/train.py --stage 1` "
            "and give its run folder as --checkpoint"
        )
    return read_card(request.checkpoint or SHIPPED, lora=lora_of(request))


def lora_of(request: Request) -> Lora | None:
    return request.lora and Lora(request.lora, request.lora_strength)


def _there(facts: Facts | None, fps: float | None) -> int | None:
    """How many frames a film has, or has at a rate."""
    return None if facts is None else facts.frames if fps is None else len(paced(facts, fps))


def _whole(facts: Facts | None, card: ModelCard) -> Canvas:
    if facts is None:
        return exactly(card.size)
    return whole_frame(facts.size, card.size, patch_size(card))


def _check_results(plan: Plan) -> None:
    height, width = plan.canvas.picture
    kinds = [end for name in plan.modalities for end in (f"{name}.mp4", name, f"{name}.npz", f"{name}.json")]
    kinds += [
        name + end for name in plan.modalities for row in exports(plan.request.also, name) for end in row.ends
    ]
    planned = ("rgb.mp4", "picture.png", "run.json", *kinds)
    # two videos and, of the values, two files of eight bytes a pixel
    need = plan.frames * height * width * (3 + 3 * len(plan.modalities)) + (1 << 20)
    # in windows, values lie there before they are written, too (unity.reel)
    copies = 2 if plan.frames == plan.window else 4
    height, width = plan.values_size
    need += plan.frames * height * width * copies * 8 * len(plan.modalities)
    plan.results.check(
        planned, [path for path in (plan.path, plan.request.checkpoint, plan.request.lora) if path], need
    )
