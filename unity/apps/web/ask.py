"""What a client may ask for, and the requests of `unity.infer` that it comes to."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from unity.apps.web.models import MOST_STEPS, SHIPPED_NAME, Model
from unity.apps.web.names import Name, Sampler, Task
from unity.apps.web.options import Options
from unity.modality.table import MODALITIES
from unity.model.card import Schedule
from unity.request import Request
from unity.tasks import TASKS
from unity.thrift import thrift_of

Side = Annotated[int, Field(ge=1, le=16384)]


class Ask(BaseModel):
    """One job: a task, done for each of the modalities."""

    model_config = ConfigDict(extra="forbid")

    task: Task
    modalities: Annotated[list[Name], Field(min_length=1, max_length=len(MODALITIES))]
    model: Annotated[str, Field(max_length=4096)] = SHIPPED_NAME
    input: Annotated[str | None, Field(max_length=64, description="the id of an input; joint takes none")] = None
    prompt: Annotated[str, Field(max_length=4000)] = ""
    # these four by default as the model's card says
    steps: Annotated[int | None, Field(ge=1, le=MOST_STEPS)] = None
    shift: Annotated[float | None, Field(gt=0, le=1000)] = None
    guidance: Annotated[float | None, Field(ge=0, le=100)] = None
    sampler: Sampler | None = None
    prompt_guidance: bool = False
    seed: Annotated[int, Field(ge=0, le=2**53)] = 0
    frames: Annotated[int | None, Field(ge=1, le=65535)] = None
    size: Annotated[tuple[Side, Side] | None, Field(description="height and width in pixels")] = None


def scheduled(ask: Ask, model: Model) -> Ask:
    """With the model's own steps, shift, guidance and sampler where nothing else was asked for."""
    return ask.model_copy(update=vars(_schedule(ask, model)))


def requests(ask: Ask, model: Model, film: Path | None, folder: Path, options: Options) -> dict[str, Request]:
    """The request of each modality, whose results go into a folder of its own below `folder`.

    Raises ValueError, in one sentence, for what cannot be done and can be told from here.
    """
    names, schedule = list(dict.fromkeys(ask.modalities)), _schedule(ask, model)
    unknown = [name for name in names if name not in model.card.modalities]
    if unknown:
        raise ValueError(f"{model.name} has not learnt {unknown[0]}, only {', '.join(model.card.modalities)}")
    model.check(ask.frames, ask.size)
    noisy = TASKS[ask.task].noisy
    given = {(False, True): "video", (True, False): "condition"}.get(noisy)
    if given and film is None:
        raise ValueError(f"{ask.task} starts from a video; give the id of an input")
    if given is None and not ask.prompt.strip():
        raise ValueError(f"{ask.task} starts from words; give a prompt")
    return {
        name: Request(
            modality=name,
            video=film if given == "video" else None,
            condition=film if given == "condition" else None,
            prompt=ask.prompt if ask.prompt.strip() and TASKS[ask.task].captioned else None,
            checkpoint=None if model.name == SHIPPED_NAME else model.path,
            out=folder / name,
            steps=schedule.steps,
            guidance=schedule.guidance,
            prompt_guidance=ask.prompt_guidance,
            sampler=schedule.sampler,
            shift=schedule.shift,
            seed=ask.seed,
            frames=ask.frames,
            size=ask.size,
            device=options.device,
            codec_weights=options.codec_weights,
            text_weights=options.text_weights,
            **vars(thrift_of(options)),
        )
        for name in names
    }


def _schedule(ask: Ask, model: Model) -> Schedule:
    own = model.card.schedule(ask.task)
    return replace(own, steps=min(own.steps, MOST_STEPS)).asked(
        steps=ask.steps, shift=ask.shift, guidance=ask.guidance, sampler=ask.sampler
    )
