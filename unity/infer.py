"""The model as a program: `python -m unity.infer --modality flow --video clip.mp4`.

--video v.mp4                       estimate  the modality of a video
--condition c.mp4 [--prompt "..."]  control   a video that follows a modality video
--prompt "..."                      joint     a video and its modality from words
(none of them)                      estimate  on the video that the package carries
"""

import json
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
import tyro
from jaxtyping import UInt8
from tqdm import tqdm

from unity.data.video import count_frames, read_video, write_video
from unity.modality.base import Modality
from unity.modality.files import replacing
from unity.modality.table import MODALITIES
from unity.report.strip import labelled_strip
from unity.tasks import TASKS

# torch takes seconds to import; --help and most refusals need none of it
if TYPE_CHECKING:
    import unity.generate
    import unity.sampler

ASSETS = Path(__file__).parent / "assets"
SHIPPED, SAMPLE = ASSETS / "tiny", ASSETS / "people.mp4"

# frame rate where no video gives one
FPS = 16.0

# what marks a folder as ours
RECORD = "run.json"
PACKAGES = ("torch", "numpy", "av")

Video = UInt8[np.ndarray, "t h w 3"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """Estimate a modality of a video, control a video by one, or draw both from words."""

    # depth, flow, densepose, skeleton or segmentation
    modality: str
    # video to estimate the modality of
    video: Path | None = None
    # modality video, as the model draws it, that the generated video is to follow
    condition: Path | None = None
    # what the generated video shows
    prompt: str = ""
    # model folder, run folder of launchers/train.py, or file of weights; by default the one in the package
    checkpoint: Path | None = None
    # folder of results, replaced if it holds earlier ones; by default runs/infer/<modality>-<task>
    out: Path | None = None
    # sampling steps
    steps: int = 50
    # classifier-free guidance on the prompt; 1 turns it off
    guidance: float = 7.5
    # guidance on the words that name the modality, too
    prompt_guidance: bool = False
    # unipc or euler
    sampler: str = "unipc"
    # above 1: more of the steps where there is much noise
    shift: float = 1.0
    # of the noise that sampling starts from; the same seed gives the same files
    seed: int = 0
    # how many, 4k+1; by default what the checkpoint was trained on
    frames: int | None = None
    # height and width in pixels; by default what the checkpoint was trained on
    size: tuple[int, int] | None = None
    # cpu or cuda; by default a GPU if there is one
    device: str | None = None
    # weights of the Wan VAE, for the models that use it
    codec_weights: Path | None = None
    # weights of UMT5, for the models that use it
    text_weights: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """`video` holds rgb and the modality, `values` the modality's values where the model produced them."""

    folder: Path
    files: list[Path]
    video: dict[str, Video]
    values: np.ndarray | None
    record: dict


# what is given → task; the first that is given decides
_TASK_OF = {"video": "estimate", "condition": "control", "prompt": "joint"}


def infer(
    request: Request, generator: "unity.generate.Generator | None" = None, say: Callable[[str], None] = print
) -> Result:
    """Run one request and write its folder, whole or not at all.

    A `generator` that is already loaded is used in place of the request's checkpoint. Raises ValueError for
    whatever cannot be done, before anything is written.
    """
    from unity.generate import generate, load_generator
    from unity.sampler import Guidance

    request, task = _complete(request)
    generator = generator or load_generator(
        request.checkpoint or _shipped(), request.device, request.codec_weights, request.text_weights
    )
    request = _fitted(request, generator)
    say(_about(generator))
    given, fps = _read(request)
    # without words there is nothing to guide by
    guidance = Guidance(scale=request.guidance, caption=bool(request.prompt), prompt=request.prompt_guidance)
    say(f"{task}, {request.modality}: {_effort(request, guidance)}")
    rgb, aux = generate(
        generator, task, request.modality, [request.prompt],
        **{stream: video[None] for stream, video in given.items()}, frames=request.frames, size=request.size,
        steps=request.steps, sampler=request.sampler, shift=request.shift, guidance=guidance, seed=request.seed,
        progress=partial(tqdm, desc="sampling", unit="step"),
    )  # fmt: skip
    record = _record(request, task, guidance, fps, generator)
    row = generator.card.modality(request.modality)
    return _write(request, row, task, {"rgb": rgb[0], request.modality: aux[0]}, record)


def main() -> None:
    try:
        result = infer(tyro.cli(Request, prog="python -m unity.infer", description=__doc__))
    except (ValueError, OSError) as error:
        print(f"infer: {error}", file=sys.stderr)
        sys.exit(2)
    for path in result.files:
        print(path)


def _complete(request: Request) -> tuple[Request, str]:
    """The request with the defaults that need no checkpoint, and its task."""
    from unity.sampler import SAMPLERS, time_grid

    for name, choices in (("modality", MODALITIES), ("sampler", SAMPLERS)):
        if getattr(request, name) not in choices:
            raise ValueError(f"unknown {name} {getattr(request, name)!r}; choose one of {', '.join(choices)}")
    # refuses what cannot be
    time_grid(request.steps, request.shift)
    if request.video and request.condition:
        raise ValueError("--video asks for estimation and --condition for a new video; give one of the two")
    if not any(getattr(request, name) for name in _TASK_OF):
        request = replace(request, video=SAMPLE)
    for path in (request.video, request.condition):
        if path and not path.is_file():
            raise ValueError(f"there is no video file {path}; give the path of an existing one")
    task = next(task for name, task in _TASK_OF.items() if getattr(request, name))
    if request.prompt and not TASKS[task].captioned:
        print("infer: estimation reads no words about the scene; --prompt changes nothing here", file=sys.stderr)
        request = replace(request, prompt="")
    out = (request.out or Path("runs/infer") / f"{request.modality}-{task}").absolute()
    if out.exists() and not (out / RECORD).is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"{out} exists and holds no earlier results of this program; give another --out")
    return replace(request, out=out), task


