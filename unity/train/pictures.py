"""A picture of what the averaged weights can do: conditions, samples and truth, one row per modality."""

from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from unity.data.loader import Reading, training_batches
from unity.encoders import Encoders, type_prompts
from unity.files import whole_file
from unity.modality.table import MODALITIES
from unity.sampler import Guidance, Known, Sampling, Texts, sample
from unity.tasks import TASKS
from unity.train.config import TrainConfig
from unity.train.run import Run

# what every task draws, stream by stream
_DRAWN = [(name, stream) for name, task in TASKS.items() for stream in range(2) if task.noisy[stream]]
_STREAMS = ("rgb", "modality")
COLUMNS = (*_STREAMS, *(f"{name}: {_STREAMS[stream]}" for name, stream in _DRAWN))
STEPS = 8
_LABEL, _GAP, _WIDTH = 14, 2, 128


class Pictures:
    """One clip for each modality of the stage, kept for the whole run; every rank holds the same ones."""

    def __init__(self, run: Run):
        # a run on latents has none, and is refused before it asks for pictures
        assert isinstance(run.encoders, Encoders)
        self.clips, self.encoders = _one_of_each(run.config), run.encoders
        prompts, words = type_prompts(self.clips["modality"], run.config.type_prompts), self.encoders.words
        empty = words([""] * len(prompts))
        self.texts = Texts(caption=words(self.clips["caption"]), prompt=words(prompts), empty=empty)

    @torch.no_grad()
    def draw(self, run: Run, path: Path) -> None:
        """Sample the three tasks with the averaged weights and write a PNG; all ranks must take part."""
        names, encoders = self._names(), self.encoders
        streams = {"rgb": ["rgb"] * len(names), "aux": names}
        truth = {stream: encoders.encode(self.clips[stream], shown) for stream, shown in streams.items()}
        run.engine.module.eval()
        with run.ema.in_place_of_weights(run.refresh):
            sampled = {task: self._sample(run, task, truth) for task in TASKS}
        run.engine.module.train()
        if run.world.leads:
            columns = [self.clips["rgb"], self.clips["aux"]]
            shown = tuple(streams.values())
            columns += [encoders.decode(sampled[name][stream], shown[stream]) for name, stream in _DRAWN]
            path.parent.mkdir(exist_ok=True)
            with whole_file(path) as fresh:
                _sheet(columns, names).save(fresh, "png")

    def _sample(self, run: Run, task: str, truth: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        given = {
            stream: truth[stream] for stream, noisy in zip(truth, TASKS[task].noisy, strict=True) if not noisy
        }
        config = run.config
        known = Known(**given, shape=truth["rgb"].shape, clean_time=config.architecture.clean_time)
        sampling = Sampling(steps=STEPS, guidance=Guidance(scale=1.0), shift=config.time.shift, seed=config.seed)
        ids = self.clips["modality"].to(run.world.device)
        return sample(run.engine.module, task, ids, self.texts, known, sampling)

    def _names(self) -> list[str]:
        return [list(MODALITIES)[m] for m in self.clips["modality"].tolist()]


def _one_of_each(config: TrainConfig) -> dict:
    """The first clip of each modality in the first batches of the run's data, all of the first one's shape."""
    stage = config.curriculum
    reading = Reading(frames=config.frames, size=config.size, encodings=config.encodings)
    loader = training_batches(config.data, stage, config.batch_size, config.seed, reading=reading)
    found: dict[int, dict] = {}
    for _, batch in zip(range(8), loader, strict=False):
        for i, modality in enumerate(batch["modality"].tolist()):
            clip = {key: batch[key][i] for key in ("rgb", "aux", "modality", "caption")}
            if all(clip["rgb"].shape == other["rgb"].shape for other in found.values()):
                found.setdefault(modality, clip)
        if len(found) == len(stage.modalities):
            break
    rows = [found[modality] for modality in sorted(found)]
    stacked = {key: torch.stack([row[key] for row in rows]) for key in ("rgb", "aux", "modality")}
    return stacked | {"caption": [row["caption"] for row in rows]}


def _sheet(columns: list[UInt8[Tensor, "b t h w 3"]], names: list[str]) -> Image.Image:
    """The middle frames as a table, what is in a column written above it and the modality into each row."""
    middle = torch.stack([column[:, column.shape[1] // 2].cpu() for column in columns], dim=1)
    # small frames are enlarged, or the words would not fit above them
    zoom = max(1, _WIDTH // middle.shape[3])
    middle = middle.repeat_interleave(zoom, 2).repeat_interleave(zoom, 3)
    cells = torch.nn.functional.pad(middle, (0, 0, 0, _GAP, _LABEL, 0))
    image = Image.fromarray(rearrange(cells, "b n h w c -> (b h) (n w) c").numpy())
    draw = ImageDraw.Draw(image)
    height, width = cells.shape[2:4]
    for row, name in enumerate(names):
        for column, title in enumerate(COLUMNS):
            label = title.replace("modality", name)
            draw.text((column * width + 2, row * height + 1), label, fill=(255, 255, 255))
    return image
