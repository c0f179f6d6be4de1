"""The batches of a training run: the plan's clips, read and decoded by workers."""

import itertools
import math
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import torch
from einops import rearrange
from torch.utils.data import DataLoader, Dataset

from unity.config import StageConfig
from unity.data.buckets import open_buckets
from unity.data.clips import MODALITY_NAMES, SOURCES
from unity.data.endings import Failure, empty, ending, start
from unity.data.latents.batch import check_wanted, collate
from unity.data.plan import Held, Plan, Row, window_start
from unity.data.shards import Shards
from unity.data.shards.index import MOST_PIXELS
from unity.data.video import DaliDecoder, decode_all, resize
from unity.modality.encodings import OURS, redraw
from unity.modality.table import MODALITIES

DECODERS = ("auto", "pyav", "dali")


@dataclass(frozen=True, kw_only=True)
class Share:
    """A rank's part of every global batch: the `rank`-th of `world` equal parts."""

    rank: int = 0
    world: int = 1


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How clips are read and what is taken of them; which clips is the plan's business.

    `frames` (4k+1, at most what is stored) takes consecutive frames from a random start; `size` (h, w) resizes
    to cover and cuts out the centre. `decode`: "pyav" in the workers, "dali" in threads of this process, "auto"
    DALI where it is installed: the same values for about the same CPU time (benchmarks/loader_bench.py), and no
    pixels pass from process to process.
    `encodings`, by modality, are those wanted of the videos (`unity.modality.encodings`), stored in ours.
    """

    frames: int | None = None
    size: tuple[int, int] | None = None
    workers: int = 0
    decode: str = "auto"
    encodings: Mapping[str, str] = field(default_factory=dict)


def training_batches(
    folder: str | Path,
    stage: StageConfig,
    batch_size: int,
    seed: int = 0,
    start_step: int = 0,
    share: Share = Share(),
    reading: Reading = Reading(),
) -> Iterator[dict]:
    """This rank's share b = batch_size / world of every global batch from `start_step` on, without end.

    A batch is a dict: step int; slot int64 [b] (places in the global batch); rgb and aux uint8 [b, t, h, w, 3];
    modality and source int64 [b] (ids); caption and name, lists of str. Of latents, rgb and aux are float32
    [b, c, u, v, x], and `states` lists each caption's float32 [l, d]. Where a folder holds buckets
    (`unity.data.buckets`), frames and size are theirs, and rgb and aux of a batch of several shapes are lists.

    It depends on (seed, step) alone, so
    `start_step` resumes bit for bit, also with other `workers`; the ranks' shares join to the same global batch
    for every `world`.

    Raises ValueError where a dataset, a source or a modality is missing, or where the batch cannot be shared
    equally by sources and ranks.
    """
    buckets = open_buckets(folder)
    if len(buckets) > 1:
        reading = replace(reading, frames=None, size=None)
    dali = _use_dali(reading.decode) and buckets[0].latents is None
    plan = Plan(stage, batch_size, seed, [_held(shards, stage) for shards in buckets])
    local = _local(batch_size, len(stage.sources), share)
    shapes = [_Collate(shards, reading, seed) for shards in buckets]
    together = partial(_together, shapes)
    loader = DataLoader(
        _Samples(buckets),
        batch_sampler=(plan.batch(step)[share.rank * local :][:local] for step in itertools.count(start_step)),
        collate_fn=list if dali else together,
        num_workers=reading.workers,
        worker_init_fn=_settle_in,
        pin_memory=torch.cuda.is_available(),
    )
    # workers fork here, before DALI starts its threads
    received = start(loader)
    if not dali:
        return ending(received, received)
    decoder = DaliDecoder(2 * local, threads=max(1, reading.workers))
    for one in shapes:
        one.decode = decoder.decode
    return ending(_one_ahead(together, received), received)


def _held(shards: Shards, stage: StageConfig) -> Held:
    """What the plan is to know of a bucket."""
    sources = [source for source in stage.sources if source in shards.counts]
    return Held(sizes={source: shards.shard_sizes(source) for source in sources}, available=shards.available)


class _Samples(Dataset):
    """Rows of the plan to samples, the two videos of the row still encoded."""

    def __init__(self, buckets: Sequence[Shards]):
        self.buckets = buckets

    def __getitem__(self, row: Row) -> dict | Failure:
        try:
            streams = ("rgb", MODALITY_NAMES[row.modality])
            sample = self.buckets[row.bucket].sample(SOURCES[row.source], row.clip, streams)
        except ValueError as error:
            return Failure(str(error))
        videos = {"rgb": sample["rgb"], "aux": sample[MODALITY_NAMES[row.modality]]}
        return {
            "row": row,
            **videos,
            **{key: sample[key] for key in ("caption", "name", "words") if key in sample},
        }


def _together(shapes: Sequence["_Collate"], samples: list[dict | Failure]) -> dict | Failure:
    """A batch of samples whose buckets lie together; of several, its videos are listed one by one."""
    whole = [sample for sample in samples if not isinstance(sample, Failure)]
    if len(whole) < len(samples):
        return next(sample for sample in samples if isinstance(sample, Failure))
    batches = []
    for bucket, rows in itertools.groupby(whole, key=lambda sample: sample["row"].bucket):
        batch = shapes[bucket](list(rows))
        if isinstance(batch, Failure):
            return batch
        batches.append(batch)
    return batches[0] if len(batches) == 1 else _joined(batches)


def _joined(batches: Sequence[dict]) -> dict:
    """Batches of different shapes as one."""
    joined = {key: torch.cat([batch[key] for batch in batches]) for key in ("slot", "modality", "source")}
    listed = [key for key in batches[0] if key not in joined and key != "step"]
    lists = {key: [item for batch in batches for item in batch[key]] for key in listed}
    return {"step": batches[0]["step"], **joined, **lists}


class _Collate:
    """Samples of one shape to a batch: decodes the frames that each sample shows, fits and stacks them."""

    def __init__(self, shards: Shards, reading: Reading, seed: int):
        about, self.latents = shards.about, shards.latents
        if self.latents:
            check_wanted(self.latents, about, reading.frames, reading.size, reading.encodings)
        self.stored, self.seed = (about["frames"], *about["size"]), seed
        self.frames, self.size = reading.frames or self.stored[0], reading.size or self.stored[1:]
        self.decode, self.encodings = decode_all, reading.encodings
        if not 1 <= self.frames <= self.stored[0] or self.frames % 4 != 1:
            raise ValueError(
                f"clips of {self.frames} frames cannot be cut from {self.stored[0]} stored ones; "
                f"frames must be 4k+1, at most {(self.stored[0] - 1) // 4 * 4 + 1}"
            )
        if not all(1 <= edge <= MOST_PIXELS for edge in self.size):
            raise ValueError(f"a size of {self.size} is no (height, width) of 1 to {MOST_PIXELS} pixels")

    def __call__(self, samples: list[dict]) -> dict | Failure:
        try:
            return self._batch(samples) if self.latents is None else collate(samples, self.latents)
        except ValueError as error:
            names = ", ".join(sample["name"] for sample in samples)
            return Failure(f"cannot decode one of the clips {names}: {error}")

    def _batch(self, samples: list[dict]) -> dict:
        rows = [sample["row"] for sample in samples]
        choices = self.stored[0] - self.frames + 1
        starts = [window_start(self.seed, row.step, row.slot, choices) for row in rows]
        videos = [sample[stream] for stream in ("rgb", "aux") for sample in samples]
        names = ["rgb"] * len(rows) + [MODALITY_NAMES[row.modality] for row in rows]
        views = empty((len(videos), self.frames, *self.size, 3))
        decoded = self.decode(videos, starts * 2, self.frames)
        for place, video, name, first in zip(views.numpy(), decoded, names, starts * 2, strict=True):
            # a frame's own header may differ from its container's
            if video.shape[:3] != (self.frames, *self.stored[1:]):
                raise ValueError(f"it decodes to {video.shape[:3]}, not {self.frames} frames of {self.stored[1:]}")
            place[:] = fitted(video, name, self.size, self.encodings, first)
        rgb, aux = rearrange(views, "(s b) t h w c -> s b t h w c", s=2)
        ids = {key: torch.tensor([getattr(row, key) for row in rows]) for key in ("slot", "modality", "source")}
        texts = {key: [sample[key] for sample in samples] for key in ("caption", "name")}
        return {"step": rows[0].step, "rgb": rgb, "aux": aux, **ids, **texts}


def fitted(
    video: np.ndarray, stream: str, size: tuple[int, int], encodings: Mapping[str, str], first: int
) -> np.ndarray:
    """Frames from the stored `first` one on as a model is shown them: of `size` (h, w), in the wanted encoding.

    In a window that starts late, map 0 would tell of a step before it; it repeats map 1, as in every clip.
    """
    if first and len(video) > 1 and stream != "rgb" and MODALITIES[stream].between_frames:
        video = np.concatenate([video[1:2], video[1:]])
    return redraw(resize(video, size, stream), stream, encodings.get(stream, OURS))


def _use_dali(decode: str) -> bool:
    if decode not in DECODERS:
        raise ValueError(f"decode is {decode!r}; choose one of {DECODERS}")
    installed = bool(find_spec("nvidia") and find_spec("nvidia.dali"))
    if decode == "dali" and not installed:
        raise ValueError(
            "decode is 'dali', which is not installed; pip install 'unity-video[train]', or use 'pyav'"
        )
    return installed and decode != "pyav"


def _one_ahead(collate: Callable[[list], dict | Failure], batches: Iterator[list]) -> Iterator[dict | Failure]:
    """Collate the next batch in a thread while the caller works on this one."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(collate, next(batches))
        for samples in batches:
            ready, coming = coming, thread.submit(collate, samples)
            yield ready.result()


def _local(batch_size: int, sources: int, share: Share) -> int:
    """How many samples of a global batch a rank has."""
    world = share.world
    if not 0 <= share.rank < world:
        raise ValueError(f"rank {share.rank} is not one of {world} ranks; ranks count from 0")
    if batch_size % world:
        whole = math.lcm(sources, world)
        raise ValueError(
            f"a global batch of {batch_size} cannot be shared by {world} ranks; "
            f"use a multiple of {whole}, such as {math.ceil(batch_size / whole) * whole}"
        )
    return batch_size // world


def _settle_in(worker: int):
    cv2.setNumThreads(0)
    # Ctrl-C reaches all of a terminal's processes; a worker that it ends may hold a lock that others wait for
    signal.signal(signal.SIGINT, signal.SIG_IGN)