def _shipped() -> Path:
    if not SHIPPED.is_dir():
        raise ValueError(
            "no model comes with this installation; train one with `deepspeed launchers/train.py --stage 1` "
            "and give its run folder as --checkpoint"
        )
    return SHIPPED


def _fitted(request: Request, generator: "unity.generate.Generator") -> Request:
    """With frames and size as asked for, else as the checkpoint was trained."""
    from unity.generate import check_request

    frames = generator.card.frames if request.frames is None else request.frames
    size = tuple(request.size or generator.card.size)
    check_request(generator, request.modality, frames, size)
    return replace(request, frames=frames, size=size)


def _read(request: Request) -> tuple[dict[str, Video], float]:
    """The given stream, its frames spread evenly over the file, and the frame rate that this makes."""
    path = request.video or request.condition
    if path is None:
        return {}, FPS
    stream, kind = ("rgb", "rgb") if request.video else ("aux", request.modality)
    video = read_video(path, request.frames, request.size, kind)
    kept = (request.frames - 1) / max(1, count_frames(path) - 1)
    with av.open(str(path)) as container:
        rate = float(container.streams.video[0].average_rate or FPS)
    return {stream: video}, rate * (kept or 1)


def _about(generator: "unity.generate.Generator") -> str:
    """What answers: nobody should take a small model's output for more than it is."""
    card, size = generator.card, sum(p.numel() for p in generator.model.parameters())
    learnt = f"stage {card.stage}, step {card.step}, {card.frames} frames of {card.size[0]}x{card.size[1]}"
    return f"{generator.path}: {size / 1e6:.1f}M parameters, {learnt}, data: {card.data or 'unknown'}"


def _effort(request: Request, guidance: "unity.sampler.Guidance") -> str:
    shape = f"{request.frames} frames of {request.size[0]}x{request.size[1]}, {request.steps} steps"
    guided = f"guidance {guidance.scale:g}, two evaluations a step" if guidance.active else "no guidance"
    return f"{shape} of {request.sampler}, {guided}, seed {request.seed}"


def _record(
    request: Request,
    task: str,
    guidance: "unity.sampler.Guidance",
    fps: float,
    generator: "unity.generate.Generator",
) -> dict:
    """What was run, as run.json keeps it: nothing in it differs between two equal runs."""
    inputs = {name: str(getattr(request, name)) for name in ("video", "condition") if getattr(request, name)}
    card = generator.card
    return {
        "task": task,
        "modality": request.modality,
        "prompt": request.prompt,
        "inputs": inputs,
        "frames": request.frames,
        "size": request.size,
        "fps": fps,
        "steps": request.steps,
        "sampler": request.sampler,
        "shift": request.shift,
        "guidance": asdict(guidance) if guidance.active else None,
        "seed": request.seed,
        "checkpoint": str(generator.path),
        "model": {"stage": card.stage, "step": card.step, "modalities": card.modalities, "data": card.data},
        "precision": str(generator.dtype).removeprefix("torch."),
        "device": generator.device.type,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
    }


def _write(request: Request, row: Modality, task: str, video: dict[str, Video], record: dict) -> Result:
    """Videos, values, one picture and the record, in a folder that appears when it is whole."""
    fps = record["fps"]
    how = {name: "sampled" if noisy else "given" for name, noisy in zip(video, TASKS[task].noisy, strict=True)}
    rows = {f"{name}, {how[name]}": frames for name, frames in video.items()}
    values = None
    with replacing(request.out) as folder:
        folder.mkdir()
        for name, frames in video.items():
            write_video(frames, folder / f"{name}.mp4", fps)
        if how[row.name] == "sampled":
            constants = row.unknown_constants(*request.size)
            values = row.decode(video[row.name], constants)
            row.save(values, folder / row.name, fps)
            rows[f"{row.name}, the values read from it"] = row.picture(values, constants)
        labelled_strip(rows).save(folder / "picture.png")
        (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n")
    return Result(
        folder=request.out, files=sorted(request.out.iterdir()), video=video, values=values, record=record
    )


if __name__ == "__main__":
    main()
