"""What the planner is asked, and the jobs that follow from it."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from unity.command import check_bounds, real, whole
from unity.config import MODELS, RECOMPUTE, STORAGE
from unity.files import check_writable
from unity.model.strides import STRIDES
from unity.train import frugal
from unity.train.planner.count import Trained, sample
from unity.train.planner.gpus import GIB, GPUS, Attention, Gpu
from unity.train.planner.plan import CLUSTERS, SIZES, Job, Limits

if TYPE_CHECKING:
    Name = Card = Recompute = Storage = str
else:
    # the rows of tables, which a type checker cannot read
    Name, Card, Recompute, Storage = (Literal[tuple(table)] for table in (MODELS, GPUS, RECOMPUTE, STORAGE))

# clips that are tried where none is named: frames, height, width
CLIPS = (
    (17, 128, 128), (33, 256, 256), (33, 480, 832), (49, 480, 832), (81, 480, 832), (121, 480, 832),
    (81, 704, 1280), (121, 704, 1280), (161, 1088, 1920),
)  # fmt: skip
_MOST_SIDE = 16_384


@dataclass(frozen=True, kw_only=True)
class Options:
    """Plan a training: what fits, what it sends, how long it takes; computes on nothing, needs no GPU."""

    # size of the model, a row of unity.config.MODELS
    model: Name = "10b"
    # in all, and of which kind, a row of unity.train.planner.gpus.GPUS; without a number clusters of 1 to 1,024
    # are tried, or clips on 8 where no size is given either
    gpus: Annotated[int, whole(1, 1024)] | None = None
    gpu: Card = "H100"
    # GiB of a GPU, and GB/s that it sends to other machines; by default its row's
    memory: Annotated[float, real(1, 1024)] | None = None
    network: Annotated[float, real(0.01, 10_000)] | None = None
    # of a clip: frames (4k+1), and HEIGHTxWIDTH; without a size several are tried
    frames: Annotated[int, whole(1, _MOST_SIDE)] | None = None
    size: str | None = None
    # tokens of a caption
    words: Annotated[int, whole(0, 65_536)] = 64
    # samples per optimizer step, all GPUs together
    batch_size: Annotated[int, whole(1, 65_536)] = 32
    precision: Literal["fp32", "bf16", "fp8"] = "bf16"
    # rank of adapters beside frozen weights, and which Linears they adapt; 0: all weights are trained
    lora_rank: Annotated[int, whole(0, 4096)] = 0
    lora_targets: Literal["attention", "self_attention", "cross_attention", "ffn", "all"] = "all"
    # by default that of the model's size
    optimizer: Literal["adamw", "adamw8", "muon"] | None = None
    # how the frozen Linears beside adapters are kept, a row of unity.config.STORAGE; and what waits on the host
    base_storage: Storage = "wide"
    offload: frugal.Offload = "none"
    # what is decided already; by default what is fastest
    sequence_parallel: Literal[1, 2, 4, 8, 16, 32, 64] | None = None
    micro_batch: Annotated[int, whole(1, 65_536)] | None = None
    recompute: Recompute | None = None
    # what computes attention: FlashAttention 3 or 4, or cuDNN, which torch brings
    attention: Attention = "flash"
    # codec and text encoder on every GPU, as training has them
    encoders: bool = True
    # files to write the plan to: numbers, and a picture of them
    json: Path | None = None
    picture: Path | None = None

    @property
    def clip(self) -> str:
        """Its name, where one is given."""
        return f"{self.frames or 81}x{self.size}"

    @property
    def limits(self) -> Limits:
        return Limits(
            sequence_parallel=SIZES if self.sequence_parallel is None else (self.sequence_parallel,),
            micro_batch=self.micro_batch,
            recompute=tuple(RECOMPUTE) if self.recompute is None else (self.recompute,),
        )


def jobs(options: Options) -> dict[str, Job]:
    """By clip: the one that is named, or those of CLIPS that the model's codec divides; or by cluster.

    Raises ValueError for what cannot be, before anything is planned.
    """
    check_bounds(options)
    for path in (options.json, options.picture):
        if path is not None:
            check_writable(path)
    if options.size is not None:
        frames, size = options.frames or 81, height_width(options.size)
        if options.gpus is not None:
            return {options.clip: job(options, frames, size, options.gpus)}
        return {f"{gpus} GPU{'s' * (gpus > 1)}": job(options, frames, size, gpus) for gpus in CLUSTERS}
    config = MODELS[options.model]
    found = {}
    for frames, height, width in CLIPS:
        wanted = frames if options.frames is None else options.frames
        units = (s * p for s, p in zip(STRIDES[config.codec][1:], config.patch[1:], strict=True))
        if not any(side % unit for side, unit in zip((height, width), units, strict=True)):
            found[f"{wanted}x{height}x{width}"] = job(options, wanted, (height, width), options.gpus or 8)
    return found


def job(options: Options, frames: int, size: tuple[int, int], gpus: int) -> Job:
    """Raises ValueError for a clip that the codec or the patches do not divide, and what does not go together."""
    config = MODELS[options.model]
    # the small models' own (unity.train.config.recipe)
    usual = "muon" if config.stem and not options.lora_rank else "adamw"
    optimizer = options.optimizer or usual
    frugal.check(
        offload=options.offload, base_storage=options.base_storage, lora_rank=options.lora_rank,
        precision=options.precision, optimizer=optimizer,
    )  # fmt: skip
    return Job(
        config=config,
        trained=Trained(
            lora_rank=options.lora_rank,
            lora_targets=options.lora_targets,
            optimizer=optimizer,
            storage=options.base_storage,
        ),
        sample=sample(config, frames, size, options.words),
        pixels=size[0] * size[1],
        precision=options.precision,
        batch_size=options.batch_size,
        gpu=_gpu(options),
        gpus=gpus,
        encoders=options.encoders,
        offload=options.offload,
        attention=options.attention,
    )


def height_width(text: str) -> tuple[int, int]:
    """Of HEIGHTxWIDTH; raises ValueError for anything else."""
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text, re.ASCII)
    if found is None or not all(1 <= int(side) <= _MOST_SIDE for side in found.groups()):
        raise ValueError(f"size is {text[:40]!r}; give --size a height and a width up to {_MOST_SIDE}, as 480x832")
    return int(found[1]), int(found[2])


def _gpu(options: Options) -> Gpu:
    row = GPUS[options.gpu]
    if options.precision == "fp8" and row.fp8 is None:
        raise ValueError(f"{options.gpu} multiplies no 8-bit floats; give --precision bf16, or another --gpu")
    row = row if options.memory is None else replace(row, memory=options.memory * GIB)
    return row if options.network is None else replace(row, network=options.network * 1e9)
