"""What a user of the model can ask for: the options of `python -m unity.infer`."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import DisallowNone

from unity.command import real, whole
from unity.thrift import Thrift

ASSETS = Path(__file__).parent / "assets"
SHIPPED, SAMPLE = ASSETS / "mini", ASSETS / "people.mp4"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What of; a request has ways to save memory and time beside it."""

    # depth, flow, densepose, skeleton or segmentation, or one of --modalities; several of an estimate, with commas
    # between them, share one encoding of the video
    modality: str
    # Python files with modalities of your own (unity.modality.plug_in)
    modalities: tuple[Path, ...] = ()
    # video to estimate the modality of
    video: Path | None = None
    # modality video, as the model draws it, that the generated video is to follow
    condition: Path | None = None
    # film whose modality, as an annotator sees it, the generated video is to follow
    control_from: Path | None = None
    # which annotator (python -m unity.data.annotate); by default the one that needs no weights, or whose are given
    annotator: str | None = None
    # its weights, as NAME=PATH
    annotator_weights: tuple[str, ...] = ()
    # what the generated video shows
    prompt: str | None = None
    # model folder, run folder of launchers/train.py, file of weights, or a name (unityvideo-5b, owner/repository);
    # by default the one in the package
    checkpoint: Path | None = None
    # adapter for it: a folder that training with --lora leaves or peft writes, or a LoRA file for Wan
    lora: Path | None = None
    # how often the adapter counts
    lora_strength: Annotated[float, real(-100, 100)] = 1.0
    # files beside the usual ones, of the modalities that have them: png16 and exr (depth), kitti (flow),
    # coco (segmentation, skeleton), davis (segmentation)
    also: tuple[Literal["png16", "exr", "kitti", "coco", "davis"], ...] = ()
    # folder of results; of earlier ones only the files that their run.json lists are replaced; by default
    # runs/infer/<modality>-<task>
    out: Path | None = None
    # sampling steps; by default as many as the checkpoint's card says, or 50
    steps: Annotated[int | None, whole(1, 1000)] = None
    # classifier-free guidance on the prompt, 1 turns it off; by default as the card says, or 7.5
    guidance: Annotated[float | None, real(0, 100)] = None
    # guidance on the words that name the modality, too
    prompt_guidance: bool = False
    # both evaluations of a guided step in one pass, faster where there is memory for twice the batch; by default
    # those of short clips, up to 8,192 tokens
    batched_guidance: DisallowNone[bool | None] = None
    # by torch.compile: the first step takes a minute, the others less than without; values differ by rounding
    compile: bool = False
    # unipc, euler, dpm++ (DPM-Solver++ 2M), or stochastic (new noise at every step); by default as the card says,
    # or unipc
    sampler: str | None = None
    # above 1: more of the steps where there is much noise; by default as the card says, or 1
    shift: Annotated[float | None, real(0, 1000, above=True)] = None
    # of the noise that sampling starts from; the same seed gives the same files
    seed: Annotated[int, whole(0)] = 0
    # how many, 4k+1, spread evenly in time over the whole video; by default what the checkpoint was trained on, or
    # as many as a shorter video has
    frames: Annotated[int | None, whole(1, 65535)] = None
    # take at most so many frames a second of the video, from its beginning, rather than spread --frames over all
    # of it: a model that learnt at 16 a second sees motion as it knows it; with --every-frame, all of the video so
    fps: Annotated[float | None, real(0, 1000, above=True)] = None
    # write values at the size of the video that was given, rather than at the size that the model sees
    at_film_size: bool = False
    # estimate every frame of the video instead, in overlapping windows of as many as the checkpoint was trained
    # on; of a video of any length one window is in memory, its values wait on the disk
    every_frame: bool = False
    # height and width in pixels, cut from the centre of a video; by default its whole frame at its own aspect,
    # with about as many pixels as the checkpoint was trained on
    size: tuple[Annotated[int, whole(1, 16384)], Annotated[int, whole(1, 16384)]] | None = None
    # cpu, cuda or cuda:1 …; by default a GPU if there is one
    device: str | None = None
    # weights of the Wan VAE, for the models that use it; by default those beside the checkpoint
    codec_weights: Path | None = None
    # weights of UMT5, likewise
    text_weights: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Request(Thrift, Asked):
    """Estimate a modality of a video, control a video by one, or draw both from words."""

    @property
    def film(self) -> Path | None:
        """The file that is given, whatever for."""
        return self.video or self.condition or self.control_from


def command_line(request: Request) -> list[str]:
    """The words of the command that asks for the same: all that differs from the defaults."""
    words = ["python", "-m", "unity.infer"]
    for field in fields(request):
        value, flag = getattr(request, field.name), f"--{field.name.replace('_', '-')}"
        if value == field.default:
            continue
        if isinstance(value, tuple):
            words += [flag, *map(str, value)]
        elif value is True:
            words.append(flag)
        else:
            # a value may begin as a flag does
            words += [f"{flag}={value}"] if str(value).startswith("-") else [flag, str(value)]
    return words
