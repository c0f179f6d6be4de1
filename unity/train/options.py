"""Everything a training run can be told on its command line, with the bounds of every number, and its defaults."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import DisallowNone, Fixed, Suppress

from unity.command import real, whole
from unity.config import MODELS, RECOMPUTE, STAGES, STORAGE, ModelConfig, StageConfig
from unity.flow_matching import TimeConfig
from unity.modality.encodings import ENCODINGS, OURS
from unity.modality.table import MODALITIES
from unity.model.fp8 import Fp8Config
from unity.model.lora import LoraConfig
from unity.routing import RoutingConfig
from unity.train.frugal import Offload
from unity.train.optim import OptimConfig
from unity.train.recipes import RECIPES

# what a checkpoint knows of each modality: inherited, and not to be set
ByModality = Suppress[Fixed[dict[str, str]]]

SIMULATED = Path("data/simulated")

Count = Annotated[int, whole(1, 10**9)]
CountOrNone = Annotated[int, whole(0, 10**9)]
Side = Annotated[int, whole(1, 16_384)]
if TYPE_CHECKING:
    Name = Recompute = Storage = str
    Recipe = str
else:
    # the rows of tables, which a type checker cannot read
    Name, Recompute, Storage, Recipe = (Literal[tuple(table)] for table in (MODELS, RECOMPUTE, STORAGE, RECIPES))


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train a unified video model. What is left out depends on the machine, the stage, or the resumed run."""

    # stage of the curriculum
    stage: Literal[1, 2] = 1
    # settings that belong together, a row of unity.train.recipes.RECIPES; what is given beside it stays
    recipe: Recipe | None = None
    # size of the model, a row of unity.config.MODELS; by default that of --init's weights, else tiny on a CPU and
    # small on a GPU
    model: Name | None = None
    # optimizer steps in all; by default the stage's on a GPU, few on a CPU
    steps: Count | None = None
    # run folder; by default runs/stage<n>, with a number if that is taken
    out: Path | None = None
    # dataset folder; by default data/simulated, which is made if it is not there
    data: Path | None = None
    # weights to start from: a model or run folder, Wan's, diffusers' or the release's files, or a name
    # (wan2.1-1.3b, wan2.1-14b, wan2.2-5b, unityvideo-5b, owner/repository); size, conventions, learning rate,
    # words and colours follow them
    init: Path | None = None
    # a run folder, or one of its checkpoints: the same stage goes on exactly, another one starts from its weights;
    # an address as of --remote is brought here first, into --out
    resume: Path | None = None
    # every random draw is a function of it and of where it is used
    seed: Annotated[int, whole(0)] = 0
    # by default bf16 where there are units for it (GPUs, newer CPUs), else fp32; fp8: bf16 with the large Linears
    # of the blocks in 8 bits
    precision: Literal["fp32", "bf16", "fp8"] | None = None
    # samples per optimizer step, all ranks together
    batch_size: Count | None = None
    # samples that a rank works on at once; by default all of its share, but 1 from 1.3b up
    micro_batch: Count | None = None
    # ranks that share a sample, each with a slice of its tokens, where one cannot hold them all: must divide the
    # ranks, the model's heads and the tokens of a stream; by default 1
    sequence_parallel: Annotated[int, whole(1, 1024)] | None = None
    # blocks that are computed again in the backward in place of keeping all that they hold, a row of
    # unity.config.RECOMPUTE: the same gradients from less memory; by default none, but selective from 1.3b up
    recompute: Recompute | None = None
    # optimizer: master weights, their average, gradients, moments and the update on the host, which then holds 24
    # bytes a trained parameter (18 with adamw8), and a GPU the weights alone; weights: they wait there, too, and
    # a GPU has those of the blocks that compute
    offload: Offload = "none"
    # how the frozen Linears of the blocks are kept beside --lora.rank, a row of unity.config.STORAGE: wide as
    # all else, fp8 in a byte a number with a scale per row, nf4 in half a byte with a scale for every 64
    base_storage: Storage = "wide"
    # auto: sequence-parallel size, micro-batch and recomputation, where they are not given, as
    # python -m unity.train.planner has them for these GPUs
    plan: Literal["given", "auto"] = "given"
    # frames (4k+1), height and width of what the model sees; by default the dataset's
    frames: Side | None = None
    size: tuple[Side, Side] | None = None
    # share of the estimates whose RGB is shown in other light, blurred, noisy or compressed (unity.train.augment)
    augment: Annotated[float, real(0, 1)] = 0.0
    # processes per rank that read and decode
    workers: Annotated[int, whole(0, 256)] | None = None
    # steps between checkpoints, pictures of samples, and progress lines; 0 for no pictures
    save_every: Count | None = None
    picture_every: CountOrNone | None = None
    log_every: Count | None = None
    # checkpoints that are kept: the newest ones, and those with the least mean loss since the save before them
    keep: Count = 2
    keep_best: Annotated[int, whole(0, 10**9)] = 0
    # write checkpoints beside the steps, from a copy of the rank's share in the host's memory; by default where
    # GPUs hold that, while on a CPU it would take memory and cores from the steps
    save_beside: DisallowNone[bool | None] = None
    # a second place for each checkpoint when it is whole, by an address that fsspec knows, such as s3://bucket/run
    remote: str | None = None
    # weights of the codec and of the text encoder, where the embedded ones are not used; by default those beside
    # --init
    codec_weights: Path | None = None
    text_weights: Path | None = None
    # look over the machine first (unity.train.preflight), as runs of several ranks always do
    preflight: bool = False
    # minutes without the end of a step or of a checkpoint after which the run names the rank that holds it up,
    # keeps all ranks' stacks and leaves with code 75; 0: it waits
    watchdog_minutes: Annotated[float, real(0, 1440)] = 30.0
    # DeepSpeed's own settings; by default launchers/zero3.json
    deepspeed: Path | None = None
    # Python files with modalities of your own (unity.modality.plug_in), at their ids in this order
    modalities: tuple[Path, ...] = ()
    # modalities and sources to learn from, by default the stage's
    learn: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    # a modality that is trained alone, with everything else frozen
    only: str | None = None
    # which 8-bit arithmetic, with --precision fp8
    fp8: Fp8Config = field(default_factory=Fp8Config)
    optim: OptimConfig = field(default_factory=OptimConfig)
    # adapters beside frozen weights, in place of training all; --lora.rank 32 is a start
    lora: LoraConfig = field(default_factory=LoraConfig)
    routing: RoutingConfig = field(default_factory=RoutingConfig)
    time: TimeConfig = field(default_factory=TimeConfig)
    # the model's shape; follows --init, else --model, and single settings can be changed
    architecture: ModelConfig = MODELS["tiny"]
    # words and encodings as in a model's card; by default those of --init's weights, else ours
    type_prompts: ByModality = field(default_factory=dict)
    encodings: ByModality = field(default_factory=dict)
    # of the stage's modalities those that its dataset has; empty: not known yet
    views: Suppress[Fixed[tuple[str, ...]]] = ()

    def __post_init__(self):
        for name, encoding in {**dict.fromkeys(self.type_prompts, OURS), **self.encodings}.items():
            if encoding not in ENCODINGS.get(name, ()):
                raise ValueError(
                    f"{name!r} drawn as {encoding!r} is no modality of this version, nor of --modalities"
                )
        if self.only is not None and self.only not in MODALITIES:
            raise ValueError(
                f"--only {self.only} is none of {', '.join(MODALITIES)}; name others with --modalities"
            )
        stage = STAGES[self.stage]
        for flag, names, known in (("learn", self.learn, MODALITIES), ("sources", self.sources, stage.sources)):
            if strange := [name for name in names if name not in known]:
                raise ValueError(f"--{flag} {strange[0]} is none of {', '.join(known)}")
        if self.only is not None and self.learn:
            raise ValueError("--only trains one modality, and --learn names those to learn; give one of them")
        if not 0 <= self.augment <= 1:
            raise ValueError(f"augment is {self.augment}; give the share of estimates, from 0 to 1")

    @property
    def frozen(self) -> bool:
        """Whether most weights stay as they were in --init."""
        return bool(self.lora.rank) or self.only is not None

    @property
    def asked(self) -> StageConfig:
        """The stage, or what of it --learn, --sources or --only leaves."""
        stage = STAGES[self.stage]
        learnt = (self.only,) if self.only else self.learn or stage.modalities
        return replace(stage, modalities=learnt, sources=self.sources or stage.sources)

    @property
    def curriculum(self) -> StageConfig:
        """What of it the dataset has."""
        asked = self.asked
        return asked if self.only else replace(asked, modalities=self.views or asked.modalities)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a kind of machine can do in a sensible time."""

    model: str
    batch_size: int
    workers: int
    # None: the stage's
    steps: int | None
    # clips of each source that are simulated when no data is given
    clips: int
    frames: int
    size: int


MACHINES = {
    "cpu": Machine(model="tiny", batch_size=8, workers=0, steps=150, clips=16, frames=17, size=64),
    "cuda": Machine(model="small", batch_size=32, workers=4, steps=None, clips=256, frames=33, size=128),
}

# models that are ours alone and learn faster, with Muon; all others take the paper's rate, and AdamW
LEARNING_RATES = {"debug": 4e-3, "tiny": 3e-3, "mini": 3e-3, "small": 1e-3}
PAPER_RATE = 5e-5
# these models' times: their estimates need little more than a first step, from nearly pure noise
SMALL_TIMES = TimeConfig(shift=3.0, estimate_shift=20.0)
